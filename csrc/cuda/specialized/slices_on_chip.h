// Slices of a tensor in shared memory: what kernels that read each element once are made of.
//
// A slice, one channel or where the channels lie side by side 64 or 128 bytes of them, belongs to some blocks: each
// takes whole chunks of the order of sums (ops/reduction_order.h), copies them to its shared memory, sums them from
// there, and when the blocks have told each other, makes the element-wise step from there.
//
// A segment is what lies together of a slice: a row, a piece of a long one, or `width` channels of a row. It is copied
// with the 16-byte blocks that it touches, and keeps its place in them.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/for_each_channel.h"
#include "cuda/reduce_channels.h"

namespace kitae::cuda {

struct ResidentPlan {
  int64_t slices = 0;  // 0: it does not fit
  int width = 1;       // channels of a slice
  int cluster = 1;     // blocks of a slice
  int chunks = 0;      // of a block, the last block may have fewer
  int segments_of_chunk = 0;
  int segments = 0;          // of a block
  int pitch = 0;             // bytes of a segment in shared memory
  int64_t shared_bytes = 0;  // inputs, then sums, then numbers
};

constexpr int64_t kResidentNumbersBytes = 64;  // of a channel, at most

// What is asked of a plan.
struct ResidentNeeds {
  ChannelSizes sizes;
  int64_t element_bytes, inputs;
  bool aligned;  // every input begins with a 16-byte vector
};

// With `width` channels a slice and `cluster` blocks.
inline ResidentPlan resident_plan(const ResidentNeeds& needs, int width, int cluster) {
  const ChannelSizes& sizes = needs.sizes;
  const int64_t element_bytes = needs.element_bytes;
  const ChannelChunks chunks(sizes);
  const bool adjacent = sizes.adjacent();
  ResidentPlan plan;
  plan.width = width;
  plan.cluster = cluster;
  plan.slices = (sizes.channels + width - 1) / width;
  const int64_t of_block = (chunks.count + cluster - 1) / cluster;
  const int64_t all = chunks.pieces > 1 ? sizes.outer * chunks.pieces : sizes.outer;
  const int64_t segments = of_block * chunks.rows < all ? of_block * chunks.rows : all;
  const int64_t bytes = (adjacent ? width : chunks.per_piece) * element_bytes;
  // Room for where a segment begins in its first 16 bytes, unless all begin there.
  const int64_t row_bytes = (adjacent ? sizes.channels : sizes.inner) * element_bytes;
  const int64_t pitch = (bytes + (needs.aligned && row_bytes % 16 == 0 ? 0 : 16 - element_bytes) + 15) / 16 * 16;
  plan.shared_bytes = needs.inputs * segments * pitch + of_block * width * 16 + width * kResidentNumbersBytes;
  if (of_block >= kSerialChunks || plan.shared_bytes > (int64_t{1} << 30)) return {};
  plan.chunks = static_cast<int>(of_block);
  plan.segments_of_chunk = static_cast<int>(chunks.rows);
  plan.segments = static_cast<int>(segments);
  plan.pitch = static_cast<int>(pitch);
  return plan;
}

// A job has
//   S, kInputs, Source, Step        as in reduce_channels.h and for_each_channel.h
//   const S* input(i)
//   source, step
//   Raw raw(elements, place)        of elements in shared memory: const S* (&)[kInputs]
//   Memory memory(elements)         the step's
//   Result result(channel, Sums)    by one thread a channel, in every block
//   keep(channel, result)           writes what belongs to the channel: one block a slice
//   Numbers numbers(channel, result)
//   kScaled, scaled_source, scaled_result, result.finite(): where sums may have overflowed
//   end()                           every thread of the grid, last
template <class Job, bool kAdjacent, int kThreadsOfBlock>
struct SlicesOnChip {
  using S = typename Job::S;
  using Step = typename Job::Step;
  using Numbers = typename Step::Numbers;
  using Result = typename Job::Result;
  static constexpr int kInputs = Job::kInputs;
  static constexpr int kThreads = kThreadsOfBlock;
  static constexpr int kUnroll = 8 / kInputs;
  static_assert(sizeof(Numbers) <= kResidentNumbersBytes, "the plan has too little room for a channel's numbers");

  Job job;
  ChannelSizes sizes;
  ResidentPlan plan;

  // After the inputs, where the plan has them: sums of chunks and numbers of channels.
  KITAE_DEVICE double* sums() const {
    return reinterpret_cast<double*>(dynamic_shared<char>() +
                                     static_cast<int64_t>(kInputs) * plan.segments * plan.pitch);
  }

