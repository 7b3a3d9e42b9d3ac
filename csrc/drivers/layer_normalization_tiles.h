// Tiles for layer normalization's sums in backward where rows are longer than a chunk, or few.
#pragma once

#include <cstdint>

#include "cpu/reduce_channels.h"
#include "drivers/layer_normalization_rows.h"

namespace kitae::layer_normalization {

using cpu::Region;
using cpu::Tile;
using cpu::TileBuffer;

// Tiles of g = dout gamma and of xhat, a row being a channel.
template <class S>
struct RowReader {
  using T = Compute<S>;
  static constexpr bool columns = false, ahead = false;
  const LayerNormBackward& call;
  const ChannelSizes sizes;
  const T* gamma;
  TileBuffer<S> dout_buffer, x_buffer;
  alignas(64) T g_buffer[cpu::kTileElements], xhat_buffer[cpu::kTileElements];

  RowReader(const LayerNormBackward& c, const ChannelSizes& of, const T* of_columns)
      : call(c), sizes(of), gamma(of_columns) {}

  void prepare(int64_t /*channel*/, int64_t /*count*/) {}
  void operator()(const Region& tile, const Region& /*next*/, Tile<T> (&tiles)[2]) {
    const Tile<T> douts = cpu::load_tile<T>(call.dout.as<const S>(), sizes, tile, dout_buffer.data);
    const Tile<T> xs = cpu::load_tile<T>(call.x.as<const S>(), sizes, tile, x_buffer.data);
    const auto step = NormalizeRow<T>::from(statistics_of(call, tile.channel));
    const T *of_dout = douts.data, *of_x = xs.data, *gains = gamma + tile.column;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.columns; ++i) {
      g_buffer[i] = RowGradient<T>::through(of_dout[i], gains[i]);
      xhat_buffer[i] = step.xhat(of_x[i]);
    }
    tiles[0] = {g_buffer, cpu::buffer_stride(tile), g_buffer + cpu::kTileElements};
    tiles[1] = {xhat_buffer, cpu::buffer_stride(tile), xhat_buffer + cpu::kTileElements};
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

}  // namespace kitae::layer_normalization
