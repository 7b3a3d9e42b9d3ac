// What kernels find and nobody waits for: one record a device, raised as an exception by the next check().
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/findings.h"

namespace kitae::cuda {

struct Flags {
  uint64_t record;  // code << 48 | place; 0: nothing was found
};

constexpr int kPlaceBits = 48;

// The first code wins; of one code, the smallest place, so that the order of blocks doesn't show.
KITAE_DEVICE void raise_flag(Flags* flags, Finding code, int64_t place) {
  const uint64_t found = static_cast<uint64_t>(code) << kPlaceBits | static_cast<uint64_t>(place);
  uint64_t seen = 0;
  for (;;) {
    const uint64_t before = atomic_compare_and_swap(&flags->record, seen, found);
    if (before == seen) return;
    if (before >> kPlaceBits != static_cast<uint64_t>(code) || before <= found) return;
    seen = before;
  }
}

// The current device's flags.
Flags* device_flags();

}  // namespace kitae::cuda
