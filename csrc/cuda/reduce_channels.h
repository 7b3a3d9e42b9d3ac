// Two sums a channel over all its elements, in the order of ops/reduction_order.h: chunks are summed by whatever
// threads there are, wherever the chunk lies, and folded in their order. So the sums have the CPU's bits on every GPU,
// up to kSerialChunks chunks a channel (4 M elements, 262,144 rows where the channels lie side by side). Beyond, adding
// one after the other would last as long as a tenth of the reading: the chunks' sums then take 16 lanes, as elements of
// a chunk do. The order is still a function of shape and dtype alone.
//
// Work: an element costs a conversion to double and four double operations (a difference, a product, two additions),
// nothing else in double. An H200 does 16 elements a clock and multiprocessor of that; reading float32 at 4.3 TB/s
// needs 4.7 of them, float16 9.3.
//
// Along (inner > 1): sixteen threads, the virtual lanes, take a chunk and read 16 elements side by side.
// Across (inner == 1): a thread takes 256 rows of a channel, the threads of a warp channels side by side.
// Both leave (channel, chunk, sum) in `partial`; one warp a channel folds.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/lanes.h"
#include "cuda/launch.h"
#include "ops/reduction_order.h"

namespace kitae::cuda {

constexpr int64_t kSerialChunks = 1024;

// The memory of a tensor as rows of elements side by side: of one channel, or of all channels where inner == 1.
struct ChannelRows {
  int64_t rows, width, channels;
  bool adjacent;

  KITAE_HD explicit ChannelRows(const ChannelSizes& sizes)
      : rows(sizes.adjacent() ? sizes.outer : sizes.outer * sizes.channels),
        width(sizes.adjacent() ? sizes.channels : sizes.inner),
        channels(sizes.channels),
        adjacent(sizes.adjacent()) {}
  // Bytes of a row's mask, one bit an element.
  KITAE_HD int64_t mask_bytes() const { return (width + 7) / 8; }
};

// Where an element lies: index == row * width + column.
struct Place {
  int64_t index, row, column;

  KITAE_DEVICE Place after(int elements) const { return {index + elements, row, column + elements}; }
};

// A source of terms has
//   Op                       what an element adds (DeviationTerms, ...)
//   Raw load(place)                an element as it lies in memory
//   Channel channel(c)       what its terms need to know of the channel, with a member `parameter` for Op
//   value(raw, channel, double (&)[Op::kInputs])
//   begin()                        once a thread, before anything
//   bool wanted(c)           false: the channel's sums are not needed
struct Sums {
  double first = 0, second = 0;

  template <class Source>
  KITAE_DEVICE void add(const Source& source, const typename Source::Raw& raw,
                        const typename Source::Channel& channel) {
    double inputs[Source::Op::kInputs];
    source.value(raw, channel, inputs);
    const Terms<double> terms = Source::Op::of(inputs, channel.parameter);
    first += terms.first;
    second += terms.second;
  }
};

// One lane's part of a chunk of `segments` stretches of `columns` elements: kUnroll elements are under way at a time.
// load(begin(segment), column) is an element.
template <int kUnroll, class Source, class Begin, class Load>
KITAE_DEVICE Sums sum_lane(const Source& source, const typename Source::Channel& channel, int lane, int segments,
                           int columns, Begin&& begin, Load&& load) {
  Sums sums;
  int segment = 0, column = lane;
  auto place = begin(0);
  while (segment < segments) {
    typename Source::Raw raw[kUnroll];
    bool inside[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      inside[i] = segment < segments && column < columns;
      if (inside[i]) raw[i] = load(place, column);
      column += kLanes;
      if (column - lane >= columns) {
        column = lane;
        place = begin(++segment);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i)
      if (inside[i]) sums.add(source, raw[i], channel);
  }
  return sums;
}

// A single lane down `segments` rows; load(segment) is called in their order.
template <int kUnroll, class Source, class Load>
KITAE_DEVICE Sums sum_rows(const Source& source, const typename Source::Channel& channel, int segments, Load&& load) {
  Sums sums;
  int segment = 0;
  for (; segment + kUnroll <= segments; segment += kUnroll) {
    typename Source::Raw raw[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) raw[i] = load(segment + i);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) sums.add(source, raw[i], channel);
  }
  for (; segment < segments; ++segment) sums.add(source, load(segment), channel);
  return sums;
}

// The chunks' sums of one channel by a warp: lanes 0 to 15 add the first ones, the others the second ones.
// load(chunk, which): a chunk's sum. Every lane gets both.
template <class Load>
KITAE_DEVICE Sums fold_chunks(int64_t chunks, Load&& load) {
  const int lane = lane_index() % kLanes, which = lane_index() / kLanes;
  double total = 0;
  if (chunks <= kSerialChunks) {
    double next = lane < chunks ? load(lane, which) : 0;
    for (int64_t chunk = 0; chunk < chunks; chunk += kLanes) {
      const double sum = next;
      const int64_t ahead = chunk + kLanes + lane;
      next = ahead < chunks ? load(ahead, which) : 0;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) total += shuffle(kAllLanes, sum, which * kLanes + i);
    }
  } else {
    for (int64_t chunk = lane; chunk < chunks; chunk += kLanes) total += load(chunk, which);
    total = fold_lanes_of_warp(total);
  }
  return {shuffle(kAllLanes, total, 0), shuffle(kAllLanes, total, kLanes)};
}

