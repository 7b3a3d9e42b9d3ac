// What every op header stands on: the host/device marker, storage types, and the few scalar functions with promised
// bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define KITAE_HD __host__ __device__ inline
#else
#define KITAE_HD inline
#endif

namespace kitae {

template <class To, class From>
KITAE_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Storage of 16-bit floats: arithmetic happens in float, results are rounded once to nearest, ties to even.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

KITAE_HD float to_float(float value) { return value; }
KITAE_HD double to_float(double value) { return value; }
KITAE_HD float to_float(BFloat16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// Integer arithmetic only, so that a compiler can vectorize it and no mode of the CPU can change it. GPUs have an
// instruction for each conversion, with the same bits (only which NaN comes out differs).
KITAE_HD float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float widened;
  asm("cvt.f32.f16 %0, %1;" : "=f"(widened) : "h"(value.bits));
  return widened;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Normal, infinite and NaN: move the fields, correct the exponent's bias (127 - 15 = 112; 255 - 31 = 224 at the top).
  const uint32_t normal = (magnitude << 13) + ((magnitude >= 0x7c00u ? 224u : 112u) << 23);
  // Subnormal: magnitude * 2^-24, exact in float; both factors are normal floats.
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return bit_cast<float>(sign | (magnitude < 0x0400u ? subnormal : normal));
#endif
}

template <class T>
struct FromFloat;

template <>
struct FromFloat<float> {
  static KITAE_HD float convert(float value) { return value; }
};
template <>
struct FromFloat<double> {
  static KITAE_HD double convert(double value) { return value; }
};
template <>
struct FromFloat<BFloat16> {
  static KITAE_HD BFloat16 convert(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    BFloat16 narrowed;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
    return narrowed;
#else
    return {static_cast<uint16_t>(rounded(value) >> 16)};
#endif
  }
  // In the upper half of the word; the lower one is of no meaning.
  static KITAE_HD uint32_t rounded(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    return value != value ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};
template <>
struct FromFloat<Float16> {
  static KITAE_HD Float16 convert(float value) {
#if defined(__CUDA_ARCH__)
    Float16 narrowed;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
    return narrowed;
#else
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Normal result: rebias (112 << 23), round to nearest even at bit 13. From 65520 on the carry reaches infinity.
    const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    // Subnormal result (below 2^-14): adding 0.5 aligns the value to units of 2^-24; the hardware rounds to even.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
    result = magnitude >= 0x47800000u ? 0x7c00u : result;
    result = magnitude > 0x7f800000u ? 0x7e00u : result;
    return {static_cast<uint16_t>(sign | result)};
#endif
  }
};

// The type in which a storage type's arithmetic is done.
template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

// Subnormal state makes x86 cores 10 to 35 times slower; below the smallest normal becomes +0: an integer test, no
// mode.
KITAE_HD float flush(float value) { return (bit_cast<uint32_t>(value) & 0x7f800000u) == 0 ? 0.0f : value; }
KITAE_HD double flush(double value) { return (bit_cast<uint64_t>(value) & 0x7ff0000000000000u) == 0 ? 0.0 : value; }

// 1 where the value is infinite or NaN, in an integer as wide as the value so that counting vectorizes.
KITAE_HD uint32_t nonfinite(float value) { return (bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u; }
KITAE_HD uint64_t nonfinite(double value) {
  return (bit_cast<uint64_t>(value) & 0x7ff0000000000000u) == 0x7ff0000000000000u ? 1u : 0u;
}

KITAE_HD float square_root(float value) { return __builtin_sqrtf(value); }
KITAE_HD double square_root(double value) { return __builtin_sqrt(value); }
KITAE_HD float absolute(float value) { return __builtin_fabsf(value); }
KITAE_HD double absolute(double value) { return __builtin_fabs(value); }

}  // namespace kitae
