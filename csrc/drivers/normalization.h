// Batch normalization of arrays: dtype and layout become template and sizes here.
#pragma once

#include <cstdint>
#include <optional>

#include "drivers/array.h"
#include "drivers/nonfinite.h"
#include "ops/batch_norm.h"
#include "ops/reduction_order.h"

namespace kitae {

// The sizes (outer, channels, inner) of an array whose memory has no gaps, its axes in any order; nothing for another
// one. A single channel is (1, 1, n).
std::optional<ChannelSizes> channel_sizes(const Array& array, int axis);

// The same shape with every element at the same distance from the first one.
bool same_layout(const Array& a, const Array& b);

// Bytes of a mask: one bit an element (1: act'(z) = 1), every row of (outer, channels), or of (outer) where inner == 1,
// padded to a byte so that no byte belongs to two channels of different threads.
int64_t mask_bytes(const ChannelSizes& sizes);

struct BatchNorm {
  ChannelSizes sizes;
  Array x, gamma, beta;          // gamma, beta absent: 1, 0
  double* statistics = nullptr;  // (3, channels): mean, mean_low, inv_std
  uint8_t* mask = nullptr;       // kept by forward for backward, where there are an activation and a residual
  bool training = true;
  Activation activation = Activation::none;
  double slope = 0;
};

struct BatchNormForward : BatchNorm {
  Array running_mean, running_var, residual, out;
  double eps = 0, running_decay = 0;
  bool unbiased = true;
  Nonfinite nonfinite = Nonfinite::raise;
  bool fresh = true;  // `out` may be left half written
};

// The first channel whose statistics are not finite, or -1. With `raise` and `zero` such a call has written nothing but
// `statistics` and a fresh `out`; with `skip` it has left the running statistics alone.
int64_t batch_norm_forward(const BatchNormForward& call);

struct BatchNormBackward : BatchNorm {
  Array dout, dx, dgamma, dbeta, dresidual;  // dresidual may be absent; dx may be dout
};

void batch_norm_backward(const BatchNormBackward& call);

}  // namespace kitae
