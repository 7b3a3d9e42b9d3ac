// Sixteen threads as the virtual lanes of a chunk (ops/reduction_order.h): a warp takes two chunks side by side.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "ops/reduction_order.h"

namespace kitae::cuda {

// Sixteen lanes' sums by halves (fold_lanes of ops/reduction_order.h); every lane gets the result.
template <class T>
KITAE_DEVICE T fold_lanes_of_warp(T value) {
  KITAE_UNROLL
  for (int width = kLanes / 2; width > 0; width /= 2) value += shuffle_xor(kAllLanes, value, width);
  return value;
}

}  // namespace kitae::cuda
