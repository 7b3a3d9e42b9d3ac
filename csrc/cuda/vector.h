// Numbers and types of cuda/device.h that need no device.
#pragma once

#include <cstdint>

#include "ops/host_device.h"

namespace kitae::cuda {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// N elements that are loaded and stored at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(sizeof(T) * N <= 16 && (sizeof(T) * N & (sizeof(T) * N - 1)) == 0, "at most 16 bytes, a power of two");
  T value[N];
  KITAE_HD T& operator[](int i) { return value[i]; }
  KITAE_HD const T& operator[](int i) const { return value[i]; }
};

// Elements of T in 16 bytes.
template <class T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

}  // namespace kitae::cuda
