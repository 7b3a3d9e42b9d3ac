// Where the argument of an activation crosses zero, as a bound on x: backward then compares x instead of computing z
// again. Exact: rounding keeps order, so for a gain that is not 0, z = Normalize(x) never falls while x sign(gain)
// grows, and "z <= 0" is "x sign(gain) <= bound". With a gain of 0, z is one number, but NaN for an infinite x: so is
// x times a sign of 0, and "<= bound" is true for every finite x or for none. (Only where a gain is so small that its
// low part is 0 does an infinite x count as its sign says, not as NaN.)
#pragma once

#include <cstdint>
#include <limits>

#include "ops/batch_norm.h"

namespace kitae::cpu {
namespace detail {

// Floating-point numbers in order, as integers: neighbours differ by 1, and -0 comes before +0.
template <class T>
struct Ordered;
template <>
struct Ordered<float> {
  using Key = int32_t;
};
template <>
struct Ordered<double> {
  using Key = int64_t;
};
template <class T>
using Key = typename Ordered<T>::Key;

template <class K>
inline K turn_negative(K bits) {
  return bits ^ (bits >> (8 * sizeof(K) - 1) & std::numeric_limits<K>::max());
}
template <class T>
inline Key<T> key_of(T value) {
  return turn_negative(bit_cast<Key<T>>(value));
}
template <class T>
inline T from_key(Key<T> key) {
  return bit_cast<T>(turn_negative(key));
}
template <class T>
inline Key<T> key_among_finite(T value) {
  const Key<T> key = key_of(value), last = key_of(std::numeric_limits<T>::max());
  const Key<T> first = key_of(std::numeric_limits<T>::lowest());
  return key < first ? first : key > last ? last : key;
}
template <class K>
inline K middle(K a, K b) {
  return (a & b) + ((a ^ b) >> 1);  // rounded down, without overflow
}

}  // namespace detail

// The last x * sign at which z <= 0; NaN where z <= 0 nowhere (also a z that is always NaN).
template <class T>
inline T last_nonpositive(const Normalize<T>& z, T sign) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  detail::Key<T> low = detail::key_of(-kInfinity), high = detail::key_of(kInfinity);
  if (!(z(-kInfinity * sign) <= T(0))) {
    // A gain of 0, or infinities among z's own numbers: finite x may tell another story.
    low = detail::key_of(std::numeric_limits<T>::lowest());
    if (!(z(std::numeric_limits<T>::lowest() * sign) <= T(0))) return std::numeric_limits<T>::quiet_NaN();
  }
  while (detail::middle(low, high) > low) {
    const detail::Key<T> at = detail::middle(low, high);
    (z(detail::from_key<T>(at) * sign) <= T(0) ? low : high) = at;
  }
  return detail::from_key<T>(low);
}

// The same for `channels` channels; table(channel) is its Normalize. Most bounds are next to where the line through
// z's numbers crosses zero and are found for many channels at once.
template <class T, class Table>
inline void find_bounds(const Table& table, int64_t channels, T* bounds, T* signs) {
  using Key = detail::Key<T>;
  constexpr int64_t kAtOnce = 64;
  constexpr Key kReach = 32;  // neighbours looked at on either side
  for (int64_t begin = 0; begin < channels; begin += kAtOnce) {
    const int64_t count = channels - begin < kAtOnce ? channels - begin : kAtOnce;
    Key low[kAtOnce], high[kAtOnce], found[kAtOnce];
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const Normalize<T> z = table(begin + i);
      const T sign = z.gain < T(0) ? T(-1) : z.gain > T(0) ? T(1) : T(0);
      const Key guess = detail::key_among_finite((z.center - z.shift / z.gain) * sign);
      signs[begin + i] = sign;
      low[i] = guess - kReach;
      high[i] = guess + kReach;
      const bool below = z(detail::from_key<T>(low[i]) * sign) <= T(0);
      const bool above = z(detail::from_key<T>(high[i]) * sign) <= T(0);
      found[i] = static_cast<Key>(below) & static_cast<Key>(!above);
    }
    for (Key width = 2 * kReach; width > 1; width /= 2) {
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const Key at = detail::middle(low[i], high[i]);
        const bool nonpositive = table(begin + i)(detail::from_key<T>(at) * signs[begin + i]) <= T(0);
        low[i] = nonpositive ? at : low[i];
        high[i] = nonpositive ? high[i] : at;
      }
    }
    for (int64_t i = 0; i < count; ++i)
      bounds[begin + i] = found[i] ? detail::from_key<T>(low[i]) : last_nonpositive(table(begin + i), signs[begin + i]);
  }
}

// g = dout act'(z) of vectors that are about to be summed (reduce_channels.h); the numbers of channels side by side.
template <Activation activation, class T>
struct Gate {
  static constexpr bool kOpen = false;
  const T *bound, *sign;
  T slope;

  Gate at(int64_t channel) const { return {bound + channel, sign + channel, slope}; }
  template <class Part>
  Part operator()(const Part& dout, const Part& x, const Part& bounds, const Part& signs) const {
    const auto stopped = x * signs <= bounds;
    if constexpr (activation == Activation::leaky_relu) return stopped ? dout * slope : dout;
    return stopped ? Part{} : dout;
  }
};

}  // namespace kitae::cpu
