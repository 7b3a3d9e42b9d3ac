// The CUDA backend, or its simulation on the host: the families whose drivers are written, as CMake lists them.
#include "bindings/array.h"
#include "cuda/findings.h"
#include "cuda/stream.h"

#if defined(KITAE_CUDA_SIMULATED)
#include "cuda/stand_in.h"
#endif

namespace py = pybind11;
using namespace kitae::bindings;

namespace {

// What kernels found since the last call, as (code, place), or None. Waits for the device.
py::object check() {
  const NativeCall native;
  const auto found = kitae::cuda::check_flags();
  const py::gil_scoped_acquire held;
  if (!found) return py::none();
  return py::make_tuple(static_cast<int>(found->code), found->place);
}

}  // namespace

PYBIND11_MODULE(KITAE_MODULE, module, py::mod_gil_not_used()) {
  module.attr("variant") = KITAE_VARIANT;
  register_errors(module);
#define REGISTER(family) register_##family(module);
  KITAE_FAMILIES
#undef REGISTER
  module.def("check", &check, py::call_guard<Arguments>(),
             "Waits for the device; (code, place) of what its kernels found since the last call, or None.");
#if defined(KITAE_CUDA_SIMULATED)
  module.doc() = "kitae's CUDA backend on the host, for tests.";
  register_threads(module);
  module.def("set_seed", &kitae::cuda::stand_in::set_seed, py::arg("seed"), "Chooses the order of blocks and warps.");
#else
  module.doc() = "kitae's CUDA backend.";
  register_runtime(module);
#endif
}