template <class Source>
struct SumAlong {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 3;
  // 30 KB of float32, 48 of float64 are under way on a multiprocessor: what 80 registers hold.
  static constexpr int kInputs = Source::Op::kInputs;
  static constexpr bool kWide = sizeof(typename Source::Raw) >= 8 * kInputs;
  static constexpr int kUnroll = (kWide ? 8 : 10) / kInputs;
  Source source;
  ChannelSizes sizes;
  double* partial;

  KITAE_DEVICE void operator()() const {
    source.begin();
    const ChannelChunks chunks(sizes);
    const int lane = lane_index() % kLanes, half = lane_index() / kLanes;
    const int64_t units = sizes.channels * chunks.count;
    // Units in the order of memory; a warp stays together.
    for (int64_t pair = global_thread() / kWarp * 2; pair < units; pair += grid_threads() / kLanes) {
      const int64_t unit = pair + half;
      const int64_t piece = unit % chunks.pieces, row_of_chunks = unit / chunks.pieces;
      const int64_t channel = row_of_chunks % sizes.channels;
      const int64_t group = row_of_chunks / sizes.channels;
      const bool wanted = unit < units && source.wanted(channel);
      Sums sums;
      if (wanted) {
        const int64_t outer = group * chunks.rows, column = piece * chunks.per_piece;
        const int64_t rows = sizes.outer - outer, columns = sizes.inner - column;
        const int64_t row = outer * sizes.channels + channel;
        sums = sum_lane<kUnroll>(
            source, source.channel(channel), lane, static_cast<int>(rows < chunks.rows ? rows : chunks.rows),
            static_cast<int>(columns < chunks.per_piece ? columns : chunks.per_piece),
            [&](int segment) { return row + segment * sizes.channels; },
            [&](int64_t of_segment, int at) {
              return source.load({of_segment * sizes.inner + column + at, of_segment, column + at});
            });
      }
      sums = {fold_lanes_of_warp(sums.first), fold_lanes_of_warp(sums.second)};
      if (wanted && lane == 0)
        store_vector(partial + (channel * chunks.count + group * chunks.pieces + piece) * 2,
                     Vector<double, 2>{{sums.first, sums.second}});
    }
  }
};

template <class Source>
struct SumAcross {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 5 - Source::Op::kInputs;
  static constexpr int kUnroll = 8 / Source::Op::kInputs;
  Source source;
  ChannelSizes sizes;
  double* partial;

  KITAE_DEVICE void operator()() const {
    source.begin();
    const int64_t chunks = ChannelChunks(sizes).count;
    for (int64_t unit = global_thread(); unit < sizes.channels * chunks; unit += grid_threads()) {
      const int64_t channel = unit % sizes.channels, chunk = unit / sizes.channels;
      if (!source.wanted(channel)) continue;
      const int64_t row = chunk * kRowsOfChunk, rows = sizes.outer - row;
      const Sums sums =
          sum_rows<kUnroll>(source, source.channel(channel),
                            static_cast<int>(rows < kRowsOfChunk ? rows : kRowsOfChunk), [&](int segment) {
                              return source.load({(row + segment) * sizes.channels + channel, row + segment, channel});
                            });
      store_vector(partial + (channel * chunks + chunk) * 2, Vector<double, 2>{{sums.first, sums.second}});
    }
  }
};

// finish(channel, Sums) by one thread a channel.
template <class Finish>
struct FoldChannels {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSM = 8;
  Finish finish;
  const double* partial;
  int64_t channels, chunks;

  KITAE_DEVICE void operator()() const {
    for (int64_t channel = global_thread() / kWarp; channel < channels; channel += grid_threads() / kWarp) {
      if (!finish.wanted(channel)) continue;
      const double* sums_of_channel = partial + channel * chunks * 2;
      const Sums sums =
          fold_chunks(chunks, [&](int64_t chunk, int which) { return sums_of_channel[chunk * 2 + which]; });
      if (lane_index() == 0) finish(channel, sums);
    }
  }
};

// Doubles of `partial`.
inline int64_t partial_count(const ChannelSizes& sizes) { return 2 * sizes.channels * ChannelChunks(sizes).count; }

namespace detail {

inline int64_t chunks_of(const ChannelSizes& sizes) { return sizes.size() > 0 ? ChannelChunks(sizes).count : 0; }

template <class Finish>
void fold_channels(const ChannelSizes& sizes, const Finish& finish, double* partial, cudaStream_t stream) {
  using Kernel = FoldChannels<Finish>;
  launch(Kernel{finish, partial, sizes.channels, chunks_of(sizes)}, Shape{grid_blocks<Kernel>(sizes.channels * kWarp)},
         stream);
}

}  // namespace detail

// Where channels lie side by side (inner == 1): the source then is compiled for that alone.
template <class Source, class Finish>
void reduce_adjacent_channels(const ChannelSizes& sizes, const Source& source, const Finish& finish, double* partial,
                              cudaStream_t stream) {
  using Kernel = SumAcross<Source>;
  launch(Kernel{source, sizes, partial}, Shape{grid_blocks<Kernel>(sizes.channels * detail::chunks_of(sizes))}, stream);
  detail::fold_channels(sizes, finish, partial, stream);
}

template <class Source, class Finish>
void reduce_channels(const ChannelSizes& sizes, const Source& source, const Finish& finish, double* partial,
                     cudaStream_t stream) {
  if (sizes.adjacent()) return reduce_adjacent_channels(sizes, source, finish, partial, stream);
  using Kernel = SumAlong<Source>;
  const int64_t lanes = sizes.channels * detail::chunks_of(sizes) * kLanes;
  launch(Kernel{source, sizes, partial}, Shape{grid_blocks<Kernel>(lanes)}, stream);
  detail::fold_channels(sizes, finish, partial, stream);
}

}  // namespace kitae::cuda
