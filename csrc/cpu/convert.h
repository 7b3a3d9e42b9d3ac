// Rows of storage elements to and from the type arithmetic is done in. The bits are those of ops/host_device.h; F16C
// does the same conversions in hardware (it only differs in which NaN comes out). AVX512_BF16 does not: it takes
// subnormals for zero.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/host_device.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace kitae::cpu {

// Storage that loops read and write as it lies: widening bfloat16 is a shift, which the compiler sees through. The
// others go by way of tiles (channel_tiles.h).
template <class S>
constexpr bool kInPlace = std::is_same_v<S, Compute<S>> || std::is_same_v<S, BFloat16>;

// f of stored elements, in the type of arithmetic, to be stored again.
template <class S, class F, class... In>
[[gnu::always_inline]] inline S stored(const F& f, const In&... in) {
  return FromFloat<S>::convert(f(to_float(in)...));
}

template <class To, class From>
inline void widen(To* to, const From* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(to_float(from[i]));
}

template <class To, class From>
inline void narrow(To* to, const From* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = FromFloat<To>::convert(from[i]);
}

#if defined(__AVX512BW__)

// Sixteen floats, whose upper halves become the rounded ones. maskz: no false warning (GCC bug 105593).
[[gnu::always_inline]] inline __m512i rounded_to_upper_half(const float* from) {
  constexpr __mmask16 kAll = 0xffff;
  const __m512i bits = _mm512_loadu_si512(from);
  const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)bits, (__m512)bits, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(sum, nan, bits, _mm512_set1_epi32(0x400000));
}

// What the compiler makes of the loop above takes half as long again.
template <>
inline void narrow<BFloat16, float>(BFloat16* to, const float* from, int64_t count) {
  alignas(64) static constexpr uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                    33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i upper_halves = _mm512_load_si512(kOdd);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(rounded_to_upper_half(from + i), upper_halves,
                                                          rounded_to_upper_half(from + i + 16)));
  for (; i < count; ++i) to[i] = FromFloat<BFloat16>::convert(from[i]);
}

template <>
inline void widen<float, BFloat16>(float* to, const BFloat16* from, int64_t count) {
  constexpr __mmask16 kAll = 0xffff;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i low =
        _mm512_maskz_cvtepu16_epi32(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
    _mm512_storeu_si512(to + i, _mm512_maskz_slli_epi32(kAll, low, 16));
  }
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

template <>
inline void widen<float, Float16>(float* to, const Float16* from, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(to + i,
                     _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i))));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

template <>
inline void narrow<Float16, float>(Float16* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) to[i] = FromFloat<Float16>::convert(from[i]);
}

#elif defined(__F16C__)
template <>
inline void widen<float, Float16>(float* to, const Float16* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

template <>
inline void narrow<Float16, float>(Float16* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) to[i] = FromFloat<Float16>::convert(from[i]);
}
#endif

}  // namespace kitae::cpu
