// Adaptive gradient clipping (Brock, De, Smith and Simonyan, 2021, equation 3), per unit i of a parameter W and its
// gradient G:
//   G_i *= clipping max(||W_i||, eps) / ||G_i||   where ||G_i|| > clipping max(||W_i||, eps)
//
// Traffic: reads W once and G twice, writes G. Accumulator: double, in the order of reduction_order.h over the unit as
// it lies in memory. Compared and divided in double; the factor and the product are rounded once to the arithmetic
// type. Norms of float64 beyond the range of their squares are those of weight_norm.h.
#pragma once

#include "ops/weight_norm.h"

namespace kitae {

// Infinite and NaN parameters clip nothing.
KITAE_HD double unit_limit(const ScaledNorm& param, double clipping, double eps) {
  const double norm = param.norm();
  return clipping * (norm < eps ? eps : norm);
}

// Never by way of the norm, which overflows before the gradient does.
KITAE_HD double unit_factor(const ScaledNorm& grad, double limit) {
  const double scaled = limit * grad.scale;
  return grad.root > scaled ? scaled / grad.root : 1.0;
}

template <class T>
struct ScaleUnit {
  T factor;
  KITAE_HD T operator()(T value) const { return value * factor; }
};

}  // namespace kitae
