// Layer normalization of arrays (rows, columns) in C order: dtype becomes template here.
#pragma once

#include <cstdint>

#include "drivers/array.h"
#include "drivers/nonfinite.h"

namespace kitae {

struct LayerNorm {
  int64_t rows = 0, columns = 0;
  Array x, gamma;                // gamma: `columns` elements in C order, absent: 1
  double* statistics = nullptr;  // (3, rows): mean, mean_low, inv_std

  int64_t size() const { return rows * columns; }
};

struct LayerNormForward : LayerNorm {
  Array beta, out;  // beta absent: 0
  double eps = 0;
  Nonfinite nonfinite = Nonfinite::raise;
  bool fresh = true;  // `out` may be left half written
};

// The first row whose mean or variance is not finite, or -1. With `raise` and `zero` such a call has written nothing
// but `statistics` and a fresh `out`.
int64_t layer_norm_forward(const LayerNormForward& call);

struct LayerNormBackward : LayerNorm {
  Array dout, dx, dgamma, dbeta;  // dx may be dout; dgamma, dbeta: vectors of `columns`
};

void layer_norm_backward(const LayerNormBackward& call);

}  // namespace kitae
