// Every native call computes in one mode (round to nearest, subnormals kept) and gives the caller's back. Pool threads
// need this too: a thread inherits its creator's mode.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace kitae::cpu {

class FixedFloatingPointMode {
 public:
  FixedFloatingPointMode() : caller_(get()) {
    if (caller_ != kFixed) set(kFixed);
  }
  ~FixedFloatingPointMode() { set(caller_); }  // also forgets the exception flags that the call raised
  FixedFloatingPointMode(const FixedFloatingPointMode&) = delete;
  FixedFloatingPointMode& operator=(const FixedFloatingPointMode&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using Register = unsigned int;
  static constexpr Register kFixed = 0x1f80;  // all exceptions masked, nearest, no FTZ, no DAZ
  static Register get() { return _mm_getcsr(); }
  static void set(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kFixed = 0;
  static Register get() {
    Register value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(Register value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#else
  using Register = int;
  static constexpr Register kFixed = 0;
  static Register get() { return kFixed; }
  static void set(Register) {}
#endif
  Register caller_;
};

}  // namespace kitae::cpu
