#include "drivers/layer_normalization.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "cpu/channel_plan.h"
#include "cpu/row_and_column_sums.h"
#include "drivers/vectors.h"
#include "ops/layer_norm.h"

namespace kitae {
namespace {

using cpu::Box;
using cpu::Region;
using cpu::Scratch;
using cpu::Tile;
using cpu::TileBuffer;
using cpu::TileReader;

// The numbers of the columns, rounded to T.
template <class T>
void read_columns(const Array& from, T absent, T* to, int64_t count) {
  if (!from) return std::fill(to, to + count, absent);
  visit_dtype(from.dtype, [&](auto zero) {
    const auto* elements = from.as<const decltype(zero)>();
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(to_float(elements[i]));
  });
}

// f(row, column, count) for pieces of the rows of a box (a channel is a row) that fit a tile's buffer.
template <class F>
void for_each_piece(const Box& box, bool backwards, F&& f) {
  for (int64_t i = box.first_channel; i < box.last_channel; ++i) {
    const int64_t row = backwards ? box.last_channel - 1 - (i - box.first_channel) : i;
    for (int64_t column = box.first_column; column < box.last_column; column += cpu::kTileElements)
      f(row, column, std::min(box.last_column - column, cpu::kTileElements));
  }
}

// A piece of storage in the type of arithmetic: in place, or widened into the buffer.
template <class S>
const Compute<S>* load_piece(const S* from, int64_t count, Compute<S>* buffer) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    return from;
  } else {
    cpu::widen(buffer, from, count);
    return buffer;
  }
}

// The way back: write(T*) makes the piece.
template <class S, class Write>
void store_piece(S* to, int64_t count, Compute<S>* buffer, Write&& write) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    write(to);
  } else {
    write(buffer);
    cpu::narrow(to, buffer, count);
  }
}

ChannelStatistics statistics_of(const LayerNorm& call, int64_t row) {
  const double* at = call.statistics + row;
  return {at[0], at[call.rows], at[2 * call.rows]};
}

// Elements of a block of rows that stays in the cache between sums and step.
constexpr int64_t kBlockOfRows = 1 << 16;

// ---- forward

template <class S>
struct Forward {
  using T = Compute<S>;
  const LayerNormForward& call;
  const ChannelSizes sizes;  // a row is a channel
  T *gamma, *beta;

  explicit Forward(const LayerNormForward& c) : call(c), sizes{1, c.rows, c.columns} {
    const int64_t padded = cpu::round_up(c.columns, kLanes);
    gamma = cpu::scratch<T>(Scratch::tile, 2 * padded);
    beta = gamma + padded;
    read_columns<T>(call.gamma, 1, gamma, c.columns);
    read_columns<T>(call.beta, 0, beta, c.columns);
  }

  const S* x() const { return call.x.as<const S>(); }
  double first_element(int64_t row) const { return static_cast<double>(to_float(x()[row * sizes.inner])); }
  TileReader<S> reader() const { return {sizes, x()}; }

  // Whether all of these rows' statistics are finite. Loops without branches, as batch norm's.
  bool finish(int64_t begin, int64_t end, const double* first_elements, const double* sum,
              const double* sum_of_squares) const {
    const double count = static_cast<double>(sizes.count()), eps = call.eps;
    double *mean = call.statistics + begin, *mean_low = mean + call.rows, *inv_std = mean_low + call.rows;
    uint64_t bad = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < end - begin; ++i) {
      const Moments m = moments(first_elements[i], sum[i], sum_of_squares[i], count);
      mean[i] = m.mean;
      mean_low[i] = m.mean_low;
      inv_std[i] = inverse_deviation(m.variance, eps);
      bad |= nonfinite(m.mean) | nonfinite(m.variance);
    }
    bool finite = true;
    for (int64_t i = 0; bad && i < end - begin; ++i)
      if (!moments(first_elements[i], sum[i], sum_of_squares[i], count).finite())
        finite = finish_again(begin + i) && finite;
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

  int64_t first_nonfinite() const {
    for (int64_t row = 0; row < call.rows; ++row)
      if (!is_finite(call.statistics[2 * call.rows + row])) return row;
    return -1;
  }

