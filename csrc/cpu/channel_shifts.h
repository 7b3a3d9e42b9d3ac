// Around which number each channel's moments are taken (ops/moments.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/convert.h"
#include "ops/moments.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {

// Of `count` elements, element(i) being number i of them.
template <class Element>
[[gnu::always_inline]] inline double shift_of(int64_t count, const Element& element) {
  const auto first = element(0);
  if constexpr (std::is_same_v<decltype(first), const float>)
    for (int64_t i = 1, step = sample_step(count); i < sample_count(count); ++i)
      if (far_apart(element(i * step), first)) return 0;
  return static_cast<double>(first);
}

constexpr int64_t kShiftsTogether = 64;

// Of so many channels of `count` elements side by side; element(i): where number i of the first one lies.
template <class Element>
inline void shifts_across(int64_t channels, int64_t count, const Element& element, double* shifts) {
  using T = decltype(to_float(*element(0)));
  const auto take = [&](int64_t begin, auto width) {
    T first[kShiftsTogether], shift[kShiftsTogether];
    const auto* from = element(0) + begin;
    for (int64_t i = 0; i < width; ++i) first[i] = shift[i] = to_float(from[i]);
    if constexpr (std::is_same_v<T, float>)
      for (int64_t sample = 1, step = sample_step(count); sample < sample_count(count); ++sample) {
        from = element(sample * step) + begin;
        for (int64_t i = 0; i < width; ++i) shift[i] = far_apart(to_float(from[i]), first[i]) ? 0 : shift[i];
      }
    for (int64_t i = 0; i < width; ++i) shifts[begin + i] = static_cast<double>(shift[i]);
  };
  int64_t begin = 0;
  for (; begin + kShiftsTogether <= channels; begin += kShiftsTogether)
    take(begin, std::integral_constant<int64_t, kShiftsTogether>{});
  if (begin < channels) take(begin, channels - begin);
}

// Of channels [begin, end).
template <class S>
inline void find_shifts(const ChannelSizes& sizes, const S* x, int64_t begin, int64_t end, double* shifts) {
  const int64_t inner = sizes.inner, row = sizes.channels * inner, count = sizes.count();
  if (sizes.adjacent())
    return shifts_across(end - begin, count, [&](int64_t i) { return x + i * row + begin; }, shifts);
  for (int64_t channel = begin; channel < end; ++channel)
    shifts[channel - begin] =
        shift_of(count, [&](int64_t i) { return to_float(x[i / inner * row + channel * inner + i % inner]); });
}

}  // namespace kitae::cpu
