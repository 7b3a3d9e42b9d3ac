#include <algorithm>
#include <type_traits>

#include "cpu/channel_plan.h"
#include "cpu/row_and_column_sums.h"
#include "cpu/short_rows.h"
#include "drivers/layer_normalization_rows.h"
#include "drivers/layer_normalization_tiles.h"

namespace kitae {
namespace {

using namespace layer_normalization;
using cpu::Ahead;
using cpu::Box;
using cpu::Scratch;
using cpu::Wanted;

template <class S>
struct Backward {
  using T = Compute<S>;
  const LayerNormBackward& call;
  const ChannelSizes rows, columns;       // the same elements: a row is a channel; a column is one
  double *sums, *products;                // of g and g xhat, a row
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

  const S* dout() const { return call.dout.as<const S>(); }
  const S* x() const { return call.x.as<const S>(); }
  RowGradient<T> step_of(int64_t row) const {
    return RowGradient<T>::from(statistics_of(call, row), sums[row], products[row], static_cast<double>(call.columns));
  }

  // ---- rows of one chunk, or of a few where there are rows enough: one reading of x and dout where threads can share
  // the chunks of the columns

  bool by_wide_rows() const {
    constexpr int64_t kWidest = 4 * kChunk;  // whose sums and elements a level-2 cache holds
    return std::is_same_v<S, T> && call.columns > kChunk && call.columns <= kWidest &&
           call.rows >= 4 * cpu::num_threads();
  }

  // What sum_rows_and_columns does, chunk by chunk.
  template <int kRows, Wanted kWanted>
  [[gnu::noinline]] void sum_wide_rows(const cpu::GradientRows<T>& from, const NormalizeRow<T>* steps, int64_t row,
                                       double* of_columns, double* products_of_columns) const {
    std::fill(sums + row, sums + row + kRows, 0.0);
    std::fill(products + row, products + row + kRows, 0.0);
    for (int64_t begin = 0; begin < call.columns; begin += kChunk) {
      const int64_t of_column = kWanted == Wanted::of_rows ? 0 : begin;  // of rows alone there are no columns' sums
      double sum[kRows], product[kRows];
      cpu::sum_rows_and_columns<kRows, kWanted>(from.after(begin), std::min(kChunk, call.columns - begin),
                                                gamma + begin, steps, sum, product, of_columns + of_column,
                                                products_of_columns + of_column);
      for (int k = 0; k < kRows; ++k) {
        sums[row + k] += sum[k];
        products[row + k] += product[k];
      }
    }
  }

  bool in_one_pass() const {
    const int64_t threads = cpu::num_threads(), chunks = ChannelChunks(columns).count;
    return threads == 1 || call.size() <= kSmall || chunks >= 2 * threads || chunks % threads == 0;
  }

  void write_block(const T* douts, const T* xs, T* to, int64_t row, int64_t last, const Ahead& written) const {
    const int64_t width = call.columns, count = last - row;
    const T* gains = gamma;
    RowGradient<T> step[kMostRows];
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) step[i] = step_of(row + i);
    for_each_group(0, count, [&](auto together, int64_t at) {
      const auto steps = first_of<together()>(step + at);
      const T *of_dout = douts + at * width, *of_x = xs + at * width;
      write_rows<together()>(to + at * width, width, Ahead{}, cpu::after(written, at * width),
                             [&](int k, int64_t i, int64_t column) __attribute__((always_inline)) {
                               return steps[k](of_dout[i], of_x[i], gains[column]);
                             });
    });
  }

