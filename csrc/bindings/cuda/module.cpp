// The CUDA backend, or its simulation on the host: the families whose drivers are written, as CMake lists them.
#include "bindings/array.h"
#include "cuda/findings.h"
#include "cuda/launch_count.h"
#include "cuda/stream.h"

#if defined(KITAE_CUDA_SIMULATED)
#include "cuda/flags.h"
#endif

namespace py = pybind11;
using namespace kitae::bindings;

namespace {

#if defined(KITAE_CUDA)
using kitae::bindings::devices_in_use;
#else
std::vector<int> devices_in_use() { return {0}; }
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
  module.def("launch_count", [] { return kitae::cuda::launch_count().load(); }, "Kernels started so far.");
#if defined(KITAE_CUDA)
  module.doc() = "kitae's CUDA backend.";
  register_runtime(module);
#else
  module.doc() = "kitae's CUDA backend on the host, for NumPy arrays.";
  register_threads(module);
#endif
#if defined(KITAE_CUDA_SIMULATED)
  namespace stand_in = kitae::cuda::stand_in;
  module.def("set_seed", &stand_in::set_seed, py::arg("seed"), "Chooses the order of blocks and warps.");
  module.def(
      "launched",
      [] {
        const stand_in::Launched& latest = stand_in::launched();
        return py::make_tuple(latest.count, latest.device, reinterpret_cast<uintptr_t>(latest.stream));
      },
      "(launches so far, device of the latest, its stream).");
  module.def(
      "raise_finding",
      [](int device, uint32_t code, int64_t place) {
        const kitae::cuda::OnStream on(device, nullptr);
        kitae::cuda::raise_flag(kitae::cuda::device_flags(), static_cast<kitae::cuda::Finding>(code), place);
      },
      py::arg("device"), py::arg("code"), py::arg("place"), py::call_guard<Arguments>(), "As a kernel would.");
  module.def(
      "fail_allocations_after", [](int64_t count) { stand_in::allocations_until_failure() = count; }, py::arg("count"),
      "Device memory runs out after this many allocations; -1: never.");
#endif
}
