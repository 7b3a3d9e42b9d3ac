// Rows of a few elements, many at a time: transposed, so that lanes hold rows and a row's numbers are vectors, too.
// What is fixed a row (folding lanes, statistics, the end of a loop) would otherwise take longer than its elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/channel_tiles.h"
#include "cpu/lanes.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {

// Rows that are transposed at a time: their tile and they themselves stay in the level-1 cache.
constexpr int64_t kMostShortRows = 256;
inline int64_t short_rows_together(int64_t columns) {
  return std::min(kTileElements / columns / kLanes * kLanes, kMostShortRows);
}

namespace detail {

// A square of 16 bytes a side, and how it is transposed.
template <class T>
struct Square;
template <>
struct Square<float> {
  typedef float Row __attribute__((vector_size(16)));
  static constexpr int kSide = 4;
  [[gnu::always_inline]] static void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    Row a, b, c, d;
    std::memcpy(&a, from, sizeof(Row));
    std::memcpy(&b, from + from_stride, sizeof(Row));
    std::memcpy(&c, from + 2 * from_stride, sizeof(Row));
    std::memcpy(&d, from + 3 * from_stride, sizeof(Row));
    const Row ac_low = shuffled<0, 4, 1, 5>(a, c), ac_high = shuffled<2, 6, 3, 7>(a, c);
    const Row bd_low = shuffled<0, 4, 1, 5>(b, d), bd_high = shuffled<2, 6, 3, 7>(b, d);
    a = shuffled<0, 4, 1, 5>(ac_low, bd_low);
    b = shuffled<2, 6, 3, 7>(ac_low, bd_low);
    c = shuffled<0, 4, 1, 5>(ac_high, bd_high);
    d = shuffled<2, 6, 3, 7>(ac_high, bd_high);
    std::memcpy(to, &a, sizeof(Row));
    std::memcpy(to + to_stride, &b, sizeof(Row));
    std::memcpy(to + 2 * to_stride, &c, sizeof(Row));
    std::memcpy(to + 3 * to_stride, &d, sizeof(Row));
  }
};
template <>
struct Square<double> {
  typedef double Row __attribute__((vector_size(16)));
  static constexpr int kSide = 2;
  [[gnu::always_inline]] static void transpose(const double* from, int64_t from_stride, double* to, int64_t to_stride) {
    Row a, b;
    std::memcpy(&a, from, sizeof(Row));
    std::memcpy(&b, from + from_stride, sizeof(Row));
    const Row first = shuffled<0, 2>(a, b), second = shuffled<1, 3>(a, b);
    std::memcpy(to, &first, sizeof(Row));
    std::memcpy(to + to_stride, &second, sizeof(Row));
  }
};

template <int kColumns, class T>
inline void split_few_columns(const T* from, int64_t rows, T* to, int64_t stride) {
#pragma GCC ivdep
  for (int64_t row = 0; row < rows; ++row)
    for (int column = 0; column < kColumns; ++column) to[column * stride + row] = from[row * kColumns + column];
}
template <int kColumns, class T>
inline void join_few_columns(const T* from, int64_t stride, int64_t rows, T* to) {
#pragma GCC ivdep
  for (int64_t row = 0; row < rows; ++row)
    for (int column = 0; column < kColumns; ++column) to[row * kColumns + column] = from[column * stride + row];
}

// visit(row, column) for squares that cover a matrix: the last ones overlap with those before. Of what is ahead, the
// same rows are asked for meanwhile.
template <int kSide, int kWrite, class Visit>
[[gnu::always_inline]] inline void cover(int64_t rows, int64_t columns, const Ahead& ahead, const Visit& visit) {
  for (int64_t row = 0; row < rows; row += kSide) {
    if (ahead.data) fetch<kWrite>(ahead.row(row), kSide * ahead.stride);
    for (int64_t column = 0; column < columns; column += kSide)
      visit(std::min(row, rows - kSide), std::min(column, columns - kSide));
  }
}

}  // namespace detail

