#include "drivers/normalization.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/activation_bits.h"
#include "cpu/activation_bounds.h"
#include "cpu/channel_plan.h"
#include "cpu/channel_shifts.h"
#include "drivers/vectors.h"

namespace kitae {
namespace {

using cpu::Ahead;
using cpu::Box;
using cpu::Region;
using cpu::Scratch;
using cpu::Tile;
using cpu::TileBuffer;
using cpu::TileReader;
using cpu::Writing;

// ---- the numbers of the element-wise steps, one table entry a channel

template <class T>
struct NormalizeTable {
  T *center, *gain, *gain_low, *shift;

  Normalize<T> operator()(int64_t channel) const {
    return {center[channel], gain[channel], gain_low[channel], shift[channel]};
  }
  void set(int64_t channel, const Normalize<T>& n) const {
    center[channel] = n.center;
    gain[channel] = n.gain;
    gain_low[channel] = n.gain_low;
    shift[channel] = n.shift;
  }
  template <class F>
  NormalizeTable each(F f) const {
    return {f(center), f(gain), f(gain_low), f(shift)};
  }
};

template <class T>
struct GradientTable {
  T *center, *gain, *offset, *slope;

  InputGradient<T> operator()(int64_t channel) const {
    return {center[channel], gain[channel], offset[channel], slope[channel]};
  }
  void set(int64_t channel, const InputGradient<T>& gradient) const {
    center[channel] = gradient.center;
    gain[channel] = gradient.gain;
    offset[channel] = gradient.offset;
    slope[channel] = gradient.slope;
  }
  template <class F>
  GradientTable each(F f) const {
    return {f(center), f(gain), f(offset), f(slope)};
  }
};

template <class T>
struct GainTable {
  const T* gain;
  ConstantStatisticsGradient<T> operator()(int64_t channel) const { return {gain[channel]}; }
};

template <Activation activation, class T>
struct Activated {
  Normalize<T> normalize;
  T slope;
  T operator()(T x) const { return activate<activation>(normalize(x), slope); }
  T operator()(T x, T residual) const { return activate<activation>(normalize(x, residual), slope); }
};
template <Activation activation, class T>
struct ActivatedTable {
  NormalizeTable<T> table;
  T slope;
  Activated<activation, T> operator()(int64_t channel) const { return {table(channel), slope}; }
};

// !(z <= 0) as a comparison of x (cpu/activation_bounds.h).
template <class T>
struct Passes {
  T bound, sign;
  bool operator()(T x) const { return !(x * sign <= bound); }
};
template <class T>
struct PassesTable {
  T *bound, *sign;
  Passes<T> operator()(int64_t channel) const { return {bound[channel], sign[channel]}; }
  template <class F>
  PassesTable each(F f) const {
    return {f(bound), f(sign)};
  }
};

// g = dout act'(z)
template <Activation activation, class T>
struct Masked {
  Passes<T> passes;
  T slope;
  T operator()(T dout, T x) const { return activation_gradient<activation>(dout, passes(x), slope); }
};
template <Activation activation, class T>
struct MaskedTable {
  PassesTable<T> table;
  T slope;
  Masked<activation, T> operator()(int64_t channel) const { return {table(channel), slope}; }
};

// dx from dout, by way of g.
template <Activation activation, class Gradient, class T>
struct MaskedGradient {
  Masked<activation, T> masked;
  Gradient gradient;
  T operator()(T dout, T x) const {
    const T g = masked(dout, x);
    if constexpr (std::is_same_v<Gradient, InputGradient<T>>)
      return gradient(g, x);
    else
      return gradient(g);
  }
};
template <Activation activation, class Gradients, class T>
struct MaskedGradientTable {
  MaskedTable<activation, T> masked;
  Gradients gradients;
  auto operator()(int64_t channel) const {
    return MaskedGradient<activation, decltype(gradients(0)), T>{masked(channel), gradients(channel)};
  }
};

// A table from some place on.
template <class Table>
Table from(const Table& table, int64_t place) {
  return table.each([place](auto* row) { return row + place; });
}

// Room for the tables of columns: each channel's number so many times, or all of them in turn. `parted`: even columns,
// then odd ones (cpu::kInPairs).
template <class T>
struct Columns {
  static constexpr int64_t kStride = cpu::kBlockChannels + kLanes;
  alignas(64) T rows[6][kStride];
  int used = 0;

