"""What the layers of this package accept; the errors name op, argument, expected and got."""

import numpy as np

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def error(kind, op, argument, expected, got):
    return kind(f"{op}: {argument}: expected {expected}, got {got}")


def float_array(op, argument, value, ndim=None):
    """``value`` if it is a NumPy array of a floating dtype (and ``ndim`` dimensions)."""
    if not isinstance(value, np.ndarray):
        raise error(TypeError, op, argument, "a numpy.ndarray", type(value).__name__)
    if value.dtype.name not in FLOAT_DTYPES or not value.dtype.isnative:
        raise error(TypeError, op, argument, "dtype " + ", ".join(FLOAT_DTYPES), value.dtype.str)
    if ndim is not None and value.ndim != ndim:
        raise error(ValueError, op, argument, f"{ndim} dimensions", f"shape {value.shape}")
    return value


def same_shape(op, argument, value, shape, of):
    if value.shape != shape:
        raise error(ValueError, op, argument, f"shape {shape} ({of})", f"shape {value.shape}")


def after_forward(op, state):
    """The state that ``forward`` left for ``backward``."""
    if state is None:
        raise RuntimeError(f"{op}: expected a forward pass before, got none")
    return state


def whole_number(op, argument, value):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise error(TypeError, op, argument, "a whole number", repr(value))
    if value < 1:
        raise error(ValueError, op, argument, "a whole number >= 1", repr(value))
    return int(value)


def parameter_dtype(op, requested, of_input):
    """The dtype of a layer's parameters: the one asked for, else the input's, float32 for 16-bit inputs."""
    if requested is None:
        dtype = np.dtype(of_input)
        return np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    dtype = np.dtype(requested)
    if dtype not in (np.float32, np.float64):
        raise error(TypeError, op, "dtype", "float32 or float64", str(dtype))
    return dtype
