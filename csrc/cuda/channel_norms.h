// Euclidean norms of channels (ops/weight_norm.h), and element-wise steps whose numbers belong to the channel.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/convert.h"
#include "cuda/for_each_row.h"
#include "cuda/reduce_channels.h"
#include "ops/weight_norm.h"

namespace kitae::cuda {

template <class S>
struct SquareSource {
  using Op = SquareTerms;
  struct Raw {
    S v;
  };
  struct Channel {
    double parameter;
  };
  const S* v;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t) const { return {1}; }
  KITAE_DEVICE Raw load(const Place& place) const { return {v[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const {
    inputs[0] = static_cast<double>(widen(raw.v));
  }
};

// Channels of float64 whose squares overflow or come near underflow.
struct RescueSource {
  using Op = SquareTerms;
  using Raw = SquareSource<double>::Raw;
  using Channel = SquareSource<double>::Channel;
  const double *v, *squares;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t channel) const { return needs_scaling(squares[channel]); }
  KITAE_DEVICE Channel channel(int64_t index) const { return {rescue_scale(squares[index])}; }
  KITAE_DEVICE Raw load(const Place& place) const { return {v[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const { inputs[0] = raw.v; }
};

// kWide: of float64, where a channel may ask for the second, scaled pass (kRescue).
template <class Use, bool kWide, bool kRescue>
struct FinishNorm {
  Use use;
  double* squares;

  KITAE_DEVICE bool wanted(int64_t channel) const { return !kRescue || needs_scaling(squares[channel]); }
  KITAE_DEVICE void operator()(int64_t channel, const Sums& sums) const {
    const double root = square_root(sums.first);
    if constexpr (kRescue) {
      use(channel, ScaledNorm{root, rescue_scale(squares[channel])});
    } else if constexpr (kWide) {
      squares[channel] = sums.first;
      if (!needs_scaling(sums.first)) use(channel, ScaledNorm{root, 1});
    } else {
      use(channel, ScaledNorm{root, 1});
    }
  }
};

// use(channel, its norm), by one thread and once. `squares`: a double a channel, of float64; `partial`: partial_count.
template <class S, class Use>
void measure_channels(const ChannelSizes& sizes, const S* v, const Use& use, double* squares, double* partial,
                      cudaStream_t stream) {
  constexpr bool kWide = std::is_same_v<S, double>;
  reduce_channels(sizes, SquareSource<S>{v}, FinishNorm<Use, kWide, false>{use, squares}, partial, stream);
  if constexpr (kWide)
    reduce_channels(sizes, RescueSource{v, squares}, FinishNorm<Use, true, true>{use, squares}, partial, stream);
}

// The numbers of an element's channel, by row or by column: Numbers at(channel).
template <class Step, bool kAdjacent>
struct OfChannel {
  struct Nothing {};
  Step step;
  int64_t channels;

  KITAE_DEVICE bool begin() const { return step.begin(); }
  KITAE_DEVICE auto numbers(int64_t row) const {
    if constexpr (kAdjacent)
      return Nothing{};
    else
      return step.at(row % channels);
  }
  template <class Numbers>
  KITAE_DEVICE void apply(const Numbers& numbers, int64_t index, int64_t column) const {
    if constexpr (kAdjacent)
      step.apply(step.at(column), index);
    else
      step.apply(numbers, index);
  }
};

// A step has begin() as those of for_each_row.h, Numbers at(channel) and apply(numbers, index).
template <class Step>
void map_channels(const ChannelSizes& sizes, const Step& step, cudaStream_t stream) {
  const ChannelRows rows(sizes);
  if (sizes.adjacent())
    for_each_row(rows.rows, rows.width, OfChannel<Step, true>{step, sizes.channels}, stream);
  else
    for_each_row(rows.rows, rows.width, OfChannel<Step, false>{step, sizes.channels}, stream);
}

}  // namespace kitae::cuda
