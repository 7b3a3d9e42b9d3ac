#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "cpu/channel_plan.h"
#include "cpu/channel_shifts.h"
#include "cpu/short_rows.h"
#include "drivers/layer_normalization_rows.h"

namespace kitae {
namespace {

using namespace layer_normalization;
using cpu::Ahead;
using cpu::Box;
using cpu::Scratch;
using cpu::TileBuffer;
using cpu::TileReader;

template <class S>
struct Forward {
  using T = Compute<S>;
  const LayerNormForward& call;
  const ChannelSizes sizes;  // a row is a channel
  const bool fused;          // rows may be written before all statistics are known
  T *gamma, *beta;

  explicit Forward(const LayerNormForward& c)
      : call(c),
        sizes{1, c.rows, c.columns},
        fused(c.fresh || (c.nonfinite != Nonfinite::raise && c.nonfinite != Nonfinite::zero)) {
    const int64_t padded = cpu::round_up(c.columns, kLanes);
    gamma = cpu::scratch<T>(Scratch::tile, 2 * padded);
    beta = gamma + padded;
    read_columns<T>(call.gamma, 1, gamma, c.columns);
    read_columns<T>(call.beta, 0, beta, c.columns);
  }

  const S* x() const { return call.x.as<const S>(); }
  double first_element(int64_t row) const { return static_cast<double>(to_float(x()[row * sizes.inner])); }
  TileReader<S> reader() const { return {sizes, x()}; }

  // Whether all of these rows' statistics are finite; the squares' sums become variances. Loops without branches, as
  // batch norm's.
  bool finish(int64_t begin, int64_t end, const double* row_shifts, const double* sum, double* squares) const {
    const double count = static_cast<double>(sizes.count()), eps = call.eps;
    double *mean = call.statistics + begin, *mean_low = mean + call.rows, *inv_std = mean_low + call.rows;
#pragma GCC ivdep
    for (int64_t i = 0; i < end - begin; ++i) {
      const Moments m = moments(row_shifts[i], sum[i], squares[i], count);
      mean[i] = m.mean;
      mean_low[i] = m.mean_low;
      squares[i] = m.variance;
      inv_std[i] = inverse_deviation(m.variance, eps);
    }
    uint64_t bad = 0;
    for (int64_t i = 0; i < end - begin; ++i) bad |= nonfinite(mean[i]) | nonfinite(squares[i]);
    bool finite = true;
    for (int64_t i = 0; bad && i < end - begin; ++i)
      if (!is_finite(mean[i]) || !is_finite(squares[i])) finite = finish_again(begin + i) && finite;
    return finite;
  }

  // A row whose sums are not finite: in float64 they may only have overflowed.
  bool finish_again(int64_t row) const {
    double* at = call.statistics + row;
    at[2 * call.rows] = std::numeric_limits<double>::quiet_NaN();
    if constexpr (std::is_same_v<T, double>) {
      const double shift = first_element(row) * kOverflowScale;
      double shifts[kLanes] = {shift}, sum[kLanes], sum_of_squares[kLanes];
      auto read = reader();
      cpu::sum_channels<ScaledDeviationTerms, T>(sizes, row, row + 1, shifts, read, sum, sum_of_squares);
      const Moments scaled = moments(shift, sum[0], sum_of_squares[0], static_cast<double>(sizes.count()));
      at[0] = scaled.mean * kOverflowUnscale;
      at[call.rows] = scaled.mean_low * kOverflowUnscale;
      if (!scaled.finite()) return false;
      at[2 * call.rows] = inverse_deviation_scaled(scaled.variance, call.eps);
      return true;
    }
    return false;
  }

  int64_t first_nonfinite() const {
    for (int64_t row = 0; row < call.rows; ++row)
      if (!is_finite(call.statistics[2 * call.rows + row])) return row;
    return -1;
  }

  // ---- rows of one chunk, a block of them at a time

