// Rows of storage elements to and from the type arithmetic is done in. The bits are those of ops/host_device.h; F16C
// does the same conversions in hardware (it only differs in which NaN comes out).
#pragma once

#include <cstdint>

#include "ops/host_device.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace kitae::cpu {

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
