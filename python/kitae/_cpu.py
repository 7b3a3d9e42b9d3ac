"""The CPU backend: the best of the compiled instruction-set variants, or the one that KITAE_CPU_ISA names."""

import importlib
import os

from kitae import _isa


def _choose() -> str:
    supported: list[str] = _isa.supported()
    forced = os.environ.get("KITAE_CPU_ISA")
    if forced is None:
        if not supported:
            raise ImportError("this CPU is older than x86-64-v2 (2009), the oldest that kitae's kernels are built for")
        return supported[-1]
    name = forced if forced in supported else f"x86_64_{forced}"
    if name not in supported:
        raise ImportError(f"KITAE_CPU_ISA={forced}: this CPU runs {', '.join(supported) or 'none of the variants'}")
    return name


_variant = importlib.import_module(f"kitae._cpu_{_choose()}")
globals().update({name: value for name, value in vars(_variant).items() if not name.startswith("__")})
