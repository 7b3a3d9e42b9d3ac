"""Ways to do the same work: as a book writes it, NumPy at its best, PyTorch and JAX where installed, kitae.

PyTorch's best variant counts, so every way it offers is here. Nobody is slowed down: a contender that could be
faster by a change that its users can make is a defect of this folder.
"""

from ..cases import Case, Inputs
from . import averaging, dropout, gradients, jax, normalization, optimizers, torch_face
from .contender import Contender, Contenders, Maker, System, set_threads, torch_if_installed


def contenders(case: Case, inputs: Inputs) -> Contenders:
    maker: Maker
    if case.family == "torch_face":
        maker = torch_face.contenders
    elif case.family == "batch_norm":
        maker = normalization.contenders
    elif case.family == "dropout":
        maker = dropout.contenders
    elif "averages" in inputs:
        maker = averaging.contenders
    elif "params" in inputs:
        maker = optimizers.contenders
    else:
        maker = gradients.contenders
    return [*maker(case.name, inputs), *jax.contenders(case.family, case.name, inputs)]


__all__ = ["Contender", "Contenders", "System", "contenders", "set_threads", "torch_if_installed"]
