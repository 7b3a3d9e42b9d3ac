// How many kernels this process has started: launches a call are counted, not guessed.
#pragma once

#include <atomic>
#include <cstdint>

namespace kitae::cuda {

inline std::atomic<uint64_t>& launch_count() {
  static std::atomic<uint64_t> count{0};
  return count;
}

}  // namespace kitae::cuda
