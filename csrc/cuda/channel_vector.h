// One number a channel, of any storage type and stride, read and written in double.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "drivers/array.h"
#include "ops/rounding.h"

namespace kitae::cuda {

struct ChannelVector {
  char* data = nullptr;
  int64_t stride = 0;  // bytes
  DType dtype = DType::other;

  ChannelVector() = default;
  explicit ChannelVector(const Array& array) {
    if (!array) return;
    data = array.as<char>();
    stride = array.strides[0];
    dtype = array.dtype;
  }
  KITAE_DEVICE bool present() const { return dtype != DType::other; }

  KITAE_DEVICE double read(int64_t channel, double absent) const {
    const char* at = data + channel * stride;
    switch (dtype) {
      case DType::float16:
        return static_cast<double>(to_float(*reinterpret_cast<const Float16*>(at)));
      case DType::bfloat16:
        return static_cast<double>(to_float(*reinterpret_cast<const BFloat16*>(at)));
      case DType::float32:
        return static_cast<double>(*reinterpret_cast<const float*>(at));
      case DType::float64:
        return *reinterpret_cast<const double*>(at);
      default:
        return absent;
    }
  }

  KITAE_DEVICE void write(int64_t channel, double value) const {
    char* at = data + channel * stride;
    switch (dtype) {
      case DType::float16:
        *reinterpret_cast<Float16*>(at) = round_from_double<Float16>(value);
        return;
      case DType::bfloat16:
        *reinterpret_cast<BFloat16*>(at) = round_from_double<BFloat16>(value);
        return;
      case DType::float32:
        *reinterpret_cast<float*>(at) = static_cast<float>(value);
        return;
      case DType::float64:
        *reinterpret_cast<double*>(at) = value;
        return;
      default:
        return;
    }
  }
};

}  // namespace kitae::cuda
