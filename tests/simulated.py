"""The CUDA kernels on the host: the test-only module that CMake builds with KITAE_SIMULATED_CUDA=ON.

KITAE_SIMULATED names it, or the folder it lies in; without it the tests that need it are skipped, and with
KITAE_REQUIRE_SIMULATED=1 they fail.
"""

import os
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

#: A function of each family of the cases: the module has it where the family's kernels are written.
FAMILIES = {
    "dropout": "dropout_forward",
    "batch_norm": "batch_norm_forward",
    "optimizers": "OptimizerPlan",
    "clipping": "global_norm",
}


def load() -> ModuleType | None:
    named = os.environ.get("KITAE_SIMULATED")
    if not named:
        return None
    path = Path(named)
    if path.is_dir():
        (path,) = path.glob("_cuda_simulated*.so")
    loader = ExtensionFileLoader("_cuda_simulated", str(path))
    spec = spec_from_file_location("_cuda_simulated", path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


MODULE = load()


def has(family: str) -> bool:
    return MODULE is not None and hasattr(MODULE, FAMILIES[family])
