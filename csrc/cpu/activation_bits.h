// One bit an element, least significant first: !(z <= 0), so that a NaN counts as positive.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/batch_norm.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace kitae::cpu {
namespace detail {

template <class T>
inline uint8_t positive_bits(const T* z, int64_t count) {
  unsigned int bits = 0;
  for (int64_t i = 0; i < count; ++i) bits |= static_cast<unsigned int>(!(z[i] <= T(0))) << i;
  return static_cast<uint8_t>(bits);
}

// Eight elements; compilers make no movemask of the loop above.
inline uint8_t positive_bits(const float* z) {
#if defined(__AVX__)
  return static_cast<uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(z), _mm256_setzero_ps(), _CMP_NLE_UQ)));
#else
  return positive_bits(z, 8);
#endif
}
inline uint8_t positive_bits(const double* z) {
#if defined(__AVX__)
  const __m256d zero = _mm256_setzero_pd();
  const int low = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(z), zero, _CMP_NLE_UQ));
  const int high = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(z + 4), zero, _CMP_NLE_UQ));
  return static_cast<uint8_t>(low | high << 4);
#else
  return positive_bits(z, 8);
#endif
}

template <class T>
struct SignedOf;
template <>
struct SignedOf<float> {
  using type = int32_t;
};
template <>
struct SignedOf<double> {
  using type = int64_t;
};

}  // namespace detail

template <class T>
inline void pack_positive(uint8_t* bits, const T* z, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) bits[i / 8] = detail::positive_bits(z + i);
  if (i < count) bits[i / 8] = detail::positive_bits(z + i, count - i);
}

// g = dout act'(z), where a set bit says that act'(z) is 1.
template <Activation activation, class T>
inline void select_by_bits(T* g, const T* dout, const uint8_t* bits, T slope, int64_t count) {
  using Integer = typename detail::SignedOf<T>::type;
  typedef Integer Group __attribute__((vector_size(8 * sizeof(T))));
  typedef T Values __attribute__((vector_size(8 * sizeof(T))));
  constexpr Group kWeights = {1, 2, 4, 8, 16, 32, 64, 128};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    Values value;
    std::memcpy(&value, dout + i, sizeof(value));
    const Group passes = ((Group{} + static_cast<Integer>(bits[i / 8])) & kWeights) != Group{};
    Values otherwise = Values{};
    if constexpr (activation == Activation::leaky_relu) otherwise = value * slope;
    value = passes ? value : otherwise;
    std::memcpy(g + i, &value, sizeof(value));
  }
  for (; i < count; ++i) g[i] = activation_gradient<activation>(dout[i], (bits[i / 8] >> (i % 8) & 1) != 0, slope);
}

}  // namespace kitae::cpu
