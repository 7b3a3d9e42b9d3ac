"""Ways to do the same work: as a book writes it, NumPy at its best, PyTorch and JAX where installed, kitae.

PyTorch's best variant counts, so every way it offers is here. Nobody is slowed down: a contender that could be
faster by a change that its users can make is a defect of this folder.
"""

import numpy as np

from ..cases import Case, Inputs
from . import averaging, dropout, gradients, jax, layer_normalization, networks, normalization, optimizers, torch_face
from .contender import Contender, Contenders, Maker, System, set_threads, torch_if_installed


def contenders(case: Case, inputs: Inputs) -> Contenders:
    maker: Maker
    if case.family == "torch_face":
        maker = torch_face.contenders
    elif case.family == "network":
        maker = networks.contenders
    elif case.family == "batch_norm":
        maker = normalization.contenders
    elif case.family == "layer_norm":
        maker = layer_normalization.contenders
    elif case.family == "dropout":
        maker = dropout.contenders
    elif "averages" in inputs:
        maker = averaging.contenders
    elif "params" in inputs:
        maker = optimizers.contenders
    else:
        maker = gradients.contenders
    made = maker(case.name, inputs)
    (first, *_) = (inputs[name] for name in ("x", "params", "averages", "grads") if name in inputs)
    if (first if isinstance(first, np.ndarray) else first[0]).dtype != np.float32:
        return made  # JAX computes in float32 unless a process is told otherwise from its start
    return [*made, *jax.contenders(case.family, case.name, inputs)]


__all__ = ["Contender", "Contenders", "System", "contenders", "set_threads", "torch_if_installed"]