  KITAE_DEVICE Numbers* numbers_in_shared() const {
    return reinterpret_cast<Numbers*>(dynamic_shared<char>() + plan.shared_bytes - plan.width * kResidentNumbersBytes);
  }

  // The block's part: segments [first, first + segments) of the channels from `channel` on.
  struct Slice {
    int64_t channel, first;
    int rank, columns, chunks, segments;

    // `rank_` is the block's place among those of the slice.
    KITAE_DEVICE Slice(const SlicesOnChip& kernel, int64_t number, int rank_) : rank(rank_) {
      const ResidentPlan& plan = kernel.plan;
      const ChannelChunks all(kernel.sizes);
      channel = number * plan.width;
      const int64_t left = kernel.sizes.channels - channel;
      columns = left < plan.width ? static_cast<int>(left) : plan.width;
      const int64_t chunk = int64_t{rank} * plan.chunks;
      chunks = chunk >= all.count                ? 0
               : all.count - chunk < plan.chunks ? static_cast<int>(all.count - chunk)
                                                 : plan.chunks;
      first = chunk * plan.segments_of_chunk;
      const int64_t last = all.pieces > 1 ? kernel.sizes.outer * all.pieces : kernel.sizes.outer;
      const int64_t wanted = int64_t{chunks} * plan.segments_of_chunk;
      segments = chunks == 0 ? 0 : static_cast<int>(last - first < wanted ? last - first : wanted);
    }
  };

  KITAE_DEVICE Place place_of(const Slice& slice, int segment) const {
    const int64_t at = slice.first + segment;
    if constexpr (kAdjacent) {
      return {at * sizes.channels + slice.channel, at, slice.channel};
    } else {
      if (sizes.inner <= kChunk) {
        const int64_t row = at * sizes.channels + slice.channel;
        return {row * sizes.inner, row, 0};
      }
      const int64_t pieces = (sizes.inner + kChunk - 1) / kChunk, outer = at / pieces;
      const int64_t row = outer * sizes.channels + slice.channel, column = (at - outer * pieces) * kChunk;
      return {row * sizes.inner + column, row, column};
    }
  }
  KITAE_DEVICE int length_of(const Slice& slice, const Place& place) const {
    if constexpr (kAdjacent) return slice.columns;
    const int64_t left = sizes.inner - place.column;
    return static_cast<int>(left < kChunk ? left : kChunk);
  }
  KITAE_DEVICE char* slot(int input, int segment) const {
    return dynamic_shared<char>() + (static_cast<int64_t>(input) * plan.segments + segment) * plan.pitch;
  }
  // A segment's first element in shared memory.
  KITAE_DEVICE S* elements(int input, int segment, const Place& place) const {
    const uintptr_t from = reinterpret_cast<uintptr_t>(job.input(input) + place.index);
    return reinterpret_cast<S*>(slot(input, segment) + from % 16);
  }
  // visit(segment, index) for `count` things a segment, shared out among the block's threads.
  template <class Visit>
  KITAE_DEVICE void for_each(int segments, int count, Visit&& visit) const {
    int segment = thread_index() / count, index = thread_index() % count;
    const int more_segments = kThreads / count, more = kThreads % count;
    while (segment < segments) {
      visit(segment, index);
      segment += more_segments;
      index += more;
      if (index >= count) {
        index -= count;
        ++segment;
      }
    }
  }

  KITAE_DEVICE void load(const Slice& slice) const {
#pragma unroll
    for (int input = 0; input < kInputs; ++input) {
      const S* const tensor = job.input(input);
      const char* const begin = reinterpret_cast<const char*>(tensor);
      const char* const end = reinterpret_cast<const char*>(tensor + sizes.size());
      for_each(slice.segments, plan.pitch / 16, [&](int segment, int index) {
        const Place place = place_of(slice, segment);
        const char* const from = reinterpret_cast<const char*>(tensor + place.index);
        const int before = static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16);
        const int bytes = length_of(slice, place) * static_cast<int>(sizeof(S));
        const int at = index * 16 - before;  // bytes from the segment's first element
        if (at >= bytes) return;
        char* const to = slot(input, segment) + index * 16;
        if (from + at >= begin && from + at + 16 <= end) {
          async_copy(to, from + at);
        } else {  // the ends of a tensor that does not begin or end with 16 bytes
          for (int i = 0; i < 16; i += static_cast<int>(sizeof(S)))
            if (at + i >= 0 && at + i < bytes)
              *reinterpret_cast<S*>(to + i) = *reinterpret_cast<const S*>(from + at + i);
        }
      });
    }
    async_copy_wait();
    sync_block();
  }