  // Whether the statistics of these rows are finite.
  bool sum_block(const T* from, int64_t row, int64_t last, const Ahead& ahead) const {
    alignas(64) double row_shifts[kMostRows], sum[kMostRows], squares[kMostRows];
    const int64_t columns = call.columns, rows = last - row;
    for (int64_t i = 0; i < rows; ++i)
      row_shifts[i] = cpu::shift_of(columns, [&](int64_t column) { return from[i * columns + column]; });
    for_each_group(0, rows, [&](auto together, int64_t i) {
      const T *begin = from + i * columns, *end = from + rows * columns;
      const Ahead next = cpu::after(ahead, i * columns);
      if (cpu::all_zero(row_shifts + i, together()))
        cpu::sum_rows<together(), ProductTerms<1>, T>(begin, columns, end, next, row_shifts + i, sum + i, squares + i);
      else
        cpu::sum_rows<together(), DeviationTerms, T>(begin, columns, end, next, row_shifts + i, sum + i, squares + i);
    });
    return finish(row, last, row_shifts, sum, squares);
  }

  void write_block(const T* from, T* to, int64_t row, int64_t last, const Ahead& read, const Ahead& written) const {
    const int64_t columns = call.columns, rows = last - row;
    const T *gains = gamma, *shifts = beta;
    NormalizeRow<T> step[kMostRows];
    normalizations(call, row, last, step);
    for_each_group(0, rows, [&](auto together, int64_t at) {
      const auto steps = first_of<together()>(step + at);
      const T* in = from + at * columns;
      write_rows<together()>(
          to + at * columns, columns, cpu::after(read, at * columns), cpu::after(written, at * columns),
          [&](int k, int64_t i, int64_t column)
              __attribute__((always_inline)) { return steps[k](in[i], gains[column], shifts[column]); });
    });
  }

  // Sums, if wanted, and the step, if wanted, of rows [row, last).
  bool take_rows(int64_t row, int64_t last, bool sums, bool writes) const {
    alignas(64) T buffer[std::is_same_v<S, T> ? 1 : kBlockElements];
    const int64_t block = rows_of_block<S>(call.columns);
    bool finite = true;
    for (; row < last; row += block) {
      const int64_t end = std::min(row + block, last), at = row * call.columns, count = (end - row) * call.columns;
      const T* from = load_piece(x() + at, count, buffer);
      const Ahead next = next_block<S>(call, x(), at), next_out = next_block<S>(call, call.out.as<S>(), at);
      if (sums && !sum_block(from, row, end, next)) finite = false;
      if (writes)
        store_piece(call.out.as<S>() + at, count, buffer,
                    [&](T* to) { write_block(from, to, row, end, sums ? Ahead{} : next, next_out); });
    }
    return finite;
  }

  bool run_by_rows() const {
    std::atomic<bool> finite{true};
    const int64_t rows = rows_of_unit(call);
    cpu::parallel_ranges(call.rows, rows, [&](int64_t row, int64_t last) {
      if (!take_rows(row, last, true, fused)) finite.store(false, std::memory_order_relaxed);
    });
    if (!fused && finite.load(std::memory_order_relaxed))
      cpu::parallel_ranges(call.rows, rows, [&](int64_t row, int64_t last) { take_rows(row, last, false, true); });
    return finite.load(std::memory_order_relaxed);
  }

  // ---- rows of a few elements, transposed

  // Sums, if wanted, and the step, if wanted, of rows [row, last), at most short_rows_together().
  bool take_short_rows(int64_t row, int64_t last, bool sums, bool writes) const {
    alignas(64) T buffer[std::is_same_v<S, T> ? 1 : cpu::kTileElements], tile[cpu::kTileElements];
    const int64_t columns = call.columns, rows = last - row, stride = cpu::round_up(rows, kLanes);
    const int64_t at = row * columns, count = rows * columns;
    cpu::split_columns(load_piece(x() + at, count, buffer), rows, columns, tile, stride,
                       rows_ahead(call, x(), at + count));
    bool finite = true;
    if (sums) {
      alignas(64) double row_shifts[cpu::kMostShortRows], sum[cpu::kMostShortRows], squares[cpu::kMostShortRows];
      cpu::shifts_across(stride, columns, [&](int64_t column) { return tile + column * stride; }, row_shifts);
      cpu::sum_short_rows<DeviationTerms>(
          stride, columns, row_shifts,
          [&](int64_t column, int64_t i, cpu::Lanes::Vector(&input)[1])
              __attribute__((always_inline)) { input[0] = cpu::Lanes::load_part(tile + column * stride + i); },
          sum, squares);
      finite = finish(row, last, row_shifts, sum, squares);
    }
    if (writes) {
      normalize_tile(row, last, stride, tile);
      store_piece(call.out.as<S>() + at, count, buffer, [&](T* to) {
        cpu::join_columns(tile, stride, rows, columns, to, rows_ahead(call, call.out.as<S>(), at + count));
      });
    }
    return finite;
  }

