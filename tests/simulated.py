"""The CUDA kernels on the host: the test-only modules that CMake builds with KITAE_SIMULATED_CUDA=ON.

KITAE_SIMULATED names the folder they lie in; without it conftest.py leaves out the tests that need them, and with
KITAE_REQUIRE_SIMULATED=1 they fail.
"""

import os
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

#: A function of each family of the cases: the module has it where the family's kernels are written.
FAMILIES = {
    "dropout": "dropout_forward",
    "batch_norm": "batch_norm_forward",
    "layer_norm": "layer_norm_forward",
    "weight_norm": "weight_norm_forward",
    "optimizers": "OptimizerPlan",
    "clipping": "global_norm",
    "convolution": "im2col",
}


def load(name: str) -> ModuleType | None:
    folder = os.environ.get("KITAE_SIMULATED")
    if not folder:
        return None
    path = next(Path(folder).glob(f"{name}.*.so"), None)
    if path is None:
        return None
    loader = ExtensionFileLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


#: For NumPy arrays, in place of the CPU backend.
MODULE = load("_cuda_simulated")
#: For the arrays of imitation_cupy, in place of kitae._cuda.
ON_HOST = load("_cuda_on_host")


def require(module: ModuleType | None) -> ModuleType:
    if module is None:
        if os.environ.get("KITAE_REQUIRE_SIMULATED") == "1":
            pytest.fail("KITAE_REQUIRE_SIMULATED=1, but KITAE_SIMULATED names no folder with the module")
        pytest.skip("KITAE_SIMULATED names no folder with the modules")
    return module


def has(family: str) -> bool:
    return MODULE is not None and hasattr(MODULE, FAMILIES[family])
