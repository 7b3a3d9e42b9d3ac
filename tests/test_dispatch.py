"""From an array to its backend: what is asked for runs, or an error says why not."""

import contextvars
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

import kitae
from kitae import _checks, _dispatch


class FakeCupyArray:
    """Looks like a cupy.ndarray; touching its data is a mistake."""

    shape = (2,)
    dtype = np.dtype("float32")

    def __array__(self, *_args: object) -> np.ndarray:
        raise AssertionError("an array on a GPU was converted")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("cupy")
    module.ndarray = FakeCupyArray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_numpy_arrays_go_to_the_native_backend(tmp_path):
    assert _dispatch.backend_for(np.zeros(2), "op", "x") is _dispatch.cpu()
    mapped = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="w+", shape=(2,))
    assert _dispatch.backend_for(mapped, "op", "x") is _dispatch.cpu()


def test_use_backend_as_a_context():
    with kitae.use_backend("reference"):
        assert _dispatch.backend_for(np.zeros(2), "op", "x") is kitae.reference
        assert _dispatch.current_backend() == "reference"
        with kitae.use_backend("cpu"):
            assert _dispatch.backend_for(np.zeros(2), "op", "x") is _dispatch.cpu()
        assert _dispatch.current_backend() == "reference"
    assert _dispatch.current_backend() == "cpu"


def test_use_backend_as_a_call():
    kitae.use_backend("reference")
    assert _dispatch.backend_for(np.zeros(2), "op", "x") is kitae.reference


def test_use_backend_is_undone_by_an_exception():
    with pytest.raises(ZeroDivisionError), kitae.use_backend("reference"):
        _ = 1 / 0
    assert _dispatch.current_backend() == "cpu"


def test_use_backend_belongs_to_its_thread():
    seen = []
    with kitae.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(_dispatch.current_backend()))
        thread.start()
        thread.join()
        seen.append(contextvars.copy_context().run(_dispatch.current_backend))
    assert seen == ["cpu", "reference"]


@pytest.mark.parametrize(
    ("name", "error"), [("gpu", ValueError), (None, ValueError), (1, TypeError), ("CPU", ValueError)]
)
def test_unknown_backend(name, error):
    with pytest.raises(error, match=r"kitae\.use_backend: name: expected one of 'reference', 'cpu', 'cuda', got"):
        kitae.use_backend(name)
    assert _dispatch.current_backend() == "cpu"


def test_cuda_backend_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(_dispatch, "_cuda_if_built", lambda: None)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    with pytest.raises(RuntimeError, match="need the CUDA backend: this installation of kitae was built without it"):
        kitae.use_backend("cuda")
    assert _dispatch.current_backend() == "cpu"


def test_cupy_array_gets_a_clear_error(cupy, monkeypatch):
    monkeypatch.setattr(_dispatch, "_cuda_if_built", lambda: None)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    with pytest.raises(RuntimeError, match=r"kitae\.op: x: CuPy arrays .* need the CUDA backend.*cupy\.asnumpy"):
        _dispatch.backend_for(cupy.ndarray(), "op", "x")


@pytest.mark.parametrize("forced", ["reference", "cpu"])
def test_cupy_array_is_never_moved(cupy, forced):
    with kitae.use_backend(forced), pytest.raises(TypeError, match=f'"{forced}".*never moved'):
        _dispatch.backend_for(cupy.ndarray(), "op", "x")


