// Small vectors, one number a channel, of any storage type and stride, as doubles.
#pragma once

#include <algorithm>
#include <cstdint>

#include "drivers/array.h"
#include "ops/rounding.h"

namespace kitae {

// f(element, index) over a vector; the usual stride is a constant for the compiler.
template <class S, class F>
void for_each_element(const Array& vector, F f) {
  char* data = vector.as<char>();
  const int64_t count = vector.shape[0], stride = vector.strides[0];
  if (stride == static_cast<int64_t>(sizeof(S))) {
    for (int64_t i = 0; i < count; ++i) f(reinterpret_cast<S*>(data)[i], i);
  } else {
    for (int64_t i = 0; i < count; ++i) f(*reinterpret_cast<S*>(data + i * stride), i);
  }
}

inline void read_vector(const Array& from, double absent, double* to, int64_t count) {
  if (!from) return std::fill(to, to + count, absent);
  visit_dtype(from.dtype, [&](auto zero) {
    using S = decltype(zero);
    for_each_element<const S>(from, [to](const S& value, int64_t i) { to[i] = static_cast<double>(to_float(value)); });
  });
}

inline void write_vector(const Array& to, const double* from) {
  visit_dtype(to.dtype, [&](auto zero) {
    using S = decltype(zero);
    for_each_element<S>(to, [from](S& value, int64_t i) { value = round_from_double<S>(from[i]); });
  });
}

}  // namespace kitae