  template <Wanted kWanted>
  void take_rows(int64_t row, int64_t last, double* of_columns, double* products_of_columns) const {
    constexpr int64_t kBuffer = std::is_same_v<S, T> ? 1 : kBlockElements;
    alignas(64) T dout_buffer[kBuffer], x_buffer[kBuffer];
    NormalizeRow<T> steps[kMostRows];
    const int64_t block = rows_of_block<S>(call.columns);
    const bool wide = call.columns > kChunk;
    for (; row < last; row += block) {
      const int64_t end = std::min(row + block, last), at = row * call.columns, count = (end - row) * call.columns;
      const T *douts = load_piece(dout() + at, count, dout_buffer), *xs = load_piece(x() + at, count, x_buffer);
      const cpu::GradientRows<T> from{douts,
                                      xs,
                                      douts + count,
                                      xs + count,
                                      call.columns,
                                      next_block<S>(call, dout(), at),
                                      next_block<S>(call, x(), at)};
      const Ahead next_dx = next_block<S>(call, call.dx.as<S>(), at);
      normalizations(call, row, end, steps);
      for_each_group(row, end, [&](auto together, int64_t first) {
        const auto group = from.after((first - row) * call.columns);
        const NormalizeRow<T>* of_group = steps + (first - row);
        if (wide) return sum_wide_rows<together(), kWanted>(group, of_group, first, of_columns, products_of_columns);
        cpu::sum_rows_and_columns<together(), kWanted>(group, call.columns, gamma, of_group, sums + first,
                                                       products + first, of_columns, products_of_columns);
      });
      store_piece(call.dx.as<S>() + at, count, dout_buffer,
                  [&](T* to) { write_block(douts, xs, to, row, end, next_dx); });
    }
  }

