// The sums along rows and down columns that layer normalization's backward pass needs, in one reading of x and dout.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/lanes.h"
#include "ops/layer_norm.h"

namespace kitae::cpu {

// Rows whose sums the registers hold: a column's are loaded and stored once for all of them.
constexpr int kRowsTogether = kVectorBytes == 64 ? 4 : 1;

namespace detail {

template <class F, int... kAt>
[[gnu::always_inline]] inline void each_of(std::integer_sequence<int, kAt...>, F&& f) {
  (f(std::integral_constant<int, kAt>{}), ...);
}
// Every index a constant, as in Accumulators.
template <int kCount, class F>
[[gnu::always_inline]] inline void each(F&& f) {
  each_of(std::make_integer_sequence<int, kCount>{}, f);
}

// The first `count` of sixteen lanes, of which these begin with lane `at`; the others become +0.
inline Lanes::Vector kept(const Lanes::Vector& terms, int at, int64_t count) {
  alignas(64) double lanes[Lanes::kWidth];
  std::memcpy(lanes, &terms, sizeof(lanes));
  for (int i = 0; i < Lanes::kWidth; ++i)
    if (at + i >= count) lanes[i] = 0;
  return Lanes::load_part(lanes);
}
inline double folded(const Lanes::Vector (&parts)[Lanes::kParts]) {
  double lanes[kLanes];
  std::memcpy(lanes, parts, sizeof(lanes));
  return fold_lanes(lanes);
}

// As many elements as a vector of double has. (An attribute that depends on T would be lost in template arguments.)
template <class T>
struct PartOf;
template <>
struct PartOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct PartOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
};

// Sums of kRows rows of at most kChunk columns.
template <int kRows, class T>
class RowAndColumnSums {
 public:
  using Vector = Lanes::Vector;
  using Part = typename PartOf<T>::Type;

  [[gnu::always_inline]] RowAndColumnSums(const double* statistics, int64_t stride) {
    each<kRows>([&](auto k) __attribute__((always_inline)) {
      const double* at = statistics + k();
      const auto row = NormalizeRow<T>::from({at[0], at[stride], at[2 * stride]}).normalize;
      mean_[k()] = at[0] - Vector{};  // + would turn -0 into +0
      normalize_[k()].normalize = {row.center - Part{}, row.gain - Part{}, row.gain_low - Part{}, row.shift - Part{}};
    });
  }

  // Sixteen columns; of the rows' sums only the first `count` count. Every T* points at the first row.
  template <bool kWhole>
  [[gnu::always_inline]] void add(const T* dout, const T* x, int64_t stride, const T* gamma, double* column_sums,
                                  double* column_products, int64_t count = kLanes) {
    each<Lanes::kParts>([&](auto part) __attribute__((always_inline)) {
      constexpr int kAt = part() * Lanes::kWidth;
      const Part gain = load(gamma + kAt);
      Vector first = Lanes::load_part(column_sums + kAt), second = Lanes::load_part(column_products + kAt);
      each<kRows>([&](auto k) __attribute__((always_inline)) {
        const Part of_dout = load(dout + k() * stride + kAt), of_x = load(x + k() * stride + kAt);
        const Vector row[2] = {widened(RowGradient<Part>::through(of_dout, gain)), widened(of_x)};
        const Vector column[2] = {widened(of_dout), widened(normalize_[k()].xhat(of_x))};
        Terms<Vector> terms = GradientTerms::of(row, mean_[k()]);
        if constexpr (!kWhole) terms = {kept(terms.first, kAt, count), kept(terms.second, kAt, count)};
        sum_[k()][part()] += terms.first;
        product_[k()][part()] += terms.second;
        terms = ColumnTerms::of(column, mean_[k()]);
        first += terms.first;
        second += terms.second;
      });
      std::memcpy(column_sums + kAt, &first, sizeof(first));
      std::memcpy(column_products + kAt, &second, sizeof(second));
    });
  }

