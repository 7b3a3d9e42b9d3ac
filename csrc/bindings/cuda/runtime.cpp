// What the CUDA runtime says of this machine. The only functions here that may be called without a GPU.
#include "bindings/array.h"

namespace kitae::bindings {
namespace {

// (CUDA version that the driver knows, 0 without one; that we were built with). Does not start the driver.
py::tuple driver_version() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return py::make_tuple(driver, CUDART_VERSION);
}

// (number of devices, name of the error). Starts the driver, which no forked child can use then.
py::tuple device_count() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();
  return py::make_tuple(error == cudaSuccess ? devices : 0, cudaGetErrorName(error));
}

}  // namespace

void register_runtime(py::module_& module) {
  module.def("driver_version", &driver_version, "(of the driver, 0 without one; that this module was built with).");
  module.def("device_count", &device_count, "(number of devices, name of the error); starts the driver.");
}

}  // namespace kitae::bindings
