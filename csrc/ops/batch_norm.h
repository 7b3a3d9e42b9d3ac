// Batch normalization (Ioffe and Szegedy, 2015), per channel, n elements a channel:
//   y  = act(gamma (x - mean) / sqrt(variance + eps) + beta [+ residual])
//   g  = dout act'(z);  dbeta = sum g;  dgamma = sum g xhat;  xhat = (x - mean) inv_std
//   dx = gamma inv_std (g - dbeta / n - xhat dgamma / n)      training
//   dx = gamma inv_std g                                      statistics that are constants (inference, frozen)
//
// Element-wise, in the arithmetic type T, d = x - center:
//   y  = d gain + (d gain_low + shift),  center = T(mean), gain + gain_low = gamma inv_std,
//                                        shift = T(beta - (mean - center) gamma inv_std)
//   dx = ((g - offset) - d slope) T(gamma inv_std)
// Near its mean d is exact (Sterbenz), and what rounding the mean to T cut off comes back through shift, in double. So
// y is within 2 units in the last place at any mean: the product rounds by one, both sums by a half. A constant channel
// gives exactly beta. The folded x * scale + shift does neither. Of xhat's two factors inv_std in dx one stands in
// slope and one in the gain: no inv_std^2 appears, which float32 cannot hold for x = 1e30.
//
// Traffic: forward reads x and writes y, backward reads x and dout and writes dx, a second reading of the inputs being
// a cache's where a block of channels fits it. Sums in double (moments.h; g and g (x - c) in backward), their order
// is reduction_order.h's; every element-wise step is rounded in T in the order written here: the same bits everywhere.
#pragma once

#include "ops/host_device.h"
#include "ops/moments.h"

namespace kitae {

enum class Activation : int { none = 0, relu = 1, leaky_relu = 2 };

// Statistics as the element-wise steps use them.
struct ChannelStatistics {
  double mean, mean_low, inv_std;
};

// variance + eps == 0 (a constant channel with eps = 0): every deviation is 0, and so is the factor of it.
KITAE_HD double inverse_deviation(double variance, double eps) {
  const double sum = variance + eps;
  const double inverse = 1 / square_root(sum);
  return sum == 0 ? 0 : inverse;
}

// Of moments of x * kOverflowScale; the true variance may be beyond double.
KITAE_HD double inverse_deviation_scaled(double variance, double eps) {
  return kOverflowScale * inverse_deviation(variance, eps * kOverflowScale * kOverflowScale);
}

// The weight of the old value is `decay`; `correction` is n / max(n - 1, 1), or 1 for the biased variance.
KITAE_HD double running_value(double old, double decay, double batch) { return decay * old + (1 - decay) * batch; }
KITAE_HD double variance_correction(double count, bool unbiased) {
  return unbiased && count > 1 ? count / (count - 1) : 1;
}

// What T(mean) leaves out of the mean.
template <class T>
KITAE_HD double cut_off(const ChannelStatistics& s) {
  return (s.mean - static_cast<double>(static_cast<T>(s.mean))) + s.mean_low;
}

// The part of a gain that T holds, rounded towards zero and never all of it: the rest then has the same sign and is not
// zero, so that an infinite d stays infinite (inf * 0 and inf - inf are NaN). 1 - 2^-24, or -53, leads to the
// neighbour.
KITAE_HD float high_part(double gain, float nearest) {
  return absolute(static_cast<double>(nearest)) < absolute(gain) ? nearest : nearest * (1 - 0x1p-24f);
}
KITAE_HD double high_part(double gain, double nearest) {
  return absolute(nearest) < absolute(gain) ? nearest : nearest * (1 - 0x1p-53);
}

// One channel's numbers of the forward step.
template <class T>
struct Normalize {
  T center, gain, gain_low, shift;

  static KITAE_HD Normalize from(const ChannelStatistics& s, double gamma, double beta) {
    const double gain = gamma * s.inv_std;
    const T high = high_part(gain, static_cast<T>(gain));
    return {static_cast<T>(s.mean), high, static_cast<T>(gain - static_cast<double>(high)),
            static_cast<T>(beta - cut_off<T>(s) * gain)};
  }
  KITAE_HD T operator()(T x) const {
    const T d = x - center;
    return d * gain + (d * gain_low + shift);
  }
  KITAE_HD T operator()(T x, T residual) const { return (*this)(x) + residual; }
};

// relu(NaN) is NaN, relu(-0) is +0.
template <Activation activation, class T>
KITAE_HD T activate(T z, T slope) {
  if constexpr (activation == Activation::relu) return z <= T(0) ? T(0) : z;
  if constexpr (activation == Activation::leaky_relu) return z <= T(0) ? slope * z : z;
  return z;
}

// `passes` is !(z <= 0).
template <Activation activation, class T>
KITAE_HD T activation_gradient(T dout, bool passes, T slope) {
  if constexpr (activation == Activation::relu) return passes ? dout : T(0);
  if constexpr (activation == Activation::leaky_relu) return passes ? dout : slope * dout;
  return dout;
}

// What an element adds to (sum g, sum g (x - c)); input: g, x; the parameter is c.
struct GradientTerms {
  static constexpr int kInputs = 2;
  using OfZeros = ProductTerms<2>;  // the same bits where every parameter is 0
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[2], const V& shift) {
    return {input[0], input[0] * (input[1] - shift)};
  }
};

// c: 0 where the mean is no more than 1024 deviations, which cost ten of the 29 bits that double has more than float;
// else, and in float64, the mean.
template <class T>
KITAE_HD double gradient_shift(const ChannelStatistics& s) {
  return sizeof(T) < sizeof(double) && absolute(s.mean) * s.inv_std <= 1024 ? 0 : s.mean;
}

// sum g xhat from the two sums: what c leaves of the mean is taken out of all terms at once.
template <class T>
KITAE_HD double gamma_gradient(const ChannelStatistics& s, double sum, double sum_of_products) {
  const double around_mean = sum_of_products - sum * (s.mean - gradient_shift<T>(s));
  return (around_mean - sum * s.mean_low) * s.inv_std;
}

// One channel's numbers of the backward step: slope = dgamma / n inv_std, offset = dbeta / n less what d has too much.
template <class T>
struct InputGradient {
  T center, gain, offset, slope;

  static KITAE_HD InputGradient from(const ChannelStatistics& s, double gamma, double dgamma, double dbeta,
                                     double count) {
    const double slope = dgamma / count * s.inv_std;
    return {static_cast<T>(s.mean), static_cast<T>(gamma * s.inv_std),
            static_cast<T>(dbeta / count - cut_off<T>(s) * slope), static_cast<T>(slope)};
  }
  KITAE_HD T operator()(T g, T x) const { return ((g - offset) - (x - center) * slope) * gain; }
};

// The same for statistics that are constants.
template <class T>
struct ConstantStatisticsGradient {
  T gain;
  KITAE_HD T operator()(T g) const { return g * gain; }
};

}  // namespace kitae
