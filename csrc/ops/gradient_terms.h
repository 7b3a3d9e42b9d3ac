// The gradient that an update rule sees:
//   g' = scale * g + l2 * w + l1 * sign(w)
// scale: the factor of clipping or normalizing (1 without); l2, l1: penalties on the weights as part of the loss; with
// zero_nonfinite an infinite or NaN g counts as 0. Decoupled decay (Loshchilov and Hutter 2019) is not here: it scales
// the weight itself, w *= weight_keep, before the rule runs.
#pragma once

#include "ops/host_device.h"

namespace kitae {

template <class T>
struct GradientTerms {
  T scale = T(1), l2 = T(0), l1 = T(0);

  KITAE_HD T operator()(T gradient, T weight) const {
    const T sign = weight > T(0) ? T(1) : (weight < T(0) ? T(-1) : T(0));
    return (scale * gradient + l2 * weight) + l1 * sign;
  }
};

template <class T>
KITAE_HD T finite_or_zero(T value) {
  return nonfinite(value) ? T(0) : value;
}

}  // namespace kitae
