// Euclidean norms of channels (ops/weight_norm.h), and their elements times a number of their channel's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/for_each_channel.h"
#include "cpu/reduce_all.h"
#include "cpu/reduce_channels.h"
#include "ops/weight_norm.h"

namespace kitae::cpu {

// The norm of a channel whose sum of squares is known.
template <class S>
ScaledNorm channel_norm(const ChannelSizes& sizes, const S* data, int64_t channel, double sum_of_squares) {
  if (!std::is_same_v<S, double> || !needs_scaling(sum_of_squares)) return {square_root(sum_of_squares), 1};
  const double scale = rescue_scale(sum_of_squares);
  double scales[kLanes] = {scale}, squares[kLanes], unused[kLanes];
  TileReader<S> read(sizes, data);
  sum_channels<SquareTerms, Compute<S>>(sizes, channel, channel + 1, scales, read, squares, unused);
  return {square_root(squares[0]), scale};
}

namespace detail {

// Adds the squares of `rows` rows of kGroups times sixteen columns, of which the last sixteen may be `count`.
template <int kGroups>
inline void add_squares_of_columns(const float* from, int64_t stride, int64_t rows, int64_t count, double* squares) {
  Lanes sums[kGroups];
#pragma GCC unroll 8
  for (Lanes& sum : sums) sum = Lanes::zero();
  for (int64_t row = 0; row < rows; ++row, from += stride) {
#pragma GCC unroll 8
    for (int i = 0; i < kGroups; ++i)
      sums[i].add_squares_of_floats(count < kLanes ? Lanes::load_first(from, count) : Lanes::load(from + i * kLanes));
  }
#pragma GCC unroll 8
  for (int i = 0; i < kGroups; ++i) (Lanes::load(squares + i * kLanes) + sums[i]).store(squares + i * kLanes);
}

}  // namespace detail

// Whether channels are the columns or the rows of a matrix.
inline bool rows_or_columns(const ChannelSizes& sizes) { return sizes.adjacent() || sizes.outer == 1; }

// The sums of squares of such channels, in the order of ops/reduction_order.h, as SquareTerms makes them but in half
// the time: there is no second sum. `squares` is padded to whole lanes.
inline void sum_squares(const ChannelSizes& sizes, const float* data, double* squares) {
  const int64_t width = sizes.channels;
  std::fill(squares, squares + round_up(width, kLanes), 0.0);
  if (!sizes.adjacent()) {
    for (int64_t channel = 0; channel < width; ++channel) {
      const float* from = data + channel * sizes.inner;
      for (int64_t begin = 0; begin < sizes.inner; begin += kChunk) {
        SumOfSquares sum;
        sum.add(from + begin, std::min(kChunk, sizes.inner - begin));
        squares[channel] += sum.fold();
      }
    }
    return;
  }
  constexpr int kGroups = kVectorBytes == 64 ? 4 : 1;  // times sixteen sums in registers
  for (int64_t row = 0; row < sizes.outer; row += kRowsOfChunk) {
    const float* from = data + row * width;
    const int64_t rows = std::min(kRowsOfChunk, sizes.outer - row);
    int64_t column = 0;
    for (; column + kGroups * kLanes <= width; column += kGroups * kLanes)
      detail::add_squares_of_columns<kGroups>(from + column, width, rows, kLanes, squares + column);
    for (; column < width; column += kLanes)
      detail::add_squares_of_columns<1>(from + column, width, rows, std::min<int64_t>(kLanes, width - column),
                                        squares + column);
  }
}

// to[i] = f(from[i]) over a box, f = table(first channel of a tile)(channel - that one). `to` may be `from`.
template <class S, class Table>
void map_channel_tiles(const ChannelSizes& sizes, const Box& box, bool backwards, const S* from, S* to,
                       const Table& table) {
  using T = Compute<S>;
  TileBuffer<S> buffer;
  for_each_channel_tile(sizes, box, backwards, [&](const Region& tile, const Region& next) {
    prefetch_tile(from, sizes, next);
    const Tile<T> in = load_tile<T>(from, sizes, tile, buffer.data);
    const auto of_tile = table(tile.channel);
    store_tile<T>(to, sizes, tile,
                  [&](T* out, int64_t stride) { map_tile(sizes, tile, out, stride, Ahead{}, of_tile, in); });
  });
}

}  // namespace kitae::cpu