  template <class Table>
  Table spread(const Table& table, int64_t channel, int64_t count, int64_t times, bool parted) {
    return fill(table, count * times, parted,
                [=](const T* row, T* to) { cpu::spread(row + channel, count, times, to); });
  }
  template <class Table>
  Table repeat(const Table& table, int64_t channel, int64_t count, int64_t times, bool parted) {
    return fill(table, count * times, parted, [=](const T* row, T* to) {
      for (int64_t i = 0; i < times; ++i) std::copy(row + channel, row + channel + count, to + i * count);
    });
  }

 private:
  template <class Table, class Fill>
  Table fill(const Table& table, int64_t columns, bool parted, Fill&& with) {
    return table.each([&](const T* row) {
      T* const to = rows[used++];
      if (!parted) return with(row, to), to;
      T natural[kStride];
      with(row, natural);
      for (int64_t i = 0; i < columns; ++i) to[i / 2 + (i % 2 ? (columns + 1) / 2 : 0)] = natural[i];
      return to;
    });
  }
};

// f for an activation that there is: what is compiled for none would never run.
template <class F>
void with_some_activation(Activation activation, F&& f) {
  if (activation == Activation::relu) return f(std::integral_constant<Activation, Activation::relu>{});
  f(std::integral_constant<Activation, Activation::leaky_relu>{});
}
template <class F>
void with_activation(Activation activation, F&& f) {
  if (activation == Activation::none) return f(std::integral_constant<Activation, Activation::none>{});
  with_some_activation(activation, f);
}

// ---- what forward and backward share

template <class S>
struct Pass {
  using T = Compute<S>;
  const BatchNorm& call;
  const ChannelSizes sizes;
  double *gamma, *beta, *batch_mean, *batch_variance;  // per channel
  NormalizeTable<T> table;
  GradientTable<T> gradient_table;
  PassesTable<T> passes;
  const T slope;

  explicit Pass(const BatchNorm& c) : call(c), sizes(c.sizes), slope(static_cast<T>(c.slope)) {
    const int64_t channels = sizes.channels, padded = cpu::round_up(channels, kLanes);
    gamma = cpu::scratch<double>(Scratch::statistics, 4 * padded);
    beta = gamma + padded;
    batch_mean = beta + padded;
    batch_variance = batch_mean + padded;
    T* numbers = cpu::scratch<T>(Scratch::tile, 10 * padded);
    const auto row = [&](int64_t index) { return numbers + index * padded; };
    table = {row(0), row(1), row(2), row(3)};
    gradient_table = {row(4), row(5), row(6), row(7)};
    passes = {row(8), row(9)};
    read_vector(call.gamma, 1, gamma, channels);
    read_vector(call.beta, 0, beta, channels);
  }

