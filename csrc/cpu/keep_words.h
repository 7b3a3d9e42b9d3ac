// Sixty-four elements' worth of ops/dropout.h at once: eight Philox blocks side by side, their half-words compared with
// the threshold, one bit each. The bits are those of DropoutDraw::keep_byte, which also settles the groups with a tie.
//
// Each 32-bit word of a block's state lives in a 64-bit lane of its own, where the 32x32 -> 64 bit product leaves it:
// the low word of a product is the product (what stands above it is never read), the high word one shift away. A round
// costs two products, two shifts and four xors for all lanes; the first two rounds are half constant, as all blocks of
// a group share the offset. On AVX2 (Zen 3): 0.63 cycles an element.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/lanes.h"
#include "ops/dropout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace kitae::cpu {

#if defined(__x86_64__) || defined(__aarch64__)

namespace philox_vectors {

constexpr int kBlocks = kVectorBytes / 8;                                 // blocks of a vector
constexpr int kVectors = kElementsPerWord / kElementsPerBlock / kBlocks;  // vectors of a word
// Words drawn together: four vectors, or two of 512 bits, are what the products' latency needs to be hidden (on AVX2 40
// cycles a word instead of 47, the limit that the execution ports set).
constexpr int kWords = kVectorBytes > 16 ? 2 : 1;

typedef uint64_t Blocks __attribute__((vector_size(kVectorBytes)));

// Products of the low halves of the lanes.
inline Blocks product(Blocks a, Blocks b) {
#if defined(__AVX512F__)
  // All lanes by a mask: the unmasked form draws a false warning from g++ 12 (GCC bug 105593).
  return (Blocks)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Blocks)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (Blocks)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (Blocks)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#endif
}

inline Blocks broadcast(uint64_t value) { return Blocks{} + value; }

// One bit a half-word of kBlocks blocks, eight a block: `kept` where it is above `upper`, `tied` (not zero) where one
// anywhere is equal to it. `upper` holds the 16-bit number in every half-word.
struct Comparison {
  uint64_t kept;
  bool tied;
};

inline Comparison compare(Blocks c0, Blocks c1, Blocks c2, Blocks c3, Blocks upper) {
#if defined(__AVX512F__)
  constexpr __mmask16 kOdd = 0xaaaa;
  const __m512i bound = (__m512i)upper;
  const __m512i w01 = _mm512_mask_shuffle_epi32((__m512i)c0, kOdd, (__m512i)c1, _MM_PERM_CCAA);
  const __m512i w23 = _mm512_mask_shuffle_epi32((__m512i)c2, kOdd, (__m512i)c3, _MM_PERM_CCAA);
  const uint32_t kept01 = _mm512_cmpgt_epu16_mask(w01, bound), kept23 = _mm512_cmpgt_epu16_mask(w23, bound);
  const uint32_t tied = _mm512_cmpeq_epu16_mask(w01, bound) | _mm512_cmpeq_epu16_mask(w23, bound);
  return {_pdep_u64(kept01, 0x0f0f0f0f0f0f0f0fu) | _pdep_u64(kept23, 0xf0f0f0f0f0f0f0f0u), tied != 0};
#elif defined(__AVX2__)
  const __m256i bound = (__m256i)upper, zero = _mm256_setzero_si256();
  // Even 32-bit words of two vectors: in each 128-bit half c0 c0' c1 c1', the prime for the second block.
  const auto evens = [](Blocks a, Blocks b) {
    return _mm256_castps_si256(_mm256_shuffle_ps((__m256)a, (__m256)b, _MM_SHUFFLE(2, 0, 2, 0)));
  };
  const __m256i w01 = evens(c0, c1), w23 = evens(c2, c3);
  const __m256i tied = _mm256_or_si256(_mm256_cmpeq_epi16(w01, bound), _mm256_cmpeq_epi16(w23, bound));
  // Unsigned r <= bound: the saturating difference is 0.
  const __m256i drop01 = _mm256_cmpeq_epi16(_mm256_subs_epu16(w01, bound), zero);
  const __m256i drop23 = _mm256_cmpeq_epi16(_mm256_subs_epu16(w23, bound), zero);
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_packs_epi16(drop01, drop23), order);
  return {static_cast<uint32_t>(~_mm256_movemask_epi8(bytes)), !_mm256_testz_si256(tied, tied)};
