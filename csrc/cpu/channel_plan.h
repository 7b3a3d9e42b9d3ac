// How a reduction over channels followed by an element-wise step is spread over threads and caches. The plan changes
// the traffic, never the bits.
//
// blocks: a unit of work is a block of channels that fits the level-2 cache: sums, then the step while the block is
// there. split:  few long channels, or very long columns: units are chunks, their sums meet in a table; then the step.
#pragma once

#include <cstdint>

#include "cpu/for_each_channel.h"
#include "cpu/reduce_channels.h"
#include "cpu/threads.h"

namespace kitae::cpu {

constexpr int64_t kSmallTensor = 1 << 15;  // elements; below, waking a thread costs more than it brings
constexpr int64_t kBlockBytes = 1 << 18;   // half of a level-2 cache of 512 KB: input and output share it
constexpr int64_t kMapElements = 1 << 16;  // elements of a unit of an element-wise step, or more (elements_of_unit)
constexpr int64_t kChannelsOfUnit = 64;
constexpr int64_t kShortestRow = 256;  // bytes of a block's row, where channels are short rows

// map(box, backwards) over the whole tensor.
template <class Map>
inline void map_channels(const ChannelSizes& sizes, Map&& map) {
  const int64_t row_elements = sizes.channels * sizes.inner;
  if (sizes.size() <= kSmallTensor) return map(Box{0, sizes.outer, 0, sizes.channels, 0, sizes.inner}, false);
  const int64_t most = elements_of_unit(kMapElements, sizes.size());
  // Rows share the numbers that are spread over columns, as long as a cache holds what is then read by strides.
  if (short_rows(sizes) && sizes.size() <= kCachedTensor) {
    const int64_t rows = sizes.outer < kBlockChannels ? sizes.outer : kBlockChannels;
    const int64_t width = kMapElements / (rows * sizes.inner);
    const int64_t groups = (sizes.channels + width - 1) / width;
    parallel_for((sizes.outer + rows - 1) / rows * groups, [&](int64_t unit) {
      const int64_t row = unit / groups * rows, begin = unit % groups * width;
      const int64_t last = row + rows < sizes.outer ? row + rows : sizes.outer;
      const int64_t end = begin + width < sizes.channels ? begin + width : sizes.channels;
      map(Box{row, last, begin, end, 0, sizes.inner}, false);
    });
    return;
  }
  if (row_elements <= most) {
    parallel_ranges(sizes.outer, most / row_elements, [&](int64_t begin, int64_t end) {
      map(Box{begin, end, 0, sizes.channels, 0, sizes.inner}, false);
    });
    return;
  }
  // Parts of one outer row: whole channels, or pieces of one.
  const int64_t pieces = (sizes.inner + most - 1) / most;
  const int64_t width = pieces > 1 ? 1 : most / sizes.inner / kLanes * kLanes;
  const int64_t channels = width > 0 ? width : 1;
  const int64_t groups = (sizes.channels + channels - 1) / channels;
  parallel_for(sizes.outer * groups * pieces, [&](int64_t unit) {
    const int64_t row = unit / pieces / groups, begin = unit / pieces % groups * channels;
    const int64_t end = begin + channels < sizes.channels ? begin + channels : sizes.channels;
    const int64_t column = unit % pieces * most;
    const int64_t last = column + most < sizes.inner ? column + most : sizes.inner;
    map(Box{row, row + 1, begin, end, column, last}, false);
  });
}

inline bool by_blocks(const ChannelSizes& sizes, int64_t element_bytes) {
  if (sizes.size() <= kSmallTensor) return true;
  // Side by side, a block narrower than the tensor is a column: a stride of some power of two would put it all into a
  // few sets of the cache.
  if (sizes.adjacent()) return sizes.size() * element_bytes <= kBlockBytes;
  if (short_rows(sizes) && sizes.outer > kBlockBytes / kShortestRow) return false;
  return num_threads() == 1 || sizes.channels >= 2 * num_threads();
}

inline int64_t block_channels(const ChannelSizes& sizes, int64_t element_bytes) {
  if (sizes.size() <= kSmallTensor) return kBlockChannels;
  int64_t width = kBlockBytes / (sizes.count() * element_bytes);
  const int64_t share = sizes.channels / (2 * num_threads());  // leave every thread a choice of two blocks
  if (num_threads() > 1 && width > share) width = share;
  if (width > kBlockChannels) width = kBlockChannels;
  // Side by side, a block's rows are whole cache lines: 32 channels of 16 bits, 16 of float, two lines of double.
  const int64_t line = element_bytes == 2 ? 2 * kLanes : kLanes;
  if (sizes.adjacent()) width = width / line * line;
  return width > 0 ? width : (sizes.adjacent() ? line : 1);
}

// Sums of Op (parameters(begin, end, double*) fills in its numbers), finish(begin, end, first, second) for each block
// of channels, then map(box, backwards). `fused` lets a block's map run before the other blocks' sums are known;
// otherwise proceed() is asked in between.
template <class Op, class T, class Reader, class Parameters, class MakeReader, class Finish, class Proceed, class Map>
inline void reduce_and_map(const ChannelSizes& sizes, int64_t element_bytes, bool fused, Parameters&& parameters,
                           MakeReader&& make_reader, Finish&& finish, Proceed&& proceed, Map&& map) {
  if (by_blocks(sizes, element_bytes)) {
    const int64_t width = block_channels(sizes, element_bytes);
    const int64_t blocks = (sizes.channels + width - 1) / width;
    parallel_ranges(blocks, sizes.size() <= kSmallTensor ? blocks : 1, [&](int64_t first_block, int64_t last_block) {
      alignas(64) double numbers[kBlockChannels], first[kBlockChannels], second[kBlockChannels];
      Reader reader = make_reader();
      for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t begin = block * width;
        const int64_t end = begin + width < sizes.channels ? begin + width : sizes.channels;
        for (int64_t i = end - begin; i < round_up(end - begin, kLanes); ++i) numbers[i] = 0;
        parameters(begin, end, numbers);
        sum_channels<Op, T>(sizes, begin, end, numbers, reader, first, second);
        finish(begin, end, numbers, first, second);
        if (fused) map(Box{0, sizes.outer, begin, end, 0, sizes.inner}, true);
      }
    });
    if (fused || !proceed()) return;
    return map_channels(sizes, map);
  }