  ChannelStatistics statistics(int64_t channel) const {
    const double* at = call.statistics + channel;
    return {at[0], at[sizes.channels], at[2 * sizes.channels]};
  }
  void set_statistics(int64_t channel, const ChannelStatistics& s) const {
    double* at = call.statistics + channel;
    at[0] = s.mean;
    at[sizes.channels] = s.mean_low;
    at[2 * sizes.channels] = s.inv_std;
  }
  // Of the forward step, from the statistics.
  void set_numbers(int64_t begin, int64_t end) const {
#pragma GCC ivdep
    for (int64_t channel = begin; channel < end; ++channel)
      table.set(channel, Normalize<T>::from(statistics(channel), gamma[channel], beta[channel]));
  }
  // Short rows are seen as columns, where there are rows enough to share the spread numbers. (The bits of a mask begin
  // anew with every channel.)
  bool as_columns(const Box& box) const {
    return cpu::short_rows(sizes) && !call.mask && (box.last_row - box.first_row) * kLanes >= sizes.inner;
  }
  // Few channels side by side in the level-2 cache: so many rows are seen as one, for vectors that are full.
  int64_t rows_as_one(const Box& box) const {
    const int64_t channels = sizes.channels;
    const bool whole = sizes.adjacent() && box.last_channel - box.first_channel == channels;
    if (!whole || channels > cpu::kShortRow || sizes.size() > cpu::kNearElements) return 1;
    int64_t rows = 1;
    while (2 * rows * channels <= cpu::kBlockChannels) rows *= 2;
    return box.first_row % rows == 0 && box.last_row - box.first_row >= 2 * rows ? rows : 1;
  }
  // f(view, part, locally) for the parts of a box: `view` is how the tensor is seen, `part` is in the view's channels,
  // and locally(table) has the numbers from the part's first channel on. `in_place`: f reads through the view alone, by
  // map_in_place where channels lie side by side.
  template <class F>
  void for_each_part(const Box& box, bool in_place, F&& f) const {
    const bool parted = in_place && cpu::kInPairs<S>;
    // Of so many columns, in rows of which so many are seen as one.
    const auto across = [&](Box part, int64_t rows) {
      const int64_t channel = part.first_channel, count = part.last_channel - channel;
      const ChannelSizes view{sizes.outer / rows, sizes.channels * rows, 1};
      part.first_row /= rows;
      part.last_row /= rows;
      part.last_channel = channel + count * rows;
      Columns<T> room;
      f(view, part, [&](const auto& numbers) { return room.repeat(numbers, channel, count, rows, parted); });
    };
    if (const int64_t rows = in_place ? rows_as_one(box) : 1; rows > 1) {
      Box whole = box, rest = box;
      whole.last_row = rest.first_row = box.last_row / rows * rows;
      across(whole, rows);
      if (rest.first_row < rest.last_row) across(rest, 1);
      return;
    }
    if (parted && sizes.adjacent()) {
      for (Box part = box; part.first_channel < box.last_channel; part.first_channel = part.last_channel) {
        part.last_channel = std::min(part.first_channel + cpu::kBlockChannels, box.last_channel);
        across(part, 1);
      }
      return;
    }
    if (!as_columns(box)) return f(sizes, box, [&](const auto& numbers) { return from(numbers, box.first_channel); });
    const int64_t inner = sizes.inner, most = cpu::kBlockChannels / inner;
    for (int64_t channel = box.first_channel; channel < box.last_channel; channel += most) {
      const int64_t count = box.last_channel - channel < most ? box.last_channel - channel : most;
      Columns<T> room;
      f(cpu::as_columns(sizes), Box{box.first_row, box.last_row, channel * inner, (channel + count) * inner, 0, 1},
        [&](const auto& numbers) { return room.spread(numbers, channel, count, inner, parted); });
    }
  }
  // `asking`: where the output of a channel's next row is worth asking for.
  template <class... In>
  Writing writing(const S* out, bool asking, const In*... in) const {
    const bool large = sizes.size() * static_cast<int64_t>(sizeof(S)) >= cpu::kStreamedBytes;
    if (large && cpu::kInPlace<S> && ((out != in) && ...)) return Writing::streamed;
    return asking ? Writing::asked : Writing::plain;
  }
  uint8_t* mask_row(const Region& tile, int64_t row) const {
    const int64_t index = tile.row + row;
    if (sizes.adjacent()) return call.mask + index * ((sizes.channels + 7) / 8) + tile.channel / 8;
    return call.mask + (index * sizes.channels + tile.channel) * ((sizes.inner + 7) / 8) + tile.column / 8;
  }
};

// ---- forward

template <class S>
struct Forward : Pass<S> {
  using typename Pass<S>::T;
  using Pass<S>::sizes;
  using Pass<S>::table;
  using Pass<S>::set_numbers;
  const BatchNormForward& forward;

