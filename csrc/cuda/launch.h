// The one way to start a kernel (cuda/device.h says what a kernel is).
#pragma once

#include <atomic>
#include <cstdint>

#include "cuda/check.h"
#include "cuda/device.h"
#include "cuda/launch_count.h"
#include "cuda/stream.h"

namespace kitae::cuda {

struct Shape {
  int64_t blocks = 1;        // 0: nothing is started
  int64_t shared_bytes = 0;  // dynamic shared memory of a block
  int cluster = 1;           // blocks of a cluster; divides `blocks`
  bool cooperative = false;  // all blocks are resident at once, for grid_sync: at most resident_blocks()
};

// A number of the current device, asked for once.
template <cudaDeviceAttr attribute>
int device_attribute() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // value + 1
  int device = 0, value = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  if (device < kDevices && (value = known[device].load(std::memory_order_relaxed)) != 0) return value - 1;
  KITAE_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  if (device < kDevices) known[device].store(value + 1, std::memory_order_relaxed);
  return value;
}

inline int sm_count() { return device_attribute<cudaDevAttrMultiProcessorCount>(); }
// The most dynamic and static shared memory of a block.
inline int64_t max_shared_bytes() { return device_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(); }
// The largest cluster: 16 blocks from compute capability 9 on, else 1.
inline int max_cluster() { return device_attribute<cudaDevAttrComputeCapabilityMajor>() >= 9 ? 16 : 1; }

// Blocks for a loop over `work` items, one a thread and turn: what fills the device, or fewer.
template <class Kernel>
int64_t grid_blocks(int64_t work) {
  const int64_t wanted = (work + Kernel::kThreads - 1) / Kernel::kThreads;
  const int64_t most = int64_t{sm_count()} * Kernel::kBlocksPerSM;
  return wanted < most ? wanted : most;
}

}  // namespace kitae::cuda

#if defined(KITAE_CUDA_SIMULATED)
#include "cuda/launch_stand_in.h"
#else
#include "cuda/launch_cuda.h"
#endif
