"""What a contender is: somebody's way to do the work of one case on given inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

import kitae

from .. import blas
from ..cases import Inputs, Results, dtype_named

#: Where results go: into new memory at every call, into the same given arrays, or over the inputs.
Destination = Literal["fresh", "reused", "in place"]
System = Literal["textbook", "NumPy", "PyTorch", "JAX", "kitae"]


@dataclass(frozen=True)
class Contender:
    """``call`` does the work once; ``results`` names what it returned or changed, to be checked against the case."""

    system: System
    variant: str
    destination: Destination
    call: Callable[[], Any]
    results: Callable[[Any], Results]
    #: Whether its matrix products are NumPy's, which take as many threads as they are told.
    uses_blas: bool = False

    @property
    def name(self) -> str:
        return f"{self.system} {self.variant}".strip()

    def thread_counts(self, chosen: tuple[int, ...], cores: int) -> tuple[int, ...]:
        """With which numbers of threads it can be measured: JAX takes all cores, NumPy one, but for matrix products."""
        if self.uses_blas or self.system in ("PyTorch", "kitae"):
            return chosen
        return (cores,) if self.system == "JAX" else (1,)

    def take_threads(self, count: int) -> None:
        set_threads(self.system, count)
        if self.uses_blas:
            blas.set_threads(count)


Contenders = list[Contender]
Maker = Callable[[str, Inputs], Contenders]


def torch_if_installed() -> ModuleType | None:
    """PyTorch, a peer to measure against and never a dependency."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


def tensor_over(torch: ModuleType, array: np.ndarray) -> Any:
    """A PyTorch tensor over an array's memory, bfloat16 too."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_over(torch: ModuleType, tensor: Any) -> np.ndarray:
    """The other way."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(dtype_named("bfloat16"))
    return tensor.numpy()


def in_numpys_arithmetic(array: np.ndarray) -> bool:
    """Whether NumPy has sums and products of this dtype; bfloat16 is a guest there."""
    return array.dtype in (np.float32, np.float64)


def set_threads(system: System, count: int) -> None:
    if system == "kitae":
        kitae.set_num_threads(count)
    elif system == "PyTorch":
        torch = torch_if_installed()
        assert torch is not None
        torch.set_num_threads(count)
