// A mask's bits applied to a row of elements: to[i] = keep_scale from[i] where bit i is set, else +0, by the
// arithmetic of the storage. `to` may be `from`.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/lanes.h"
#include "ops/dropout.h"

namespace kitae::cpu {

namespace detail {

// A vector of elements, of which the bits from `at` on in the word are the mask.
template <class T>
[[gnu::always_inline]] inline auto kept_vector(const T* from, uint64_t word, int at, T keep_scale) {
  typedef T Values __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Values)_mm512_maskz_mul_ps(static_cast<__mmask16>(word >> at), _mm512_loadu_ps(from + at),
                                       _mm512_set1_ps(keep_scale));
  else
    return (Values)_mm512_maskz_mul_pd(static_cast<__mmask8>(word >> at), _mm512_loadu_pd(from + at),
                                       _mm512_set1_pd(keep_scale));
#else
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  constexpr int kBits = 8 * static_cast<int>(sizeof(T));
  typedef Integer Mask __attribute__((vector_size(kVectorBytes)));
  Mask lane_bit;
  for (int lane = 0; lane < kWidth; ++lane) lane_bit[lane] = Integer{1} << lane;
  const Mask bits = Mask{} + static_cast<Integer>(word >> (at / kBits * kBits));
  const Mask wanted = lane_bit << (at % kBits);
  const Mask keep = (bits & wanted) == wanted;
  Values values;
  std::memcpy(&values, from + at, sizeof(values));
  return (Values)((Mask)(values * keep_scale) & keep);
#endif
}

}  // namespace detail

// The 64 elements of one word of mask. Loads of 256 bytes come before their stores: where `to` lies one or two lines
// behind `from` but for multiples of 4096 bytes, a load takes the store just before it for its own, and waits.
template <class S>
inline void keep_word(S* to, const S* from, uint64_t word, Compute<S> keep_scale) {
  if constexpr (!std::is_same_v<S, Compute<S>>) {
    float values[kElementsPerWord];  // in registers, where they suffice
    widen(values, from, kElementsPerWord);
    keep_word(values, values, word, keep_scale);
    narrow(to, values, kElementsPerWord);
  } else {
    constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(S)), kVectors = kElementsPerWord / kWidth;
    constexpr int kTogether = kVectorBytes == 16 ? 4 : kVectors < 8 ? kVectors : 8;  // the registers hold no more
#pragma GCC unroll 8
    for (int first = 0; first < kVectors; first += kTogether) {
      decltype(detail::kept_vector(from, word, 0, keep_scale)) values[kTogether];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i) values[i] = detail::kept_vector(from, word, (first + i) * kWidth, keep_scale);
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i) std::memcpy(to + (first + i) * kWidth, &values[i], kVectorBytes);
    }
  }
}

template <class S>
inline void keep_part_of_word(S* to, const S* from, uint64_t word, Compute<S> keep_scale, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = FromFloat<S>::convert(keep_or_zero(to_float(from[i]), (word >> i & 1u) != 0, keep_scale));
}

}  // namespace kitae::cpu
