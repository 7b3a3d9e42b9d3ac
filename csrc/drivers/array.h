// What a driver knows of an array: no Python. The memory stays the caller's.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "ops/host_device.h"

namespace kitae {

enum class DType : uint8_t { float16, bfloat16, float32, float64, other };

constexpr int64_t size_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

struct Array {
  void* data = nullptr;
  DType dtype = DType::other;
  int ndim = 0;
  int64_t size = 0;
  const int64_t* shape = nullptr;     // ndim numbers
  const int64_t* strides = nullptr;   // in bytes
  bool contiguous = false;            // C order, no gaps
  std::shared_ptr<const void> owner;  // of shape and strides, where they are not the array's own

  explicit operator bool() const { return dtype != DType::other; }  // false: the optional argument is absent
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Calls f with a value of the storage type: visit_dtype(dtype, [&](auto zero) { using T = decltype(zero); ... }).
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float16:
      return f(Float16{});
    case DType::bfloat16:
      return f(BFloat16{});
    case DType::float32:
      return f(float{});
    case DType::float64:
      return f(double{});
    default:
      throw std::logic_error("kitae: an array without a floating-point dtype reached a driver");
  }
}

}  // namespace kitae
