// The order of every reduction, a function of shape and dtype alone. python/kitae/reference/_order.py repeats it.
//
// A sequence of elements is cut into chunks; inside a chunk element i goes to virtual lane i mod kLanes, lanes
// accumulate in double from +0 in order of i; the lanes are folded by halves (lane l += lane l + 8, then 4, 2, 1); the
// chunks' sums are added one after the other, from +0. An absent element counts as +0, which changes no sum. So any
// number of threads may take any chunks, and any vector width up to 16 lanes gives the same bits.
#pragma once

#include <cstdint>

#include "ops/host_device.h"

namespace kitae {

constexpr int kLanes = 16;
constexpr int64_t kChunk = 4096;  // elements; a multiple of kLanes

// Sequences of one channel, sizes (outer, channels, inner), inner > 1: a chunk is kChunk consecutive elements of one
// outer row, or as many whole rows as fit; lanes run along the inner axis and start anew with every row.
struct ChannelChunks {
  int64_t rows;       // outer rows of a chunk
  int64_t pieces;     // pieces of an outer row (1 when rows > 1)
  int64_t per_piece;  // elements of a piece, the last may be shorter
  int64_t count;      // chunks of a channel

  KITAE_HD ChannelChunks(int64_t outer, int64_t inner) {
    const bool split = inner > kChunk;
    rows = split ? 1 : (inner > 0 ? kChunk / inner : 1);
    pieces = split ? (inner + kChunk - 1) / kChunk : 1;
    per_piece = split ? kChunk : inner;
    count = split ? outer * pieces : (outer + rows - 1) / rows;
  }
};

// inner == 1, the channels lie side by side: a chunk is kRowsOfChunk rows, added one after the other, one lane a
// channel.
constexpr int64_t kRowsOfChunk = 256;

KITAE_HD double fold_lanes(double* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

}  // namespace kitae
