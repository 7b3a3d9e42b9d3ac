// An array of any strides, read and written in the C order of its indices.
#pragma once

#include <cstdint>
#include <vector>

#include "drivers/array.h"

namespace kitae {

struct View {
  char* data = nullptr;
  DType dtype = DType::other;
  bool contiguous = true;
  int64_t size = 0;
  // Only where not contiguous; neighbouring axes that form one run of memory are merged, axes of length 1 dropped.
  std::vector<int64_t> shape, strides;  // strides in bytes

  // `axes`: the order in which the array's axes are walked (nullptr: as they are).
  void assign(const Array& array, const int64_t* axes = nullptr) {
    data = array.as<char>();
    dtype = array.dtype;
    size = array.size;
    contiguous = array.contiguous && !axes;
    shape.clear();
    strides.clear();
    if (contiguous || size == 0) return;
    for (int i = 0; i < array.ndim; ++i) {
      const int64_t axis = axes ? axes[i] : i;
      const int64_t length = array.shape[axis], stride = array.strides[axis];
      if (length == 1) continue;
      if (!shape.empty() && strides.back() == stride * length) {
        shape.back() *= length;
        strides.back() = stride;
      } else {
        shape.push_back(length);
        strides.push_back(stride);
      }
    }
    contiguous = shape.empty() || (shape.size() == 1 && strides[0] == size_of(dtype));
  }

  // f(pointer to the element, number of the element) for the elements [begin, begin + count) in C order.
  template <class F>
  void walk(int64_t begin, int64_t count, F f) const {
    const int last = static_cast<int>(shape.size()) - 1;
    int64_t index[64];
    int64_t rest = begin, offset = 0;
    for (int axis = last; axis >= 0; --axis) {
      index[axis] = rest % shape[axis];
      rest /= shape[axis];
      offset += index[axis] * strides[axis];
    }
    for (int64_t done = 0; done < count;) {
      const int64_t left = shape[last] - index[last];
      const int64_t run = left < count - done ? left : count - done;
      char* element = data + offset;
      for (int64_t i = 0; i < run; ++i, element += strides[last]) f(element, done + i);
      done += run;
      offset += run * strides[last];
      index[last] += run;
      for (int axis = last; axis > 0 && index[axis] == shape[axis]; --axis) {
        offset += strides[axis - 1] - shape[axis] * strides[axis];
        index[axis] = 0;
        ++index[axis - 1];
      }
    }
  }
};

}  // namespace kitae
