"""kitae's kernels under PyTorch's names: change one import and keep the numbers, the checkpoints and the schedulers.

``BatchNorm1d``, ``BatchNorm2d``, ``BatchNorm3d`` and ``Dropout`` are modules of ``torch.nn``; ``SGD``, ``Adam``,
``AdamW``, ``RMSprop``, ``Adagrad`` and ``Adadelta`` are optimizers of ``torch.optim``: subclasses that compute
otherwise, with the same constructors, state dicts and hooks. ``clip_grad_norm_`` and ``clip_grad_value_`` are those of
``torch.nn.utils``. Tensors cross as pointers, without a copy; CPU tensors only, others are refused. docs/torch.md
lists every difference.
"""

from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("kitae.torch: expected PyTorch, not installed; pip install torch", name="torch") from None

from kitae.torch.dropout import Dropout
from kitae.torch.gradients import clip_grad_norm_, clip_grad_value_
from kitae.torch.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d
from kitae.torch.optimizers import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "RMSprop",
    "clip_grad_norm_",
    "clip_grad_value_",
]


def __getattr__(name: str) -> Any:
    homes = {"torch.nn": torch.nn, "torch.optim": torch.optim, "torch.nn.utils": torch.nn.utils}
    home = next((home for home, module in homes.items() if not name.startswith("_") and hasattr(module, name)), None)
    instead = f"; use {home}.{name}" if home else ""
    raise AttributeError(f"kitae.torch: expected one of {', '.join(__all__)}, got {name!r}{instead}")
