// The sums along rows and down columns that layer normalization's backward pass needs, in one reading of x and dout.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/row_sums.h"
#include "ops/layer_norm.h"

namespace kitae::cpu {

enum class Wanted { of_rows = 1, of_columns = 2, both = 3 };

namespace detail {

// Sums of kRows rows of at most kChunk columns.
template <int kRows, Wanted kWanted, class T>
class RowAndColumnSums {
 public:
  using Vector = Lanes::Vector;
  using Part = cpu::Part<T>;
  using Stored = typename VectorOf<T>::Type;

  [[gnu::always_inline]] explicit RowAndColumnSums(const NormalizeRow<T>* steps) {
    each<kRows>([&](auto k) __attribute__((always_inline)) {
      const auto row = steps[k()].normalize;
      normalize_[k()].normalize = {row.center - Stored{}, row.gain - Stored{}, row.gain_low - Stored{},
                                   row.shift - Stored{}};
    });
  }

  // Sixteen columns; of the rows' sums only the first `count` count. Every T* points at the first row.
  template <bool kWhole>
  [[gnu::always_inline]] void add(const T* dout, int64_t dout_stride, const T* x, int64_t x_stride, const T* gamma,
                                  double* column_sums, double* column_products, int64_t count = kLanes) {
    each<Lanes::kParts / kPartsOfVector>([&](auto vector) __attribute__((always_inline)) {
      constexpr int kFirst = vector() * kPartsOfVector;
      Vector first[kPartsOfVector], second[kPartsOfVector];
      if constexpr (kColumns)
        each<kPartsOfVector>([&](auto i) __attribute__((always_inline)) {
          first[i()] = Lanes::load_part(column_sums + (kFirst + i()) * Lanes::kWidth);
          second[i()] = Lanes::load_part(column_products + (kFirst + i()) * Lanes::kWidth);
        });
      each<kRows>([&](auto k) __attribute__((always_inline)) {
        const Stored xhats = normalize_[k()].xhat(load_vector(x + k() * x_stride + kFirst * Lanes::kWidth));
        each<kPartsOfVector>([&](auto i) __attribute__((always_inline)) {
          constexpr std::integral_constant<int, kFirst + i()> kPart;
          constexpr int kAt = kPart * Lanes::kWidth;
          const Part of_dout = Lanes::load_stored(dout + k() * dout_stride + kAt);
          const Vector xhat = Lanes::widened(part_of<i()>(xhats));
          if constexpr (kWanted != Wanted::of_columns) {
            const Part g = RowGradient<Part>::through(of_dout, Lanes::load_stored(gamma + kAt));
            const Vector row[2] = {Lanes::widened(g), xhat};
            sums_.template add<kWhole, LayerGradientTerms, T>(k, kPart, row, Vector{}, count);
          }
          if constexpr (kColumns) {
            const Vector column[2] = {Lanes::widened(of_dout), xhat};
            add_terms<LayerGradientTerms, std::is_same_v<T, float>>(first[i()], second[i()], column, Vector{});
          }
        });
      });
      if constexpr (kColumns)
        each<kPartsOfVector>([&](auto i) __attribute__((always_inline)) {
          std::memcpy(column_sums + (kFirst + i()) * Lanes::kWidth, &first[i()], sizeof(Vector));
          std::memcpy(column_products + (kFirst + i()) * Lanes::kWidth, &second[i()], sizeof(Vector));
        });
    });
  }

  [[gnu::always_inline]] void fold(double* sums, double* products) const { sums_.fold(sums, products); }

 private:
  static constexpr bool kColumns = kWanted != Wanted::of_rows;
  static constexpr int kPartsOfVector = sizeof(Stored) / sizeof(Part);

  RowSums<kRows> sums_;
  NormalizeRow<Stored> normalize_[kRows];
};

}  // namespace detail

// Where rows of dout and of x begin, where what may be read of each ends, how far apart rows are, and what to ask for.
template <class T>
struct GradientRows {
  const T *dout, *x, *dout_end, *x_end;
  int64_t stride;
  Ahead dout_ahead, x_ahead;