  explicit Forward(const BatchNormForward& c) : Pass<S>(c), forward(c) {}

  const S* x() const { return forward.x.template as<const S>(); }
  double first_element(int64_t channel) const { return static_cast<double>(to_float(x()[channel * sizes.inner])); }
  TileReader<S> reader() const { return {sizes, x()}; }

  // Loops without branches, so that divisions and square roots run several at a time.
  void finish(int64_t begin, int64_t end, const double* shifts, const double* sum, const double* sum_of_squares) const {
    const double count = static_cast<double>(sizes.count()), eps = forward.eps;
    double *means = this->batch_mean + begin, *variances = this->batch_variance + begin;
    double *kept = forward.statistics + begin, *kept_low = kept + sizes.channels, *inv_std = kept_low + sizes.channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < end - begin; ++i) {
      const Moments m = moments(shifts[i], sum[i], sum_of_squares[i], count);
      means[i] = kept[i] = m.mean;
      kept_low[i] = m.mean_low;
      variances[i] = m.variance;
      inv_std[i] = inverse_deviation(m.variance, eps);
    }
    uint64_t bad = 0;
    for (int64_t i = 0; i < end - begin; ++i) bad |= nonfinite(means[i]) | nonfinite(variances[i]);
    for (int64_t channel = begin; bad && channel < end; ++channel)
      if (!is_finite(this->batch_mean[channel]) || !is_finite(this->batch_variance[channel])) finish_again(channel);
    set_numbers(begin, end);
  }

  // A channel whose sums are not finite: in float64 they may only have overflowed.
  void finish_again(int64_t channel) const {
    Moments m{this->batch_mean[channel], this->statistics(channel).mean_low, this->batch_variance[channel]};
    double inv_std = std::numeric_limits<double>::quiet_NaN();
    if constexpr (std::is_same_v<T, double>) {
      const Moments scaled = scaled_moments(channel);
      if (scaled.finite()) inv_std = inverse_deviation_scaled(scaled.variance, forward.eps);
      m = {scaled.mean * kOverflowUnscale, scaled.mean_low * kOverflowUnscale,
           scaled.variance * kOverflowUnscale * kOverflowUnscale};
    }
    this->batch_mean[channel] = m.mean;
    this->batch_variance[channel] = m.variance;
    this->set_statistics(channel, {m.mean, m.mean_low, inv_std});
  }

  Moments scaled_moments(int64_t channel) const {
    const double shift = first_element(channel) * kOverflowScale;
    double numbers[kLanes] = {shift}, sum[kLanes], sum_of_squares[kLanes];
    auto read = reader();
    cpu::sum_channels<ScaledDeviationTerms, T>(sizes, channel, channel + 1, numbers, read, sum, sum_of_squares);
    return moments(shift, sum[0], sum_of_squares[0], static_cast<double>(sizes.count()));
  }

  void map(const Box& box, bool backwards) const {
    with_activation(forward.activation, [&](auto activation) { map_as<activation()>(box, backwards); });
  }

