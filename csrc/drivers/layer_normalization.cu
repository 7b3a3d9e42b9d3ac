// Layer normalization on a GPU. Nothing waits: what the kernels find is a flag that check() reads (cuda/flags.h).
//
// Traffic, counted: bytes an element of float32 (16-bit types half of it): forward 12 (floor 8), x being read for the
// sums and again; backward 28 (floor 12), x and dout being read for the sums of rows, for those of columns and again.
// The later readings come from the level-2 cache as far as that holds the tensor. Beside that, sums cost 16 bytes a
// chunk, and a row's numbers 24 bytes of statistics and, in backward, 32 of a table.
//
// Kernels: the columns' numbers in the type of arithmetic, sums of chunks, their folding, the element-wise step; in
// backward sums of rows and of columns. float64's forward adds two, which sum again, scaled, what has overflowed.
#include <algorithm>
#include <type_traits>

#include "cuda/channel_statistics.h"
#include "cuda/for_each_row.h"
#include "cuda/memory.h"
#include "drivers/layer_normalization.h"
#include "ops/layer_norm.h"

namespace kitae {
namespace {

using cuda::ChannelVector;
using cuda::DeviationSource;
using cuda::launch;
using cuda::Layout;
using cuda::ScaledDeviationSource;
using cuda::Shape;
using cuda::StatisticsArray;
using cuda::Sums;

// An array in C order as a vector.
ChannelVector flat(const Array& array) {
  ChannelVector vector;
  if (!array) return vector;
  vector.data = array.as<char>();
  vector.stride = size_of(array.dtype);
  vector.dtype = array.dtype;
  return vector;
}

// gamma and beta of every column, rounded to T.
template <class T>
struct PrepareColumns {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  ChannelVector gamma, beta;
  T* table;  // (2, columns)
  int64_t columns;

  KITAE_DEVICE void operator()() const {
    for (int64_t i = cuda::global_thread(); i < columns; i += cuda::grid_threads()) {
      table[i] = static_cast<T>(gamma.read(i, 1));
      table[columns + i] = static_cast<T>(beta.read(i, 0));
    }
  }
};

template <class T>
void prepare_columns(const Array& gamma, const Array& beta, T* table, int64_t columns, cudaStream_t stream) {
  using Kernel = PrepareColumns<T>;
  launch(Kernel{flat(gamma), flat(beta), table, columns}, Shape{cuda::grid_blocks<Kernel>(columns)}, stream);
}

// ---- forward

// What the call's kernels know of it.
struct RowsCall {
  StatisticsArray statistics;
  double* batch;  // (2, rows): mean, variance
  uint64_t* bad;  // rows - the first one whose statistics are not finite; 0: none
  cuda::Flags* flags;
  double count, eps;
  Nonfinite nonfinite;

  KITAE_DEVICE int64_t rows() const { return statistics.channels; }
};

template <class S, bool kScaled>
struct FinishForward {
  const S* x;
  cuda::ShiftSamples samples;
  RowsCall call;

  KITAE_DEVICE bool wanted(int64_t row) const {
    if constexpr (kScaled)
      return ScaledDeviationSource{nullptr, 0, call.batch, call.rows()}.wanted(row);
    else
      return true;
  }
  KITAE_DEVICE void operator()(int64_t row, const Sums& sums) const {
    const double shift = cuda::channel_shift(x, samples, row);
    const cuda::BatchResult result = kScaled ? cuda::batch_result_scaled(shift, sums, call.count, call.eps)
                                             : cuda::batch_result(shift, sums, call.count, call.eps);
    call.statistics.write(row, result.statistics);
    call.batch[row] = result.statistics.mean;
    call.batch[call.rows() + row] = result.variance;
    // In float64 the scaled sums have the last word.
    if (!result.finite() && (kScaled || !std::is_same_v<S, double>))
      cuda::atomic_max(call.bad, static_cast<uint64_t>(call.rows() - row));
  }
};

template <class S>
struct NormalizeStep {
  using T = Compute<S>;
  const S* x;
  S* y;
  const T* columns_table;  // gamma, beta
  int64_t columns;
  RowsCall call;