  // Rows in place, each of one chunk, whose sums are taken several at a time.
  bool run_by_rows(bool fused) const {
    std::atomic<bool> finite{true};
    const int64_t share = call.rows / (2 * cpu::num_threads());  // leave every thread a choice of two blocks
    const int64_t most =
        std::clamp<int64_t>(std::min(kBlockOfRows / call.columns, share), cpu::kRowsTogether, cpu::kBlockChannels);
    const bool small = call.size() <= cpu::kSmallTensor;
    cpu::parallel_ranges(call.rows, small ? call.rows : most, [&](int64_t row, int64_t last) {
      alignas(64) double first_elements[cpu::kBlockChannels], sum[cpu::kBlockChannels], squares[cpu::kBlockChannels];
      for (; row < last; row += most) {
        const int64_t count = std::min(most, last - row);
        for (int64_t i = 0; i < count; ++i) first_elements[i] = first_element(row + i);
        const auto add = [&](auto together, int64_t i) {
          cpu::sum_rows<together(), DeviationTerms, T>(call.x.as<const T>() + (row + i) * call.columns, call.columns,
                                                       first_elements + i, sum + i, squares + i);
        };
        int64_t i = 0;
        for (; i + cpu::kRowsTogether <= count; i += cpu::kRowsTogether)
          add(std::integral_constant<int, cpu::kRowsTogether>{}, i);
        for (; i < count; ++i) add(std::integral_constant<int, 1>{}, i);
        if (!finish(row, row + count, first_elements, sum, squares)) finite.store(false, std::memory_order_relaxed);
        if (fused) map(Box{0, 1, row, row + count, 0, call.columns}, true);
      }
    });
    if (!fused && finite.load(std::memory_order_relaxed))
      cpu::map_channels(sizes, [&](const Box& box, bool backwards) { map(box, backwards); });
    return finite.load(std::memory_order_relaxed);
  }

  int64_t run() const {
    std::atomic<bool> finite{true};
    const bool strict = call.nonfinite == Nonfinite::raise || call.nonfinite == Nonfinite::zero;
    if constexpr (std::is_same_v<S, T>) {
      if (call.columns >= kLanes && call.columns <= kChunk && call.rows >= 2 * cpu::num_threads())
        return run_by_rows(!strict || call.fresh) ? -1 : first_nonfinite();
    }
    cpu::reduce_and_map<DeviationTerms, T, TileReader<S>>(
        sizes, sizeof(S), !strict || call.fresh,
        [&](int64_t begin, int64_t end, double* numbers) {
          for (int64_t row = begin; row < end; ++row) numbers[row - begin] = first_element(row);
        },
        [&] { return reader(); },
        [&](int64_t begin, int64_t end, const double* first_elements, const double* first, const double* second) {
          if (!finish(begin, end, first_elements, first, second)) finite.store(false, std::memory_order_relaxed);
        },
        [&] { return finite.load(std::memory_order_relaxed); },
        [&](const Box& box, bool backwards) { map(box, backwards); });
    return finite.load(std::memory_order_relaxed) ? -1 : first_nonfinite();
  }
};

// ---- backward

// Tiles of g = dout gamma and of x, a row being a channel.
template <class S>
struct RowReader {
  using T = Compute<S>;
  static constexpr bool columns = false, ahead = false;
  const ChannelSizes sizes;
  const S *dout, *x;
  const T* gamma;
  TileBuffer<S> dout_buffer, x_buffer;
  alignas(64) T g_buffer[cpu::kTileElements];

  RowReader(const ChannelSizes& of, const S* from_dout, const S* from_x, const T* of_columns)
      : sizes(of), dout(from_dout), x(from_x), gamma(of_columns) {}