  struct Spot {
    const S* elements[kInputs];
    Place place;
  };
  KITAE_DEVICE Spot spot_of(const Slice& slice, int segment) const {
    Spot spot;
    spot.place = place_of(slice, segment);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) spot.elements[i] = elements(i, segment, spot.place);
    return spot;
  }
  KITAE_DEVICE auto raw_of(const Spot& spot, int column) const {
    const S* at[kInputs];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) at[i] = spot.elements[i] + column;
    return job.raw(at, spot.place.after(column));
  }

  // keep(chunk, column, Sums) for each chunk of the block and channel of the slice.
  template <class Source, class Keep>
  KITAE_DEVICE void sum(const Slice& slice, const Source& source, Keep&& keep) const {
    const auto segments_of = [&](int chunk) {
      const int left = slice.segments - chunk * plan.segments_of_chunk;
      return left < plan.segments_of_chunk ? left : plan.segments_of_chunk;
    };
    if constexpr (kAdjacent) {
      for (int unit = thread_index(); unit < slice.chunks * plan.width; unit += kThreads) {
        const int chunk = unit / plan.width, column = unit % plan.width;
        if (column >= slice.columns) continue;
        const int begin = chunk * plan.segments_of_chunk;
        const Sums s = sum_rows<kUnroll>(source, source.channel(slice.channel + column), segments_of(chunk),
                                         [&](int segment) { return raw_of(spot_of(slice, begin + segment), column); });
        keep(chunk, column, s);
      }
    } else {
      const int lane = lane_index() % kLanes, half = lane_index() / kLanes;
      const auto channel = source.channel(slice.channel);
      for (int pair = warp_index() * 2; pair < slice.chunks; pair += kThreads / kLanes) {
        const int chunk = pair + half, begin = chunk * plan.segments_of_chunk;
        Sums s;
        if (chunk < slice.chunks)
          s = sum_lane<kUnroll>(
              source, channel, lane, segments_of(chunk), length_of(slice, place_of(slice, begin)),
              [&](int segment) { return spot_of(slice, begin + segment); },
              [&](const Spot& spot, int column) { return raw_of(spot, column); });
        s = {fold_lanes_of_warp(s.first), fold_lanes_of_warp(s.second)};
        if (chunk < slice.chunks && lane == 0) keep(chunk, 0, s);
      }
    }
  }

  KITAE_DEVICE void map(const Slice& slice, const Numbers* numbers) const {
    constexpr int kItem = Step::kItem;
    const int longest = kAdjacent ? plan.width : static_cast<int>(sizes.inner < kChunk ? sizes.inner : kChunk);
    const int items = (longest + (Step::kByRow ? 0 : kItem - 1) + kItem - 1) / kItem;
    const Numbers of_channel = numbers[0];
    for_each(slice.segments, items, [&](int segment, int index) {
      const Spot spot = spot_of(slice, segment);
      const int length = length_of(slice, spot.place);
      const auto target = reinterpret_cast<uintptr_t>(job.step.target() + spot.place.index);
      const int lead = Step::kByRow ? 0 : static_cast<int>(target % 16 / sizeof(S));
      const int begin = index * kItem - lead;
      if (begin >= length) return;
      const auto numbers_of = [&](int i) { return kAdjacent ? numbers[begin + i] : of_channel; };
      const auto memory_at = [&](int column) {
        const S* at[kInputs];
#pragma unroll
        for (int i = 0; i < kInputs; ++i) at[i] = spot.elements[i] + column;
        return job.memory(at);
      };
      const Place place = spot.place.after(begin);
      if (begin >= 0 && begin + kItem <= length) {
        typename Step::Inputs inputs;
        job.step.load(inputs, memory_at(begin), place);
        job.step.apply(inputs, place, numbers_of);
        return;
      }
      unsigned int bits = 0;
#pragma unroll 1
      for (int i = begin < 0 ? -begin : 0; i < kItem && begin + i < length; ++i)
        bits |= (job.step.apply_one(memory_at(begin + i), place.after(i), numbers_of(i)) ? 1u : 0u) << i;
      if constexpr (Step::kByRow) job.step.store_bits(place, bits);
    });
  }
};

}  // namespace kitae::cuda
