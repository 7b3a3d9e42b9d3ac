// Pieces of a tensor (outer, channels, inner) that fit the level-1 cache, in the type arithmetic is done in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/convert.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {

constexpr int64_t kTileElements = 2048;  // of a buffer: 8 KB of float
// inner == 1: columns of a tile. Memory is best read in its order, whole rows; sums keep columns in registers for a
// few.
constexpr int64_t kColumnsOfMap = 2048;
constexpr int64_t kColumnsOfSum = 512;
constexpr int64_t kBlockChannels = 512;  // the most channels (or columns) that a unit of work keeps statistics of

// Channels of a few elements side by side are seen as that many columns: the tensor as (outer, channels * inner, 1).
// Vectors then are as full as with long rows. For sums a column has to be a lane of its channel.
constexpr int64_t kShortRow = 64;
constexpr bool short_rows(const ChannelSizes& sizes) { return sizes.inner > 1 && sizes.inner <= kShortRow; }
constexpr bool columns_are_lanes(const ChannelSizes& sizes) { return sizes.inner > 1 && sizes.inner <= kLanes; }
constexpr ChannelSizes as_columns(const ChannelSizes& sizes) { return {sizes.outer, sizes.channels * sizes.inner, 1}; }

// Rows row .. row + rows; the columns run along the inner axis of one channel or, where inner == 1, over the channels
// from `channel` on.
struct Region {
  int64_t row = 0, rows = 0, channel = 0, column = 0, columns = 0;

  int64_t offset(const ChannelSizes& sizes) const { return (row * sizes.channels + channel) * sizes.inner + column; }
  int64_t stride(const ChannelSizes& sizes) const { return sizes.channels * sizes.inner; }
};

// Each of `count` values `times` times; `to` has room for a lane more.
template <class T>
inline void spread(const T* values, int64_t count, int64_t times, T* to) {
  for (int64_t i = 0; i < count; ++i, to += times) {
    const T value = values[i];
    for (int64_t begin = 0; begin < times; begin += kLanes)  // whole vectors; the next value covers the excess
      for (int lane = 0; lane < kLanes; ++lane) to[begin + lane] = value;
  }
}

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// visit(region, the one that comes after it) for make(0) .. make(count - 1); the last is followed by `after`.
template <class Make, class Visit>
inline void visit_in_turn(int64_t count, Make&& make, Visit&& visit, const Region& after = {}) {
  Region next = count > 0 ? make(0) : Region{};
  for (int64_t i = 1; i <= count; ++i) {
    const Region region = next;
    next = i < count ? make(i) : after;
    visit(region, next);
  }
}

// Rows of one channel come in two kinds, told apart once a call. Long ones beyond the level-2 cache ask for memory a
// line at a time, and across chunks (Ahead); the others ask for the next tile at once (prefetch_tile). Where two
// tensors are read, twice the memory is waited for, and shorter rows gain. Rows of many channels ask for later ones.
constexpr int64_t kLongRow = 256, kLongRowOfPair = 128;
constexpr int64_t kNearElements = 1 << 16;
constexpr int64_t kCachedTensor = 1 << 21;  // elements that a level-3 cache holds twice
inline bool ask_ahead(const ChannelSizes& sizes, int64_t long_row) {
  const int64_t row = sizes.adjacent() ? sizes.channels : sizes.inner;
  return row >= (sizes.adjacent() ? kLongRowOfPair : long_row) && sizes.size() > kNearElements;
}
constexpr int64_t kShortRowOfMap = 1024;  // up to which an element-wise step goes row by row, without tiles

// The first of the tiles that for_each_tile cuts long rows of one channel into; of short ones, none.
inline Region first_tile(Region region) {
  if (region.columns < kLongRowOfPair) return {};
  if (region.columns > kTileElements) region.columns = kTileElements;
  const int64_t fit = kTileElements / round_up(region.columns, kLanes);
  if (region.rows > fit) region.rows = fit;
  return region;
}

constexpr int64_t kRowsOfColumns = 4;  // channels side by side: rows that are summed together

// A region cut into tiles of at most kTileElements (rows padded to whole lanes), rows in order or the last ones first
// (they are still in the cache): visit(tile, next tile). `columns`: the most of a tile where channels lie side by side;
// `after`: what will be visited next.
template <class Visit>
inline void for_each_tile(const ChannelSizes& sizes, const Region& region, int64_t columns, bool backwards,
                          Visit&& visit, const Region& after = {}) {
  const bool adjacent = sizes.adjacent();
  const int64_t most = adjacent ? columns : kTileElements;
  const int64_t width = region.columns < most ? region.columns : most;
  if (width == 0) return;
  int64_t fit = kTileElements / round_up(width, kLanes);
  if (adjacent && fit > kRowsOfColumns) fit -= fit % kRowsOfColumns;
  const int64_t across = (region.columns + width - 1) / width, down = (region.rows + fit - 1) / fit;
  const auto make = [&](int64_t i) {
    const int64_t step = backwards ? down - 1 - i / across : i / across;
    const int64_t row = step * fit, column = i % across * width;
    Region tile = region;
    tile.row += row;
    tile.rows = region.rows - row < fit ? region.rows - row : fit;
    (adjacent ? tile.channel : tile.column) += column;
    tile.columns = region.columns - column < width ? region.columns - column : width;
    return tile;
  };
  visit_in_turn(across * down, make, visit, after);
}

// Asks for the lines of so many bytes, into the level-2 cache; what follows them.
template <int kWrite = 0>
[[gnu::always_inline]] inline const char* fetch(const char* from, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(from + byte, kWrite, 2);
  return from + bytes;
}

