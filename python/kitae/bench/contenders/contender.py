"""What a contender is: somebody's way to do the work of one case on given inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import kitae

from ..cases import Inputs, Results

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

    @property
    def name(self) -> str:
        return f"{self.system} {self.variant}".strip()

    def thread_counts(self, chosen: tuple[int, ...], cores: int) -> tuple[int, ...]:
        """With which numbers of threads it can be measured: JAX takes all cores, NumPy has no more than one."""
        if self.system in ("PyTorch", "kitae"):
            return chosen
        return (cores,) if self.system == "JAX" else (1,)


Contenders = list[Contender]
Maker = Callable[[str, Inputs], Contenders]


def torch_if_installed() -> ModuleType | None:
    """PyTorch, a peer to measure against and never a dependency."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


def set_threads(system: System, count: int) -> None:
    if system == "kitae":
        kitae.set_num_threads(count)
    elif system == "PyTorch":
        torch = torch_if_installed()
        assert torch is not None
        torch.set_num_threads(count)
