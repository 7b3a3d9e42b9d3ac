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

#if defined(KITAE_CUDA_SIMULATED)
std::vector<int> devices_in_use() { return {0}; }
#else
using kitae::bindings::devices_in_use;
#endif

// What the kernels of one device found since the last call.
std::optional<kitae::cuda::Found> found_on(int device) {
  const kitae::cuda::OnStream on(device, nullptr);
  const py::gil_scoped_release released;
  return kitae::cuda::check_flags();
}

py::object check() {
  for (const int device : devices_in_use())
    if (const auto found = found_on(device)) return py::make_tuple(static_cast<int>(found->code), found->place);
  return py::none();
}

}  // namespace

PYBIND11_MODULE(KITAE_MODULE, module, py::mod_gil_not_used()) {
  module.attr("variant") = KITAE_VARIANT;
  register_errors(module);
#define REGISTER(family) register_##family(module);
  KITAE_FAMILIES
#undef REGISTER
  module.def(
      "check", &check, py::call_guard<Arguments>(),
      "Waits for the devices that were used; (code, place) of what its kernels found since the last call, or None.");
#if defined(KITAE_CUDA_SIMULATED)
  module.doc() = "kitae's CUDA backend on the host, for tests.";
  register_threads(module);
  module.def("set_seed", &kitae::cuda::stand_in::set_seed, py::arg("seed"), "Chooses the order of blocks and warps.");
#else
  module.doc() = "kitae's CUDA backend.";
  register_runtime(module);
#endif
}
