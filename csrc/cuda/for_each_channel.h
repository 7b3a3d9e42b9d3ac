// Element-wise steps whose numbers belong to the channel, over the whole tensor.
//
// The tensor is cut into items of Step::kItem elements side by side, 16 bytes or, where a mask is read or written, the
// 8 elements of a byte; such items begin anew with every row (of one channel, or of all channels where inner == 1), the
// others run through. Items begin where the output's 16-byte vectors do; other arrays take vectors where they agree.
// From the end of the tensor to its beginning: what was read last lies in the level-2 cache.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/reduce_channels.h"

namespace kitae::cuda {

KITAE_HD bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

// The elements of an item as they were loaded: 16-bit ones two a register until they are used.
template <class S, int N>
struct Elements {
  static constexpr int kPer = kPerVector<S>;
  static_assert(N % kPer == 0, "an item is whole vectors");
  Vector<uint32_t, 4> vector[N / kPer];

  KITAE_DEVICE S operator[](int i) const { return bit_cast<Vector<S, kPer>>(vector[i / kPer])[i % kPer]; }
  // One by one where the address is not one of a vector.
  KITAE_DEVICE void load(const S* from) {
    if (aligned(from)) {
#pragma unroll
      for (int i = 0; i < N / kPer; ++i) vector[i] = bit_cast<Vector<uint32_t, 4>>(load_vector<kPer>(from + i * kPer));
    } else {
#pragma unroll
      for (int i = 0; i < N / kPer; ++i) {
        Vector<S, kPer> elements;
#pragma unroll
        for (int at = 0; at < kPer; ++at) elements[at] = from[i * kPer + at];
        vector[i] = bit_cast<Vector<uint32_t, 4>>(elements);
      }
    }
  }
};

template <int N, class S>
KITAE_DEVICE void store_item(S* to, const S (&values)[N]) {
  constexpr int kPer = kPerVector<S>;
  if (aligned(to)) {
#pragma unroll
    for (int at = 0; at < N; at += kPer) {
      Vector<S, kPer> vector;
#pragma unroll
      for (int i = 0; i < kPer; ++i) vector[i] = values[at + i];
      store_vector_streaming(to + at, vector);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = values[i];
  }
}

// A step has
//   S, kItem, kByRow                items (kByRow: of 8 elements, for a mask)
//   kUnroll, kBlocksPerSM           items under way at a time, and the registers that leaves
//   Memory                          pointers to the inputs; memory(place) are those of an element of the tensor
//   Inputs; load(inputs, memory, place)          reads an item
//   apply(inputs, place, numbers)                computes and stores it; numbers(i) are those of element i
//   bool apply_one(memory, place, numbers)       the same for one element: its bit of the mask
//   store_bits(place, bits)                      for the item
//   Numbers numbers(channel)
//   S* target() const               the output that items are aligned with
//   bool begin() const              once a thread, before anything; false: there is nothing to do
template <class Step, bool kAdjacent>
struct ForEachChannel {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = Step::kBlocksPerSM;
  static constexpr int kUnroll = Step::kUnroll;

  // A place `at` elements, pads included, from the beginning; also a distance. Divisions are for the first one alone.
  struct Cursor {
    int64_t at, row, column, channel;

    Cursor() = default;
    KITAE_HD Cursor(int64_t begin, int64_t pitch, int64_t channels) : at(begin) {
      row = begin < 0 ? 0 : begin / pitch;
      column = begin - row * pitch;
      channel = kAdjacent ? 0 : row % channels;
    }
    KITAE_DEVICE void go_back(const Cursor& distance, int64_t pitch, int64_t channels) {
      at -= distance.at;
      row -= distance.row;
      column -= distance.column;
      if constexpr (!kAdjacent) channel -= distance.channel;
      if (column < 0) {
        column += pitch;
        --row;
        if constexpr (!kAdjacent) --channel;
      }
      if constexpr (!kAdjacent)
        if (channel < 0) channel += channels;
      if (at < 0) row = channel = 0, column = at;  // the first item, part of which is missing
    }
  };

  Step step;
  ChannelRows rows;
  int64_t pitch, lead, items;  // a row's elements with what pads it to whole items; elements of the first item missing
  int64_t blocks;
  Cursor distance;  // of a thread's items

  ForEachChannel(const Step& s, const ChannelSizes& sizes) : step(s), rows(sizes) {
    constexpr int64_t kItem = Step::kItem;
    pitch = Step::kByRow ? (rows.width + kItem - 1) / kItem * kItem : rows.width;
    const auto beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(step.target()) % 16 / sizeof(*step.target()));
    lead = Step::kByRow ? 0 : beyond;
    items = (rows.rows * pitch + lead + kItem - 1) / kItem;
    blocks = grid_blocks<ForEachChannel>(items);
    distance = Cursor(blocks * kThreads * kItem, pitch, rows.channels);
  }

  KITAE_DEVICE void operator()() const {
    if (!step.begin()) return;
    int64_t left = items - 1 - global_thread();
    if (left < 0) return;
    Cursor cursor(left * Step::kItem - lead, pitch, rows.channels);
    const int64_t stride = grid_threads();
    for (; left >= 0; left -= kUnroll * stride) {
      typename Step::Inputs inputs[kUnroll];
      Cursor ahead = cursor;
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (left - i * stride >= 0 && whole(ahead)) {
          const Place place = place_of(ahead);
          step.load(inputs[i], step.memory(place), place);
        }
        ahead.go_back(distance, pitch, rows.channels);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (left - i * stride >= 0) {
          if (whole(cursor))
            apply(inputs[i], cursor);
          else
            apply_by_elements(cursor);
        }
        cursor.go_back(distance, pitch, rows.channels);
      }
    }
  }