  template <Activation activation>
  void map_as(const Box& box, bool backwards) const {
    const S* residual = forward.residual ? forward.residual.template as<const S>() : nullptr;
    S* const out = forward.out.template as<S>();
    const Writing writing = this->writing(out, backwards && cpu::ask_ahead(sizes, cpu::kLongRow), x(), residual);
    const bool asking = writing == Writing::asked;
    TileBuffer<S> x_buffer, residual_buffer;
    const bool in_place = cpu::kInPlace<S> && (cpu::kInPairs<S> || !asking) && !forward.mask;
    this->for_each_part(box, in_place, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const NormalizeTable<T> local = locally(table);
      if constexpr (cpu::kInPlace<S>) {
        if (in_place && cpu::maps_in_place<S>(view, part, writing)) {
          const ActivatedTable<activation, T> numbers{local, this->slope};
          if (!residual) return cpu::map_in_place(view, part, backwards, writing, out, numbers, x());
          return cpu::map_in_place(view, part, backwards, writing, out, numbers, x(), residual);
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        cpu::prefetch_tile(x(), view, next);
        if (residual) cpu::prefetch_tile(residual, view, next);
        const Tile<T> in = cpu::load_tile<T>(x(), view, tile, x_buffer.data);
        Tile<T> added{};
        if (residual) added = cpu::load_tile<T>(residual, view, tile, residual_buffer.data);
        const ActivatedTable<activation, T> numbers{from(local, tile.channel - part.first_channel), this->slope};
        const Ahead ahead = asking ? cpu::find_ahead(out, view, tile, next) : Ahead{};
        cpu::store_tile<T>(out, view, tile, [&](T* to, int64_t stride) {
          if (!residual) return cpu::map_tile(view, tile, to, stride, ahead, numbers, in);
          if (!forward.mask) return cpu::map_tile(view, tile, to, stride, ahead, numbers, in, added);
          const ActivatedTable<Activation::none, T> linear{numbers.table, this->slope};
          cpu::map_tile(view, tile, to, stride, ahead, linear, in, added);
          const T slope = this->slope;
          for (int64_t row = 0; row < tile.rows; ++row, to += stride) {
            cpu::pack_positive(this->mask_row(tile, row), to, tile.columns);
#pragma GCC ivdep
            for (int64_t i = 0; i < tile.columns; ++i) to[i] = activate<activation>(to[i], slope);
          }
        });
      });
    });
  }

  // From the running statistics; the first channel that is not finite, or -1.
  int64_t use_running_statistics() const {
    read_vector(forward.running_mean, 0, this->batch_mean, sizes.channels);
    read_vector(forward.running_var, 1, this->batch_variance, sizes.channels);
    const double *means = this->batch_mean, *variances = this->batch_variance, eps = forward.eps;
    double *kept = forward.statistics, *kept_low = kept + sizes.channels, *inv_std = kept_low + sizes.channels;
    uint64_t bad = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < sizes.channels; ++i) {
      kept[i] = means[i];
      kept_low[i] = 0;
      inv_std[i] = inverse_deviation(variances[i], eps);
      bad |= nonfinite(means[i]) | nonfinite(variances[i]) | nonfinite(inv_std[i]);
    }
    set_numbers(0, sizes.channels);
    for (int64_t i = 0; bad && i < sizes.channels; ++i)
      if (!is_finite(means[i]) || !is_finite(variances[i]) || !is_finite(inv_std[i])) return i;
    return -1;
  }

  int64_t first_nonfinite() const {
    for (int64_t channel = 0; channel < sizes.channels; ++channel)
      if (!is_finite(this->statistics(channel).inv_std) || !is_finite(this->batch_mean[channel])) return channel;
    return -1;
  }

  void update_running_statistics() const {
    const int64_t channels = sizes.channels;
    const double decay = forward.running_decay;
    const double correction = variance_correction(static_cast<double>(sizes.count()), forward.unbiased);
    double* old = cpu::scratch<double>(Scratch::partial_sums, channels);
    const auto update = [&](const Array& buffer, const double* batch, double factor) {
      read_vector(buffer, 0, old, channels);
      for (int64_t i = 0; i < channels; ++i) old[i] = running_value(old[i], decay, batch[i] * factor);
      write_vector(buffer, old);
    };
    update(forward.running_mean, this->batch_mean, 1);
    update(forward.running_var, this->batch_variance, correction);
  }

  int64_t run() const {
    const auto apply = [&](const Box& box, bool backwards) { map(box, backwards); };
    const bool strict = forward.nonfinite == Nonfinite::raise || forward.nonfinite == Nonfinite::zero;
    if (!forward.training) {
      const int64_t bad = use_running_statistics();
      if (bad >= 0 && forward.nonfinite == Nonfinite::raise) return bad;
      cpu::map_channels(sizes, apply);
      return bad;
    }
    int64_t bad = -1;
    cpu::reduce_and_map<DeviationTerms, T, TileReader<S>>(
        sizes, sizeof(S), !strict || forward.fresh,
        [&](int64_t begin, int64_t end, double* numbers) { cpu::find_shifts(sizes, x(), begin, end, numbers); },
        [&] { return reader(); },
        [&](int64_t begin, int64_t end, const double* numbers, const double* first, const double* second) {
          finish(begin, end, numbers, first, second);
        },
        [&] { return first_nonfinite() < 0; }, apply);
    bad = first_nonfinite();
    if (forward.running_mean && (bad < 0 || forward.nonfinite == Nonfinite::propagate)) update_running_statistics();
    return bad;
  }
};

