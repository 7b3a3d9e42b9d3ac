// What can be said of an Array without Python.
#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "bindings/array.h"

namespace kitae::bindings {

bool repeats_elements(const Array& array) {
  if (array.contiguous || array.size == 0) return false;
  std::vector<std::pair<int64_t, int64_t>> axes;  // (|stride|, length), nearest elements first
  for (int axis = 0; axis < array.ndim; ++axis)
    if (array.shape[axis] > 1) axes.emplace_back(std::abs(array.strides[axis]), array.shape[axis]);
  std::sort(axes.begin(), axes.end());
  int64_t reach = size_of(array.dtype);
  for (const auto& [stride, length] : axes) {
    if (stride < reach) return true;
    reach += stride * (length - 1);
  }
  return false;
}

void require_dtype(const Array& array, DType dtype, const char* argument, int64_t index) {
  if (array.dtype != dtype) throw Rejected{argument, "dtype", index};
}

void require_contiguous(const Array& array, const char* argument, int64_t index) {
  if (!array.contiguous) throw Rejected{argument, "contiguous", index};
}

void require_same_shape(const Array& array, const Array& other, const char* argument, int64_t index) {
  bool same = array.ndim == other.ndim;
  for (int axis = 0; same && axis < array.ndim; ++axis) same = array.shape[axis] == other.shape[axis];
  if (!same) throw Rejected{argument, "shape", index};
}

void require_vector(const Array& array, int64_t length, const char* argument, int64_t index) {
  if (array.ndim != 1 || array.shape[0] != length) throw Rejected{argument, "shape", index};
}

Extent extent(const Array& array) {
  const auto data = reinterpret_cast<uintptr_t>(array.data);
  if (array.size == 0) return {data, data};
  int64_t low = 0, high = size_of(array.dtype);
  for (int axis = 0; axis < array.ndim; ++axis) {
    const int64_t reach = (array.shape[axis] - 1) * array.strides[axis];
    (reach < 0 ? low : high) += reach;
  }
  return {data + static_cast<uintptr_t>(low), data + static_cast<uintptr_t>(high)};
}

}  // namespace kitae::bindings
