"""Every user-facing error message. Form: ``kitae.<op>: <argument>: expected <what>, got <what>``.

A wrong kind of thing is a TypeError, a wrong value a ValueError. The native code and the reference report a refused
array as ``Rejected(argument, reason, index)``; ``explain`` finds the words.
"""

import math
import operator
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FLOATS = "float32, float64, float16 or bfloat16"


class Rejected(Exception):
    """A backend refused an array argument before anything was written; users see what `explain` makes of it."""

    def __init__(self, argument: str, reason: str, index: int = -1) -> None:
        super().__init__(argument, reason, index)
        self.argument, self.reason, self.index = argument, reason, index


def describe(value: Any) -> str:
    """What the user passed, in a few words."""
    if isinstance(value, np.ndarray) or is_cupy(value):
        kind = "" if type(value) is np.ndarray else "cupy " if is_cupy(value) else f"{type(value).__name__} "
        return f"{kind}array of shape {value.shape}, dtype {dtype_name(value)}"
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def dtype_name(array: Any) -> str:
    return array.dtype.str if array.dtype.byteorder == ">" else str(array.dtype)


def error(kind: type[Exception], op: str, argument: str, expected: str, got: Any) -> Exception:
    """``got`` is the value itself, or words for it as a ``Words``."""
    words = got if isinstance(got, Words) else describe(got)
    return kind(f"kitae.{op}: {argument}: expected {expected}, got {words}")


class Words(str):
    """Text that goes into a message as it is."""

    __slots__ = ()