// ---- backward

// Tiles of g = dout act'(z) and of x.
template <class S>
struct GradientReader {
  using T = Compute<S>;
  using Stored = S;
  const Pass<S>& pass;
  const bool columns, ahead;
  const ChannelSizes view;
  const S* x;
  const S* dout;
  PassesTable<T> passes;  // from the view's channel `first` on
  int64_t first = 0;
  Columns<T> room;
  TileBuffer<S> x_buffer, dout_buffer;
  alignas(64) T g_buffer[cpu::kTileElements];

  GradientReader(const Pass<S>& p, bool as_columns, const S* from_x, const S* from_dout)
      : pass(p),
        columns(as_columns),
        ahead(cpu::ask_ahead(p.sizes, cpu::kLongRowOfPair)),
        view(as_columns ? cpu::as_columns(p.sizes) : p.sizes),
        x(from_x),
        dout(from_dout),
        passes(p.passes) {}

  bool in_place(const S* (&rows)[2]) const {
    rows[0] = dout;
    rows[1] = x;
    return cpu::kInPlace<S> && (pass.call.activation == Activation::none || (!columns && !pass.call.mask));
  }
  template <class Sum>
  void through_gate(Sum&& sum) const {
    with_activation(pass.call.activation, [&](auto activation) {
      if constexpr (activation() == Activation::none)
        sum(cpu::OpenGate{});
      else
        sum(cpu::Gate<activation(), T>{pass.passes.bound, pass.passes.sign, pass.slope});
    });
  }
  void prepare(int64_t channel, int64_t count) {
    if (pass.call.activation == Activation::none) return;
    room.used = 0;
    passes = room.spread(pass.passes, channel, count, pass.sizes.inner, false);
    first = channel * pass.sizes.inner;
  }
  void operator()(const Region& tile, const Region& next, Tile<T> (&tiles)[2]) {
    if (!ahead) {
      cpu::prefetch_tile(dout, view, next);
      cpu::prefetch_tile(x, view, next);
    }
    tiles[0] = cpu::load_tile<T>(dout, view, tile, dout_buffer.data);
    tiles[1] = cpu::load_tile<T>(x, view, tile, x_buffer.data);
    if (pass.call.activation != Activation::none)
      with_some_activation(pass.call.activation,
                           [&](auto activation) { through_activation<activation()>(tile, tiles); });
    if (!ahead) return;
    tiles[0].ahead = cpu::find_ahead(dout, view, tile, next);
    tiles[1].ahead = cpu::find_ahead(x, view, tile, next);
  }

