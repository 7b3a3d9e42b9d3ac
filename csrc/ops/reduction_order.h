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

// A tensor whose memory is (outer, channels, inner) in C order.
struct ChannelSizes {
  int64_t outer = 0, channels = 0, inner = 0;

  KITAE_HD int64_t count() const { return outer * inner; }  // elements of a channel
  KITAE_HD int64_t size() const { return outer * channels * inner; }
  KITAE_HD bool adjacent() const { return inner == 1; }  // channels lie side by side
};

// The sequence of one channel. inner > 1: a chunk is kChunk consecutive elements of one outer row, or as many whole
// rows as fit; lanes run along the inner axis and start anew with every row. inner == 1: a chunk is kRowsOfChunk rows,
// added one after the other (a single lane).
constexpr int64_t kRowsOfChunk = 256;

struct ChannelChunks {
  int64_t rows;       // outer rows of a chunk
  int64_t pieces;     // pieces of an outer row (1 when rows > 1)
  int64_t per_piece;  // elements of a piece, the last may be shorter
  int64_t count;      // chunks of a channel

  KITAE_HD explicit ChannelChunks(const ChannelSizes& sizes) {
    const bool split = sizes.inner > kChunk;
    rows = sizes.adjacent() ? kRowsOfChunk : split ? 1 : (sizes.inner > 0 ? kChunk / sizes.inner : 1);
    pieces = split ? (sizes.inner + kChunk - 1) / kChunk : 1;
    per_piece = split ? kChunk : sizes.inner;
    count = split ? sizes.outer * pieces : (sizes.outer + rows - 1) / rows;
  }
};

// What an element adds to a pair of sums. V is double, or a vector of doubles.
template <class V>
struct Terms {
  V first, second;
};

// The first input and its product with the last, which may be the same. Of floats the product is exact in double, so a
// fused step adds it with the bits of two.
template <int kCount>
struct ProductTerms {
  static constexpr int kInputs = kCount;
  template <class V>
  static KITAE_HD Terms<V> of(const V (&input)[kCount], const V& /*parameter*/) {
    return {input[0], input[0] * input[kCount - 1]};
  }
};

KITAE_HD double fold_lanes(double* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

}  // namespace kitae
