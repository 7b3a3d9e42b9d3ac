"""A stand-in for CuPy of every function, over NumPy: code that hands its arrays to NumPy, or NumPy's to it, is seen.

Unlike tests/imitation_cupy.py it knows no devices and no streams, only that its arrays never become NumPy's unasked.
"""

import contextlib
import operator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class ForeignArray:
    __array_ufunc__ = None
    device = contextlib.nullcontext()

    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)

    def __array__(self, *_arguments: Any, **_keywords: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.host, name)
        return _wrapped(found) if callable(found) else _foreign(found)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.host.__array_interface__["data"][0])

    def get(self) -> np.ndarray:
        return self.host.copy()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[_host(key)] = _host(value)

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __len__(self) -> int:
        return len(self.host)


def _unary(function: Any) -> Any:
    return lambda self: _foreign(function(self.host))


def _binary(function: Any) -> Any:
    return lambda self, other: _foreign(function(self.host, _host(other)))


def _reflected(function: Any) -> Any:
    return lambda self, other: _foreign(function(_host(other), self.host))


def _in_place(function: Any) -> Any:
    def apply(self: ForeignArray, other: Any) -> ForeignArray:
        self.host = function(self.host, _host(other))
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow", "and_", "or_", "mod", "floordiv"):
    _stem = _name.strip("_")
    setattr(ForeignArray, f"__{_stem}__", _binary(getattr(operator, _name)))
    setattr(ForeignArray, f"__r{_stem}__", _reflected(getattr(operator, _name)))
    setattr(ForeignArray, f"__i{_stem}__", _in_place(getattr(operator, f"i{_stem}")))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "getitem"):
    setattr(ForeignArray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "abs", "invert"):
    setattr(ForeignArray, f"__{_name}__", _unary(getattr(operator, _name)))


def _foreign(value: Any) -> Any:
    """NumPy's arrays, and its numbers too (CuPy's reductions stay on the device), as foreign arrays."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ForeignArray(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, np.ndarray) for item in value):
        return type(value)(map(_foreign, value))
    return value


def _host(value: Any) -> Any:
    if isinstance(value, ForeignArray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("a NumPy array among foreign ones")
    return type(value)(map(_host, value)) if isinstance(value, (list, tuple)) else value


def _wrapped(function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        results = function(*map(_host, arguments), **{name: _host(value) for name, value in keywords.items()})
        return keywords["out"] if keywords.get("out") is not None else _foreign(results)

    return call


class _Module(ModuleType):
    ndarray = ForeignArray

    def asarray(self, value: Any) -> ForeignArray:
        return ForeignArray(np.array(value.host if isinstance(value, ForeignArray) else value))

    def asnumpy(self, value: ForeignArray) -> np.ndarray:
        return value.get()

    def __getattr__(self, name: str) -> Any:
        return _wrapped(getattr(np, name))


def install(monkeypatch: Any) -> ModuleType:
    """For a test: CuPy is this, and there is a CUDA backend, although one without functions."""
    import sys

    from kitae import _dispatch
    from kitae.nn.normal_distribution import normal_cdf

    module, special = _Module("cupy"), ModuleType("cupyx.scipy.special")
    special.ndtr = _wrapped(normal_cdf)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", special)
    monkeypatch.setattr(_dispatch, "_cuda_module", object())
    return module
