// Euclidean norms of channels (ops/weight_norm.h), and their elements times a number of their channel's.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/for_each_channel.h"
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
