// Sums over all elements of a sequence, in the order of ops/reduction_order.h.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/lanes.h"

namespace kitae::cpu {

// Lanes of one chunk that may arrive in several rows (each but the last a multiple of kLanes long).
class SumOfSquares {
 public:
  template <class T>
  void add(const T* values, int64_t count, double scale = 1.0) {
    if (scale == 1.0) {
      add_rows(values, count, [&](const Lanes& row) { add<std::is_same_v<T, float>>(row); });
    } else {
      const Lanes factor = Lanes::broadcast(scale);
      add_rows(values, count, [&](const Lanes& row) { add<false>(row * factor); });
    }
  }
  double fold() const { return lanes_.fold(); }

 private:
  template <class T, class Add>
  static void add_rows(const T* values, int64_t count, Add add) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) add(Lanes::load(values + i));
    if (i < count) add(Lanes::load_first(values + i, count - i));
  }
  template <bool kFloats>
  void add(const Lanes& values) {
    if constexpr (kFloats)
      lanes_.add_squares_of_floats(values);
    else
      lanes_ += values * values;
  }
  Lanes lanes_ = Lanes::zero();
};

}  // namespace kitae::cpu
