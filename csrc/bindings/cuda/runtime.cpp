// What the CUDA runtime says of this machine. The only functions here that may be called without a GPU.
#include "bindings/array.h"

namespace kitae::bindings {
namespace {

// (driver's CUDA version, or 0 without one; the version we were built with; devices; the error's name).
py::tuple runtime_status() {
  int driver = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();
  return py::make_tuple(driver, CUDART_VERSION, error == cudaSuccess ? devices : 0, cudaGetErrorName(error));
}

}  // namespace

void register_runtime(py::module_& module) {
  module.def("runtime_status", &runtime_status,
             "(CUDA version of the driver, 0 without one; of this module; number of devices; name of the error).");
}

}  // namespace kitae::bindings