 private:
  // All its elements are there and in one row.
  KITAE_DEVICE bool whole(const Cursor& cursor) const {
    return cursor.at >= 0 && cursor.column + Step::kItem <= rows.width;
  }
  KITAE_DEVICE Place place_of(const Cursor& cursor) const {
    return {Step::kByRow ? cursor.row * rows.width + cursor.column : cursor.at, cursor.row, cursor.column};
  }

  KITAE_DEVICE void apply(typename Step::Inputs& inputs, const Cursor& cursor) const {
    if constexpr (kAdjacent) {
      step.apply(inputs, place_of(cursor), [&](int i) { return step.numbers(cursor.column + i); });
    } else {
      const typename Step::Numbers numbers = step.numbers(cursor.channel);
      step.apply(inputs, place_of(cursor), [&](int) { return numbers; });
    }
  }

  KITAE_DEVICE void apply_by_elements(const Cursor& cursor) const {
    Place place = place_of(cursor);
    int64_t channel = cursor.channel;
    const int64_t left = Step::kByRow ? rows.width - cursor.column : rows.rows * pitch - cursor.at;
    const int first = cursor.at < 0 ? static_cast<int>(-cursor.at) : 0;
    const int last = left < Step::kItem ? static_cast<int>(left) : Step::kItem;
    unsigned int bits = 0;
    place = place.after(first);
#pragma unroll 1
    for (int i = first; i < last; ++i) {
      const auto numbers = step.numbers(kAdjacent ? place.column : channel);
      bits |= (step.apply_one(step.memory(place), place, numbers) ? 1u : 0u) << i;
      place = place.after(1);
      if (place.column == rows.width) {
        place.column = 0;
        ++place.row;
        if (++channel == rows.channels) channel = 0;
      }
    }
    if constexpr (Step::kByRow) step.store_bits(place_of(cursor), bits);
  }
};

template <class Step>
void for_each_channel(const ChannelSizes& sizes, const Step& step, cudaStream_t stream) {
  if (sizes.adjacent()) {
    const ForEachChannel<Step, true> kernel(step, sizes);
    launch(kernel, Shape{kernel.blocks}, stream);
  } else {
    const ForEachChannel<Step, false> kernel(step, sizes);
    launch(kernel, Shape{kernel.blocks}, stream);
  }
}

}  // namespace kitae::cuda