  GradientRows after(int64_t elements) const {
    return {dout + elements,
            x + elements,
            dout_end,
            x_end,
            stride,
            cpu::after(dout_ahead, elements),
            cpu::after(x_ahead, elements)};
  }
};

// Of `columns` <= kChunk elements of kRows rows: the rows' sums of g and g xhat, and to the columns' are added dout and
// dout xhat. gamma and the columns' sums are padded to whole lanes; `steps` are the rows'.
template <int kRows, Wanted kWanted, class T>
[[gnu::noinline]] void sum_rows_and_columns(const GradientRows<T>& from, int64_t columns, const T* gamma,
                                            const NormalizeRow<T>* steps, double* sums, double* products,
                                            double* column_sums, double* column_products) {
  detail::RowAndColumnSums<kRows, kWanted, T> rows(steps);
  const T *dout = from.dout, *x = from.x;
  const int64_t stride = from.stride;
  const int64_t column = for_each_sixteen<kRows, T>(
      columns,
      [&](int64_t at) __attribute__((always_inline)) {
        rows.template add<true>(dout + at, stride, x + at, stride, gamma + at, column_sums + at, column_products + at);
      },
      from.dout_ahead, from.x_ahead);
  if (column < columns) {
    const int64_t count = columns - column;
    const detail::RowEnds<kRows, T> douts(dout + column, stride, count, from.dout_end);
    const detail::RowEnds<kRows, T> xs(x + column, stride, count, from.x_end);
    rows.template add<false>(douts.data, douts.stride, xs.data, xs.stride, gamma + column, column_sums + column,
                             column_products + column, count);
  }
  if constexpr (kWanted != Wanted::of_columns) rows.fold(sums, products);
}

namespace detail {

template <int kParts, class T, class Steps>
[[gnu::noinline]] void sum_down_short_rows(const T* dout, const T* x, int64_t rows, int64_t columns, const Steps& steps,
                                           double* sums, double* products) {
  using Vector = Lanes::Vector;
  using Part = cpu::Part<T>;
  Vector first[kParts], second[kParts];
  each<kParts>([&](auto part) __attribute__((always_inline)) {
    first[part()] = Lanes::load_part(sums + part() * Lanes::kWidth);
    second[part()] = Lanes::load_part(products + part() * Lanes::kWidth);
  });
  const auto add = [&](const T* of_dout, const T* of_x, const NormalizeRow<T>& step) __attribute__((always_inline)) {
    const auto row = step.normalize;
    const NormalizeRow<Part> normalize{
        {row.center - Part{}, row.gain - Part{}, row.gain_low - Part{}, row.shift - Part{}}};
    each<kParts>([&](auto part) __attribute__((always_inline)) {
      const Vector column[2] = {Lanes::load_part(of_dout + part() * Lanes::kWidth),
                                Lanes::widened(normalize.xhat(Lanes::load_stored(of_x + part() * Lanes::kWidth)))};
      add_terms<LayerGradientTerms, std::is_same_v<T, float>>(first[part()], second[part()], column, Vector{});
    });
  };
  const int64_t readable = rows * columns - kParts * Lanes::kWidth;  // where whole vectors may still be read
  int64_t row = 0;
  for (; row < rows && row * columns <= readable; ++row) add(dout + row * columns, x + row * columns, steps(row));
  for (; row < rows; ++row) {
    T of_dout[kLanes] = {}, of_x[kLanes] = {};
    std::copy(dout + row * columns, dout + (row + 1) * columns, of_dout);
    std::copy(x + row * columns, x + (row + 1) * columns, of_x);
    add(of_dout, of_x, steps(row));
  }
  each<kParts>([&](auto part) __attribute__((always_inline)) {
    std::memcpy(sums + part() * Lanes::kWidth, &first[part()], sizeof(Vector));
    std::memcpy(products + part() * Lanes::kWidth, &second[part()], sizeof(Vector));
  });
}

}  // namespace detail

// To the columns' sums are added dout and dout xhat of rows of at most kLanes elements, which follow each other;
// nothing behind the last is read. The sums are padded to whole lanes; steps(row) is a row's NormalizeRow<T>.
template <class T, class Steps>
void sum_down_short_rows(const T* dout, const T* x, int64_t rows, int64_t columns, const Steps& steps, double* sums,
                         double* products) {
  detail::each<Lanes::kParts>([&](auto less) __attribute__((always_inline)) {
    if ((columns - 1) / Lanes::kWidth == less())
      detail::sum_down_short_rows<less() + 1>(dout, x, rows, columns, steps, sums, products);
  });
}

}  // namespace kitae::cpu
