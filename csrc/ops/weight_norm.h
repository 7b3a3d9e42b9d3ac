// Weight normalization (Salimans and Kingma, 2016), per channel (output unit):
//   w  = g v / ||v||
//   dg = sum dw vhat;  vhat = v / ||v||
//   dv = g / ||v|| (dw - vhat dg)
//
// Element-wise in double, rounded once to the arithmetic type: w = (v inverse) g with inverse = 1 / ||v||. So w of 16
// and 32 bits is the nearest number but for double's errors. A channel of zeros (or of a norm below 2^-1022) has
// inverse = 0: w, dv and dg are 0.
//
// Traffic: forward reads v and writes w, backward reads dw and v and writes dv, a second reading of the inputs being a
// cache's where a block of channels fits it. Accumulator: double, in the order of reduction_order.h. The sum of squares
// of a float64 channel that overflows or comes near underflow is taken again from v times a power of two.
#pragma once

#include "ops/global_norm.h"
#include "ops/reduction_order.h"

namespace kitae {

// What an element adds to the sum of squares; the parameter scales it. The second sum is not used.
struct SquareTerms {
  static constexpr int kInputs = 1;
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[1], const V& scale) {
    const V scaled = input[0] * scale;
    return {scaled * scaled, V{}};
  }
};

// What an element adds to dg; input: dw, v; the parameter is the inverse norm. The second sum is not used.
struct DirectionTerms {
  static constexpr int kInputs = 2;
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[2], const V& inverse) {
    return {input[0] * (input[1] * inverse), V{}};
  }
};

// Squares scaled by it neither overflow nor come near underflow.
KITAE_HD double rescue_scale(double sum_of_squares) { return sum_of_squares < 1 ? 0x1p600 : 0x1p-600; }

// A norm that was taken from values times `scale`.
struct ScaledNorm {
  double root, scale;
  KITAE_HD double norm() const { return root / scale; }
};

KITAE_HD double inverse_norm(double norm) {
  const double inverse = 1 / norm;
  return norm < 1 && nonfinite(inverse) ? 0 : inverse;
}

template <class T>
struct ScaleDirection {
  double inverse, g;
  KITAE_HD T operator()(T v) const { return static_cast<T>((static_cast<double>(v) * inverse) * g); }
};

template <class T>
struct DirectionGradient {
  double inverse, dg, gain;  // gain = g inverse
  KITAE_HD T operator()(T dw, T v) const {
    return static_cast<T>((static_cast<double>(dw) - (static_cast<double>(v) * inverse) * dg) * gain);
  }
};

}  // namespace kitae
