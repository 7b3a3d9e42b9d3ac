"""``python -m kitae demo``: the textbook network trained three times, in textbook NumPy, with kitae's NumPy reference
and with kitae's native kernels; prints curves and times, compares reference and native bit for bit, draws plots.

``command`` reads the arguments, ``contenders`` builds the three networks, ``training`` runs and times them, ``report``
words the result and ``plots`` draws it.
"""
