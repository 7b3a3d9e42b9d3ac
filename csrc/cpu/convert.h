// Rows of storage elements to and from the type arithmetic is done in. The bits are those of ops/host_device.h; F16C
// does the same conversions in hardware (it only differs in which NaN comes out).
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

#if defined(__F16C__)
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
