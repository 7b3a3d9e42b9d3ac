// cuda/launch.h by the host.
#pragma once

#include <type_traits>

#include "cuda/launch.h"

namespace kitae::cuda {

// Blocks of the kernel that the whole device holds at once.
template <class Kernel>
int64_t resident_blocks(int64_t /*shared_bytes*/ = 0) {
  return int64_t{sm_count()} * Kernel::kBlocksPerSM;
}

// Clusters of the kernel that the whole device holds at once; 0: none of this size runs.
template <class Kernel>
int64_t resident_clusters(const Shape& shape) {
  return resident_blocks<Kernel>(shape.shared_bytes) / shape.cluster;
}

template <class Kernel>
void launch(const Kernel& kernel, const Shape& shape, cudaStream_t stream) {
  static_assert(sizeof(Kernel) <= 4096, "the parameters of a kernel take at most 4 KB");
  static_assert(std::is_trivially_copyable<Kernel>::value, "the parameters of a kernel are copied as bytes");
  if (shape.blocks == 0) return;
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  const stand_in::Launched& before = stand_in::launched();
  stand_in::launched() = {before.count + 1, device, stream};
  const stand_in::Config config{shape.blocks,  Kernel::kThreads,  shape.shared_bytes,
                                shape.cluster, shape.cooperative, static_cast<int>(resident_blocks<Kernel>())};
  stand_in::launch(
      config, __PRETTY_FUNCTION__, [](const void* parameters) { (*static_cast<const Kernel*>(parameters))(); },
      &kernel);
  launch_count().fetch_add(1, std::memory_order_relaxed);
}

}  // namespace kitae::cuda
