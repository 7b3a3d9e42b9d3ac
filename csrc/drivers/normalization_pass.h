// What forward and backward of batch normalization share: the numbers of the element-wise steps, and how a tensor's
// parts are seen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/activation_bounds.h"
#include "cpu/channel_plan.h"
#include "drivers/normalization.h"
#include "drivers/vectors.h"

namespace kitae::normalization {

using cpu::Box;
using cpu::Region;
using cpu::Scratch;
using cpu::Writing;

// The numbers of the element-wise steps: one table entry a channel.
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

}  // namespace kitae::normalization
