// Two arrays of one shape and any strides, walked together in the C order of their indices.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "drivers/array.h"

namespace kitae::cuda {

// Division by a constant for numerators below 2^31: a product and a shift (T. Granlund, P. L. Montgomery, "Division by
// invariant integers using multiplication", PLDI 1994).
struct Divisor {
  uint32_t divisor, multiplier;
  int shift;

  static Divisor of(uint32_t divisor) {
    int shift = 0;
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - divisor;
    return {divisor, static_cast<uint32_t>((rest << 32) / divisor + 1), shift};
  }
  KITAE_HD uint32_t quotient(uint32_t numerator) const {
    const auto high = static_cast<uint32_t>(static_cast<uint64_t>(numerator) * multiplier >> 32);
    return (high + numerator) >> shift;
  }
};

struct Offsets {
  int64_t of[2];  // in bytes
};

// A kernel's parameter. Neighbouring axes that form one run in both arrays are merged, axes of length 1 dropped.
class StridedPair {
 public:
  static constexpr int kMostAxes = 64;  // NumPy's and CuPy's

  StridedPair(const Array& a, const Array& b) : small_(a.size < (int64_t{1} << 31)) {
    for (int axis = 0; axis < a.ndim; ++axis) {
      const int64_t length = a.shape[axis];
      if (length == 1) continue;
      const int64_t strides[2] = {a.strides[axis], b.strides[axis]};
      if (axes_ > 0 && strides_[axes_ - 1][0] == strides[0] * length && strides_[axes_ - 1][1] == strides[1] * length) {
        lengths_[axes_ - 1] *= length;
      } else {
        lengths_[axes_++] = length;
      }
      strides_[axes_ - 1][0] = strides[0];
      strides_[axes_ - 1][1] = strides[1];
    }
    for (int axis = 0; small_ && a.size > 0 && axis < axes_; ++axis)
      divisors_[axis] = Divisor::of(static_cast<uint32_t>(lengths_[axis]));
  }

  // Of element number `index`.
  KITAE_DEVICE Offsets offsets(int64_t index) const {
    Offsets offsets{{0, 0}};
    if (small_) {
      auto rest = static_cast<uint32_t>(index);
      for (int axis = axes_ - 1; axis >= 0; --axis) {
        const uint32_t quotient = divisors_[axis].quotient(rest);
        add(offsets, axis, rest - quotient * divisors_[axis].divisor);
        rest = quotient;
      }
    } else {
      for (int axis = axes_ - 1; axis >= 0; --axis) {
        const int64_t quotient = index / lengths_[axis];
        add(offsets, axis, index - quotient * lengths_[axis]);
        index = quotient;
      }
    }
    return offsets;
  }

 private:
  KITAE_DEVICE void add(Offsets& offsets, int axis, int64_t place) const {
    offsets.of[0] += place * strides_[axis][0];
    offsets.of[1] += place * strides_[axis][1];
  }

  int axes_ = 0;
  bool small_;
  int64_t lengths_[kMostAxes], strides_[kMostAxes][2];
  Divisor divisors_[kMostAxes];
};

}  // namespace kitae::cuda
