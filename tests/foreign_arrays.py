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


def give_operators(kind: type, host: Any, foreign: Any) -> None:
    """Python's operators for a kind of array, but for those it has: ``host`` finds the NumPy array (or number) in an
    operand, ``foreign`` wraps results."""

    def binary(function: Any) -> Any:
        return lambda self, other: foreign(function(host(self), host(other)))

    def reflected(function: Any) -> Any:
        return lambda self, other: foreign(function(host(other), host(self)))

    def in_place(function: Any) -> Any:
        def apply(self: Any, other: Any) -> Any:
            function(host(self), host(other))
            return self

        return apply

    def unary(function: Any, wrap: Any = foreign) -> Any:
        return lambda self: wrap(function(host(self)))

    methods = {}
    for name in ("add", "sub", "mul", "truediv", "matmul", "pow", "and_", "or_", "mod", "floordiv"):
        stem = name.strip("_")
        methods[stem] = binary(getattr(operator, name))
        methods[f"r{stem}"] = reflected(getattr(operator, name))
        methods[f"i{stem}"] = in_place(getattr(operator, f"i{stem}"))
    methods |= {name: binary(getattr(operator, name)) for name in ("lt", "le", "gt", "ge", "eq", "ne", "getitem")}
    methods |= {name: unary(getattr(operator, name)) for name in ("neg", "abs", "invert")}
    methods |= {function.__name__: unary(function, function) for function in (float, int, bool, len, operator.index)}
    for name, method in methods.items():
        if f"__{name}__" not in vars(kind):
            setattr(kind, f"__{name}__", method)


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


give_operators(ForeignArray, _host, _foreign)


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
