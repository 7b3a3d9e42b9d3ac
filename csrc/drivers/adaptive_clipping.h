// Gradients clipped unit by unit, in place.
#pragma once

#include <cstdint>
#include <vector>

#include "drivers/array.h"
#include "drivers/nonfinite.h"
#include "ops/reduction_order.h"

namespace kitae {

// A parameter and its gradient, of one shape: a unit is a channel of both. Their dtypes and memory orders are their
// own.
struct UnitPair {
  ChannelSizes param_sizes, grad_sizes;
  Array param, grad;
  int64_t place;  // in the user's list
};

struct AdaptiveClipping {
  double clipping, eps;
  Nonfinite rule;  // not zero
};

// Returns the number of the first pair whose gradient has an infinite or NaN element, with which `raise` and `skip`
// write nothing; -1 without one, with `propagate`, and on a GPU, which is not waited for.
int64_t clip_units(const std::vector<UnitPair>& pairs, const AdaptiveClipping& how);

}  // namespace kitae