template <int kWrite = 0, int kLocality = 3, class S>
inline void prefetch_row(const S* data, int64_t columns) {
  constexpr int64_t kLine = 64;
  const char* at = reinterpret_cast<const char*>(data);
  for (int64_t byte = 0; byte < columns * static_cast<int64_t>(sizeof(S)); byte += kLine)
    __builtin_prefetch(at + byte, kWrite, kLocality);
}

// Asks for a tile's lines before they are used, where its rows are too short for the hardware to notice in time.
template <class S>
inline void prefetch_tile(const S* data, const ChannelSizes& sizes, const Region& tile) {
  if (sizes.adjacent()) return;
  for (int64_t row = 0; row < tile.rows; ++row)
    prefetch_row(data + tile.offset(sizes) + row * tile.stride(sizes), tile.columns);
}

// Memory that is wanted next, asked for a line at a time while something else is computed: asked for at once, a tile's
// lines would queue for the few places that a core has for them, and the core with them.
struct Ahead {
  const char* data = nullptr;
  int64_t stride = 0, element = 0;  // bytes

  const char* row(int64_t index) const { return data + index * stride; }
};

// Where a tile's elements lie. Sixteen elements may be read from any address up to `end` - 16.
template <class T>
struct Tile {
  const T* data;
  int64_t stride;
  const T* end;
  Ahead ahead = {};

  const T* row(int64_t index) const { return data + index * stride; }
};

// With ask_ahead(sizes): where the tile after this one lies; a short rest of a row asks for it at once. Where channels
// lie side by side, rows kAskedBytes later.
constexpr int64_t kAskedBytes = 1 << 14;
template <class S>
inline Ahead find_ahead(const S* data, const ChannelSizes& sizes, const Region& tile, const Region& next) {
  constexpr int64_t kElement = sizeof(S);
  if (sizes.adjacent()) {
    Region later = tile;
    later.row += round_up((kAskedBytes - 1) / (sizes.channels * kElement) + 1, kRowsOfColumns);
    if (tile.columns < kLongRowOfPair || later.row + later.rows > sizes.outer) return {};
    return {reinterpret_cast<const char*>(data + later.offset(sizes)), tile.stride(sizes) * kElement, kElement};
  }
  if (next.rows == 0) return {};
  if (tile.columns < kLongRowOfPair) {
    prefetch_tile(data, sizes, next);
    return {};
  }
  return {reinterpret_cast<const char*>(data + next.offset(sizes)), tile.stride(sizes) * kElement, kElement};
}

inline int64_t buffer_stride(const Region& tile) { return round_up(tile.columns, kLanes); }

// Storage S as tiles of T: in place where the types agree, else widened into `buffer` (kTileElements).
template <class T, class S>
inline Tile<T> load_tile(const S* data, const ChannelSizes& sizes, const Region& tile, T* buffer) {
  const S* from = data + tile.offset(sizes);
  const int64_t stride = tile.stride(sizes);
  if constexpr (std::is_same_v<S, T>) {
    return {from, stride, data + sizes.size()};
  } else {
    const int64_t padded = buffer_stride(tile);
    for (int64_t row = 0; row < tile.rows; ++row) widen(buffer + row * padded, from + row * stride, tile.columns);
    return {buffer, padded, buffer + kTileElements};
  }
}

// The way back: write(T* target, stride) gives a tile's rows of `data`.
template <class T, class S, class Write>
inline void store_tile(S* data, const ChannelSizes& sizes, const Region& tile, Write&& write) {
  S* to = data + tile.offset(sizes);
  const int64_t stride = tile.stride(sizes);
  if constexpr (std::is_same_v<S, T>) {
    write(to, stride);
  } else {
    alignas(64) T buffer[kTileElements];
    const int64_t padded = buffer_stride(tile);
    write(buffer, padded);
    for (int64_t row = 0; row < tile.rows; ++row) narrow(to + row * stride, buffer + row * padded, tile.columns);
  }
}

// Room for a tile of S in the type of arithmetic; none where the two are one type and tiles are read in place.
template <class S>
struct TileBuffer {
  alignas(64) Compute<S> data[std::is_same_v<S, Compute<S>> ? 1 : kTileElements];
};

// Inputs of sums as they are; a Gate (activation_bounds.h) lets the first through as the second and the channel's
// numbers say.
struct OpenGate {
  static constexpr bool kOpen = true;
  OpenGate at(int64_t /*channel*/) const { return {}; }
};

// The tiles of one tensor, for sums (reduce_channels.h).
template <class S>
struct TileReader {
  using T = Compute<S>;
  using Stored = S;
  const bool columns, ahead;
  const ChannelSizes view;
  const S* from;
  TileBuffer<S> buffer;

  TileReader(const ChannelSizes& sizes, const S* data)
      : columns(columns_are_lanes(sizes)),
        ahead(ask_ahead(sizes, kLongRow)),
        view(columns ? as_columns(sizes) : sizes),
        from(data) {}

  bool in_place(const S* (&rows)[1]) const {
    rows[0] = from;
    return kInPlace<S>;
  }
  template <class Sum>
  void through_gate(Sum&& sum) const {
    sum(OpenGate{});
  }
  void prepare(int64_t /*channel*/, int64_t /*count*/) {}
  void operator()(const Region& tile, const Region& next, Tile<T> (&tiles)[1]) {
    if (!ahead) prefetch_tile(from, view, next);
    tiles[0] = load_tile<T>(from, view, tile, buffer.data);
    if (ahead) tiles[0].ahead = find_ahead(from, view, tile, next);
  }
};

}  // namespace kitae::cpu
