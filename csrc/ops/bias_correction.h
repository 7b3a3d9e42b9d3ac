// 1 - beta^t, the bias correction of Adam's moving averages (Kingma and Ba 2015, algorithm 1).
// Power by squaring in double-double arithmetic, IEEE + - * only: the same bits on every machine and in the reference;
// within half an ulp of the exact value for every t (-expm1(t log beta) misses by 1.12 ulp at beta = 0.999, t = 3).
#pragma once

#include <cstdint>

#include "ops/host_device.h"

namespace kitae {

struct DoubleDouble {
  double high, low;
};

// Dekker's exact product: Veltkamp's split halves each factor, no fused multiply-add needed.
KITAE_HD DoubleDouble exact_product(double a, double b) {
  constexpr double kSplit = 134217729.0;  // 2^27 + 1
  const double a_scaled = kSplit * a, b_scaled = kSplit * b;
  const double a_high = a_scaled - (a_scaled - a), b_high = b_scaled - (b_scaled - b);
  const double a_low = a - a_high, b_low = b - b_high;
  const double product = a * b;
  return {product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

KITAE_HD DoubleDouble multiply(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble product = exact_product(a.high, b.high);
  const double low = product.low + (a.high * b.low + a.low * b.high);
  const double high = product.high + low;
  return {high, low - (high - product.high)};
}

// beta in [0, 1), step >= 1.
KITAE_HD double bias_correction(double beta, int64_t step) {
  DoubleDouble power = {1.0, 0.0}, square = {beta, 0.0};
  for (; step > 0; step >>= 1) {
    if (step & 1) power = multiply(power, square);
    square = multiply(square, square);
  }
  const double difference = 1.0 - power.high;
  const double rest = (1.0 - difference) - power.high;  // exact, as power.high <= 1
  return difference + (rest - power.low);
}

}  // namespace kitae