  // take(row, last, sums of columns) for every chunk of the columns.
  template <class Take>
  void run_in_one_pass(const Take& take) const {
    const int64_t chunks = ChannelChunks(columns).count, padded = cpu::round_up(call.columns, kLanes);
    double* table = cpu::scratch<double>(Scratch::partial_sums, chunks * 2 * padded);  // (chunk, sum, column)
    const int64_t of_unit = kUnitElements / (4 * kRowsOfChunk * call.columns);
    const int64_t grain = call.size() <= kSmall ? chunks : std::max<int64_t>(of_unit, 1);
    cpu::parallel_ranges(chunks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        double* of_chunk = table + chunk * 2 * padded;
        std::fill(of_chunk, of_chunk + 2 * padded, 0.0);
        const int64_t row = chunk * kRowsOfChunk;
        take(row, std::min(row + kRowsOfChunk, call.rows), of_chunk, of_chunk + padded);
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

  // ---- few rows for many threads: they share the columns and the rows

  // Columns [begin, last), at most kBlockChannels, of all rows.
  void sum_block_of_columns(int64_t begin, int64_t last, const NormalizeRow<T>* steps) const {
    alignas(64) double of_chunk[2][cpu::kBlockChannels];
    const cpu::GradientRows<T> from{dout(), x(), dout() + call.size(), x() + call.size(), call.columns, {}, {}};
    std::fill(column_sums + begin, column_sums + last, 0.0);
    std::fill(column_products + begin, column_products + last, 0.0);
    for (int64_t chunk = 0; chunk < call.rows; chunk += kRowsOfChunk) {
      std::fill(of_chunk[0], of_chunk[2], 0.0);
      // Without sums of rows, which fill the registers, two rows share a reading of the columns' sums everywhere.
      for_each_group<2>(chunk, std::min(chunk + kRowsOfChunk, call.rows), [&](auto together, int64_t row) {
        cpu::sum_rows_and_columns<together(), Wanted::of_columns>(from.after(row * call.columns + begin), last - begin,
                                                                  gamma + begin, steps + row, nullptr, nullptr,
                                                                  of_chunk[0], of_chunk[1]);
      });
      for (int64_t i = begin; i < last; ++i) {
        column_sums[i] += of_chunk[0][i - begin];
        column_products[i] += of_chunk[1][i - begin];
      }
    }
  }

  void run_few_rows() const {
    if constexpr (std::is_same_v<S, T>) {
      auto* steps = cpu::scratch<NormalizeRow<T>>(Scratch::partial_sums, call.rows);
      normalizations(call, 0, call.rows, steps);
      // Where the caches next to the cores hold it all, one share a thread: as a rule it falls to the same core in the
      // next call, which still has what it wrote.
      const int64_t shares = cpu::num_threads() * (call.size() <= cpu::kNearElements ? 1 : 2);
      const int64_t width = cpu::round_up((call.columns + shares - 1) / shares, kLanes);
      const int64_t height = cpu::round_up((call.rows + shares - 1) / shares, cpu::kRowsTogether);
      const auto share_of_columns = [&](int64_t unit) {
        const int64_t last = std::min((unit + 1) * width, call.columns);
        for (int64_t begin = unit * width; begin < last; begin += cpu::kBlockChannels)
          sum_block_of_columns(begin, std::min(begin + cpu::kBlockChannels, last), steps);
      };
      const auto share_of_rows = [&](int64_t unit) {
        take_rows<Wanted::of_rows>(unit * height, std::min((unit + 1) * height, call.rows), nullptr, nullptr);
      };
      if (call.dx.data == call.dout.data) {  // nothing may be written before the columns are known
        cpu::parallel_for(shares, share_of_columns);
        cpu::parallel_for(shares, share_of_rows);
      } else {
        cpu::parallel_for(shares, [&](int64_t unit) {
          share_of_columns(unit);
          share_of_rows(unit);
        });
      }
    } else {
      sum_columns();
      cpu::parallel_ranges(call.rows, rows_of_unit(call),
                           [&](int64_t row, int64_t last) { take_rows<Wanted::of_rows>(row, last, nullptr, nullptr); });
    }
  }

  // ---- rows of a few elements, transposed for their sums and the step

  void take_short_rows(int64_t row, int64_t last, double* of_columns, double* products_of_columns) const {
    constexpr int64_t kBuffer = std::is_same_v<S, T> ? 1 : cpu::kTileElements;
    alignas(64) T dout_buffer[kBuffer], x_buffer[kBuffer], dout_tile[cpu::kTileElements], x_tile[cpu::kTileElements];
    const int64_t width = call.columns, count = last - row, stride = cpu::round_up(count, kLanes), at = row * width;
    const T* douts = load_piece(dout() + at, count * width, dout_buffer);
    const T* xs = load_piece(x() + at, count * width, x_buffer);
    ShortRows<T> steps;
    steps.fill(call, row, last, stride);
    cpu::sum_down_short_rows(
        douts, xs, count, width, [&](int64_t i) __attribute__((always_inline)) { return steps(i); }, of_columns,
        products_of_columns);
    const int64_t next = at + count * width;
    cpu::split_columns(douts, count, width, dout_tile, stride, rows_ahead(call, dout(), next));
    cpu::split_columns(xs, count, width, x_tile, stride, rows_ahead(call, x(), next));
    alignas(64) double sum[cpu::kMostShortRows], product[cpu::kMostShortRows];
    const double zeros[cpu::kMostShortRows] = {};
    cpu::sum_short_rows<LayerGradientTerms>(
        stride, width, zeros,
        [&](int64_t column, int64_t i, cpu::Lanes::Vector(&input)[2]) __attribute__((always_inline)) {
          using Part = cpu::Part<T>;
          const auto load = [](const T* from) __attribute__((always_inline)) { return cpu::Lanes::load_stored(from); };
          const Part of_dout = load(dout_tile + column * stride + i), of_x = load(x_tile + column * stride + i);
          input[0] = cpu::Lanes::widened(RowGradient<Part>::through(of_dout, gamma[column] - Part{}));
          input[1] = cpu::Lanes::widened(steps.template several<Part>(i, load).xhat(of_x));
        },
        sum, product);
    differentiate_tile(row, last, stride, sum, product, dout_tile, x_tile);
    store_piece(call.dx.as<S>() + at, count * width, dout_buffer, [&](T* to) {
      cpu::join_columns(dout_tile, stride, count, width, to, rows_ahead(call, call.dx.as<S>(), next));
    });
  }

  // dout becomes dx.
  void differentiate_tile(int64_t row, int64_t last, int64_t stride, const double* sum, const double* product,
                          T* dout_tile, const T* x_tile) const {
    using Vector = typename cpu::VectorOf<T>::Type;
    alignas(64) T center[cpu::kMostShortRows], gain[cpu::kMostShortRows], offset[cpu::kMostShortRows],
        slope[cpu::kMostShortRows];
    const double width = static_cast<double>(call.columns);
#pragma GCC ivdep
    for (int64_t i = 0; i < last - row; ++i) {
      const InputGradient<T> step =
          RowGradient<T>::from(statistics_of(call, row + i), sum[i], product[i], width).gradient;
      center[i] = step.center;
      gain[i] = step.gain;
      offset[i] = step.offset;
      slope[i] = step.slope;
    }
    for (int64_t i = last - row; i < stride; ++i) center[i] = gain[i] = offset[i] = slope[i] = 0;
    cpu::map_transposed(stride, call.columns, stride, dout_tile, [&](int64_t i) __attribute__((always_inline)) {
      const RowGradient<Vector> step{{cpu::load_vector(center + i), cpu::load_vector(gain + i),
                                      cpu::load_vector(offset + i), cpu::load_vector(slope + i)}};
      return [=](int64_t column, int64_t element) __attribute__((always_inline)) {
        return step(cpu::load_vector(dout_tile + element), cpu::load_vector(x_tile + element),
                    gamma[column] - Vector{});
      };
    });
  }

  // ---- other rows of several chunks: again the columns first

  void map(const Box& box, bool backwards) const {
    TileBuffer<S> dout_buffer, x_buffer, out;
    for_each_piece(box, backwards, [&](int64_t row, int64_t column, int64_t width) {
      const auto step = step_of(row);
      const int64_t at = row * call.columns + column;
      const T *douts = load_piece(dout() + at, width, dout_buffer.data), *gains = gamma + column;
      const T* xs = load_piece(x() + at, width, x_buffer.data);
      store_piece(call.dx.as<S>() + at, width, out.data, [&](T* to) {
#pragma GCC ivdep
        for (int64_t i = 0; i < width; ++i) to[i] = step(douts[i], xs[i], gains[i]);
      });
    });
  }

  void sum_columns() const {
    cpu::reduce_and_map<LayerGradientTerms, T, ColumnReader<S>>(
        columns, 2 * sizeof(S), false,
        [](int64_t begin, int64_t end, double* numbers) { std::fill(numbers, numbers + (end - begin), 0.0); },
        [&] { return ColumnReader<S>(call, columns); },
        [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
          std::copy(first, first + (end - begin), column_sums + begin);
          std::copy(second, second + (end - begin), column_products + begin);
        },
        [] { return false; }, [](const Box&, bool) {});
  }

  void sum_and_map_rows() const {
    cpu::reduce_and_map<LayerGradientTerms, T, RowReader<S>>(
        rows, 2 * sizeof(S), call.dx.data != call.dout.data,
        [](int64_t begin, int64_t end, double* numbers) { std::fill(numbers, numbers + (end - begin), 0.0); },
        [&] { return RowReader<S>(call, rows, gamma); },
        [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
          std::copy(first, first + (end - begin), sums + begin);
          std::copy(second, second + (end - begin), products + begin);
        },
        [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
  }

  void run() const {
    if (call.size() == 0) {
      std::fill(column_sums, column_sums + 2 * call.columns, 0.0);
    } else if (by_short_rows(call)) {
      const int64_t block = cpu::short_rows_together(call.columns);
      run_in_one_pass([&](int64_t row, int64_t last, double* of_columns, double* products_of_columns) {
        for (; row < last; row += block)
          take_short_rows(row, std::min(row + block, last), of_columns, products_of_columns);
      });
    } else if (by_rows(call) || by_wide_rows()) {
      if (in_one_pass())
        run_in_one_pass([&](int64_t row, int64_t last, double* of_columns, double* products_of_columns) {
          take_rows<Wanted::both>(row, last, of_columns, products_of_columns);
        });
      else
        run_few_rows();
    } else {
      sum_columns();
      sum_and_map_rows();
    }
    write_vector(call.dbeta, column_sums);
    write_vector(call.dgamma, column_products);
  }
};

}  // namespace

void layer_norm_backward(const LayerNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
