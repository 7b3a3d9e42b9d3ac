// A mask's bits applied to a row of elements: to[i] = keep_scale from[i] where bit i is set, else +0. `to` may be
// `from`.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/lanes.h"
#include "ops/dropout.h"

namespace kitae::cpu {

// The 64 elements of one word of mask.
template <class T>
inline void keep_word(T* to, const T* from, uint64_t word, T keep_scale) {
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
#if defined(__AVX512F__)
#pragma GCC unroll 8
  for (int at = 0; at < kElementsPerWord; at += kWidth) {
    if constexpr (sizeof(T) == 4)
      _mm512_storeu_ps(to + at, _mm512_maskz_mul_ps(static_cast<__mmask16>(word >> at), _mm512_loadu_ps(from + at),
                                                    _mm512_set1_ps(keep_scale)));
    else
      _mm512_storeu_pd(to + at, _mm512_maskz_mul_pd(static_cast<__mmask8>(word >> at), _mm512_loadu_pd(from + at),
                                                    _mm512_set1_pd(keep_scale)));
  }
#else
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kBits = 8 * static_cast<int>(sizeof(T));
  typedef T Values __attribute__((vector_size(kVectorBytes)));
  typedef Integer Mask __attribute__((vector_size(kVectorBytes)));
  Mask lane_bit;
  for (int lane = 0; lane < kWidth; ++lane) lane_bit[lane] = Integer{1} << lane;
#pragma GCC unroll 32
  for (int at = 0; at < kElementsPerWord; at += kWidth) {
    const Mask bits = Mask{} + static_cast<Integer>(word >> (at / kBits * kBits));
    const Mask wanted = lane_bit << (at % kBits);
    const Mask keep = (bits & wanted) == wanted;
    Values values;
    std::memcpy(&values, from + at, sizeof(values));
    values = (Values)((Mask)(values * keep_scale) & keep);
    std::memcpy(to + at, &values, sizeof(values));
  }
#endif
}

template <class T>
inline void keep_part_of_word(T* to, const T* from, uint64_t word, T keep_scale, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = keep_or_zero(from[i], (word >> i & 1u) != 0, keep_scale);
}

}  // namespace kitae::cpu