#elif defined(__x86_64__)
  const __m128i bound = (__m128i)upper, zero = _mm_setzero_si128();
  const auto evens = [](Blocks a, Blocks b) {
    return _mm_castps_si128(_mm_shuffle_ps((__m128)a, (__m128)b, _MM_SHUFFLE(2, 0, 2, 0)));
  };
  const __m128i w01 = evens(c0, c1), w23 = evens(c2, c3);
  const __m128i tied = _mm_or_si128(_mm_cmpeq_epi16(w01, bound), _mm_cmpeq_epi16(w23, bound));
  const __m128i drop01 = _mm_cmpeq_epi16(_mm_subs_epu16(w01, bound), zero);
  const __m128i drop23 = _mm_cmpeq_epi16(_mm_subs_epu16(w23, bound), zero);
  const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  const __m128i bytes = _mm_shuffle_epi8(_mm_packs_epi16(drop01, drop23), order);
  return {static_cast<uint64_t>(~_mm_movemask_epi8(bytes) & 0xffff), _mm_movemask_epi8(tied) != 0};
#else
  const uint16x8_t bound = (uint16x8_t)upper;
  // c0 c1 of both blocks, then c2 c3: the low words of the lanes, two and two.
  const auto evens = [](Blocks a, Blocks b) { return vreinterpretq_u16_u32(vtrn1q_u32((uint32x4_t)a, (uint32x4_t)b)); };
  const uint16x8_t w01 = evens(c0, c1), w23 = evens(c2, c3);
  const uint16x8_t tied = vorrq_u16(vceqq_u16(w01, bound), vceqq_u16(w23, bound));
  const uint32x2_t kept01 = vreinterpret_u32_u8(vmovn_u16(vcgtq_u16(w01, bound)));
  const uint32x2_t kept23 = vreinterpret_u32_u8(vmovn_u16(vcgtq_u16(w23, bound)));
  const uint8x8_t bit = vcreate_u8(0x8040201008040201u);
  const uint32_t first = vaddv_u8(vand_u8(vreinterpret_u8_u32(vzip1_u32(kept01, kept23)), bit));
  const uint32_t second = vaddv_u8(vand_u8(vreinterpret_u8_u32(vzip2_u32(kept01, kept23)), bit));
  return {first | second << 8, vmaxvq_u16(tied) != 0};
#endif
}

}  // namespace philox_vectors

#endif

// The words of a mask, for elements that all lie in one run of 2^32 blocks. For 0 < T < 2^32.
class KeepWords {
 public:
#if defined(__x86_64__) || defined(__aarch64__)
  static constexpr int kAtOnce = philox_vectors::kWords;
#else
  static constexpr int kAtOnce = 1;
#endif

