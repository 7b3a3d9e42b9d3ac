// cuda/launch.h by CUDA.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "cuda/launch.h"

namespace kitae::cuda {
namespace detail {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSM) run(const __grid_constant__ Kernel kernel) {
  kernel();
}

// Dynamic shared memory above 48 KB and clusters above 8 blocks have to be allowed, once a kernel and device.
template <class Kernel>
void allow(const Shape& shape) {
  constexpr int64_t kAlwaysAllowed = 48 * 1024;
  constexpr int kPortableCluster = 8;
  if (shape.shared_bytes <= kAlwaysAllowed && shape.cluster <= kPortableCluster) return;
  static std::atomic<uint64_t> done{0};  // a bit a device
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (done.load(std::memory_order_relaxed) & bit) return;
  const void* const function = reinterpret_cast<const void*>(&run<Kernel>);
  cudaFuncAttributes attributes{};
  KITAE_CUDA_CHECK(cudaFuncGetAttributes(&attributes, function));
  const auto most = static_cast<int>(max_shared_bytes() - static_cast<int64_t>(attributes.sharedSizeBytes));
  KITAE_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  if (max_cluster() > 1)
    KITAE_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  done.fetch_or(bit, std::memory_order_relaxed);
}

template <class Kernel>
cudaLaunchConfig_t configuration(const Shape& shape, cudaStream_t stream, cudaLaunchAttribute* attributes) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned int>(shape.blocks));
  config.blockDim = dim3(Kernel::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned int>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  if (shape.cooperative) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  return config;
}

}  // namespace detail

// Blocks of the kernel that the whole device holds at once.
template <class Kernel>
int64_t resident_blocks(int64_t shared_bytes = 0) {
  detail::allow<Kernel>(Shape{1, shared_bytes});
  int blocks = 0;
  KITAE_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, &detail::run<Kernel>, Kernel::kThreads,
                                                                 static_cast<size_t>(shared_bytes)));
  return int64_t{sm_count()} * blocks;
}

// Clusters of the kernel that the whole device holds at once; 0: none of this size runs.
template <class Kernel>
int64_t resident_clusters(const Shape& shape) {
  if (shape.cluster > max_cluster()) return 0;
  detail::allow<Kernel>(shape);
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = detail::configuration<Kernel>(shape, nullptr, attributes);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, &detail::run<Kernel>, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

template <class Kernel>
void launch(const Kernel& kernel, const Shape& shape, cudaStream_t stream) {
  static_assert(sizeof(Kernel) <= 4096, "the parameters of a kernel take at most 4 KB");
  static_assert(std::is_trivially_copyable<Kernel>::value, "the parameters of a kernel are copied as bytes");
  if (shape.blocks == 0) return;
  detail::allow<Kernel>(shape);
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = detail::configuration<Kernel>(shape, stream, attributes);
  KITAE_CUDA_CHECK(cudaLaunchKernelEx(&config, &detail::run<Kernel>, kernel));
  launch_count().fetch_add(1, std::memory_order_relaxed);
}

}  // namespace kitae::cuda