  const int64_t chunks = ChannelChunks(sizes).count;
  const int64_t padded = round_up(sizes.channels, kLanes);
  double* numbers = scratch<double>(Scratch::partial_sums, padded * (3 + 2 * chunks));
  double* first = numbers + padded;
  double* second = first + padded;
  double* table = second + padded;  // (chunk, sum, channel)
  for (int64_t i = sizes.channels; i < padded; ++i) numbers[i] = 0;
  parameters(0, sizes.channels, numbers);
  // Units of kMapElements or more, and where there are few chunks, of fewer channels: every thread a choice of four.
  const int64_t of_chunk = sizes.size() / chunks, most = elements_of_unit(kMapElements, sizes.size());
  const int64_t chunks_of_unit = of_chunk < most ? most / of_chunk : 1;
  const int64_t units = (chunks + chunks_of_unit - 1) / chunks_of_unit;
  int64_t width = round_up(sizes.channels * units / (4 * num_threads()) + 1, kChannelsOfUnit);
  if (num_threads() == 1 || width > kBlockChannels) width = kBlockChannels;
  const int64_t groups = (sizes.channels + width - 1) / width;
  parallel_for(units * groups, [&](int64_t unit) {
    Reader reader = make_reader();
    const int64_t begin = unit % groups * width;
    const int64_t end = begin + width < sizes.channels ? begin + width : sizes.channels;
    const int64_t last = (unit / groups + 1) * chunks_of_unit;
    for (int64_t chunk = unit / groups * chunks_of_unit; chunk < last && chunk < chunks; ++chunk) {
      double* sums = table + chunk * 2 * padded + begin;
      const bool is_last = chunk + 1 == last || chunk + 1 == chunks;
      sum_chunk<Op, T>(sizes, chunk, is_last, begin, end, numbers + begin, reader, sums, sums + padded);
    }
  });
  for (int64_t i = 0; i < sizes.channels; ++i) first[i] = second[i] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const double* sums = table + chunk * 2 * padded;
    for (int64_t i = 0; i < sizes.channels; ++i) {
      first[i] += sums[i];
      second[i] += sums[padded + i];
    }
  }
  finish(0, sizes.channels, numbers, first, second);
  if (!fused && !proceed()) return;
  map_channels(sizes, map);
}

}  // namespace kitae::cpu
