// What kernels found and nobody waited for, seen from the host.
#pragma once

#include <cstdint>
#include <optional>

namespace kitae::cuda {

// python/kitae/_checks.py has the words, in this order.
enum class Finding : uint32_t {
  none = 0,
  nonfinite_channel = 1,
  nonfinite_running = 2,
  nonfinite_gradient = 3,
  nonfinite_sample = 4
};

struct Found {
  Finding code;
  int64_t place;
};

// Waits for the current device, then reports and clears what its kernels found.
std::optional<Found> check_flags();

}  // namespace kitae::cuda
