#include "drivers/weight_normalization.h"

#include <algorithm>
#include <type_traits>

#include "cpu/channel_norms.h"
#include "cpu/channel_plan.h"
#include "drivers/vectors.h"
#include "ops/weight_norm.h"

namespace kitae {
namespace {

using cpu::Box;
using cpu::Region;
using cpu::Scratch;
using cpu::Tile;
using cpu::TileBuffer;
using cpu::TileReader;

template <class T>
struct ScaleTable {
  const double *inverse, *g;
  ScaleDirection<T> operator()(int64_t channel) const { return {inverse[channel], g[channel]}; }
};

template <class T>
struct GradientTable {
  const double *inverse, *dg, *gain;
  DirectionGradient<T> operator()(int64_t channel) const { return {inverse[channel], dg[channel], gain[channel]}; }
};

// Numbers of every channel.
struct Numbers {
  double *g, *inverse, *dg, *gain;

  explicit Numbers(const WeightNorm& call) {
    const int64_t channels = call.sizes.channels, padded = cpu::round_up(channels, kLanes);
    g = cpu::scratch<double>(Scratch::statistics, 4 * padded);
    inverse = g + padded;
    dg = inverse + padded;
    gain = dg + padded;
    read_vector(call.g, 1, g, channels);
  }
};

template <class S>
struct Forward {
  using T = Compute<S>;
  const WeightNormForward& call;
  const ChannelSizes sizes;
  const Numbers numbers;

  explicit Forward(const WeightNormForward& c) : call(c), sizes(c.sizes), numbers(c) {}

  void finish(int64_t begin, int64_t end, const double* sums_of_squares) const {
    for (int64_t channel = begin; channel < end; ++channel) {
      call.norms[channel] =
          cpu::channel_norm(sizes, call.v.as<const S>(), channel, sums_of_squares[channel - begin]).norm();
      numbers.inverse[channel] = inverse_norm(call.norms[channel]);
    }
  }
  void map(const Box& box, bool backwards) const {
    cpu::map_channel_tiles<S>(sizes, box, backwards, call.v.as<const S>(), call.out.as<S>(), [&](int64_t channel) {
      return ScaleTable<T>{numbers.inverse + channel, numbers.g + channel};
    });
  }
  void run() const {
    if (sizes.size() == 0) return std::fill(call.norms, call.norms + sizes.channels, 0.0);
    cpu::reduce_and_map<SquareTerms, T, TileReader<S>>(
        sizes, sizeof(S), true,
        [](int64_t begin, int64_t end, double* scales) { std::fill(scales, scales + (end - begin), 1.0); },
        [&] { return TileReader<S>(sizes, call.v.as<const S>()); },
        [&](int64_t begin, int64_t end, const double*, const double* squares, const double*) {
          finish(begin, end, squares);
        },
        [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
  }
};

// Tiles of dw and of v.
template <class S>
struct PairReader {
  using T = Compute<S>;
  using Stored = S;
  const bool columns, ahead;
  const ChannelSizes view;
  const S *dw, *v;
  TileBuffer<S> dw_buffer, v_buffer;

  PairReader(const ChannelSizes& sizes, const S* from_dw, const S* from_v)
      : columns(cpu::columns_are_lanes(sizes)),
        ahead(cpu::ask_ahead(sizes, cpu::kLongRowOfPair)),
        view(columns ? cpu::as_columns(sizes) : sizes),
        dw(from_dw),
        v(from_v) {}

  bool in_place(const S* (&rows)[2]) const {
    rows[0] = dw;
    rows[1] = v;
    return cpu::kInPlace<S>;
  }
  template <class Sum>
  void through_gate(Sum&& sum) const {
    sum(cpu::OpenGate{});
  }
  void prepare(int64_t /*channel*/, int64_t /*count*/) {}
  void operator()(const Region& tile, const Region& next, Tile<T> (&tiles)[2]) {
    if (!ahead) {
      cpu::prefetch_tile(dw, view, next);
      cpu::prefetch_tile(v, view, next);
    }
    tiles[0] = cpu::load_tile<T>(dw, view, tile, dw_buffer.data);
    tiles[1] = cpu::load_tile<T>(v, view, tile, v_buffer.data);
    if (!ahead) return;
    tiles[0].ahead = cpu::find_ahead(dw, view, tile, next);
    tiles[1].ahead = cpu::find_ahead(v, view, tile, next);
  }
};

template <class S>
struct Backward {
  using T = Compute<S>;
  const WeightNormBackward& call;
  const ChannelSizes sizes;
  const Numbers numbers;

  explicit Backward(const WeightNormBackward& c) : call(c), sizes(c.sizes), numbers(c) {
    for (int64_t channel = 0; channel < sizes.channels; ++channel) {
      numbers.inverse[channel] = inverse_norm(call.norms[channel]);
      numbers.gain[channel] = numbers.g[channel] * numbers.inverse[channel];
    }
  }

  void map(const Box& box, bool backwards) const {
    TileBuffer<S> dw_buffer, v_buffer;
    const S *dw = call.dw.as<const S>(), *v = call.v.as<const S>();
    cpu::for_each_channel_tile(sizes, box, backwards, [&](const Region& tile, const Region& next) {
      cpu::prefetch_tile(dw, sizes, next);
      cpu::prefetch_tile(v, sizes, next);
      const Tile<T> dws = cpu::load_tile<T>(dw, sizes, tile, dw_buffer.data);
      const Tile<T> vs = cpu::load_tile<T>(v, sizes, tile, v_buffer.data);
      const int64_t at = tile.channel;
      const GradientTable<T> table{numbers.inverse + at, numbers.dg + at, numbers.gain + at};
      cpu::store_tile<T>(call.dv.as<S>(), sizes, tile, [&](T* to, int64_t stride) {
        cpu::map_tile(sizes, tile, to, stride, cpu::Ahead{}, table, dws, vs);
      });
    });
  }
  void run() const {
    if (sizes.size() == 0)
      std::fill(numbers.dg, numbers.dg + sizes.channels, 0.0);
    else
      cpu::reduce_and_map<DirectionTerms, T, PairReader<S>>(
          sizes, 2 * sizeof(S), call.dv.data != call.dw.data,
          [&](int64_t begin, int64_t end, double* inverses) {
            std::copy(numbers.inverse + begin, numbers.inverse + end, inverses);
          },
          [&] { return PairReader<S>(sizes, call.dw.as<const S>(), call.v.as<const S>()); },
          [&](int64_t begin, int64_t end, const double*, const double* sums, const double*) {
            std::copy(sums, sums + (end - begin), numbers.dg + begin);
          },
          [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
    write_vector(call.dg, numbers.dg);
  }
};

}  // namespace

void weight_norm_forward(const WeightNormForward& call) {
  visit_dtype(call.v.dtype, [&](auto zero) { Forward<decltype(zero)>(call).run(); });
}

void weight_norm_backward(const WeightNormBackward& call) {
  visit_dtype(call.v.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