  void normalize_tile(int64_t row, int64_t last, int64_t stride, T* tile) const {
    using Vector = typename cpu::VectorOf<T>::Type;
    ShortRows<T> steps;
    steps.fill(call, row, last, stride);
    cpu::map_transposed(stride, call.columns, stride, tile, [&](int64_t i) __attribute__((always_inline)) {
      const auto step = steps.template several<Vector>(i, cpu::load_vector<T>);
      return [=](int64_t column, int64_t element) __attribute__((always_inline)) {
        return step(cpu::load_vector(tile + element), gamma[column] - Vector{}, beta[column] - Vector{});
      };
    });
  }

  bool run_by_short_rows() const {
    std::atomic<bool> finite{true};
    const int64_t unit = rows_of_unit(call), block = cpu::short_rows_together(call.columns);
    const auto take = [&](bool sums, bool writes) {
      cpu::parallel_ranges(call.rows, unit, [&](int64_t row, int64_t last) {
        for (; row < last; row += block)
          if (!take_short_rows(row, std::min(row + block, last), sums, writes))
            finite.store(false, std::memory_order_relaxed);
      });
    };
    take(true, fused);
    if (!fused && finite.load(std::memory_order_relaxed)) take(false, true);
    return finite.load(std::memory_order_relaxed);
  }

  // ---- rows of several chunks

  void map(const Box& box, bool backwards) const {
    TileBuffer<S> in, out;
    for_each_piece(box, backwards, [&](int64_t row, int64_t column, int64_t count) {
      const auto step = NormalizeRow<T>::from(statistics_of(call, row));
      const int64_t at = row * sizes.inner + column;
      const T *from = load_piece(x() + at, count, in.data), *gains = gamma + column, *shifts = beta + column;
      store_piece(call.out.as<S>() + at, count, out.data, [&](T* to) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) to[i] = step(from[i], gains[i], shifts[i]);
      });
    });
  }

  bool run_by_channels() const {
    std::atomic<bool> finite{true};
    cpu::reduce_and_map<DeviationTerms, T, TileReader<S>>(
        sizes, sizeof(S), fused,
        [&](int64_t begin, int64_t end, double* numbers) { cpu::find_shifts(sizes, x(), begin, end, numbers); },
        [&] { return reader(); },
        [&](int64_t begin, int64_t end, const double* row_shifts, const double* first, double* second) {
          if (!finish(begin, end, row_shifts, first, second)) finite.store(false, std::memory_order_relaxed);
        },
        [&] { return finite.load(std::memory_order_relaxed); },
        [&](const Box& box, bool backwards) { map(box, backwards); });
    return finite.load(std::memory_order_relaxed);
  }

  int64_t run() const {
    const bool finite = by_short_rows(call) ? run_by_short_rows() : by_rows(call) ? run_by_rows() : run_by_channels();
    return finite ? -1 : first_nonfinite();
  }
};

}  // namespace

int64_t layer_norm_forward(const LayerNormForward& call) {
  return visit_dtype(call.x.dtype, [&](auto zero) -> int64_t {
    if (call.size() > 0) return Forward<decltype(zero)>(call).run();
    const double inv_std = inverse_deviation(0, call.eps);  // of nothing: mean and variance 0
    std::fill(call.statistics, call.statistics + 2 * call.rows, 0.0);
    std::fill(call.statistics + 2 * call.rows, call.statistics + 3 * call.rows, inv_std);
    return -1;
  });
}

}  // namespace kitae