  // `word`: any of the words that will be asked for.
  KeepWords(const DropoutDraw& draw, int64_t word) : draw_(draw) {
#if defined(__x86_64__) || defined(__aarch64__)
    using philox_vectors::broadcast;
    uint32_t k0 = static_cast<uint32_t>(draw.seed), k1 = static_cast<uint32_t>(draw.seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      key0_[round] = broadcast(k0);
      key1_[round] = broadcast(k1);
      k0 += kPhiloxW0;
      k1 += kPhiloxW1;
    }
    // The constant half of rounds 1 and 2: c2 is offset's low word, then c0 is what round 1 makes of it.
    const uint64_t p1 = (draw.offset & 0xffffffffu) * kPhiloxM1;
    const uint32_t c0 = static_cast<uint32_t>(p1 >> 32) ^ static_cast<uint32_t>(first_block(word) >> 32) ^
                        static_cast<uint32_t>(draw.seed);
    const uint64_t p0 = static_cast<uint64_t>(c0) * kPhiloxM0;
    key1_[0] ^= broadcast(draw.offset >> 32);
    key0_[1] ^= broadcast(p1 & 0xffffffffu);
    key1_[1] ^= broadcast(p0 >> 32);
    key1_[2] ^= broadcast(p0 & 0xffffffffu);
    upper_ = broadcast((draw.threshold >> 16) * 0x0001000100010001u);
#else
    (void)word;
#endif
  }

  // The words `word` .. `word + kAtOnce - 1`.
  void operator()(int64_t word, uint64_t* words) const {
#if defined(__x86_64__) || defined(__aarch64__)
    using namespace philox_vectors;
    constexpr int kAll = kAtOnce * kVectors;
    const Blocks m0 = broadcast(kPhiloxM0), m1 = broadcast(kPhiloxM1);
    Blocks number;
    for (int lane = 0; lane < kBlocks; ++lane) number[lane] = static_cast<uint64_t>(lane);
    Blocks c[4][kAll];
#pragma GCC unroll 8
    for (int i = 0; i < kAll; ++i) {
      const Blocks block = broadcast(first_block(word) + static_cast<uint64_t>(i * kBlocks)) + number;
      const Blocks p0 = product(block, m0), p1 = product((p0 >> 32) ^ key1_[0], m1);
      c[0][i] = (p1 >> 32) ^ key0_[1];
      c[1][i] = p1;
      c[2][i] = p0 ^ key1_[1];
      c[3][i] = Blocks{};
    }
#pragma GCC unroll 8
    for (int round = 2; round < kPhiloxRounds; ++round)
#pragma GCC unroll 8
      for (int i = 0; i < kAll; ++i) {
        const Blocks p0 = product(c[0][i], m0), p1 = product(c[2][i], m1);
        c[0][i] = (p1 >> 32) ^ (c[1][i] ^ key0_[round]);
        c[1][i] = p1;
        c[2][i] = (p0 >> 32) ^ (c[3][i] ^ key1_[round]);
        c[3][i] = p0;
      }
#pragma GCC unroll 8
    for (int at = 0; at < kAtOnce; ++at) {
      words[at] = 0;
      bool tied = false;
#pragma GCC unroll 8
      for (int vector = 0; vector < kVectors; ++vector) {
        const int i = at * kVectors + vector;
        const Comparison result = compare(c[0][i], c[1][i], c[2][i], c[3][i], upper_);
        words[at] |= result.kept << (vector * kBlocks * kElementsPerBlock % 64);
        tied |= result.tied;
      }
      if (__builtin_expect(tied, 0)) words[at] = one_by_one(word + at);
    }
#else
    words[0] = one_by_one(word);
#endif
  }

 private:
  static constexpr int kBlocksPerWord = kElementsPerWord / kElementsPerBlock;
  static uint64_t first_block(int64_t word) { return static_cast<uint64_t>(word) * kBlocksPerWord; }

  [[gnu::noinline]] uint64_t one_by_one(int64_t word) const {
    uint64_t bits = 0;
    for (int block = 0; block < kBlocksPerWord; ++block)
      bits |= static_cast<uint64_t>(draw_.keep_byte(first_block(word) + static_cast<uint64_t>(block)))
              << (kElementsPerBlock * block);
    return bits;
  }

  DropoutDraw draw_;
#if defined(__x86_64__) || defined(__aarch64__)
  // The round keys, with what is constant in the first rounds folded in.
  philox_vectors::Blocks key0_[kPhiloxRounds], key1_[kPhiloxRounds], upper_;
#endif
};

}  // namespace kitae::cpu
