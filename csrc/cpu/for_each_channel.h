// Element-wise steps whose numbers belong to the channel.
#pragma once

#include <cstdint>

#include "cpu/channel_tiles.h"

namespace kitae::cpu {

// A box of the tensor; every range is half-open.
struct Box {
  int64_t first_row, last_row, first_channel, last_channel, first_column, last_column;
};

// visit(tile) for all tiles of a box in the order of memory, or the last row first (it is the one still in the cache).
template <class Visit>
inline void for_each_channel_tile(const ChannelSizes& sizes, const Box& box, bool backwards, Visit&& visit) {
  const int64_t rows = box.last_row - box.first_row;
  const int64_t step = sizes.adjacent() ? kTileElements / kTileChannels : 1;
  const int64_t steps = (rows + step - 1) / step;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t row = box.first_row + (backwards ? steps - 1 - i : i) * step;
    if (sizes.adjacent()) {
      const int64_t count = box.last_row - row < step ? box.last_row - row : step;
      for_each_tile(sizes, Region{row, count, box.first_channel, 0, box.last_channel - box.first_channel}, visit);
    } else {
      for (int64_t channel = box.first_channel; channel < box.last_channel; ++channel)
        for_each_tile(sizes, Region{row, 1, channel, box.first_column, box.last_column - box.first_column}, visit);
    }
  }
}

// out[i] = f(in[i]...) for a row; f = function(0) along a channel, function(i) where the channels lie side by side.
// `out` may be one of the inputs.
template <class T, class Function, class... In>
inline void map_row(bool adjacent, T* out, int64_t count, const Function& function, const In*... in) {
  if (adjacent) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = function(i)(in[i]...);
  } else {
    const auto f = function(0);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = f(in[i]...);
  }
}

}  // namespace kitae::cpu
