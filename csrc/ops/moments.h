// Mean and variance of a channel from one pass over d = x - x0, x0 the channel's first element:
//   S1 = sum d, S2 = sum d^2;  mean = x0 + S1 / n;  variance = (S2 - S1^2 / n) / n  (biased)
// As x0 is one of the n samples, S1^2 / n is at most n variances larger than it has to be: cancellation costs no more
// than n 2^-53 of the variance, whatever the mean. sum x^2 would cost mean^2 / variance.
//
// Accumulator: double, in the order of reduction_order.h. Traffic: each element once. A float64 channel whose sums
// overflow is summed again from x 2^-600, which neither overflows nor loses a bit that the variance could see.
#pragma once

#include "ops/host_device.h"
#include "ops/reduction_order.h"

namespace kitae {

// What an element adds to (S1, S2).
struct DeviationTerms {
  static constexpr int kInputs = 1;
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[1], const V& first_element) {
    const V deviation = input[0] - first_element;
    return {deviation, deviation * deviation};
  }
};

constexpr double kOverflowScale = 0x1p-600, kOverflowUnscale = 0x1p600;

// The same for x scaled by kOverflowScale; the parameter is the first element, scaled.
struct ScaledDeviationTerms {
  static constexpr int kInputs = 1;
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[1], const V& scaled_first_element) {
    const V deviation = input[0] * kOverflowScale - scaled_first_element;
    return {deviation, deviation * deviation};
  }
};

KITAE_HD bool is_finite(double value) { return nonfinite(value) == 0; }

struct Moments {
  double mean, mean_low;  // the mean is their sum: mean_low is what rounding x0 + S1 / n lost
  double variance;

  KITAE_HD bool finite() const { return is_finite(mean) && is_finite(variance); }
};

KITAE_HD Moments moments(double first_element, double sum, double sum_of_squares, double count) {
  const double offset = sum / count;
  const double mean = first_element + offset;
  const double part = mean - first_element;  // TwoSum (Knuth): mean + low == first_element + offset
  const double low = (first_element - (mean - part)) + (offset - part);
  const double variance = (sum_of_squares - sum * offset) / count;
  return {mean, low, variance < 0 ? 0 : variance};
}

}  // namespace kitae