  [[gnu::always_inline]] void fold(double* sums, double* products) const {
    each<kRows>([&](auto k) __attribute__((always_inline)) {
      sums[k()] = folded(sum_[k()]);
      products[k()] = folded(product_[k()]);
    });
  }

 private:
  static Part load(const T* from) {
    Part part;
    std::memcpy(&part, from, sizeof(part));
    return part;
  }
  static Vector widened(const Part& part) { return Lanes::load_part(reinterpret_cast<const T*>(&part)); }

  Vector sum_[kRows][Lanes::kParts] = {}, product_[kRows][Lanes::kParts] = {}, mean_[kRows];
  NormalizeRow<Part> normalize_[kRows];
};

}  // namespace detail

// Rows of `columns` <= kChunk elements: their sums of g and g (x - mean), and to the columns' are added dout and dout
// xhat. gamma and the columns' sums are padded to whole lanes; `statistics` is (3, stride).
template <int kRows, class T>
[[gnu::noinline]] void sum_rows_and_columns(const T* dout, const T* x, int64_t columns, const T* gamma,
                                            const double* statistics, int64_t stride, double* sums, double* products,
                                            double* column_sums, double* column_products) {
  detail::RowAndColumnSums<kRows, T> rows(statistics, stride);
  int64_t column = 0;
  for (; column + kLanes <= columns; column += kLanes)
    rows.template add<true>(dout + column, x + column, columns, gamma + column, column_sums + column,
                            column_products + column);
  if (column < columns) {
    T spare_dout[kRows * kLanes] = {}, spare_x[kRows * kLanes] = {};
    for (int k = 0; k < kRows; ++k)
      for (int64_t i = column; i < columns; ++i) {
        spare_dout[k * kLanes + i - column] = dout[k * columns + i];
        spare_x[k * kLanes + i - column] = x[k * columns + i];
      }
    rows.template add<false>(spare_dout, spare_x, kLanes, gamma + column, column_sums + column,
                             column_products + column, columns - column);
  }
  rows.fold(sums, products);
}

// Rows of kLanes to kChunk elements: the sums of Op with one input, `parameters` being a number a row.
template <int kRows, class Op, class T>
[[gnu::noinline]] void sum_rows(const T* x, int64_t columns, const double* parameters, double* first, double* second) {
  using Vector = Lanes::Vector;
  Vector sums[2][kRows][Lanes::kParts] = {}, parameter[kRows];
  detail::each<kRows>([&](auto k) __attribute__((always_inline)) { parameter[k()] = parameters[k()] - Vector{}; });
  const auto add = [&](const T* from, int64_t stride, int64_t count) __attribute__((always_inline)) {
    detail::each<kRows>([&](auto k) __attribute__((always_inline)) {
      detail::each<Lanes::kParts>([&](auto part) __attribute__((always_inline)) {
        constexpr int kAt = part() * Lanes::kWidth;
        const Vector input[1] = {Lanes::load_part(from + k() * stride + kAt)};
        Terms<Vector> terms = Op::of(input, parameter[k()]);
        if (count < kLanes) terms = {detail::kept(terms.first, kAt, count), detail::kept(terms.second, kAt, count)};
        sums[0][k()][part()] += terms.first;
        sums[1][k()][part()] += terms.second;
      });
    });
  };
  int64_t column = 0;
  for (; column + kLanes <= columns; column += kLanes) add(x + column, columns, kLanes);
  if (column < columns) {
    T spare[kRows * kLanes] = {};
    for (int k = 0; k < kRows; ++k)
      for (int64_t i = column; i < columns; ++i) spare[k * kLanes + i - column] = x[k * columns + i];
    add(spare, kLanes, columns - column);
  }
  detail::each<kRows>([&](auto k) __attribute__((always_inline)) {
    first[k()] = detail::folded(sums[0][k()]);
    second[k()] = detail::folded(sums[1][k()]);
  });
}

}  // namespace kitae::cpu
