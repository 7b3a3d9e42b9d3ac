// What the bindings of several families ask of their arguments.
#pragma once

#include <initializer_list>

#include "bindings/array.h"

namespace kitae::bindings {

// An array and where it came from: overlap needs both.
struct Argument {
  Array array;
  py::handle object;
  const char* name;
};

inline Argument argument(py::handle object, const char* name, Access access) {
  return {optional_array_argument(object, name, access), object, name};
}

// One number a channel: float32, float64, or x's dtype.
inline void require_channel_vector(const Argument& vector, const Array& x, int64_t channels) {
  if (!vector.array) return;
  const DType dtype = vector.array.dtype;
  if (dtype != DType::float32 && dtype != DType::float64 && dtype != x.dtype) throw Rejected{vector.name, "dtype"};
  require_vector(vector.array, channels, vector.name);
}

inline void require_apart(const Argument& written, std::initializer_list<const Argument*> others) {
  if (!written.array) return;
  for (const Argument* other : others)
    if (other->array && overlap(written.array, written.object, other->array, other->object))
      throw Rejected{written.name, "overlap"};
}

}  // namespace kitae::bindings
