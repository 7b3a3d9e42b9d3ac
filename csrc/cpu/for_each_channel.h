// Element-wise steps whose numbers belong to the channel.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/channel_tiles.h"
#include "cpu/lanes.h"
#include "cpu/stream.h"

namespace kitae::cpu {

// A box of the tensor; every range is half-open.
struct Box {
  int64_t first_row, last_row, first_channel, last_channel, first_column, last_column;
};

// visit(tile, next tile) for all tiles of a box in the order of memory, or the last rows first.
template <class Visit>
inline void for_each_channel_tile(const ChannelSizes& sizes, const Box& box, bool backwards, Visit&& visit) {
  const int64_t rows = box.last_row - box.first_row, channels = box.last_channel - box.first_channel;
  if (sizes.adjacent())
    return for_each_tile(sizes, Region{box.first_row, rows, box.first_channel, 0, channels}, kColumnsOfMap, backwards,
                         visit);
  const int64_t length = box.last_column - box.first_column;
  const int64_t pieces = (length + kTileElements - 1) / kTileElements;
  const auto make = [&](int64_t i) {
    const int64_t row = i / pieces / channels, column = i % pieces * kTileElements;
    return Region{box.first_row + (backwards ? rows - 1 - row : row), 1, box.first_channel + i / pieces % channels,
                  box.first_column + column, length - column < kTileElements ? length - column : kTileElements};
  };
  visit_in_turn(rows * channels * pieces, make, visit);
}

// bfloat16 is mapped two columns at a time, the halves of a word: shifts and masks widen and narrow them, without a
// shuffle. Their numbers are apart: function(j) is column 2 j, function((columns + 1) / 2 + j) column 2 j + 1.
template <class S>
constexpr bool kInPairs = std::is_same_v<S, BFloat16>;

namespace detail {

inline uint32_t load_pair(const BFloat16* from) {
  uint32_t pair;
  std::memcpy(&pair, from, sizeof(pair));
  return pair;
}
inline float first_of(uint32_t pair) { return bit_cast<float>(pair << 16); }
inline float second_of(uint32_t pair) { return bit_cast<float>(pair & 0xffff0000u); }
inline void store_pair(BFloat16* to, float first, float second) {
  using Narrow = FromFloat<BFloat16>;
  const uint32_t pair = Narrow::rounded(first) >> 16 | (Narrow::rounded(second) & 0xffff0000u);
  std::memcpy(to, &pair, sizeof(pair));
}

// out[i] = f(in[i]...), f = function(i), for columns [begin, end) of kRows rows; `begin` is even.
template <int kRows, class S, class Function, class... In>
[[gnu::always_inline]] inline void map_columns(S* out, int64_t stride, int64_t begin, int64_t end, int64_t columns,
                                               const Function& function, const In*... in) {
  if constexpr (kInPairs<S>) {
    const int64_t odd = (columns + 1) / 2;
    const Function numbers = function;  // of its own: what is written could be its tables' addresses
#pragma GCC ivdep
    for (int64_t j = begin / 2; j < end / 2; ++j) {
      const auto f = numbers(j), g = numbers(odd + j);
      for (int k = 0; k < kRows; ++k) {
        const int64_t at = k * stride + 2 * j;
        store_pair(out + at, f(first_of(load_pair(in + at))...), g(second_of(load_pair(in + at))...));
      }
    }
    const int64_t last = end - 1;
    for (int k = 0; end % 2 && k < kRows; ++k)
      out[k * stride + last] = stored<S>(function(end / 2), in[k * stride + last]...);
  } else {
    // A constant number of columns shall become vectors, not so many scalars.
#pragma GCC unroll 1
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const auto f = function(i);
      for (int k = 0; k < kRows; ++k) out[k * stride + i] = stored<S>(f, in[k * stride + i]...);
    }
  }
}

// Asks for what comes next between pieces of a row.
template <class T, class F, class... In>
[[gnu::noinline]] void map_long_rows(const Region& tile, T* out, int64_t stride, const Ahead& ahead, const F f,
                                     const In... in) {
  constexpr int64_t kLine = 64, kPiece = 256;
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* to = out + row * stride;
    for (int64_t begin = 0; begin < tile.columns; begin += kPiece) {
      const int64_t end = begin + kPiece < tile.columns ? begin + kPiece : tile.columns;
      for (int64_t byte = begin * ahead.element; byte < end * ahead.element; byte += kLine)
        __builtin_prefetch(ahead.row(row) + byte, 1, 2);
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) to[i] = f(in.row(row)[i]...);
    }
  }
}

template <int kRows, class T, class Function, class... In>
inline void map_rows(T* out, int64_t stride, int64_t row, int64_t columns, const Function& function, const In... in) {
#pragma GCC ivdep
  for (int64_t i = 0; i < columns; ++i) {
    const auto f = function(i);
    for (int k = 0; k < kRows; ++k) out[k * stride + i] = f(in.row(row + k)[i]...);
  }
}

