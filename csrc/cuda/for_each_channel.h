// Element-wise steps whose numbers belong to the channel, over the whole tensor.
//
// The tensor is cut into items of Step::kItem elements side by side, 16 bytes or, where a mask is read or written, the 8
// elements of a byte; such items begin anew with every row (of one channel, or of all channels where inner == 1), the
// others run through. Items begin where the output's 16-byte vectors do; other arrays take vectors where they agree.
// From the end of the tensor to its beginning: what was read last lies in the level-2 cache.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/reduce_channels.h"

namespace kitae::cuda {

// Elements [first, last) of the item that begins at element `index`, which is `column` of `row`.
struct Item {
  int64_t index, row, column;
  int first, last;
};

KITAE_HD bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

template <int N, class S>
KITAE_DEVICE void load_item(S (&values)[N], const S* from, const Item& item) {
  constexpr int kPer = kPerVector<S>;
  static_assert(N % kPer == 0, "an item is whole vectors");
  if (item.first == 0 && item.last == N && aligned(from)) {
#pragma unroll
    for (int at = 0; at < N; at += kPer) {
      const Vector<S, kPer> vector = load_vector<kPer>(from + at);
#pragma unroll
      for (int i = 0; i < kPer; ++i) values[at + i] = vector[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i >= item.first && i < item.last) values[i] = from[i];
  }
}

template <int N, class S>
KITAE_DEVICE void store_item(S* to, const S (&values)[N], const Item& item) {
  constexpr int kPer = kPerVector<S>;
  if (item.first == 0 && item.last == N && aligned(to)) {
#pragma unroll
    for (int at = 0; at < N; at += kPer) {
      Vector<S, kPer> vector;
#pragma unroll
      for (int i = 0; i < kPer; ++i) vector[i] = values[at + i];
      store_vector_streaming(to + at, vector);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i >= item.first && i < item.last) to[i] = values[i];
  }
}

// A step has
//   S, kItem, kByRow                items (kByRow: of 8 elements, for a mask)
//   Inputs; load(inputs, item)      reads an item's elements
//   apply(inputs, item, numbers)    computes and stores; numbers(i) are those of element i
//   Numbers numbers(channel)
//   S* target() const               the output that items are aligned with
//   bool begin() const              once a thread, before anything; false: there is nothing to do
template <class Step, bool kAdjacent>
struct ForEachChannel {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  static constexpr int kUnroll = 2;
  Step step;
  ChannelRows rows;
  int64_t pitch, lead, items;  // a row's elements with what pads it to whole items; elements of the first item missing

  ForEachChannel(const Step& s, const ChannelSizes& sizes) : step(s), rows(sizes) {
    constexpr int64_t kItem = Step::kItem;
    pitch = Step::kByRow ? (rows.width + kItem - 1) / kItem * kItem : rows.width;
    const auto beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(step.target()) % 16 / sizeof(*step.target()));
    lead = Step::kByRow ? 0 : beyond;
    items = (rows.rows * pitch + lead + kItem - 1) / kItem;
  }

  KITAE_DEVICE void operator()() const {
    if (!step.begin()) return;
    const int64_t stride = grid_threads();
    int64_t left = items - 1 - global_thread();
    if (left < 0) return;
    Cursor cursor(*this, left * Step::kItem - lead);
    const Cursor back(*this, stride * Step::kItem);
    for (; left >= 0; left -= kUnroll * stride) {
      typename Step::Inputs inputs[kUnroll];
      Cursor at[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        at[i] = cursor;
        if (left - i * stride >= 0) step.load(inputs[i], item_at(cursor));
        cursor.go_back(back, *this);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i)
        if (left - i * stride >= 0) apply(inputs[i], at[i]);
    }
  }

 private:
  // A place `at` elements, pads included, from the beginning; also a distance. One division a thread, none an item.
  struct Cursor {
    int64_t at, row, column, channel;

    Cursor() = default;
    KITAE_DEVICE Cursor(const ForEachChannel& loop, int64_t begin) : at(begin) {
      row = begin < 0 ? 0 : begin / loop.pitch;
      column = begin - row * loop.pitch;
      channel = kAdjacent ? 0 : row % loop.rows.channels;
    }
    KITAE_DEVICE void go_back(const Cursor& distance, const ForEachChannel& loop) {
      at -= distance.at;
      row -= distance.row;
      column -= distance.column;
      if constexpr (!kAdjacent) channel -= distance.channel;
      if (column < 0) {
        column += loop.pitch;
        --row;
        if constexpr (!kAdjacent) --channel;
      }
      if constexpr (!kAdjacent)
        if (channel < 0) channel += loop.rows.channels;
      if (at < 0) row = channel = 0, column = at;  // the first item, part of which is missing
    }
  };

  KITAE_DEVICE Item item_at(const Cursor& cursor) const {
    constexpr int kItem = Step::kItem;
    const int64_t left = Step::kByRow ? rows.width - cursor.column : rows.rows * pitch - cursor.at;
    return {cursor.row * rows.width + cursor.column, cursor.row, cursor.column,
            cursor.at < 0 ? static_cast<int>(-cursor.at) : 0, left < kItem ? static_cast<int>(left) : kItem};
  }

  KITAE_DEVICE void apply(typename Step::Inputs& inputs, const Cursor& cursor) const {
    const Item item = item_at(cursor);
    if constexpr (kAdjacent) {
      step.apply(inputs, item, [&](int i) {
        const int64_t column = cursor.column + i;
        return step.numbers(column < rows.width ? column : column % rows.width);
      });
    } else if (cursor.column + Step::kItem <= pitch) {
      const typename Step::Numbers numbers = step.numbers(cursor.channel);
      step.apply(inputs, item, [&](int) { return numbers; });
    } else {
      step.apply(inputs, item, [&](int i) {
        const int64_t column = cursor.column + i;
        if (column < pitch) return step.numbers(cursor.channel);
        return step.numbers((cursor.channel + column / pitch) % rows.channels);
      });
    }
  }
};

template <class Step>
void for_each_channel(const ChannelSizes& sizes, const Step& step, cudaStream_t stream) {
  if (sizes.adjacent()) {
    using Kernel = ForEachChannel<Step, true>;
    const Kernel kernel(step, sizes);
    launch(kernel, Shape{grid_blocks<Kernel>(kernel.items)}, stream);
  } else {
    using Kernel = ForEachChannel<Step, false>;
    const Kernel kernel(step, sizes);
    launch(kernel, Shape{grid_blocks<Kernel>(kernel.items)}, stream);
  }
}

}  // namespace kitae::cuda
