// The boundary: Python arrays become kitae::Array here, checked, never converted or copied. A refused argument is
// reported as (argument, reason, index); python/kitae/_checks.py has the words.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <optional>

#include "cpu/floating_point_mode.h"
#include "cpu/threads.h"
#include "drivers/array.h"

namespace kitae::bindings {

namespace py = pybind11;

// reason: "type" | "dtype" | "byte_order" | "aligned" | "writeable" | "contiguous" | "shape" | "length" | "overlap" |
// "repeats"
struct Rejected {
  const char* argument;
  const char* reason;
  int64_t index = -1;  // place in a list, -1: the argument itself
};

enum class Access { read, write };

// A numpy.ndarray (or numpy.memmap) of float16, bfloat16, float32 or float64, aligned, in native byte order, with any
// strides.
Array array_argument(py::handle object, const char* argument, Access access, int64_t index = -1);
// The same; None gives an absent Array.
Array optional_array_argument(py::handle object, const char* argument, Access access, int64_t index = -1);

void require_dtype(const Array& array, DType dtype, const char* argument, int64_t index = -1);
void require_contiguous(const Array& array, const char* argument, int64_t index = -1);
void require_same_shape(const Array& array, const Array& other, const char* argument, int64_t index = -1);
void require_vector(const Array& array, int64_t length, const char* argument, int64_t index = -1);

// True where the two arrays share at least one element (numpy.shares_memory decides when their address ranges meet).
bool overlap(const Array& a, py::handle a_object, const Array& b, py::handle b_object);
// The half-open range of addresses an array touches.
struct Extent {
  uintptr_t begin, end;
};
Extent extent(const Array& array);

// Around the native part of a call: the GIL is released, the floating-point mode fixed.
struct NativeCall {
  py::gil_scoped_release released;
  cpu::FixedFloatingPointMode mode;
};

// In addition, Ctrl-C stops the call between units: for functions whose outputs are fresh and may be thrown away.
bool interrupt_requested();
struct InterruptibleCall : NativeCall {
  cpu::Interruptible interruptible{interrupt_requested};
};

// One per family, called by module.cpp.
void register_normalization(py::module_& module);
void register_dropout(py::module_& module);
void register_optimizers(py::module_& module);
void register_gradients(py::module_& module);
void register_threads(py::module_& module);
void register_errors(py::module_& module);

}  // namespace kitae::bindings