// out[i] = f(in[i]...) for a row of at least kLanes elements, f in registers. The last lanes are computed before
// anything is written, as `out` may be an input, and not one by one.
template <class S, class F, class... In>
[[gnu::always_inline]] inline void map_row(S* out, int64_t columns, const F f, const In*... in) {
  S last[kLanes];
  const int64_t rest = columns - kLanes, whole = columns & -static_cast<int64_t>(kLanes);
  const auto function = [f](int64_t) { return f; };
  map_columns<1>(last, 0, 0, kLanes, kLanes, function, (in + rest)...);
  map_columns<1>(out, 0, 0, whole, whole, function, in...);
  std::memcpy(out + rest, last, sizeof(last));
}

}  // namespace detail

// How an output is written: as it comes; after asking for the channel's next row; past the caches.
enum class Writing { plain, asked, streamed };

// Whether map_in_place takes a box: rows, whole or not, of one channel each (short ones, where a tile would need no
// conversion), rows of channels side by side, and what is streamed.
template <class S>
inline bool maps_in_place(const ChannelSizes& sizes, const Box& box, Writing writing) {
  const int64_t length = box.last_column - box.first_column;
  return sizes.adjacent() || writing == Writing::streamed ||
         (length >= kLanes && (kInPairs<S> || length <= kShortRowOfMap));
}

namespace detail {

// out[i] = at(i)(in[i]...) for so many columns.
template <class S, class At, class... In>
[[gnu::always_inline]] inline void stream_columns(LineStream<S>& lines, int64_t columns, const At& at,
                                                  const In*... in) {
  for (int64_t begin = 0; begin < columns; begin += lines.kMost) {
    const int64_t end = begin + lines.kMost < columns ? begin + lines.kMost : columns;
    map_columns<1>(lines.room() - begin, 0, begin, end, columns, at, in...);
    lines.add(end - begin);
  }
}

template <class S, class Function, class... In>
[[gnu::noinline]] void map_short_rows(const ChannelSizes& sizes, const Box& box, bool backwards, bool asking, S* out,
                                      const Function& function, const In*... in) {
  const int64_t rows = box.last_row - box.first_row, channels = box.last_channel - box.first_channel;
  const int64_t length = box.last_column - box.first_column, inner = sizes.inner;
  const int64_t stride = sizes.channels * inner, step = backwards ? -stride : stride;
  const int64_t begin = box.first_channel * inner + box.first_column;
  int64_t at = (backwards ? box.last_row - 1 : box.first_row) * stride + begin;
  for (int64_t row = 0; row < rows; ++row, at += step)
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int64_t here = at + channel * inner;
      const int64_t next = channel + 1 < channels ? here + inner : row + 1 < rows ? at + step : here;
      if (length <= kShortRowOfMap) {
        (prefetch_row(in + next, length), ...);
        if (asking && row + 1 < rows) prefetch_row<1, 2>(out + here + step, length);
      }
      map_row(out + here, length, function(channel), (in + here)...);
    }
}

// Two rows at a time are two places of memory, which the hardware does not fetch ahead of unless they are short.
// In the level-2 cache they may be longer.
constexpr int64_t kShortBytes = 256, kShortInCache = 2048;

// Rows of channels side by side, kRows at a time, which share the loads of a column's numbers; how many were done.
// kAsk, where rows follow each other without a gap: memory that comes next is asked for in its order, the output's,
// too.
template <int kRows, bool kAsk, class S, class Function, class... In>
[[gnu::noinline]] int64_t map_rows_across(int64_t rows, int64_t columns, int64_t stride, S* out,
                                          const Function& function, const In*... in) {
  constexpr int64_t kAsked = 1 << 13, kPiece = 64;  // bytes ahead; columns
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows)
    for (int64_t begin = 0, end; begin < columns; begin = end) {
      end = kAsk && begin + kPiece < columns ? begin + kPiece : columns;
      if constexpr (kAsk) {
        constexpr int64_t kElement = sizeof(S);
        const int64_t from = kAsked + (row * stride + begin * kRows) * kElement,
                      bytes = (end - begin) * kRows * kElement;
        (fetch(reinterpret_cast<const char*>(in) + from, bytes), ...);
        fetch<1>(reinterpret_cast<const char*>(out) + from, bytes);
      }
      const int64_t at = row * stride;
      map_columns<kRows>(out + at, stride, begin, end, columns, function, (in + at)...);
    }
  return row;
}