 private:
  template <Activation activation>
  void through_activation(const Region& tile, Tile<T> (&tiles)[2]) {
    const int64_t stride = cpu::buffer_stride(tile);
    if (pass.call.mask) {
      for (int64_t row = 0; row < tile.rows; ++row)
        cpu::select_by_bits<activation>(g_buffer + row * stride, tiles[0].row(row), pass.mask_row(tile, row),
                                        pass.slope, tile.columns);
    } else {
      const MaskedTable<activation, T> numbers{from(passes, tile.channel - first), pass.slope};
      cpu::map_tile(view, tile, g_buffer, stride, Ahead{}, numbers, tiles[0], tiles[1]);
    }
    tiles[0] = {g_buffer, stride, g_buffer + cpu::kTileElements, {}};
  }
};

template <class S>
struct Backward : Pass<S> {
  using typename Pass<S>::T;
  using Pass<S>::sizes;
  using Pass<S>::table;
  const BatchNormBackward& backward;

  explicit Backward(const BatchNormBackward& c) : Pass<S>(c), backward(c) {
    if (backward.activation == Activation::none || backward.mask) return;
    this->set_numbers(0, sizes.channels);
    cpu::find_bounds(table, sizes.channels, this->passes.bound, this->passes.sign);
  }

  GradientReader<S> reader(bool as_columns) const {
    return GradientReader<S>(*this, as_columns, backward.x.template as<const S>(),
                             backward.dout.template as<const S>());
  }

  // The room of the batch's mean and variance.
  double* dbeta() const { return this->batch_mean; }
  double* dgamma() const { return this->batch_variance; }

  void finish(int64_t begin, int64_t end, const double* sum, const double* sum_of_products) const {
    const double count = static_cast<double>(sizes.count());
    double *dbeta_sums = dbeta(), *dgamma_sums = dgamma();
#pragma GCC ivdep
    for (int64_t channel = begin; channel < end; ++channel) {
      const ChannelStatistics s = this->statistics(channel);
      const double total = sum[channel - begin];
      const double slope = gamma_gradient<T>(s, total, sum_of_products[channel - begin]);
      dbeta_sums[channel] = total;
      dgamma_sums[channel] = slope;
      this->gradient_table.set(channel, InputGradient<T>::from(s, this->gamma[channel], slope, total, count));
    }
  }

