// 16-bit conversions, checked value by value against a search in float64, and the order of reductions.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cpu/convert.h"
#include "cpu/lanes.h"
#include "golden.h"

namespace kitae::golden {
namespace {

constexpr int kPatterns = 1 << 16;

// The value of a pattern by the definition of its format.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

bool same(float a, float b) { return bit_cast<uint32_t>(a) == bit_cast<uint32_t>(b) || (a != a && b != b); }

template <class Half>
uint64_t conversions(int exponent_bits, int mantissa_bits) {
  std::vector<Half> halves(kPatterns);
  for (int bits = 0; bits < kPatterns; ++bits) halves[static_cast<size_t>(bits)].bits = static_cast<uint16_t>(bits);
  std::vector<float> wide(kPatterns);
  cpu::widen(wide.data(), halves.data(), kPatterns);
  std::vector<Half> back(kPatterns);
  cpu::narrow(back.data(), wide.data(), kPatterns);
  Hash hash;
  for (int bits = 0; bits < kPatterns; ++bits) {
    const auto at = static_cast<size_t>(bits);
    const auto expected = static_cast<float>(value_of(static_cast<uint16_t>(bits), exponent_bits, mantissa_bits));
    CHECK(same(wide[at], expected));
    CHECK(same(to_float(halves[at]), expected));
    CHECK(back[at].bits == bits || expected != expected);
    if (expected == expected) hash.number(wide[at]);
  }
  // Round to nearest, ties to even: between every pattern and the next one the middle goes to the even pattern, its
  // neighbours to the nearer one; beyond the largest finite number the same rule leads to infinity.
  const int infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
  const float beyond = static_cast<float>(std::ldexp(1.0, 1 << (exponent_bits - 1)));  // infinite for bfloat16
  std::vector<float> probes;
  std::vector<int> expected;
  for (int low = 0; low < infinity; ++low) {
    const double high = low + 1 < infinity ? static_cast<double>(wide[static_cast<size_t>(low) + 1])
                                           : std::ldexp(1.0, 1 << (exponent_bits - 1));
    const auto middle = static_cast<float>((static_cast<double>(wide[static_cast<size_t>(low)]) + high) / 2);
    if (static_cast<double>(middle) * 2 != static_cast<double>(wide[static_cast<size_t>(low)]) + high) continue;
    for (const float sign : {1.0f, -1.0f}) {
      const int sign_bit = sign < 0 ? 0x8000 : 0;
      probes.insert(probes.end(),
                    {sign * std::nextafter(middle, 0.0f), sign * middle, sign * std::nextafter(middle, INFINITY)});
      expected.insert(expected.end(), {low | sign_bit, (low + (low & 1)) | sign_bit, (low + 1) | sign_bit});
    }
  }
  CHECK(probes.size() >= 6u * static_cast<size_t>(infinity - 1));  // no tie was left out for being inexact in float32
  if (std::isfinite(beyond)) probes.push_back(beyond), expected.push_back(infinity);
  std::vector<Half> rounded(probes.size());
  cpu::narrow(rounded.data(), probes.data(), static_cast<int64_t>(probes.size()));
  for (size_t i = 0; i < probes.size(); ++i) {
    CHECK(rounded[i].bits == expected[i]);
    CHECK(FromFloat<Half>::convert(probes[i]).bits == expected[i]);
    hash.number(rounded[i].bits);
  }
  const float nan = std::nanf("");
  CHECK(to_float(FromFloat<Half>::convert(nan)) != to_float(FromFloat<Half>::convert(nan)));
  return hash.value();
}

uint64_t float16_conversions() { return conversions<Float16>(5, 10); }
uint64_t bfloat16_conversions() { return conversions<BFloat16>(8, 7); }

template <class T>
uint64_t lane_sums() {
  Hash hash;
  Numbers numbers(3);
  for (int64_t size = 1; size <= kChunk; size += size < 70 ? 1 : 509) {
    const std::vector<T> values = numbers.array<T>(size);
    cpu::Lanes sums = cpu::Lanes::zero();
    int64_t at = 0;
    for (; at + kLanes <= size; at += kLanes) sums += cpu::Lanes::load(&values[static_cast<size_t>(at)]);
    if (at < size) sums += cpu::Lanes::load_first(&values[static_cast<size_t>(at)], size - at);
    double lanes[kLanes] = {};  // the definition, one element after the other
    for (int64_t i = 0; i < size; ++i)
      lanes[i % kLanes] += static_cast<double>(to_float(values[static_cast<size_t>(i)]));
    const double sum = sums.fold();
    CHECK(bit_cast<uint64_t>(sum) == bit_cast<uint64_t>(fold_lanes(lanes)));
    hash.number(sum);
  }
  return hash.value();
}

}  // namespace

void add_number_rows(std::vector<Row>& rows) {
  rows.push_back({"conversions/float16", float16_conversions});
  rows.push_back({"conversions/bfloat16", bfloat16_conversions});
  rows.push_back({"lane_sums/float16", lane_sums<Float16>});
  rows.push_back({"lane_sums/bfloat16", lane_sums<BFloat16>});
  rows.push_back({"lane_sums/float32", lane_sums<float>});
  rows.push_back({"lane_sums/float64", lane_sums<double>});
}

}  // namespace kitae::golden
