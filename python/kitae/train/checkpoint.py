"""All that a training run needs to go on, in one file."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kitae import _checks, _tensor_file
from kitae.nn import storage

_KIND = "kitae checkpoint"
_ARRAY = "$array"


def save_checkpoint(path: str | os.PathLike[str], trainer: Any) -> None:
    """Write the whole state of a ``Trainer`` into one safetensors file, atomically.

    In it: the model's parameters and buffers (running statistics, the dropout layers' seeds and counters), the
    optimizer's state, schedule, learning rates, callbacks, history, the counters of epochs, updates and samples, and
    the place in the data. A run that loads it goes on with the same bits. Every dtype keeps its bits.

    The new file takes the old one's name in one rename after it is on the disk: a process killed at any instant leaves
    the old file or the new one, and an error (OSError: no space, ...) leaves the old one. Waits for a GPU.

    Raises ValueError for a trainer whose model is not built, TypeError for state that is neither an array nor JSON.
    Not saved: the data, the code, NumPy's global random state. Differs from ``torch.save``: no pickle.
    """
    op = "train.save_checkpoint"
    arrays = {f"model.{name}": array for name, array in storage.named_arrays(op, trainer.model).items()}
    if not trainer.model.params or not trainer.optimizer.groups:
        expected = "a model that is built and an optimizer with parameters (fit or prepare(x) does both)"
        raise _checks.error(ValueError, op, "trainer", expected, _checks.Words("one without"))
    document = {
        "kind": _KIND,
        "version": 1,
        "input": _input(trainer),
        "optimizer": _pack(op, "optimizer", trainer.optimizer.state_dict(), arrays),
        "trainer": _pack(op, "trainer", trainer.state_dict(), arrays),
    }
    _tensor_file.write(op, path, arrays, document)


def load_checkpoint(path: str | os.PathLike[str], trainer: Any) -> None:
    """Restore what ``save_checkpoint`` wrote into a ``Trainer`` made in the same way; the next ``fit`` goes on there.

    ``fit`` wants the same data and keywords as before; an epoch that was under way is finished first. A model that is
    not built yet is built for the input shape in the file, on the GPU if it was there.

    Everything is checked before anything is written: names, shapes and dtypes of the model's arrays and the
    optimizer's state, and the checksum of the file. A file that is foreign, cut off, damaged or from another model
    raises ValueError and changes nothing. Nothing in the file is executed.
    """
    op = "train.load_checkpoint"
    arrays, document = _tensor_file.read(op, path)
    storage.check_document(op, path, document, _KIND, 1)
    states = {part: _unpack(document[part], arrays) for part in ("optimizer", "trainer")}
    weights = {name.removeprefix("model."): a for name, a in arrays.items() if name.startswith("model.")}
    if not trainer.optimizer.groups or not trainer.model.params:
        _prepare(op, trainer, document["input"])
    targets = storage.named_arrays(op, trainer.model)
    storage.check_names(op, targets, weights)
    before = trainer.optimizer.state_dict(), trainer.state_dict()
    try:
        trainer.optimizer.load_state_dict(states["optimizer"])
        trainer.load_state_dict(states["trainer"])
    except BaseException:
        trainer.optimizer.load_state_dict(before[0])
        trainer.load_state_dict(before[1])
        raise
    storage.write_into(op, targets, weights)


def _input(trainer: Any) -> dict[str, Any] | None:
    """What a sample looks like, where one was seen."""
    x = None if trainer.batch is None else trainer.batch[0]
    if x is None:
        return None
    return {"shape": list(x.shape[1:]), "dtype": x.dtype.name, "cupy": _checks.is_cupy(x)}


def _prepare(op: str, trainer: Any, sample: Mapping[str, Any] | None) -> None:
    if sample is None:
        expected = "a model that is built (call trainer.prepare(x) first), or the shape of a sample in the file"
        raise _checks.error(ValueError, op, "trainer", expected, _checks.Words("neither"))
    xp: Any = np
    if sample["cupy"]:
        import cupy

        xp = cupy
    trainer.prepare(xp.zeros((1, *sample["shape"]), sample["dtype"]))


def _pack(op: str, name: str, value: Any, arrays: dict[str, Any]) -> Any:
    """``value`` as JSON; arrays in it go to ``arrays`` and leave their name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) or _checks.is_cupy(value):
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, Mapping) and all(isinstance(key, str) and key != _ARRAY for key in value):
        return {key: _pack(op, f"{name}.{key}", part, arrays) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(op, f"{name}.{i}", part, arrays) for i, part in enumerate(value)]
    raise _checks.error(TypeError, op, name, "numbers, strings, None, lists, dicts by name, arrays", value)


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpack(part, arrays) for key, part in value.items()}
    if isinstance(value, list):
        return [_unpack(part, arrays) for part in value]
    return value
