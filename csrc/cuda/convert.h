// Storage elements to and from the type arithmetic is done in: the bits of ops/host_device.h, by the device's own
// conversions where it has them (they only differ in which NaN comes out).
#pragma once

#include "cuda/device.h"

namespace kitae::cuda {

template <class S>
KITAE_DEVICE Compute<S> widen(S value) {
  return to_float(value);
}
template <class S>
KITAE_DEVICE S narrow(Compute<S> value) {
  return FromFloat<S>::convert(value);
}

#if defined(__CUDA_ARCH__)
template <>
KITAE_DEVICE float widen<Float16>(Float16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}
template <>
KITAE_DEVICE Float16 narrow<Float16>(float value) {
  Float16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
}
#if __CUDA_ARCH__ >= 800
template <>
KITAE_DEVICE BFloat16 narrow<BFloat16>(float value) {
  BFloat16 half;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
}
#endif
#endif

}  // namespace kitae::cuda