  void map(const Box& box, bool backwards) const {
    if (backward.activation != Activation::none && !backward.mask)
      return with_some_activation(backward.activation,
                                  [&](auto activation) { map_masked<activation()>(box, backwards); });
    GradientReader<S> read = reader(this->as_columns(box));
    S* const dx = backward.dx.template as<S>();
    const Writing writing = this->writing(dx, backwards && read.ahead, read.dout, read.x);
    const bool asking = writing == Writing::asked;
    Tile<T> tiles[2];
    const bool in_place = cpu::kInPlace<S> && !backward.mask && !backward.dresidual;
    this->for_each_part(box, in_place, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const GradientTable<T> local = locally(this->gradient_table);
      if constexpr (cpu::kInPlace<S>) {
        if (in_place && cpu::maps_in_place<S>(view, part, writing)) {
          if (backward.training) return cpu::map_in_place(view, part, backwards, writing, dx, local, read.dout, read.x);
          return cpu::map_in_place(view, part, backwards, writing, dx, GainTable<T>{local.gain}, read.dout);
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        read(tile, next, tiles);
        if (backward.dresidual)
          cpu::store_tile<T>(backward.dresidual.template as<S>(), view, tile, [&](T* to, int64_t stride) {
            for (int64_t row = 0; row < tile.rows; ++row)
              std::memcpy(to + row * stride, tiles[0].row(row), static_cast<size_t>(tile.columns) * sizeof(T));
          });
        const GradientTable<T> numbers = from(local, tile.channel - part.first_channel);
        const GainTable<T> constant{numbers.gain};
        const Ahead ahead = asking ? cpu::find_ahead(dx, view, tile, next) : Ahead{};
        cpu::store_tile<T>(dx, view, tile, [&](T* to, int64_t stride) {
          if (backward.training) return cpu::map_tile(view, tile, to, stride, ahead, numbers, tiles[0], tiles[1]);
          cpu::map_tile(view, tile, to, stride, ahead, constant, tiles[0]);
        });
      });
    });
  }

  template <Activation activation>
  void map_masked(const Box& box, bool backwards) const {
    const S *x = backward.x.template as<const S>(), *dout = backward.dout.template as<const S>();
    S* const dx = backward.dx.template as<S>();
    const Writing writing = this->writing(dx, backwards && cpu::ask_ahead(sizes, cpu::kLongRowOfPair), dout, x);
    const bool asking = writing == Writing::asked;
    TileBuffer<S> x_buffer, dout_buffer;
    this->for_each_part(box, cpu::kInPlace<S>, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const PassesTable<T> passes = locally(this->passes);
      const GradientTable<T> local = locally(this->gradient_table);
      if constexpr (cpu::kInPlace<S>) {
        if (cpu::maps_in_place<S>(view, part, writing)) {
          const auto map = [&](const auto& gradients) {
            using Gradients = std::decay_t<decltype(gradients)>;
            const MaskedGradientTable<activation, Gradients, T> all{{passes, this->slope}, gradients};
            cpu::map_in_place(view, part, backwards, writing, dx, all, dout, x);
          };
          return backward.training ? map(local) : map(GainTable<T>{local.gain});
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        cpu::prefetch_tile(dout, view, next);
        cpu::prefetch_tile(x, view, next);
        const Tile<T> douts = cpu::load_tile<T>(dout, view, tile, dout_buffer.data);
        const Tile<T> xs = cpu::load_tile<T>(x, view, tile, x_buffer.data);
        const int64_t place = tile.channel - part.first_channel;
        const MaskedTable<activation, T> masked{from(passes, place), this->slope};
        const GradientTable<T> numbers = from(local, place);
        const GainTable<T> constant{numbers.gain};
        const Ahead ahead = asking ? cpu::find_ahead(dx, view, tile, next) : Ahead{};
        cpu::store_tile<T>(dx, view, tile, [&](T* to, int64_t stride) {
          const auto map = [&](const auto& gradients) {
            using Gradients = std::decay_t<decltype(gradients)>;
            const MaskedGradientTable<activation, Gradients, T> all{masked, gradients};
            cpu::map_tile(view, tile, to, stride, ahead, all, douts, xs);
          };
          backward.training ? map(numbers) : map(constant);
        });
      });
    });
  }

  void run() const {
    if (sizes.size() > 0) {
      cpu::reduce_and_map<GradientTerms, T, GradientReader<S>>(
          sizes, 2 * sizeof(S), backward.dx.data != backward.dout.data,
          [&](int64_t begin, int64_t end, double* numbers) {
            for (int64_t channel = begin; channel < end; ++channel)
              numbers[channel - begin] = gradient_shift<T>(this->statistics(channel));
          },
          [&] { return reader(cpu::columns_are_lanes(sizes) && !backward.mask); },
          [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
            finish(begin, end, first, second);
          },
          [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
    } else {
      std::fill(dbeta(), dbeta() + sizes.channels, 0.0);
      std::fill(dgamma(), dgamma() + sizes.channels, 0.0);
    }
    write_vector(backward.dbeta, dbeta());
    write_vector(backward.dgamma, dgamma());
  }
};

}  // namespace

int64_t batch_norm_forward(const BatchNormForward& call) {
  return visit_dtype(call.x.dtype, [&](auto zero) -> int64_t {
    const Forward<decltype(zero)> forward(call);
    if (call.sizes.size() > 0) return forward.run();
    if (!call.training) return forward.use_running_statistics();
    const double inv_std = inverse_deviation(0, call.eps);  // of nothing: mean and variance 0
    for (int64_t channel = 0; channel < call.sizes.channels; ++channel)
      forward.set_statistics(channel, {0, 0, inv_std});
    return -1;
  });
}

void batch_norm_backward(const BatchNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
