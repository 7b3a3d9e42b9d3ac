// Sums over all elements of a sequence, in the order of ops/reduction_order.h.
#pragma once

#include <cstdint>

#include "cpu/lanes.h"

namespace kitae::cpu {

// Lanes of one chunk that may arrive in several rows (each but the last a multiple of kLanes long).
class SumOfSquares {
 public:
  template <class T>
  void add(const T* values, int64_t count, double scale = 1.0) {
    const Lanes factor = Lanes::broadcast(scale);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) add(Lanes::load(values + i) * factor);
    if (i < count) add(Lanes::load_first(values + i, count - i) * factor);
  }
  double fold() const { return lanes_.fold(); }

 private:
  void add(const Lanes& values) { lanes_ += values * values; }
  Lanes lanes_ = Lanes::zero();
};

}  // namespace kitae::cpu