  KITAE_DEVICE bool begin() const {
    const uint64_t found = *call.bad;
    if (found == 0 || call.nonfinite != Nonfinite::raise) return true;
    if (cuda::global_thread() == 0)
      raise_flag(call.flags, cuda::Finding::nonfinite_sample, call.rows() - static_cast<int64_t>(found));
    return false;
  }
  KITAE_DEVICE NormalizeRow<T> numbers(int64_t row) const { return NormalizeRow<T>::from(call.statistics.read(row)); }
  KITAE_DEVICE void apply(const NormalizeRow<T>& step, int64_t index, int64_t column) const {
    const T value = step(cuda::widen(x[index]), columns_table[column], columns_table[columns + column]);
    y[index] = cuda::narrow<S>(value);
  }
};

// Rows without elements: mean and variance 0.
struct EmptyRows {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  StatisticsArray statistics;
  double eps;

  KITAE_DEVICE void operator()() const {
    for (int64_t row = cuda::global_thread(); row < statistics.channels; row += cuda::grid_threads())
      statistics.write(row, {0, 0, inverse_deviation(0, eps)});
  }
};

template <class S>
void forward(const LayerNormForward& call) {
  using T = Compute<S>;
  const cudaStream_t stream = cuda::current_stream();
  const ChannelSizes rows{1, call.rows, call.columns};
  const StatisticsArray statistics{call.statistics, call.rows};
  if (call.rows == 0) return;
  if (call.columns == 0)
    return launch(EmptyRows{statistics, call.eps}, Shape{cuda::grid_blocks<EmptyRows>(call.rows)}, stream);

  Layout layout;
  const int64_t bad = layout.add<uint64_t>(1), batch = layout.add<double>(2 * call.rows),
                table = layout.add<T>(2 * call.columns), partial = layout.add<double>(cuda::partial_count(rows));
  char* const scratch = static_cast<char*>(cuda::workspace(stream, static_cast<size_t>(layout.bytes())));
  T* const columns_table = reinterpret_cast<T*>(scratch + table);
  double* const sums = reinterpret_cast<double*>(scratch + partial);
  const RowsCall device{
      statistics,           reinterpret_cast<double*>(scratch + batch), reinterpret_cast<uint64_t*>(scratch + bad),
      cuda::device_flags(), static_cast<double>(call.columns),          call.eps,
      call.nonfinite};
  const S* const x = call.x.as<const S>();
  prepare_columns(call.gamma, call.beta, columns_table, call.columns, stream);
  const cuda::ShiftSamples samples(rows);
  cuda::reduce_channels(rows, DeviationSource<S>{x, samples, device.bad}, FinishForward<S, false>{x, samples, device},
                        sums, stream);
  if constexpr (std::is_same_v<S, double>)
    cuda::reduce_channels(rows, ScaledDeviationSource{x, call.columns, device.batch, call.rows},
                          FinishForward<S, true>{x, samples, device}, sums, stream);
  cuda::for_each_row(call.rows, call.columns,
                     NormalizeStep<S>{x, call.out.as<S>(), columns_table, call.columns, device}, stream);
}

// ---- backward

template <class S>
struct RowSource {
  using T = Compute<S>;
  using Op = LayerGradientTerms;
  struct Raw {
    S dout, x;
    T gamma;
  };
  struct Channel {
    double parameter;
    NormalizeRow<T> step;
  };
  const S *dout, *x;
  const T* gamma;
  int64_t columns;
  StatisticsArray statistics;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t row) const { return {0, NormalizeRow<T>::from(statistics.read(row))}; }
  KITAE_DEVICE Raw load(const cuda::Place& place) const {
    // With one column, rows lie side by side and count as columns.
    return {dout[place.index], x[place.index], gamma[columns == 1 ? 0 : place.column]};
  }
  KITAE_DEVICE void value(const Raw& raw, const Channel& row, double (&inputs)[2]) const {
    inputs[0] = static_cast<double>(RowGradient<T>::through(cuda::widen(raw.dout), raw.gamma));
    inputs[1] = static_cast<double>(row.step.xhat(cuda::widen(raw.x)));
  }
};

// A row's numbers of both steps: 8 numbers of T.
template <class S>
struct FinishRow {
  using T = Compute<S>;
  StatisticsArray statistics;
  T* table;
  double count;

  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE void operator()(int64_t row, const Sums& sums) const {
    const ChannelStatistics s = statistics.read(row);
    cuda::store_numbers(table + 8 * row, NormalizeRow<T>::from(s).normalize);
    cuda::store_numbers(table + 8 * row + 4, RowGradient<T>::from(s, sums.first, sums.second, count).gradient);
  }
};

template <class S>
struct ColumnSource {
  using T = Compute<S>;
  using Op = LayerGradientTerms;
  struct Raw {
    S dout, x;
    NormalizeRow<T> step;
  };
  struct Channel {
    double parameter;
  };
  const S *dout, *x;
  const T* rows_table;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t) const { return {0}; }
  KITAE_DEVICE Raw load(const cuda::Place& place) const {
    return {dout[place.index], x[place.index], {cuda::load_numbers<Normalize<T>>(rows_table + 8 * place.row)}};
  }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[2]) const {
    inputs[0] = static_cast<double>(cuda::widen(raw.dout));
    inputs[1] = static_cast<double>(raw.step.xhat(cuda::widen(raw.x)));
  }
};

