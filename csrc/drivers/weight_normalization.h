// Weight normalization of arrays: dtype and layout become template and sizes here.
#pragma once

#include <cstdint>

#include "drivers/array.h"
#include "ops/reduction_order.h"

namespace kitae {

struct WeightNorm {
  ChannelSizes sizes;
  Array v, g;               // g: one number a channel
  double* norms = nullptr;  // (channels)
};

struct WeightNormForward : WeightNorm {
  Array out;
};

// Writes out and norms.
void weight_norm_forward(const WeightNormForward& call);

struct WeightNormBackward : WeightNorm {
  Array dw, dv, dg;  // dv may be dw
};

void weight_norm_backward(const WeightNormBackward& call);

}  // namespace kitae
