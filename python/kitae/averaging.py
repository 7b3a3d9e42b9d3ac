"""Averages of a model's parameters over the steps of training, one native call an update."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._parameters import Places, Structure, check_loaded, float32_copy, refuse_bad_arrays, write_loaded
from kitae.gradients import NONFINITE_CODES, SCOPE_CODES

__all__ = ["EMA", "SWA"]

_MAX_UPDATES = 2**63 - 1


class _Average(ABC):
    """What EMA and SWA share: ``a += gain (p - a)`` for every parameter p and its average a.

    params: an array, a list, a tuple or a dict of arrays; float32, float64, float16 or bfloat16, of any strides. They
    are only read (but by ``applied``), always where they lie: an optimizer's update shows at the next ``update()``. The
    same array listed twice (a transposed view too) has one average. Averages are new arrays on the parameters' device;
    those of 16-bit parameters have float32 masters, so that small steps are not lost. An infinite or NaN parameter
    makes its average so.
    """

    def __init__(self, params: Any) -> None:
        self._op = type(self).__name__
        self._structure = Structure(self._op, params)
        arrays = self._structure.arrays
        if not arrays:
            raise _checks.error(ValueError, self._op, "params", "at least one array", _checks.Words("none"))
        backend = _dispatch.backend_for(arrays[0], self._op, "params[0]")
        refuse_bad_arrays(self._op, arrays)
        places = Places(self._op, arrays)
        self._params = [arrays[i] for i in places.first]
        self._arrays = [_copy(param) for param in self._params]
        self._masters = [float32_copy(a) if a.itemsize == 2 else None for a in self._arrays]
        self._listed = [
            self._arrays[n] if axes is None else self._arrays[n].transpose(np.argsort(axes).tolist())
            for n, axes in places.places
        ]
        self._updates = 0
        self._in_use = False
        self._plans: dict[str, Any] = {}
        try:
            self._plan(backend)
        except Rejected as rejected:
            raise _checks.explain(self._op, rejected, {"params": self._params}) from None

    @abstractmethod
    def _gain(self) -> float:
        """The weight of the parameters in the next update."""

    def _options(self) -> dict[str, Any]:
        return {}

    def _plan(self, backend: Any) -> Any:
        plan = backend.OptimizerPlan(
            rule="average",
            parameters=self._arrays,
            masters=self._masters,
            slots=[[] for _ in self._arrays],
            groups=[0] * len(self._arrays),
            places=[(i, None) for i in range(len(self._arrays))],
            group_count=1,
        )
        plan.bind(self._params)
        self._plans[backend.__name__] = plan
        return plan

    def update(self) -> None:
        """Take the parameters as they are now into the averages. On CUDA nothing is waited for."""
        op = f"{self._op}.update"
        if self._in_use:
            raise _in_use(op)
        if self._updates >= _MAX_UPDATES:
            raise _checks.error(OverflowError, op, "updates", "at most 2**63 - 1", self._updates)
        backend = _dispatch.backend_for(self._params[0], op, "params")
        plan = self._plans.get(backend.__name__) or self._plan(backend)
        plan.set_numbers(0, {"gain": self._gain()})
        plan.step(None, self._updates + 1, SCOPE_CODES["none"], 0.0, 0.0, NONFINITE_CODES["propagate"])
        self._updates += 1

    @property
    def updates(self) -> int:
        """How many updates were made."""
        return self._updates

    @property
    def averages(self) -> Any:
        """The averages, in the structure of params: the arrays themselves, not copies."""
        if self._structure.single:
            return self._listed[0]
        if self._structure.keys is not None:
            return dict(zip(self._structure.keys, self._listed, strict=True))
        return list(self._listed)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """``with average.applied(): ...``: the parameters hold the averages inside, and every bit of their own after,
        also after an exception.

        For validation between steps. Costs a copy of the parameters. What is written to the parameters inside is lost;
        ``update`` inside, and ``applied`` within itself, are a RuntimeError.
        """
        if self._in_use:
            raise _in_use(f"{self._op}.applied")
        own = [_copy(param) for param in self._params]
        self._in_use = True
        try:
            for param, average in zip(self._params, self._arrays, strict=True):
                param[...] = average
            yield
        finally:
            for param, value in zip(self._params, own, strict=True):
                param[...] = value
            self._in_use = False

    def copy_to(self, params: Any) -> None:
        """Write the averages into ``params``, arrays of the structure, shapes and dtypes of the parameters.

        Raises TypeError or ValueError, with nothing written, where they differ.
        """
        op = f"{self._op}.copy_to"
        other = Structure(op, params)
        if (other.single, other.keys is None) != (self._structure.single, self._structure.keys is None):
            raise _checks.error(TypeError, op, "params", "the structure of the averaged parameters", params)
        if self._structure.keys is not None and set(other.keys or ()) != set(self._structure.keys):
            raise _checks.error(ValueError, op, "params", f"the keys {self._structure.keys}", _words(other.keys))
        if len(other.arrays) != len(self._listed):
            got = _words(len(other.arrays))
            raise _checks.error(ValueError, op, "params", f"{len(self._listed)} arrays", got)
        targets = other.arrays
        if self._structure.keys is not None:
            targets = [params[key] for key in self._structure.keys]
        _dispatch.backend_for(targets[0], op, "params[0]")
        refuse_bad_arrays(op, targets)
        for i, (target, average) in enumerate(zip(targets, self._listed, strict=True)):
            place = f"params[{i}]"
            if _checks.is_cupy(target) != _checks.is_cupy(average):
                raise _checks.not_an_array(op, place, target)
            if target.dtype != average.dtype:
                raise _checks.error(TypeError, op, place, f"dtype {average.dtype}, that of the average", target)
            if target.shape != average.shape:
                raise _checks.error(ValueError, op, place, f"shape {average.shape}, that of the average", target)
        for target, average in zip(targets, self._listed, strict=True):
            target[...] = average

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything a resumed run needs: ``{"version": 1, "kind": "EMA", "updates": int, the options,
        "names": [...], "slots": {"average": [...]}}``, one array a distinct parameter; float32 masters of 16-bit ones
        are the slot "master" (None for others)."""
        slots = {"average": [array.copy() for array in self._arrays]}
        if any(master is not None for master in self._masters):
            slots["master"] = [None if m is None else m.copy() for m in self._masters]
        own = {"version": 1, "kind": self._op, "updates": self._updates, **self._options()}
        return {**own, "names": list(self._structure.names), "slots": slots}

    def load_state_dict(self, d: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave. Everything is checked first, then written into the existing arrays.

        State on a GPU also takes NumPy arrays, which it copies there. Raises TypeError or ValueError, with nothing
        changed, where kind, options, names, shapes or dtypes differ.
        """
        op = f"{self._op}.load_state_dict"
        if not isinstance(d, Mapping):
            raise _checks.error(TypeError, op, "d", "a dict made by state_dict()", d)
        own = self.state_dict()
        for key in own:
            if key not in d:
                raise _checks.error(ValueError, op, "d", f"the key {key!r}", _words(f"keys {list(d)}"))
            if key not in ("updates", "slots") and d[key] != own[key]:
                raise _checks.error(ValueError, op, key, repr(own[key]), _words(repr(d[key])))
        updates = _checks.integer(op, "updates", d["updates"], low=0, high=_MAX_UPDATES)
        if not isinstance(d["slots"], Mapping) or set(d["slots"]) != set(own["slots"]):
            raise _checks.error(ValueError, op, "slots", f"the slots {list(own['slots'])}", _words(d["slots"]))
        pairs: list[tuple[Any, Any]] = []
        for name, targets in {"average": self._arrays, "master": self._masters}.items():
            if name not in own["slots"]:
                continue
            loaded = d["slots"][name]
            if len(loaded) != len(targets):
                raise _checks.error(ValueError, op, f"slots[{name!r}]", f"{len(targets)} arrays", _words(len(loaded)))
            for i, (target, array) in enumerate(zip(targets, loaded, strict=True)):
                check_loaded(op, f"slots[{name!r}][{i}]", target, array)
                if target is not None:
                    pairs.append((target, array))
        for target, array in pairs:
            write_loaded(target, array)
        self._updates = updates


class EMA(_Average):
    """Exponential moving average of parameters: ``a = decay a + (1 - decay) p`` at each ``update()``; before the
    first one a = p.

    decay: in [0, 1); the average looks back about 1 / (1 - decay) updates. debias: leave the starting value out,
    ``a_n = sum_i decay^(n-i) p_i (1 - decay) / (1 - decay^n)``, the bias correction of Adam (Kingma and Ba 2015; optax
    calls it so): the first update gives p. warmup: the n-th update uses ``min(decay, n / (9 + n))`` in place of decay
    (TensorFlow's ExponentialMovingAverage with num_updates), so that early parameters are soon forgotten. One of the
    two at most.

    Computed as ``a += (1 - decay) (p - a)``, in float32 or float64 like the optimizers: one pass over p and a.
    ``update()``, ``averages``, ``with ema.applied():``, ``copy_to(params)``, ``updates``, ``state_dict()``,
    ``load_state_dict(d)``. Averages are of parameters alone; batch norm's running statistics belong to the parameters
    they were taken with: see ``kitae.train.precise_batch_norm``.

    Raises TypeError or ValueError for what are no such arrays or numbers. Source: Polyak and Juditsky 1992; Szegedy et
    al. 2016. PyTorch's AveragedModel with get_ema_multi_avg_fn copies p at the first update, as debias does, and then
    goes on with the plain decay.
    """

    def __init__(self, params: Any, decay: float = 0.999, *, debias: bool = False, warmup: bool = False) -> None:
        self._decay = _checks.number("EMA", "decay", decay, low=0, high=1, open_high=True)
        self._debias = _checks.boolean("EMA", "debias", debias)
        self._warmup = _checks.boolean("EMA", "warmup", warmup)
        if self._debias and self._warmup:
            raise _checks.error(
                ValueError, "EMA", "warmup", "False beside debias=True (either forgets the start)", True
            )
        super().__init__(params)

    @property
    def decay(self) -> float:
        """The decay that was given."""
        return self._decay

    def _gain(self) -> float:
        n = self._updates + 1
        if self._warmup:
            return max(1.0 - self._decay, 9 / (9 + n))
        if self._debias:
            from kitae.reference.optimizers import bias_correction

            return (1.0 - self._decay) / bias_correction(self._decay, n)
        return 1.0 - self._decay

    def _options(self) -> dict[str, Any]:
        return {"decay": self._decay, "debias": self._debias, "warmup": self._warmup}


class SWA(_Average):
    """Stochastic weight averaging: the mean of the parameters over all updates, ``a += (p - a) / (n + 1)`` after n
    updates; before the first one a = p.

    For the last part of training at a constant or cyclic learning rate, one ``update()`` an epoch or cycle. Takes and
    offers what EMA does: ``update()``, ``averages``, ``with swa.applied():``, ``copy_to(params)``, ``updates``,
    ``state_dict()``, ``load_state_dict(d)``. Batch norm needs new statistics for averaged weights:
    ``kitae.train.precise_batch_norm`` after ``copy_to`` or inside ``applied()``.

    Source: Izmailov, Podoprikhin, Garipov, Vetrov and Wilson 2018, algorithm 1. The same numbers as PyTorch's
    torch.optim.swa_utils.AveragedModel, within rounding.
    """

    def _gain(self) -> float:
        return 1.0 / (self._updates + 1)


def _copy(array: Any) -> Any:
    copy = _dispatch.empty_like(array)
    copy[...] = array
    return copy


def _words(value: Any) -> _checks.Words:
    return _checks.Words(value)


def _in_use(op: str) -> Exception:
    return _checks.error(
        RuntimeError, op, "self", "parameters of their own", _checks.Words("averages, inside `with applied()`")
    )
