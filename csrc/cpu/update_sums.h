// What a step tells of itself (drivers/optimizers.h: Tracked), summed over rows that lie in the L1 cache.
#pragma once

#include <cstdint>

#include "cpu/lanes.h"
#include "drivers/optimizers.h"

namespace kitae::cpu {

// The lanes of one chunk, which arrives in rows (each but the last a multiple of kLanes long).
class UpdateSums {
 public:
  template <class T>
  [[gnu::noinline]] void add_gradient(const T* gradient, int64_t count) {
    each(count, [&](int64_t i, auto load) { add_square(gradient_, load(gradient + i)); });
  }
  template <class T>
  [[gnu::noinline]] void add_update(const T* before, const T* after, int64_t count) {
    each(count, [&](int64_t i, auto load) {
      const Lanes weight = load(before + i), update = load(after + i) - weight;
      absolute_update_ += update.magnitudes();
      absolute_weight_ += weight.magnitudes();
      add_square(update_, update);
      add_square(weight_, weight);
    });
  }
  Tracked fold() const {
    Tracked sums;
    sums.gradient_squares = gradient_.fold();
    sums.absolute_update = absolute_update_.fold();
    sums.absolute_weight = absolute_weight_.fold();
    sums.update_squares = update_.fold();
    sums.weight_squares = weight_.fold();
    return sums;
  }

 private:
  template <class Add>
  static void each(int64_t count, Add add) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) add(i, [](const auto* from) { return Lanes::load(from); });
    const int64_t left = count - i;
    if (left > 0) add(i, [left](const auto* from) { return Lanes::load_first(from, left); });
  }
  static void add_square(Lanes& sum, const Lanes& values) { sum += values * values; }

  Lanes gradient_ = Lanes::zero(), absolute_update_ = Lanes::zero(), absolute_weight_ = Lanes::zero(),
        update_ = Lanes::zero(), weight_ = Lanes::zero();
};

}  // namespace kitae::cpu