struct FinishColumn {
  ChannelVector dgamma, dbeta;

  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE void operator()(int64_t column, const Sums& sums) const {
    dbeta.write(column, sums.first);
    dgamma.write(column, sums.second);
  }
};

template <class S>
struct GradientStep {
  using T = Compute<S>;
  const S *dout, *x;
  S* dx;
  const T *gamma, *rows_table;

  KITAE_DEVICE bool begin() const { return true; }
  KITAE_DEVICE RowGradient<T> numbers(int64_t row) const {
    return {cuda::load_numbers<InputGradient<T>>(rows_table + 8 * row + 4)};
  }
  KITAE_DEVICE void apply(const RowGradient<T>& step, int64_t index, int64_t column) const {
    dx[index] = cuda::narrow<S>(step(cuda::widen(dout[index]), cuda::widen(x[index]), gamma[column]));
  }
};

template <class S>
void backward(const LayerNormBackward& call) {
  using T = Compute<S>;
  if (call.columns == 0) return;
  const cudaStream_t stream = cuda::current_stream();
  const ChannelSizes rows{1, call.rows, call.columns}, columns{call.rows, call.columns, 1};
  const int64_t of_rows = call.rows > 0 ? cuda::partial_count(rows) : 0;
  Layout layout;
  const int64_t columns_table = layout.add<T>(2 * call.columns), rows_table = layout.add<T>(8 * call.rows),
                partial = layout.add<double>(std::max(of_rows, cuda::partial_count(columns)));
  char* const scratch = static_cast<char*>(cuda::workspace(stream, static_cast<size_t>(layout.bytes())));
  T *const gamma = reinterpret_cast<T*>(scratch + columns_table), *const of_row =
                                                                      reinterpret_cast<T*>(scratch + rows_table);
  double* const sums = reinterpret_cast<double*>(scratch + partial);
  const S *const dout = call.dout.as<const S>(), *const x = call.x.as<const S>();
  if (call.rows > 0) {
    prepare_columns(call.gamma, {}, gamma, call.columns, stream);
    cuda::reduce_channels(rows, RowSource<S>{dout, x, gamma, call.columns, {call.statistics, call.rows}},
                          FinishRow<S>{{call.statistics, call.rows}, of_row, static_cast<double>(call.columns)}, sums,
                          stream);
  }
  const FinishColumn finish{ChannelVector(call.dgamma), ChannelVector(call.dbeta)};
  cuda::reduce_adjacent_channels(columns, ColumnSource<S>{dout, x, of_row}, finish, sums, stream);
  // Last: dx may take dout's place.
  if (call.rows > 0)
    cuda::for_each_row(call.rows, call.columns, GradientStep<S>{dout, x, call.dx.as<S>(), gamma, of_row}, stream);
}

}  // namespace

int64_t layer_norm_forward(const LayerNormForward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { forward<decltype(zero)>(call); });
  return -1;
}

void layer_norm_backward(const LayerNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { backward<decltype(zero)>(call); });
}

}  // namespace kitae
