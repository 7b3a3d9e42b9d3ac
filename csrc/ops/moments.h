// Mean and variance of a channel from one pass over d = x - c:
//   S1 = sum d, S2 = sum d^2;  mean = c + S1 / n;  variance = (S2 - S1^2 / n) / n  (biased)
// What cancels in S2 - S1^2 / n is n (mean - c)^2. With c = x0, one of the n samples, that is at most n variances of n
// elements: it costs no more than n 2^-53 of the variance, whatever the mean. With c = 0 there is no subtraction, and
// x^2 is exact where x is a float: a conversion and two instructions instead of four. So c = 0 where a few elements
// show that it is as good: if one of them lies |x0| / 4 or more from x0, n variances are at least x0^2 / 32, hence
// n mean^2 at most 66 n variances of n elements. Float64 has no bits to spare, and its squares round: there c = x0.
//
// Accumulator: double, in the order of reduction_order.h. Traffic: each element once, and eight more. A float64 channel
// whose sums overflow is summed again from x 2^-600, which neither overflows nor loses a bit that the variance could
// see.
#pragma once

#include "ops/host_device.h"
#include "ops/reduction_order.h"

namespace kitae {

// What an element adds to (S1, S2); the parameter is c.
struct DeviationTerms {
  static constexpr int kInputs = 1;
  using OfZeros = ProductTerms<1>;  // the same bits where every parameter is 0
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[1], const V& shift) {
    const V deviation = input[0] - shift;
    return {deviation, deviation * deviation};
  }
};

// The elements that choose c: number 0, step, 2 step ... of a channel's sequence, up to eight.
constexpr int64_t kShiftSamples = 8;
KITAE_HD int64_t sample_step(int64_t count) { return count < 256 ? 1 : count / kShiftSamples; }
KITAE_HD int64_t sample_count(int64_t count) { return count < kShiftSamples ? count : kShiftSamples; }
// In one rounding of T; false for NaN.
template <class T>
KITAE_HD bool far_apart(T sample, T first) {
  return absolute(sample - first) >= absolute(first) * T(0.25);
}

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
  double mean, mean_low;  // the mean is their sum: mean_low is what rounding c + S1 / n lost
  double variance;

  KITAE_HD bool finite() const { return is_finite(mean) && is_finite(variance); }
};

KITAE_HD Moments moments(double shift, double sum, double sum_of_squares, double count) {
  const double offset = sum / count;
  const double mean = shift + offset;
  const double part = mean - shift;  // TwoSum (Knuth): mean + low == shift + offset
  const double low = (shift - (mean - part)) + (offset - part);
  const double variance = (sum_of_squares - sum * offset) / count;
  return {mean, low, variance < 0 ? 0 : variance};
}

}  // namespace kitae
