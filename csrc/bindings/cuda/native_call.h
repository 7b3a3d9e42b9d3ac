// What stands around the native part of a call on CUDA.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>
#include <vector>

#include "cuda/stream.h"
#include "drivers/array.h"

namespace kitae::bindings {

// The guard of every bound function (py::call_guard<Arguments>): the device that this call's arrays share, and what an
// error tells of them.
struct Arguments {
  Arguments();
};
// The device of this call's arrays, for later calls that name none of them.
int device_of_arguments();
void set_device_of_arguments(int device);

// Around the native part of a call: kernels go to the device of the call's arrays, CuPy's current one where it has
// none, and to CuPy's current stream there. The interpreter lock is released.
class NativeCall {
 public:
  NativeCall();

 private:
  cuda::OnStream on_;
  pybind11::gil_scoped_release released_;
  std::lock_guard<std::mutex> alone_;  // taken last, given back first: its holder never waits for the interpreter
};

// Nothing waits for a kernel: there is nothing to interrupt.
using InterruptibleCall = NativeCall;

// Devices that calls have used, in order.
std::vector<int> devices_in_use();
void register_runtime(pybind11::module_& module);

}  // namespace kitae::bindings
