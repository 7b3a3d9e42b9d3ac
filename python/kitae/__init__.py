"""Fused training kernels for people who train networks on NumPy and CuPy arrays.

Batch normalization, dropout, convolution's columns and pooling, optimizers and gradient clipping as functions and as
layers, in C++ on the CPU, with the same bits for any number of threads and on every CPU. ``kitae.reference`` is the
same in NumPy: the specification.
"""

from . import averaging as _averaging
from . import convolution as _convolution
from . import dropout as _dropout  # the module, before the function of that name takes its place here
from . import gradient_normalization as _gradient_normalization
from . import gradients as _gradients
from . import layer_normalization as _layer_normalization
from . import normalization as _normalization
from . import optimizers as _optimizers
from . import weight_normalization as _weight_normalization

# isort: split
from kitae._dispatch import check, show_config, use_backend
from kitae._random import seed
from kitae._threads import get_num_threads, set_num_threads
from kitae.averaging import *  # noqa: F403  each family's module names its public functions in __all__
from kitae.convolution import *  # noqa: F403
from kitae.dropout import *  # noqa: F403
from kitae.gradient_normalization import *  # noqa: F403
from kitae.gradients import *  # noqa: F403
from kitae.layer_normalization import *  # noqa: F403
from kitae.normalization import *  # noqa: F403
from kitae.optimizers import *  # noqa: F403
from kitae.weight_normalization import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "check",
    "get_num_threads",
    "seed",
    "set_num_threads",
    "show_config",
    "use_backend",
    *_averaging.__all__,
    *_convolution.__all__,
    *_dropout.__all__,
    *_gradient_normalization.__all__,
    *_gradients.__all__,
    *_layer_normalization.__all__,
    *_normalization.__all__,
    *_optimizers.__all__,
    *_weight_normalization.__all__,
]