  void prepare(int64_t /*channel*/, int64_t /*count*/) {}
  void operator()(const Region& tile, const Region& /*next*/, Tile<T> (&tiles)[2]) {
    const Tile<T> douts = cpu::load_tile<T>(dout, sizes, tile, dout_buffer.data);
    tiles[1] = cpu::load_tile<T>(x, sizes, tile, x_buffer.data);
    const T *from = douts.data, *gains = gamma + tile.column;
    if (sizes.adjacent()) {  // one column: the tile is a piece of it
#pragma GCC ivdep
      for (int64_t i = 0; i < tile.columns; ++i) g_buffer[i] = RowGradient<T>::through(from[i], gains[0]);
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < tile.columns; ++i) g_buffer[i] = RowGradient<T>::through(from[i], gains[i]);
    }
    tiles[0] = {g_buffer, cpu::buffer_stride(tile), g_buffer + cpu::kTileElements};
  }
};

// Tiles of dout and of xhat, columns side by side.
template <class S>
struct ColumnReader {
  using T = Compute<S>;
  static constexpr bool columns = false, ahead = false;
  const LayerNormBackward& call;
  const ChannelSizes sizes;
  TileBuffer<S> dout_buffer, x_buffer;
  alignas(64) T xhat_buffer[cpu::kTileElements];

  ColumnReader(const LayerNormBackward& c, const ChannelSizes& of) : call(c), sizes(of) {}

  void prepare(int64_t /*channel*/, int64_t /*count*/) {}
  void operator()(const Region& tile, const Region& /*next*/, Tile<T> (&tiles)[2]) {
    tiles[0] = cpu::load_tile<T>(call.dout.as<const S>(), sizes, tile, dout_buffer.data);
    const Tile<T> xs = cpu::load_tile<T>(call.x.as<const S>(), sizes, tile, x_buffer.data);
    const int64_t stride = cpu::buffer_stride(tile);
    for (int64_t row = 0; row < tile.rows; ++row) {
      const auto step = NormalizeRow<T>::from(statistics_of(call, tile.row + row));
      const T* from = xs.row(row);
      T* to = xhat_buffer + row * stride;
#pragma GCC ivdep
      for (int64_t i = 0; i < tile.columns; ++i) to[i] = step.xhat(from[i]);
    }
    tiles[1] = {xhat_buffer, stride, xhat_buffer + cpu::kTileElements};
  }
};

constexpr int64_t kBlockElements = 1 << 12;  // of a block of rows that stays in the cache between sums and step

template <class S>
struct Backward {
  using T = Compute<S>;
  const LayerNormBackward& call;
  const ChannelSizes rows, columns;       // the same elements: a row is a channel; a column is one
  double *sums, *products;                // of g and g (x - mean), a row
  double *column_sums, *column_products;  // of dout and dout xhat, a column
  T* gamma;

  explicit Backward(const LayerNormBackward& c) : call(c), rows{1, c.rows, c.columns}, columns{c.rows, c.columns, 1} {
    sums = cpu::scratch<double>(Scratch::statistics, 2 * (call.rows + call.columns));
    products = sums + call.rows;
    column_sums = products + call.rows;
    column_products = column_sums + call.columns;
    const int64_t padded = cpu::round_up(call.columns, kLanes);
    gamma = cpu::scratch<T>(Scratch::tile, padded);
    read_columns<T>(call.gamma, 1, gamma, call.columns);
    std::fill(gamma + call.columns, gamma + padded, T(0));
  }

  void sum_columns() const {
    cpu::reduce_and_map<ColumnTerms, T, ColumnReader<S>>(
        columns, 2 * sizeof(S), false,
        [](int64_t begin, int64_t end, double* numbers) { std::fill(numbers, numbers + (end - begin), 0.0); },
        [&] { return ColumnReader<S>(call, columns); },
        [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
          std::copy(first, first + (end - begin), column_sums + begin);
          std::copy(second, second + (end - begin), column_products + begin);
        },
        [] { return false; }, [](const Box&, bool) {});
  }

