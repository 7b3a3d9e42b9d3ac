// Dropout (N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014).
//
//   y_i = keep_scale x_i where kept, +0 where dropped        dx_i = keep_scale dout_i where kept, +0 where dropped
//
// A selection, not a product with 0: a dropped infinity or NaN gives 0. keep_scale is 1 / (1 - drop) ("inverted") or 1
// ("classic", where inference multiplies by 1 - drop), rounded once to the type of the arithmetic, as is the product.
//
// Which elements are kept is a function of (seed, offset, i) alone. Element i, in C order, compares half-word i mod 8
// (the low half of a word first) of Philox block i div 8, counter (block, offset), key seed, with the upper half of the
// threshold T = floor(drop 2^32): below, the element is dropped; above, kept. In a tie, one element in 65,536, the same
// half-word of counter (block, offset + 2^63) is compared with T's lower half. So 16 bits of generator an element give
// a rate that is exact to 2^-32. T = 0 drops nothing, T = 2^32 everything.
//
// Traffic: x read and y written once, and one bit an element of mask, written by the forward and read by the backward
// pass (or none, where the backward pass draws the mask again). No accumulator; the same bits on any device.
#pragma once

#include <cstdint>

#include "ops/philox.h"

namespace kitae {

constexpr int kElementsPerBlock = 8;  // half-words of a Philox block: one byte of mask
constexpr int kElementsPerWord = 64;  // the mask is stored in 64-bit words, the bits past the end 0
constexpr uint64_t kDropAll = uint64_t{1} << 32;
constexpr uint64_t kSecondDraw = uint64_t{1} << 63;

KITAE_HD int64_t mask_words(int64_t elements) { return (elements + kElementsPerWord - 1) / kElementsPerWord; }

struct DropoutDraw {
  uint64_t threshold;     // T, in [0, 2^32]
  uint64_t seed, offset;  // offset < 2^63

  // The mask of the eight elements of a block; bit j is element 8 block + j, 1 = kept. For 0 < T < 2^32.
  KITAE_HD uint32_t keep_byte(uint64_t block) const {
    const uint32_t upper = static_cast<uint32_t>(threshold >> 16);
    const PhiloxBlock first = philox(block, offset, seed);
    uint32_t kept = 0, tied = 0;
    for (int j = 0; j < kElementsPerBlock; ++j) {
      const uint32_t r = half_word(first, j);
      kept |= (r > upper ? 1u : 0u) << j;
      tied |= (r == upper ? 1u : 0u) << j;
    }
    return tied == 0 ? kept : kept | (tied & keep_ties(philox(block, offset + kSecondDraw, seed)));
  }

  // What decides where the first draw is the threshold's upper half.
  KITAE_HD uint32_t keep_ties(const PhiloxBlock& second) const {
    const uint32_t lower = static_cast<uint32_t>(threshold & 0xffffu);
    uint32_t kept = 0;
    for (int j = 0; j < kElementsPerBlock; ++j) kept |= (half_word(second, j) >= lower ? 1u : 0u) << j;
    return kept;
  }

 private:
  static KITAE_HD uint32_t half_word(const PhiloxBlock& block, int j) {
    return block.word[j / 2] >> (16 * (j & 1)) & 0xffffu;
  }
};

template <class T>
KITAE_HD T keep_or_zero(T value, bool kept, T keep_scale) {
  return kept ? value * keep_scale : T(0);
}

}  // namespace kitae
