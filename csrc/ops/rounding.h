// From double to a storage type with one rounding; double to 16 bits goes through float with a sticky last bit.
#pragma once

#include <type_traits>

#include "ops/host_device.h"

namespace kitae {

KITAE_HD float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double back = static_cast<double>(nearest);
  if (back == value || value != value || nonfinite(nearest)) return nearest;
  // Towards zero, then the last bit says that something was cut off.
  uint32_t bits = bit_cast<uint32_t>(nearest);
  if (absolute(back) > absolute(value)) --bits;
  return bit_cast<float>(bits | 1u);
}

template <class S>
KITAE_HD S round_from_double(double value) {
  if constexpr (std::is_same_v<S, double> || std::is_same_v<S, float>)
    return static_cast<S>(value);
  else
    return FromFloat<S>::convert(round_to_odd(value));
}

}  // namespace kitae
