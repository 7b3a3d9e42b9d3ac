// Sixteen virtual lanes of double, the accumulator of every reduction (ops/reduction_order.h), in registers of whatever
// width the instruction set has: 2, 4 or 8 of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/convert.h"
#include "ops/reduction_order.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace kitae::cpu {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Lanes of two vectors; those of the second follow those of the first.
template <int... kLane, class Vector>
[[gnu::always_inline]] inline Vector shuffled(const Vector& a, const Vector& b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, kLane...);
#else
  return __builtin_shuffle(a, b, decltype(a == b){kLane...});
#endif
}

namespace detail {

template <class F, int... kAt>
[[gnu::always_inline]] inline void each_of(std::integer_sequence<int, kAt...>, F&& f) {
  (f(std::integral_constant<int, kAt>{}), ...);
}
// f(0) to f(kCount - 1): every index a constant.
template <int kCount, class F>
[[gnu::always_inline]] inline void each(F&& f) {
  each_of(std::make_integer_sequence<int, kCount>{}, f);
}

}  // namespace detail

// What fold_lanes leaves in lane kLane when its steps down to kStep are done, in registers: of(lane) is what kEnd lanes
// or vectors of lanes hold before, of which only the first `count` are not +0.
template <int kEnd, int kLane = 0, int kStep = 1, class Of>
[[gnu::always_inline]] inline auto fold_tree(int64_t count, const Of& of) {
  if constexpr (kStep == kEnd) {
    return of(kLane);
  } else {
    auto sum = fold_tree<kEnd, kLane, 2 * kStep>(count, of);
    if (kLane + kStep < count) sum += fold_tree<kEnd, kLane + kStep, 2 * kStep>(count, of);
    return sum;
  }
}

// As many elements as a vector of double has. (An attribute that depends on T would be lost in template arguments.)
template <class T>
struct PartOf;
template <>
struct PartOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct PartOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Part = typename PartOf<T>::Type;

// A whole vector of T.
template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double Type __attribute__((vector_size(kVectorBytes)));
};

template <class T>
[[gnu::always_inline]] inline typename VectorOf<T>::Type load_vector(const T* from) {
  typename VectorOf<T>::Type vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

// Of a vector of floats or doubles, as many elements as a vector of double has: those from kPart times so many on.
template <int kPart>
[[gnu::always_inline]] inline PartOf<double>::Type part_of(const VectorOf<double>::Type& vector) {
  static_assert(kPart == 0);
  return vector;
}
template <int kPart>
[[gnu::always_inline]] inline PartOf<float>::Type part_of(const VectorOf<float>::Type& vector) {
#if defined(__AVX512F__)
  return _mm512_maskz_extractf32x8_ps(static_cast<__mmask8>(-1), vector, kPart);  // maskz: no false warning
#elif defined(__AVX2__)
  return _mm256_extractf128_ps(vector, kPart);
#else
  PartOf<float>::Type part;
  std::memcpy(&part, reinterpret_cast<const char*>(&vector) + kPart * sizeof(part), sizeof(part));
  return part;
#endif
}

struct Lanes {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(double));
  static constexpr int kParts = kLanes / kWidth;
  Vector part[kParts];

  static Lanes zero() {
    Lanes lanes;
    for (int i = 0; i < kParts; ++i) lanes.part[i] = Vector{};
    return lanes;
  }
  static Lanes broadcast(double value) {
    Lanes lanes;
    for (int i = 0; i < kParts; ++i) lanes.part[i] = Vector{} + value;
    return lanes;
  }
  // Of the lanes from kWidth * n on.
  template <class S>
  static Vector load_part(const S* from) {
    return widened(load_stored(from));
  }
  // As many elements in the type of arithmetic, before they are widened.
  template <class T>
  static Part<T> load_stored(const T* from) {
    Part<T> part;
    std::memcpy(&part, from, sizeof(part));
    return part;
  }
  static Part<float> load_stored(const BFloat16* from) {
#if defined(__AVX512F__)
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return reinterpret_cast<Part<float>>(_mm256_slli_epi32(wide, 16));
#elif defined(__AVX2__)
    const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return reinterpret_cast<Part<float>>(_mm_slli_epi32(wide, 16));
#else
    Part<float> part{};
    for (int i = 0; i < kWidth; ++i) part[i] = to_float(from[i]);
    return part;
#endif
  }
  static Vector widened(const Part<double>& part) { return part; }
  static Vector widened(const Part<float>& part) {
    // g++ converts four or eight floats in halves and glues them together.
#if defined(__AVX512F__)
    return _mm512_maskz_cvtps_pd(static_cast<__mmask8>(-1), part);  // maskz: no false warning
#elif defined(__AVX2__)
    return _mm256_cvtps_pd(part);
#else
    return __builtin_convertvector(part, Vector);
#endif
  }
  static Lanes load(const double* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof(lanes));
    return lanes;
  }
  static Lanes load(const float* from) {
    Lanes lanes;
    for (int i = 0; i < kParts; ++i) lanes.part[i] = load_part(from + i * kWidth);
    return lanes;
  }
  template <class Half>
  static Lanes load(const Half* from) {
    float wide[kLanes];
    widen(wide, from, kLanes);
    return load(wide);
  }
  // The first `count` elements; the others +0.
  template <class T>
  static Lanes load_first(const T* from, int64_t count) {
#if defined(__AVX512VL__)
    if constexpr (std::is_same_v<T, float>) {
      Lanes lanes;
      for (int i = 0; i < kParts; ++i) {
        const auto first = static_cast<__mmask8>(((1u << count) - 1) >> (i * kWidth));
        lanes.part[i] = _mm512_maskz_cvtps_pd(first, _mm256_maskz_loadu_ps(first, from + i * kWidth));
      }
      return lanes;
    }
#endif
    double wide[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) wide[i] = static_cast<double>(to_float(from[i]));
    return load(wide);
  }

  // sum + a b for numbers that are floats: their product is exact in double, so that a fused step rounds once as two
  // do.
  [[gnu::always_inline]] static Vector add_product_of_floats(const Vector& sum, const Vector& a, const Vector& b) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_fmadd_pd(a, b, sum);
