// Pieces of a view as rows of arithmetic type: in place where the memory already is one, else through a small buffer
// that stays in the L1 cache. Here 16-bit storage, mixed dtypes and strides meet the loops (and in keep_row.h).
#pragma once

#include <cstdint>

#include "cpu/convert.h"
#include "drivers/view.h"

namespace kitae::cpu {

constexpr int64_t kRow = 1024;  // elements of a buffered row

template <class T>
constexpr bool stores(DType dtype) {
  return (sizeof(T) == 8) == (dtype == DType::float64) && (dtype == DType::float64 || dtype == DType::float32);
}

// The view's memory as T, where that needs no conversion; else nullptr.
template <class T>
inline T* direct(const View& view, int64_t begin) {
  return view.contiguous && stores<T>(view.dtype) ? reinterpret_cast<T*>(view.data) + begin : nullptr;
}

template <class T>
[[gnu::noinline]] void read_row(T* row, const View& view, int64_t begin, int64_t count) {
  visit_dtype(view.dtype, [&](auto zero) {
    using Storage = decltype(zero);
    if (view.contiguous)
      widen(row, reinterpret_cast<const Storage*>(view.data) + begin, count);
    else
      view.walk(begin, count, [&](const char* element, int64_t i) {
        row[i] = static_cast<T>(to_float(*reinterpret_cast<const Storage*>(element)));
      });
  });
}

// Rounds once to the view's dtype. T is at least as wide as the view's arithmetic type.
template <class T>
[[gnu::noinline]] void write_row(const View& view, int64_t begin, const T* row, int64_t count) {
  visit_dtype(view.dtype, [&](auto zero) {
    using Storage = decltype(zero);
    if constexpr (std::is_same_v<Compute<Storage>, T>) {
      if (view.contiguous)
        narrow(reinterpret_cast<Storage*>(view.data) + begin, row, count);
      else
        view.walk(begin, count, [&](char* element, int64_t i) {
          *reinterpret_cast<Storage*>(element) = FromFloat<Storage>::convert(row[i]);
        });
    } else {
      throw std::logic_error("kitae: a row is written to an array of another arithmetic type");
    }
  });
}

}  // namespace kitae::cpu
