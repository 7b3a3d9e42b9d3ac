// The mask of ops/dropout.h, 32 bits at a time: four Philox blocks a thread.
//
// Work a block of 8 elements: 20 wide products and 20 three-input logic operations of Philox; then 2.5 instructions an
// element to compare and 1.5 to look for ties, which one word in 2,048 has.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "ops/dropout.h"

namespace kitae::cuda {

constexpr int kMaskBits = 32;

// Where the words of a mask come from; a kernel's parameter.
struct KeepWords {
  enum Kind { drop_all, keep_all, stored, drawn };

  Kind kind;
  const uint8_t* bits;  // stored
  DropoutDraw draw;     // drawn

  // Elements 32 word .. 32 word + 31, bit i of the result for element 32 word + i.
  KITAE_DEVICE uint32_t operator()(int64_t word) const {
    switch (kind) {
      case drawn:
        return draw_word(static_cast<uint64_t>(word));
      case stored:
        return load(word);
      default:
        return kind == keep_all ? 0xffffffffu : 0u;
    }
  }

  // Elements 32 word .. 32 word + 7.
  KITAE_DEVICE uint32_t first_byte(int64_t word) const {
    switch (kind) {
      case drawn:
        return draw_word(static_cast<uint64_t>(word)) & 0xffu;
      case stored:
        return bits[4 * word];
      default:
        return kind == keep_all ? 0xffu : 0u;
    }
  }

 private:
  static constexpr int kBlocks = kMaskBits / kElementsPerBlock;

  KITAE_DEVICE uint32_t load(int64_t word) const {
    const uint8_t* const from = bits + 4 * word;
    if (reinterpret_cast<uintptr_t>(bits) % 4 == 0) return *reinterpret_cast<const uint32_t*>(from);
    return from[0] | from[1] << 8 | from[2] << 16 | static_cast<uint32_t>(from[3]) << 24;
  }

  // Four blocks at once, so that one's products are made while the others wait for theirs. The rounds stay a loop:
  // unrolled, their keys take twenty registers.
  KITAE_DEVICE void draw_blocks(PhiloxBlock* random, uint64_t word, uint64_t offset) const {
    KITAE_UNROLL
    for (int i = 0; i < kBlocks; ++i) random[i] = philox_counter(word * kBlocks + static_cast<uint64_t>(i), offset);
    PhiloxKey key = philox_key(draw.seed);
    KITAE_NO_UNROLL
    for (int round = 0; round < kPhiloxRounds; ++round) {
      KITAE_UNROLL
      for (int i = 0; i < kBlocks; ++i) philox_round(random[i], key);
      key.next();
    }
  }

  KITAE_DEVICE uint32_t draw_word(uint64_t word) const {
    const auto upper = static_cast<uint32_t>(draw.threshold >> 16);
    const uint32_t limit = upper << 16 | 0xffffu;  // a word above it has a high half above `upper`
    PhiloxBlock random[kBlocks];
    draw_blocks(random, word, draw.offset);
    uint32_t kept = 0, tied = 0;
    KITAE_UNROLL
    for (int i = 0; i < kMaskBits / 2; ++i) {
      const uint32_t pair = random[i / 4].word[i % 4];
      kept |= pair << 16 > limit ? 1u << (2 * i) : 0u;
      kept |= pair > limit ? 2u << (2 * i) : 0u;
      const uint32_t difference = pair ^ (upper * 0x00010001u);  // a half of 0 is a tie
      tied |= (difference - 0x00010001u) & ~difference & 0x80008000u;
    }
    if (tied == 0) return kept;

    tied = 0;
    KITAE_UNROLL
    for (int i = 0; i < kMaskBits / 2; ++i) {
      const uint32_t pair = random[i / 4].word[i % 4];
      tied |= (pair & 0xffffu) == upper ? 1u << (2 * i) : 0u;
      tied |= pair >> 16 == upper ? 2u << (2 * i) : 0u;
    }
    draw_blocks(random, word, draw.offset + kSecondDraw);
    uint32_t second = 0;
    KITAE_UNROLL
    for (int i = 0; i < kBlocks; ++i) second |= draw.keep_ties(random[i]) << (kElementsPerBlock * i);
    return kept | (tied & second);
  }
};

KITAE_DEVICE void store_mask_word(uint8_t* bits, int64_t word, uint32_t value) {
  uint8_t* const to = bits + 4 * word;
  if (reinterpret_cast<uintptr_t>(bits) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(to) = value;
    return;
  }
  for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace kitae::cuda