#else
    return sum + a * b;
#endif
  }
  void add_squares_of_floats(const Lanes& values) {
    for (int i = 0; i < kParts; ++i) part[i] = add_product_of_floats(part[i], values.part[i], values.part[i]);
  }

  // The first `count` lanes; the others become +0, whatever they held.
  Lanes keep_first(int64_t count) const {
    static constexpr int64_t kKept[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
    Lanes lanes;
    for (int i = 0; i < kParts; ++i) {
      Bits kept, bits;
      std::memcpy(&kept, kKept + kLanes - count + i * kWidth, sizeof(kept));
      std::memcpy(&bits, &part[i], sizeof(bits));
      bits &= kept;
      std::memcpy(&lanes.part[i], &bits, sizeof(bits));
    }
    return lanes;
  }

  Lanes magnitudes() const {
    typedef int64_t Bits __attribute__((vector_size(kVectorBytes)));
    Lanes lanes;
    for (int i = 0; i < kParts; ++i)
      lanes.part[i] = reinterpret_cast<Vector>(reinterpret_cast<Bits>(part[i]) & INT64_MAX);
    return lanes;
  }

  void store(double* to) const { std::memcpy(to, this, sizeof(*this)); }
  // fold_lanes in registers.
  [[gnu::always_inline]] double fold() const {
    const Vector sums = fold_tree<kParts>(kParts, [&](int i) __attribute__((always_inline)) { return part[i]; });
#if defined(__AVX512F__)
    constexpr auto kAll = static_cast<__mmask8>(-1);  // maskz: no false warning
    const __m256d four = _mm512_maskz_extractf64x4_pd(kAll, sums, 0) + _mm512_maskz_extractf64x4_pd(kAll, sums, 1);
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
    return two[0] + two[1];
#elif defined(__AVX2__)
    const __m128d two = _mm256_castpd256_pd128(sums) + _mm256_extractf128_pd(sums, 1);
    return two[0] + two[1];
#else
    return sums[0] + sums[1];
#endif
  }

  Lanes operator+(const Lanes& other) const {
    return zip(other, [](Vector a, Vector b) { return a + b; });
  }
  Lanes operator-(const Lanes& other) const {
    return zip(other, [](Vector a, Vector b) { return a - b; });
  }
  Lanes operator*(const Lanes& other) const {
    return zip(other, [](Vector a, Vector b) { return a * b; });
  }
  Lanes operator*(double factor) const { return *this * broadcast(factor); }
  Lanes& operator+=(const Lanes& other) { return *this = *this + other; }

 private:
  template <class F>
  Lanes zip(const Lanes& other, F f) const {
    Lanes result;
    for (int i = 0; i < kParts; ++i) result.part[i] = f(part[i], other.part[i]);
    return result;
  }
};

// Whether every number is +0.
inline bool all_zero(const double* values, int64_t count) {
  uint64_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits |= bit_cast<uint64_t>(values[i]);
  return bits == 0;
}

// To both sums is added what Op makes of the inputs. kFloats: they are floats.
template <class Op, bool kFloats>
[[gnu::always_inline]] inline void add_terms(Lanes::Vector& first, Lanes::Vector& second,
                                             const Lanes::Vector (&input)[Op::kInputs],
                                             const Lanes::Vector& parameter) {
  if constexpr (kFloats && std::is_same_v<Op, ProductTerms<Op::kInputs>>) {
    first += input[0];
    second = Lanes::add_product_of_floats(second, input[0], input[Op::kInputs - 1]);
  } else {
    const Terms<Lanes::Vector> terms = Op::of(input, parameter);
    first += terms.first;
    second += terms.second;
  }
}

}  // namespace kitae::cpu
