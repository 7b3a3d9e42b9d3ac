// The Euclidean norm of a list of tensors, as one vector: sqrt(sum of squares), in double, in the order of
// reduction_order.h within a tensor (C order of its indices) and then tensor after tensor.
// Squares of float32 and 16-bit values are exact in double and can't overflow there. A float64 sum that overflows or
// comes near underflow is redone with every value scaled by a power of two, which is exact.
// Traffic: one read.
#pragma once

#include "ops/host_device.h"

namespace kitae {

// A sum of squares outside [kTooSmall, infinity) asks for the scaled pass, unless all values are 0.
constexpr double kSmallestSafeSquares = 0x1p-900;

KITAE_HD bool needs_scaling(double sum_of_squares) {
  return !(sum_of_squares >= kSmallestSafeSquares) || nonfinite(sum_of_squares);
}

// The power of two that brings `largest` (finite, > 0) into [1, 2), kept so small that neither it nor its inverse
// overflows.
KITAE_HD double norm_scale(double largest) {
  int64_t exponent = static_cast<int64_t>((bit_cast<uint64_t>(largest) >> 52) & 0x7ff) - 1023;
  if (exponent < -1000) exponent = -1000;  // subnormal values need no more: 2^-1074 * 2^1000 squares well
  if (exponent > 1000) exponent = 1000;
  return bit_cast<double>(static_cast<uint64_t>(1023 - exponent) << 52);
}

// The factor that brings a norm down to max_norm; 1 where it is below. A NaN norm gives NaN: the caller decides.
KITAE_HD double clip_factor(double norm, double max_norm, double eps) {
  const double factor = max_norm / (norm + eps);
  return factor >= 1.0 ? 1.0 : factor;
}

// What gradients are multiplied by: clipped to max_norm or, where that is 0, divided by their norm (0 by a norm of 0).
KITAE_HD double gradient_factor(double norm, double max_norm, double eps) {
  if (max_norm > 0) return clip_factor(norm, max_norm, eps);
  return norm == 0.0 ? 0.0 : 1.0 / norm;
}

}  // namespace kitae