def explain(
    op: str, rejected: Rejected, values: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> Exception:
    """The user's exception for a refused argument.

    ``values`` maps argument names to what was passed (a list for list arguments), ``expected`` to the words for, or the
    shape or dtype of, what would have been right.
    """
    value = values.get(rejected.argument)
    name = rejected.argument
    if rejected.index >= 0:
        name = f"{name}[{rejected.index}]"
        if isinstance(value, Sequence) and not isinstance(value, np.ndarray) and rejected.index < len(value):
            value = value[rejected.index]
    wanted = (expected or {}).get(rejected.argument)
    match rejected.reason:
        case "type":
            return not_an_array(op, name, value)
        case "dtype":
            return error(TypeError, op, name, f"dtype {wanted or FLOATS}", Words(dtype_name(value)))
        case "byte_order":
            return error(TypeError, op, name, "native byte order", Words(f"dtype {dtype_name(value)}"))
        case "aligned":
            return error(ValueError, op, name, "memory aligned to its dtype", Words("an unaligned array"))
        case "writeable":
            return error(ValueError, op, name, "a writeable array", Words("a read-only array"))
        case "contiguous":
            return error(
                ValueError, op, name, "a C-contiguous array", Words(f"strides {getattr(value, 'strides', None)}")
            )
        case "shape":
            words = f"shape {wanted}" if wanted is not None else "another shape"
            return error(ValueError, op, name, words, Words(f"shape {getattr(value, 'shape', None)}"))
        case "overlap":
            return error(ValueError, op, name, "memory of its own", Words("an array that overlaps another argument"))
        case "device":
            device: Any = getattr(value, "device", None)
            place = Words(f"an array on device {device.id}")
            return error(ValueError, op, name, "memory on the device of the others (arrays are never moved)", place)
        case "repeats":
            return error(
                ValueError, op, name, "distinct elements", Words(f"a view of strides {getattr(value, 'strides', None)}")
            )
        case "length":
            got = Words(f"{len(value)}") if isinstance(value, Sequence) else value
            return error(ValueError, op, name, f"{wanted} entries", got)
        case _:
            return error(ValueError, op, name, str(wanted or rejected.reason), value)


def not_an_array(op: str, argument: str, value: Any) -> Exception:
    """A list, a tensor of another library, a masked array...: with the one line that converts it."""
    expected = "a numpy.ndarray or cupy.ndarray"
    root = type(value).__module__.partition(".")[0]
    if is_cupy(value):
        return error(TypeError, op, argument, "a numpy.ndarray like the others (arrays are never moved)", value)
    if type(value) is np.ndarray:
        return error(TypeError, op, argument, "a cupy.ndarray like the others (arrays are never moved)", value)
    if root == "torch":
        return error(TypeError, op, argument, expected + " (`tensor.numpy()` shares a CPU tensor's memory)", value)
    if isinstance(value, np.ma.MaskedArray):
        return error(TypeError, op, argument, expected + " (`array.filled(0)` replaces what is masked)", value)
    if isinstance(value, np.ndarray):
        return error(TypeError, op, argument, expected + " (`numpy.asarray(value)` drops the subclass)", value)
    if hasattr(value, "__dlpack__"):
        return error(TypeError, op, argument, expected + " (`numpy.from_dlpack(value)` converts without a copy)", value)
    if isinstance(value, (list, tuple, float, int)) and not isinstance(value, bool):
        return error(TypeError, op, argument, expected + " (`numpy.asarray(value)` makes one)", value)
    return error(TypeError, op, argument, expected, value)


def tensor_refused(op: str, argument: str, reason: str, tensor: Any) -> Exception:
    """A tensor of PyTorch that kitae.torch can't compute on where it lies; ``reason`` is the native code's."""
    if reason == "type":
        return error(TypeError, op, argument, "a torch.Tensor", tensor)
    place = Words(f"shape {tuple(tensor.shape)}, {tensor.dtype}, {tensor.layout}, on {tensor.device}")
    if reason == "dtype":
        return error(TypeError, op, argument, f"dtype {FLOATS}", place)
    if reason == "negated":
        return error(ValueError, op, argument, "a tensor without a pending minus sign (`tensor.resolve_neg()`)", place)
    if reason == "device":
        return error(ValueError, op, argument, "a tensor on the CPU or a CUDA device (tensors are never moved)", place)
    return error(ValueError, op, argument, "a strided tensor in memory", place)


def no_exchange(version: str) -> Exception:
    return ImportError(
        f"kitae.torch: expected a PyTorch that has torch.Tensor.__dlpack_c_exchange_api__ (2.13 has), got {version}"
    )


def second_derivative(op: str) -> Exception:
    expected = "to be differentiated once (its kernels have no second derivative; PyTorch's own have)"
    return error(RuntimeError, op, "gradient", expected, Words("a second backward pass through it"))


def is_cupy(array: Any) -> bool:
    cupy = sys.modules.get("cupy")  # whoever has a CuPy array has imported it
    return cupy is not None and isinstance(array, cupy.ndarray)


def wrong_device(op: str, argument: str, value: Any, backend: str) -> Exception:
    takes = "a cupy.ndarray" if backend == "cuda" else "a numpy.ndarray"
    return error(
        TypeError, op, argument, f'{takes} (use_backend("{backend}") is in force; arrays are never moved)', value
    )


CUDA_NOT_BUILT = "this installation of kitae was built without it (no nvcc was found, or KITAE_CUDA=OFF)"
_OLDEST_DRIVER = {12: "525", 13: "580"}  # release that runs a program built for CUDA 12, 13


def cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _oldest_driver(built_for: int) -> str:
    return _OLDEST_DRIVER.get(built_for // 1000, f"one for CUDA {cuda_version(built_for)}")


def no_driver(built_for: int) -> str:
    return f"no NVIDIA driver (need {_oldest_driver(built_for)} or newer)"


def old_driver(driver: int, built_for: int) -> str:
    """``driver``: the CUDA version that it knows; its own number is in a file."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            release = re.search(r"Kernel Module\D*([0-9.]+)", file.read())
    except OSError:
        release = None
    found = release[1] if release else f"one for CUDA {cuda_version(driver)}"
    return f"driver too old: found {found}, need {_oldest_driver(built_for)}"


def no_gpu(error: str) -> str:
    return f"the NVIDIA driver finds no GPU ({error})"


def no_cupy(built_for: int = 13000) -> str:
    return f"CuPy is not installed (`pip install cupy-cuda{built_for // 1000}x`)"


def cuda_unavailable(reason: str, op: str = "use_backend", argument: str = "name") -> Exception:
    return RuntimeError(
        f"kitae.{op}: {argument}: CuPy arrays and the backend 'cuda' need the CUDA backend: {reason}. "
        "`cupy.asnumpy(array)` copies an array to the CPU."
    )


def device_error(expression: str, name: str, message: str, arrays: str) -> Exception:
    """A call of the CUDA runtime failed. ``arrays``: those of the kitae call that noticed it, maybe after its cause."""
    op, frame = "", sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("kitae."):
        op, frame = f".{frame.f_code.co_qualname}", frame.f_back  # type: ignore[assignment]
    kind = MemoryError if name == "cudaErrorMemoryAllocation" else RuntimeError
    return kind(f"kitae{op}: {expression}: {name} ({message}), in a call with {arrays or 'no arrays'}")


# By csrc/cuda/findings.h: what is not finite, and of what the record holds the number.
_FINDINGS = {
    1: ("batch_norm: x: expected a finite mean and variance in every channel, got others in channel", "training"),
    2: ("batch_norm: running_mean, running_var: expected finite statistics, got others in channel", "inference"),
    3: ("clip_grad_norm or step: grads: expected finite elements, got others in gradient number", "a step or clipping"),
    4: ("layer_norm: x: expected a finite mean and variance in every sample, got others in sample", "layer_norm"),
}


def found_on_device(code: int, place: int) -> Exception:
    """What a kernel found with ``nonfinite="raise"``; its call had returned before."""
    words, call = _FINDINGS[code]
    return FloatingPointError(
        f"kitae.{words} {place} (found on the GPU by {call} since the last check; that call wrote nothing; nonfinite= "
        "says what else to do)"
    )


def cpu_unavailable(cause: ImportError | None) -> Exception:
    return ImportError(
        f"kitae's CPU kernels could not be loaded ({cause}). "
        'The same in NumPy, slower: kitae.use_backend("reference").'
    )


def number(
    op: str,
    argument: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    infinite: bool = False,
) -> float:
    """``value`` as a Python float inside [low, high] (or open at an end), else the error. NaN is never inside."""
    if type(value) is float and low < value < high:  # no words to be found
        return value
    left = "(" if open_low or low == -math.inf else "["
    right = ")" if open_high or high == math.inf else "]"
    bounds = f"{left}{low:g}, {high:g}{right}"
    if infinite and high == math.inf:
        bounds = bounds[:-1] + "]"
    expected = "a finite number" if low == -math.inf and high == math.inf else f"a number in {bounds}"
    vector = isinstance(value, np.ndarray) and (value.ndim > 0 or isinstance(value, np.ma.MaskedArray))
    if vector or isinstance(value, (bool, np.bool_, str, bytes)):
        raise error(TypeError, op, argument, expected, value)
    try:
        converted = float(value)
    except (TypeError, ValueError):
        raise error(TypeError, op, argument, expected, value) from None
    inside = (low < converted if open_low else low <= converted) and (
        converted < high if open_high else converted <= high
    )
    if not inside or (math.isinf(converted) and not infinite):
        raise error(ValueError, op, argument, expected, value)
    return converted


def integer(op: str, argument: str, value: Any, *, low: int, high: int) -> int:
    """``value`` as an int inside [low, high], else the error; bools and floats are refused."""
    expected = f"an integer in [{low}, {high}]"
    if isinstance(value, (bool, np.bool_)):
        raise error(TypeError, op, argument, expected, value)
    try:
        converted = operator.index(value)
    except TypeError:
        raise error(TypeError, op, argument, expected, value) from None
    if not low <= converted <= high:
        raise error(ValueError, op, argument, expected, value)
    return converted


def boolean(op: str, argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise error(TypeError, op, argument, "True or False", value)
    return bool(value)


def one_of(op: str, argument: str, value: Any, choices: Sequence[Any]) -> Any:
    if type(value) is str and value in choices:
        return value
    if not isinstance(value, (str, type(None))):
        raise error(TypeError, op, argument, "one of " + ", ".join(map(repr, choices)), value)
    if value not in choices:
        raise error(ValueError, op, argument, "one of " + ", ".join(map(repr, choices)), value)
    return value


RAISE = "raise"  # of `nonfinite` where nobody says otherwise: this very object needs no check
NONFINITE = (RAISE, "skip", "zero", "propagate")


def nonfinite_gradient(op: str, place: Any, array: Any) -> Exception:
    """The gradient at ``place`` (a number or a name) has an infinite or NaN element; nothing was written."""
    bad = np.flatnonzero(~np.isfinite(np.asarray(array).astype(np.float64)).reshape(-1))
    where = f"grads[{place!r}]"
    index = tuple(int(i) for i in np.unravel_index(bad[0], array.shape)) if bad.size else ()
    got = Words(f"{bad.size} infinite or NaN, the first at {index}")
    kind_error = error(FloatingPointError, op, where, "finite elements", got)
    return FloatingPointError(f"{kind_error} (nothing was written; nonfinite= says what else to do)")


def nonfinite_channel(op: str, x: Any, axis: int, channel: int) -> Exception:
    """The batch's mean or variance in a channel is infinite or NaN, so an element of ``x`` is; nothing was written."""
    bad = np.argwhere(~np.isfinite(np.take(x, [channel], axis).astype(np.float64)))
    got = Words(f"channel {channel} with {len(bad)} infinite or NaN elements")
    if len(bad):
        bad[:, axis] = channel
        got = Words(f"{got}, the first at {tuple(map(int, bad[0]))}")
    kind_error = error(FloatingPointError, op, "x", "a finite mean and variance in every channel", got)
    return FloatingPointError(f"{kind_error} (nothing was written; nonfinite= says what else to do)")


def nonfinite_sample(op: str, x: Any, order: Sequence[int] | None, normalized: int, row: int) -> Exception:
    """A sample's mean or variance is infinite or NaN, so an element is; nothing was written. x: its axes in ``order``
    (None: its own), the last ``normalized`` of which make a sample."""
    place = x.ndim - normalized
    sample = tuple(int(i) for i in np.unravel_index(row, x.shape[:place])) if place else ()
    bad = np.argwhere(~np.isfinite(np.asarray(x[sample]).astype(np.float64)))
    words = f"sample {sample if len(sample) != 1 else sample[0]} with {len(bad)} infinite or NaN elements"
    if len(bad):
        index = (*sample, *map(int, bad[0]))
        at = index if order is None else tuple(index[list(order).index(axis)] for axis in range(x.ndim))
        words = f"{words}, the first at {at}"
    kind_error = error(FloatingPointError, op, "x", "a finite mean and variance in every sample", Words(words))
    return FloatingPointError(f"{kind_error} (nothing was written; nonfinite= says what else to do)")


def nonfinite_running(op: str, channel: int, mean: Any, variance: Any) -> Exception:
    """A running statistic that inference would divide by, or subtract, is not a number for it."""
    expected = "a finite mean and a finite variance above -eps in every channel"
    got = Words(f"mean {float(mean[channel])!r}, variance {float(variance[channel])!r} in channel {channel}")
    kind_error = error(FloatingPointError, op, "running_mean, running_var", expected, got)
    return FloatingPointError(f"{kind_error} (nothing was written; nonfinite= says what else to do)")


def no_forward_yet(op: str) -> Exception:
    return error(RuntimeError, op, "dout", "a forward pass before", Words("none"))


def one_value_a_channel(op: str, x: Any) -> Exception:
    expected = 'more than one value a channel in training (semantics="torch"; "paper" takes one)'
    return error(ValueError, op, "x", expected, x)


def not_in_preset(kind: str, semantics: str, having: Sequence[str]) -> Exception:
    """``semantics`` names a system that has no such class."""
    expected = f"one of {', '.join(map(repr, having))} (the others have no {kind})"
    return error(ValueError, kind, "semantics", expected, semantics)


def not_covered(face: str, name: str, covered: Sequence[str], instead: str) -> AttributeError:
    """A face is asked for a name of its system that it does not have."""
    return AttributeError(f"kitae.{face} has no {name!r}; it covers {', '.join(covered)}. {instead}")


def missing_package(face: str, package: str, requirement: str) -> ImportError:
    return ImportError(f'{face} needs {package}, which is not installed: pip install "{requirement}"')