// map_in_place for an output that is streamed.
template <class S, class Function, class... In>
[[gnu::noinline]] void map_and_stream(const ChannelSizes& sizes, const Box& box, bool backwards, S* out,
                                      const Function& function, const In*... in) {
  const int64_t rows = box.last_row - box.first_row, channels = box.last_channel - box.first_channel;
  const int64_t stride = sizes.channels * sizes.inner, step = backwards ? -stride : stride;
  const int64_t begin = box.first_channel * sizes.inner + box.first_column;
  const int64_t first = box.first_row * stride + begin;
  int64_t at = backwards ? (box.last_row - 1) * stride + begin : first;
  if (sizes.adjacent() && channels == stride && channels <= LineStream<S>::kMost) {  // one run of memory
    LineStream<S> lines(out + first);
    const int64_t most = channels * static_cast<int64_t>(sizeof(S)) <= kShortBytes ? lines.kMost / channels : 1;
    for (int64_t row = 0, here = first; row < rows; row += most, here += most * stride) {
      const int64_t count = rows - row < most ? rows - row : most;
      const int64_t pairs = map_rows_across<2, false>(count, channels, stride, lines.room(), function, (in + here)...);
      const int64_t rest = pairs * stride;
      map_rows_across<1, false>(count - pairs, channels, stride, lines.room() + rest, function, (in + here + rest)...);
      lines.add(count * channels);
    }
  } else if (sizes.adjacent()) {
    for (int64_t row = 0; row < rows; ++row, at += step) {
      LineStream<S> lines(out + at);
      stream_columns(lines, channels, function, (in + at)...);
    }
  } else {
    const int64_t length = box.last_column - box.first_column;
    for (int64_t row = 0; row < rows; ++row, at += step)
      for (int64_t channel = 0, here = at; channel < channels; ++channel, here += sizes.inner) {
        LineStream<S> lines(out + here);
        stream_columns(lines, length, [f = function(channel)](int64_t) { return f; }, (in + here)...);
      }
  }
  stream_fence();
}

// Longer rows go in pairs where the level-2 cache holds the tensor, and in the level-3 cache where we ask; rows of 4096
// bytes would share the sets of a cache. Beyond it one place of memory is better, and asking, too.
template <class S, class Function, class... In>
inline void map_across(const ChannelSizes& sizes, const Box& box, S* out, const Function& function, const In*... in) {
  const int64_t columns = box.last_channel - box.first_channel, stride = sizes.channels;
  const int64_t first = box.first_row * stride + box.first_channel, rows = box.last_row - box.first_row;
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(S));
  const bool near = sizes.size() <= kNearElements, cached = sizes.size() <= kCachedTensor;
  const bool can_ask = !near && columns == stride && columns >= kLongRowOfPair;
  const bool in_pairs = bytes <= (near || (can_ask && cached) ? kShortInCache : kShortBytes);
  const bool asking = can_ask && in_pairs == cached;
  const auto map = [&](auto together, auto ask, int64_t row) {
    const int64_t at = first + row * stride;
    return row + map_rows_across<together(), ask()>(rows - row, columns, stride, out + at, function, (in + at)...);
  };
  int64_t row = 0;
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  if (in_pairs) row = asking ? map(Two{}, std::true_type{}, row) : map(Two{}, std::false_type{}, row);
  asking ? map(One{}, std::true_type{}, row) : map(One{}, std::false_type{}, row);
}

}  // namespace detail

// out[i] = f(in[i]...) over such a box, f = function(channel - first channel), where tensors are stored in the type of
// arithmetic. Without tiles: finding out where one lies takes as long as a few hundred elements.
template <class S, class Function, class... In>
inline void map_in_place(const ChannelSizes& sizes, const Box& box, bool backwards, Writing writing, S* out,
                         const Function& function, const In*... in) {
  if (writing == Writing::streamed) return detail::map_and_stream(sizes, box, backwards, out, function, in...);
  if (sizes.adjacent()) return detail::map_across(sizes, box, out, function, in...);
  detail::map_short_rows(sizes, box, backwards, writing == Writing::asked, out, function, in...);
}

// out[i] = f(in[i]...) for the rows of a tile; f = function(0) along a channel, function(i) where the channels lie side
// by side. `out` may be one of the inputs. `ahead`: where the next tile will be written,
// if the hardware can't see it coming.
template <class T, class Function, class... In>
inline void map_tile(const ChannelSizes& sizes, const Region& tile, T* out, int64_t stride, const Ahead& ahead,
                     const Function& function, const In... in) {
  int64_t row = 0;
  if (sizes.adjacent()) {
    // Two short rows share the loads of a column's numbers. Longer ones would be two places of memory at a time, which
    // the hardware does not prefetch; in the level-2 cache they may be longer, as long as they do not share its sets.
    constexpr int kRows = 2;
    const int64_t most = sizes.size() <= kNearElements ? detail::kShortInCache : detail::kShortBytes;
    const bool near = stride * static_cast<int64_t>(sizeof(T)) <= most;
    for (; near && row + kRows <= tile.rows; row += kRows)
      detail::map_rows<kRows>(out + row * stride, stride, row, tile.columns, function, in...);
    for (; row < tile.rows; ++row) detail::map_rows<1>(out + row * stride, stride, row, tile.columns, function, in...);
    return;
  }
  const auto f = function(0);
  if (ahead.data) return detail::map_long_rows(tile, out, stride, ahead, f, in...);
  for (; row < tile.rows; ++row) {
    T* to = out + row * stride;
#pragma GCC ivdep
    for (int64_t i = 0; i < tile.columns; ++i) to[i] = f(in.row(row)[i]...);
  }
}

}  // namespace kitae::cpu
