// Sums along several rows at a time, each of one chunk, in the order of ops/reduction_order.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/channel_tiles.h"
#include "cpu/lanes.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {

// Rows whose sums the registers hold. Four would meet in the same sets of the level-1 cache where rows are multiples of
// 4096 bytes.
constexpr int kRowsTogether = kVectorBytes == 64 ? 2 : 1;

// The same, so many elements on.
inline Ahead after(const Ahead& ahead, int64_t elements) {
  return {ahead.data ? ahead.data + elements * ahead.element : nullptr, ahead.stride, ahead.element};
}

// visit(column) for every sixteen columns; returns where the rest begins. Of what is ahead, the same of kRows rows is
// asked for: into the level-2 cache, as level 1 is at work. Its elements are no larger than T.
template <int kRows, class T, class Visit, class... Aheads>
[[gnu::always_inline]] inline int64_t for_each_sixteen(int64_t columns, const Visit& visit, const Aheads&... aheads) {
  int64_t column = 0;
  const auto ask = [&](const Ahead& ahead) __attribute__((always_inline)) {
    for (int k = 0; ahead.data && k < kRows; ++k)
      fetch<0>(ahead.row(k) + column * ahead.element, kLanes * static_cast<int64_t>(sizeof(T)));
  };
  for (; column + kLanes <= columns; column += kLanes) {
    (ask(aheads), ...);
    visit(column);
  }
  return column;
}

namespace detail {

// The first `count` of sixteen lanes, of which these are part `at`; the others become +0.
template <class At>
[[gnu::always_inline]] inline Terms<Lanes::Vector> kept(const Terms<Lanes::Vector>& terms, At at, int64_t count) {
  Lanes first = Lanes::zero(), second = first;
  first.part[at()] = terms.first;
  second.part[at()] = terms.second;
  return {first.keep_first(count).part[at()], second.keep_first(count).part[at()]};
}

// Both sums of kRows rows.
template <int kRows>
struct RowSums {
  Lanes::Vector first[kRows][Lanes::kParts] = {}, second[kRows][Lanes::kParts] = {};

  // What Op makes of inputs that were of type T; of the lanes the first `count` count.
  template <bool kWhole, class Op, class T, class Row, class At>
  [[gnu::always_inline]] void add(Row k, At at, const Lanes::Vector (&input)[Op::kInputs],
                                  const Lanes::Vector& parameter, int64_t count) {
    if constexpr (kWhole) {
      add_terms<Op, std::is_same_v<T, float>>(first[k()][at()], second[k()][at()], input, parameter);
    } else {
      const Terms<Lanes::Vector> terms = kept(Op::of(input, parameter), at, count);
      first[k()][at()] += terms.first;
      second[k()][at()] += terms.second;
    }
  }
  [[gnu::always_inline]] void fold(double* firsts, double* seconds) const {
    each<kRows>([&](auto k) __attribute__((always_inline)) {
      firsts[k()] = folded(first[k()]);
      seconds[k()] = folded(second[k()]);
    });
  }

 private:
  // Inline, so that the sums never leave the registers.
  [[gnu::always_inline]] static double folded(const Lanes::Vector (&parts)[Lanes::kParts]) {
    Lanes lanes;
    for (int i = 0; i < Lanes::kParts; ++i) lanes.part[i] = parts[i];
    return lanes.fold();
  }
};

// The end of kRows rows, padded to sixteen elements each, where what lies behind them must not be read.
template <int kRows, class T>
struct RowEnds {
  const T* data;
  int64_t stride;
  T spare[kRows * kLanes];

  // `from`: the first element wanted of the first row; `end`: of what may be read.
  RowEnds(const T* from, int64_t columns, int64_t count, const T* end) : data(from), stride(columns) {
    if (from + (kRows - 1) * columns + kLanes <= end) return;
    data = spare;
    stride = kLanes;
    for (int k = 0; k < kRows; ++k)
      for (int i = 0; i < kLanes; ++i) spare[k * kLanes + i] = i < count ? from[k * columns + i] : T(0);
  }
};

}  // namespace detail

// Rows of kLanes to kChunk elements: the sums of Op with one input, `parameters` being a number a row. Up to `end` may
// be read; what is `ahead` is asked for meanwhile.
template <int kRows, class Op, class T>
[[gnu::noinline]] void sum_rows(const T* x, int64_t columns, const T* end, const Ahead& ahead, const double* parameters,
                                double* first, double* second) {
  using Vector = Lanes::Vector;
  Vector parameter[kRows];
  detail::each<kRows>([&](auto k) __attribute__((always_inline)) { parameter[k()] = parameters[k()] - Vector{}; });
  detail::RowSums<kRows> sums;
  const auto add = [&](auto whole, const T* from, int64_t stride, int64_t count) __attribute__((always_inline)) {
    detail::each<kRows>([&](auto k) __attribute__((always_inline)) {
      detail::each<Lanes::kParts>([&](auto part) __attribute__((always_inline)) {
        const Vector input[1] = {Lanes::load_part(from + k() * stride + part() * Lanes::kWidth)};
        sums.template add<whole(), Op, T>(k, part, input, parameter[k()], count);
      });
    });
  };
  const int64_t column = for_each_sixteen<kRows, T>(
      columns, [&](int64_t at) __attribute__((always_inline)) { add(std::true_type{}, x + at, columns, kLanes); },
      ahead);
  if (column < columns) {
    const detail::RowEnds<kRows, T> ends(x + column, columns, columns - column, end);
    add(std::false_type{}, ends.data, ends.stride, columns - column);
  }
  sums.fold(first, second);
}

}  // namespace kitae::cpu