def test_numpy_array_is_refused_where_cuda_is_forced(monkeypatch):
    monkeypatch.setattr(_dispatch, "_named", lambda name: None)  # as if there were a CUDA backend
    with kitae.use_backend("cuda"), pytest.raises(TypeError, match=r"expected a cupy\.ndarray"):
        _dispatch.backend_for(np.zeros(2), "op", "x")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ([1.0], r"numpy\.asarray"),
        ((1.0,), r"numpy\.asarray"),
        (1.0, r"numpy\.asarray"),
        (np.ones((1, 1)).view(np.matrix), r"numpy\.asarray"),
        (np.ma.masked_array([1.0], [True]), r"filled"),
        (np.float32(1), "expected a numpy"),
        (True, "expected a numpy"),
        (None, "got None"),
        ("x", "got 'x'"),
        (memoryview(b"x"), "got memoryview"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_not_an_array(value, hint):
    with pytest.raises(TypeError, match=r"^kitae\.op: x: expected a numpy\.ndarray or cupy\.ndarray") as caught:
        _dispatch.backend_for(value, "op", "x")
    caught.match(hint)


def test_dlpack_exporter_gets_the_line_that_converts_it():
    class Exporter:
        def __dlpack__(self) -> None:
            raise AssertionError("converted without being asked")

    with pytest.raises(TypeError, match=r"numpy\.from_dlpack\(value\)"):
        _dispatch.backend_for(Exporter(), "op", "x")


@pytest.mark.requires_torch
def test_torch_tensor_gets_the_line_that_converts_it():
    import torch

    with pytest.raises(TypeError, match=r"tensor\.numpy\(\).*got torch\.Tensor"):
        _dispatch.backend_for(torch.zeros(2), "op", "x")


BROKEN = """
import sys
sys.modules["kitae._isa"] = None          # as if the compiled module could not be loaded
import kitae                              # works
import numpy as np
try:
    kitae._dispatch.backend_for(np.zeros(2), "op", "x")
except ImportError as error:
    assert 'kitae.use_backend("reference")' in str(error), error
else:
    raise AssertionError("no error")
try:
    kitae.use_backend("cpu")
except ImportError:
    pass
else:
    raise AssertionError("no error")
kitae.use_backend("reference")
assert kitae._dispatch.backend_for(np.zeros(2), "op", "x") is kitae.reference
assert kitae.show_config()["cpu"].startswith("off: ")
"""


def test_without_the_native_module_import_works_and_the_first_call_raises(run_python):
    run_python(BROKEN)


def test_words_of_every_reason():
    array = np.zeros((2, 3), np.float32)
    values = {"x": array, "grads": [array, array.astype(">f4")]}
    for reason in ("type", "dtype", "byte_order", "aligned", "writeable", "contiguous", "shape", "overlap", "length"):
        message = str(_checks.explain("op", _checks.Rejected("x", reason), values, {"x": "what is right"}))
        assert message.startswith("kitae.op: x: expected "), message
        assert ", got " in message, message
    listed = _checks.explain("op", _checks.Rejected("grads", "byte_order", 1), values)
    assert str(listed) == "kitae.op: grads[1]: expected native byte order, got dtype >f4"


@pytest.mark.parametrize(
    ("arguments", "value", "error"),
    [
        ({}, float("nan"), ValueError),
        ({}, float("inf"), ValueError),
        ({"low": 0}, -1e-300, ValueError),
        ({"low": 0, "open_low": True}, 0.0, ValueError),
        ({"low": 0, "high": 1, "open_high": True}, 1, ValueError),
        ({"low": 0, "infinite": True}, float("nan"), ValueError),
        ({}, "1", TypeError),
        ({}, None, TypeError),
        ({}, True, TypeError),
        ({}, np.bool_(True), TypeError),
        ({}, np.ones(1), TypeError),
        ({}, [1.0], TypeError),
        ({}, 1j, TypeError),
    ],
)
def test_numbers_outside(arguments, value, error):
    with pytest.raises(error, match=r"^kitae\.op: lr: expected a (finite )?number.*, got "):
        _checks.number("op", "lr", value, **arguments)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({}, 1),
        ({}, np.float32(0.5)),
        ({}, np.array(0.5)),
        ({"low": 0}, 0.0),
        ({"low": 0, "high": 1}, 1),
        ({"low": 0, "infinite": True}, float("inf")),
    ],
)
def test_numbers_inside(arguments, value):
    number = _checks.number("op", "lr", value, **arguments)
    assert type(number) is float
    assert number == value


def test_bounds_in_words():
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\), got 2"):
        _checks.number("op", "p", 2, low=0, high=1, open_high=True)
    with pytest.raises(ValueError, match=r"expected a number in \(0, inf\), got 0"):
        _checks.number("op", "p", 0, low=0, open_low=True)
    with pytest.raises(ValueError, match=r"expected a number in \(0, inf\], got nan"):
        _checks.number("op", "p", float("nan"), low=0, open_low=True, infinite=True)


@pytest.mark.parametrize(
    ("value", "error"), [(1.0, TypeError), (True, TypeError), ("1", TypeError), (0, ValueError), (4, ValueError)]
)
def test_integers_outside(value, error):
    with pytest.raises(error, match=r"^kitae\.op: n: expected an integer in \[1, 3\], got "):
        _checks.integer("op", "n", value, low=1, high=3)


def test_integers_inside():
    assert _checks.integer("op", "n", np.uint8(3), low=1, high=3) == 3
    assert type(_checks.integer("op", "n", np.int64(1), low=1, high=3)) is int


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_booleans(value):
    with pytest.raises(TypeError, match=r"^kitae\.op: training: expected True or False, got "):
        _checks.boolean("op", "training", value)
    assert _checks.boolean("op", "training", np.bool_(True)) is True