  void map(const Box& box, bool backwards) const {
    TileBuffer<S> dout_buffer, x_buffer, out;
    const S *dout = call.dout.as<const S>(), *x = call.x.as<const S>();
    const double count = static_cast<double>(call.columns);
    for_each_piece(box, backwards, [&](int64_t row, int64_t column, int64_t width) {
      const auto step = RowGradient<T>::from(statistics_of(call, row), sums[row], products[row], count);
      const int64_t at = row * call.columns + column;
      const T *douts = load_piece(dout + at, width, dout_buffer.data), *gains = gamma + column;
      const T* xs = load_piece(x + at, width, x_buffer.data);
      store_piece(call.dx.as<S>() + at, width, out.data, [&](T* to) {
#pragma GCC ivdep
        for (int64_t i = 0; i < width; ++i) to[i] = step(douts[i], xs[i], gains[i]);
      });
    });
  }

  // Whether one reading of x and dout does: threads then share the columns' chunks, and a row is one chunk.
  bool in_one_pass() const {
    if (!std::is_same_v<S, T> || call.columns < kLanes || call.columns > kChunk) return false;
    const int64_t threads = cpu::num_threads();
    return threads == 1 || call.size() <= cpu::kSmallTensor || ChannelChunks(columns).count >= 2 * threads;
  }

  void sum_and_map_rows(int64_t row, int64_t last, double* of_columns, double* products_of_columns) const {
    const auto sum = [&](auto together, int64_t at) {
      const int64_t element = at * call.columns;
      cpu::sum_rows_and_columns<together(), T>(call.dout.as<const T>() + element, call.x.as<const T>() + element,
                                               call.columns, gamma, call.statistics + at, call.rows, sums + at,
                                               products + at, of_columns, products_of_columns);
    };
    const int64_t block = std::max<int64_t>(kBlockElements / call.columns, cpu::kRowsTogether);
    for (; row < last; row += block) {
      const int64_t end = std::min(row + block, last);
      int64_t at = row;
      for (; at + cpu::kRowsTogether <= end; at += cpu::kRowsTogether)
        sum(std::integral_constant<int, cpu::kRowsTogether>{}, at);
      for (; at < end; ++at) sum(std::integral_constant<int, 1>{}, at);
      map(Box{0, 1, row, end, 0, call.columns}, false);
    }
  }

  void run_in_one_pass() const {
    const int64_t chunks = ChannelChunks(columns).count, padded = cpu::round_up(call.columns, kLanes);
    double* table = cpu::scratch<double>(Scratch::partial_sums, chunks * 2 * padded);  // (chunk, sum, column)
    const int64_t grain = call.size() <= cpu::kSmallTensor ? chunks : 1;
    cpu::parallel_ranges(chunks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        double* of_chunk = table + chunk * 2 * padded;
        std::fill(of_chunk, of_chunk + 2 * padded, 0.0);
        const int64_t row = chunk * kRowsOfChunk;
        sum_and_map_rows(row, std::min(row + kRowsOfChunk, call.rows), of_chunk, of_chunk + padded);
      }
    });
    std::fill(column_sums, column_sums + 2 * call.columns, 0.0);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const double* of_chunk = table + chunk * 2 * padded;
      for (int64_t i = 0; i < call.columns; ++i) {
        column_sums[i] += of_chunk[i];
        column_products[i] += of_chunk[padded + i];
      }
    }
  }

  void run() const {
    if (in_one_pass()) {
      if constexpr (std::is_same_v<S, T>) run_in_one_pass();
    } else if (call.size() == 0) {
      std::fill(column_sums, column_sums + call.columns, 0.0);
      std::fill(column_products, column_products + call.columns, 0.0);
    } else {
      sum_columns();  // before dx, which may take dout's place
      cpu::reduce_and_map<GradientTerms, T, RowReader<S>>(
          rows, 2 * sizeof(S), call.dx.data != call.dout.data,
          [&](int64_t begin, int64_t end, double* numbers) {
            std::copy(call.statistics + begin, call.statistics + end, numbers);
          },
          [&] { return RowReader<S>(rows, call.dout.as<const S>(), call.x.as<const S>(), gamma); },
          [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
            std::copy(first, first + (end - begin), sums + begin);
            std::copy(second, second + (end - begin), products + begin);
          },
          [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
    }
    write_vector(call.dbeta, column_sums);
    write_vector(call.dgamma, column_products);
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

void layer_norm_backward(const LayerNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
