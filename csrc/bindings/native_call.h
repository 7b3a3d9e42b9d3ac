// What stands around the native part of a call on the CPU.
#pragma once

#include <pybind11/pybind11.h>

#include "cpu/floating_point_mode.h"
#include "cpu/threads.h"

namespace kitae::bindings {

// The guard of every bound function (py::call_guard<Arguments>): what its arrays have in common. On the CPU nothing.
struct Arguments {};
// The device of this call's arrays, for later calls that name none of them. On the CPU there is but one.
inline int device_of_arguments() { return 0; }
inline void set_device_of_arguments(int /*device*/) {}

// Around the native part of a call: the GIL is released, the floating-point mode fixed.
struct NativeCall {
  pybind11::gil_scoped_release released;
  cpu::FixedFloatingPointMode mode;
};

// In addition, Ctrl-C stops the call between units: for functions whose outputs are fresh and may be thrown away.
bool interrupt_requested();
struct InterruptibleCall : NativeCall {
  cpu::Interruptible interruptible{interrupt_requested};
};

}  // namespace kitae::bindings
