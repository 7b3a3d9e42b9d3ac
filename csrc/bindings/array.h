// The boundary: Python arrays become kitae::Array here, checked, never converted or copied. A refused argument is
// reported as (argument, reason, index); python/kitae/_checks.py has the words.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <optional>

#include "drivers/array.h"

// NativeCall, InterruptibleCall and Arguments: what stands around the native part of a call.
#if defined(KITAE_CUDA)
#include "bindings/cuda/native_call.h"
#else
#include "bindings/native_call.h"
#endif

namespace kitae::bindings {

namespace py = pybind11;

// reason: "type" | "dtype" | "byte_order" | "aligned" | "writeable" | "contiguous" | "shape" | "length" | "overlap" |
// "repeats" | "device"
struct Rejected {
  const char* argument;
  const char* reason;
  int64_t index = -1;  // place in a list, -1: the argument itself
};

enum class Access { read, write };

// A numpy.ndarray (or numpy.memmap; on CUDA: a cupy.ndarray) of float16, bfloat16, float32 or float64, aligned, in
// native byte order, with any strides.
Array array_argument(py::handle object, const char* argument, Access access, int64_t index = -1);
// The same; None gives an absent Array.
Array optional_array_argument(py::handle object, const char* argument, Access access, int64_t index = -1);

// A contiguous vector of `bytes` uint8; None gives nullptr.
uint8_t* bytes_argument(py::handle object, int64_t bytes, const char* argument, Access access);

// Whether two indices may name the same memory: writing through such a view has no one meaning.
bool repeats_elements(const Array& array);
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

// One per family, called by module.cpp.
void register_normalization(py::module_& module);
void register_layer_normalization(py::module_& module);
void register_weight_normalization(py::module_& module);
void register_dropout(py::module_& module);
void register_convolution(py::module_& module);
void register_optimizers(py::module_& module);
void register_gradients(py::module_& module);
void register_threads(py::module_& module);
void register_exchange(py::module_& module);
void register_errors(py::module_& module);

}  // namespace kitae::bindings
