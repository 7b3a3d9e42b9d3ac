// Max pooling by windows of 2 x 2 side by side (ops/pooling.h), the usual ones: a vector of windows at a time.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "cpu/lanes.h"
#include "cpu/runs.h"
#include "ops/pooling.h"

namespace kitae::cpu {

// C: float or double; kBytes: of a vector of windows.
template <class C, int kBytes>
struct TwoByTwo {
  using Values = Run<C, kBytes>;
  using Vector = typename Values::Vector;
  using Integer = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  typedef Integer Cells __attribute__((vector_size(kBytes)));
  static constexpr int kCount = static_cast<int>(Values::kCount);
  using Bytes = Run<uint8_t, kCount>;

  // The largest of each window of two rows, and where it is.
  static void largest(const C* upper, const C* lower, C* to, uint8_t* positions) {
    Cells position{};
    Vector largest = every_second<0>(upper);  // what is not larger than -inf is -inf, and the first cell
    const auto look_at = [&](Vector value, Integer cell) {
      const Cells takes = (value > largest) | (value != value);
      largest = takes ? value : largest;
      position = takes ? Cells{} + cell : position;
    };
    look_at(every_second<1>(upper), 1);
    look_at(every_second<0>(lower), 2);
    look_at(every_second<1>(lower), 3);
    Values::store(to, largest);
    Bytes::store(positions, __builtin_convertvector(position, typename Bytes::Vector));
  }

  // 0 + dout where the position is the element's, else 0.
  static void spread(const C* dout, const uint8_t* positions, C* upper, C* lower) {
    const Cells position = __builtin_convertvector(Bytes::load(positions), Cells);
    const Vector zero{}, value = zero + Values::load(dout);
    const auto cell = [&](Integer number) { return position == number ? value : zero; };
    interleave(cell(0), cell(1), upper);
    interleave(cell(2), cell(3), lower);
  }

 private:
  template <int kFirst>
  static Vector every_second(const C* row) {
    return every_second<kFirst>(Values::load(row), Values::load(row + kCount),
                                std::make_integer_sequence<int, kCount>());
  }
  template <int kFirst, int... kLane>
  static Vector every_second(Vector a, Vector b, std::integer_sequence<int, kLane...>) {
    return shuffled<(2 * kLane + kFirst)...>(a, b);
  }
  static void interleave(Vector even, Vector odd, C* to) {
    Values::store(to, zip<0>(even, odd, std::make_integer_sequence<int, kCount>()));
    Values::store(to + kCount, zip<kCount / 2>(even, odd, std::make_integer_sequence<int, kCount>()));
  }
  template <int kFirst, int... kLane>
  static Vector zip(Vector even, Vector odd, std::integer_sequence<int, kLane...>) {
    return shuffled<(kFirst + kLane / 2 + kLane % 2 * kCount)...>(even, odd);
  }
};

// f(windows) at every multiple of kCount and once so that it ends with the last one; count >= kCount.
template <int kCount, class F>
inline void for_each_block(int64_t count, F f) {
  for (int64_t i = 0; i < count - kCount; i += kCount) f(i);
  f(count - kCount);
}

}  // namespace kitae::cpu
