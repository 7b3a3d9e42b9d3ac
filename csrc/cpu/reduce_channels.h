// Two sums a channel over all its elements, in the order of ops/reduction_order.h.
#pragma once

#include <cstdint>

#include "cpu/channel_tiles.h"
#include "cpu/lanes.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {
namespace detail {

// The next row of a channel lies a whole row of channels away: the hardware finds it late without help.
template <class T>
inline void prefetch_row(const T* row, int64_t columns) {
  constexpr int64_t kLine = 64, kMost = 2048;
  const char* at = reinterpret_cast<const char*>(row);
  const int64_t bytes =
      columns * static_cast<int64_t>(sizeof(T)) < kMost ? columns * static_cast<int64_t>(sizeof(T)) : kMost;
  for (int64_t byte = 0; byte < bytes; byte += kLine) __builtin_prefetch(at + byte);
}

template <class T>
inline Lanes load_lanes(const T* from, const T* end, int64_t count) {
  return from + kLanes <= end ? Lanes::load(from) : Lanes::load_first(from, count);
}

// Lanes along the row: one channel.
template <class Op, class T>
inline void add_along(Terms<Lanes>& sums, const Tile<T> (&in)[Op::kInputs], int64_t rows, int64_t columns,
                      const Lanes& parameter) {
  Terms<Lanes> total = sums;
  const int64_t whole = columns / kLanes * kLanes, rest = columns - whole;
  for (int64_t row = 0; row < rows; ++row) {
    const T* from[Op::kInputs];
    for (int i = 0; i < Op::kInputs; ++i) {
      from[i] = in[i].row(row);
      if (row + 1 < rows) prefetch_row(in[i].row(row + 1), columns);
    }
    Lanes values[Op::kInputs];
    for (int64_t column = 0; column < whole; column += kLanes) {
      for (int i = 0; i < Op::kInputs; ++i) values[i] = Lanes::load(from[i] + column);
      const Terms<Lanes> terms = Op::of(values, parameter);
      total.first += terms.first;
      total.second += terms.second;
    }
    if (rest > 0) {
      for (int i = 0; i < Op::kInputs; ++i) values[i] = load_lanes(from[i] + whole, in[i].end, rest);
      const Terms<Lanes> terms = Op::of(values, parameter);
      total.first += terms.first.keep_first(rest);
      total.second += terms.second.keep_first(rest);
    }
  }
  sums = total;
}

// A lane a channel: sixteen columns at a time go down the rows. `first`, `second` and `parameters` are padded to whole
// lanes; what the padding sums up is never looked at.
template <class Op, class T>
inline void add_across(double* first, double* second, const Tile<T> (&in)[Op::kInputs], int64_t rows, int64_t columns,
                       const double* parameters) {
  for (int64_t column = 0; column < columns; column += kLanes) {
    const int64_t count = columns - column < kLanes ? columns - column : kLanes;
    Terms<Lanes> total{Lanes::load(first + column), Lanes::load(second + column)};
    const Lanes parameter = Lanes::load(parameters + column);
    for (int64_t row = 0; row < rows; ++row) {
      Lanes values[Op::kInputs];
      for (int i = 0; i < Op::kInputs; ++i) values[i] = load_lanes(in[i].row(row) + column, in[i].end, count);
      const Terms<Lanes> terms = Op::of(values, parameter);
      total.first += terms.first;
      total.second += terms.second;
    }
    total.first.store(first + column);
    total.second.store(second + column);
  }
}

}  // namespace detail

// Both sums of chunk `chunk` for channels [begin, end). `parameters`, `first` and `second` start at channel `begin` and
// are padded to whole lanes. read(tile, tiles) fills in where the inputs of a tile are.
template <class Op, class T, class Read>
inline void sum_chunk(const ChannelSizes& sizes, int64_t chunk, int64_t begin, int64_t end, const double* parameters,
                      Read&& read, double* first, double* second) {
  const ChannelChunks chunks(sizes);
  const int64_t row = chunk / chunks.pieces * chunks.rows;
  const int64_t rows = sizes.outer - row < chunks.rows ? sizes.outer - row : chunks.rows;
  Tile<T> tiles[Op::kInputs];
  if (sizes.adjacent()) {
    for (int64_t i = 0; i < round_up(end - begin, kLanes); ++i) first[i] = second[i] = 0;
    for_each_tile(sizes, Region{row, rows, begin, 0, end - begin}, [&](const Region& tile) {
      read(tile, tiles);
      const int64_t at = tile.channel - begin;
      detail::add_across<Op, T>(first + at, second + at, tiles, tile.rows, tile.columns, parameters + at);
    });
    return;
  }
  const int64_t column = chunk % chunks.pieces * chunks.per_piece;
  const int64_t columns = sizes.inner - column < chunks.per_piece ? sizes.inner - column : chunks.per_piece;
  for (int64_t channel = begin; channel < end; ++channel) {
    const Lanes parameter = Lanes::broadcast(parameters[channel - begin]);
    Terms<Lanes> sums{Lanes::zero(), Lanes::zero()};
    for_each_tile(sizes, Region{row, rows, channel, column, columns}, [&](const Region& tile) {
      read(tile, tiles);
      detail::add_along<Op, T>(sums, tiles, tile.rows, tile.columns, parameter);
    });
    first[channel - begin] = sums.first.fold();
    second[channel - begin] = sums.second.fold();
  }
}

// Both sums over all chunks.
template <class Op, class T, class Read>
inline void sum_channels(const ChannelSizes& sizes, int64_t begin, int64_t end, const double* parameters, Read&& read,
                         double* first, double* second) {
  alignas(64) double chunk_first[kBlockChannels], chunk_second[kBlockChannels];
  const int64_t chunks = ChannelChunks(sizes).count;
  for (int64_t i = 0; i < end - begin; ++i) first[i] = second[i] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    sum_chunk<Op, T>(sizes, chunk, begin, end, parameters, read, chunk_first, chunk_second);
    for (int64_t i = 0; i < end - begin; ++i) {
      first[i] += chunk_first[i];
      second[i] += chunk_second[i];
    }
  }
}

}  // namespace kitae::cpu