// to[column stride + row] = from[row columns + column]; the rows behind, up to the stride, become 0. What is
// ahead is asked for.
template <class T>
[[gnu::noinline]] void split_columns(const T* from, int64_t rows, int64_t columns, T* to, int64_t stride,
                                     const Ahead& ahead) {
  using Square = detail::Square<T>;
  for (int64_t column = 0; column < columns; ++column)
    std::fill(to + column * stride + rows, to + (column + 1) * stride, T(0));
  if (ahead.data && columns <= 3) fetch(ahead.data, rows * ahead.stride);
  if (columns == 1) return detail::split_few_columns<1>(from, rows, to, stride);
  if (columns == 2) return detail::split_few_columns<2>(from, rows, to, stride);
  if (columns == 3) return detail::split_few_columns<3>(from, rows, to, stride);
  if (rows >= Square::kSide)
    return detail::cover<Square::kSide, 0>(
        rows, columns, ahead, [&](int64_t row, int64_t column) __attribute__((always_inline)) {
          Square::transpose(from + row * columns + column, columns, to + column * stride + row, stride);
        });
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[column * stride + row] = from[row * columns + column];
}

// The way back.
template <class T>
[[gnu::noinline]] void join_columns(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to,
                                    const Ahead& ahead) {
  using Square = detail::Square<T>;
  if (ahead.data && columns <= 3) fetch<1>(ahead.data, rows * ahead.stride);
  if (columns == 1) return detail::join_few_columns<1>(from, stride, rows, to);
  if (columns == 2) return detail::join_few_columns<2>(from, stride, rows, to);
  if (columns == 3) return detail::join_few_columns<3>(from, stride, rows, to);
  if (rows >= Square::kSide)
    return detail::cover<Square::kSide, 1>(
        rows, columns, ahead, [&](int64_t row, int64_t column) __attribute__((always_inline)) {
          Square::transpose(from + column * stride + row, stride, to + row * columns + column, columns);
        });
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[row * columns + column] = from[column * stride + row];
}

namespace detail {

// As many rows as a level of fold_lanes leaves registers for.
constexpr int kPartsOfRows = kVectorBytes == 64 ? 2 : 1;
constexpr int64_t kRowsOfParts = kPartsOfRows * Lanes::kWidth;

struct PartsOfRows {
  Lanes::Vector first[kPartsOfRows], second[kPartsOfRows];

  [[gnu::always_inline]] void operator+=(const PartsOfRows& others) {
    for (int i = 0; i < kPartsOfRows; ++i) {
      first[i] += others.first[i];
      second[i] += others.second[i];
    }
  }
};

}  // namespace detail

// Both sums of Op along `rows` rows of at most kLanes columns, a parameter a row. read(column, row, inputs) gives
// Op::kInputs vectors of a column, of rows from `row` on. All arrays are padded to whole lanes.
template <class Op, class Read>
[[gnu::always_inline]] inline void sum_short_rows(int64_t rows, int64_t columns, const double* parameters, Read&& read,
                                                  double* first, double* second) {
  using Vector = Lanes::Vector;
  for (int64_t row = 0; row < rows; row += detail::kRowsOfParts) {
    const auto of = [&](int64_t column) __attribute__((always_inline)) {
      detail::PartsOfRows parts;
      for (int i = 0; i < detail::kPartsOfRows; ++i) {
        const int64_t at = row + i * Lanes::kWidth;
        Vector inputs[Op::kInputs];
        read(column, at, inputs);
        const Terms<Vector> terms = Op::of(inputs, Lanes::load_part(parameters + at));
        parts.first[i] = terms.first;
        parts.second[i] = terms.second;
      }
      return parts;
    };
    const detail::PartsOfRows sums = fold_tree<kLanes>(columns, of);
    for (int i = 0; i < detail::kPartsOfRows; ++i) {
      // Lanes begin at +0, which turns -0 into it and changes nothing else.
      const Vector sum = sums.first[i] + 0.0, other = sums.second[i] + 0.0;
      std::memcpy(first + row + i * Lanes::kWidth, &sum, sizeof(sum));
      std::memcpy(second + row + i * Lanes::kWidth, &other, sizeof(other));
    }
  }
}

// to[column stride + row] = steps(row)(column, column stride + row): vectors of rows whose numbers stay in registers.
template <class T, class Steps>
[[gnu::always_inline]] inline void map_transposed(int64_t rows, int64_t columns, int64_t stride, T* to,
                                                  const Steps& steps) {
  for (int64_t row = 0; row < rows; row += kVectorBytes / static_cast<int64_t>(sizeof(T))) {
    const auto step = steps(row);
    for (int64_t column = 0, at = row; column < columns; ++column, at += stride) {
      const typename VectorOf<T>::Type result = step(column, at);
      std::memcpy(to + at, &result, sizeof(result));
    }
  }
}

}  // namespace kitae::cpu
