// cuda/device.h by CUDA.
#pragma once

#include <cuda_runtime.h>

#include "cuda/vector.h"

#define KITAE_DEVICE __device__ __forceinline__
#define KITAE_UNROLL _Pragma("unroll")
#define KITAE_NO_UNROLL _Pragma("unroll 1")
#define KITAE_SHARED(T, name, n)                     \
  __shared__ __align__(16) T kitae_shared_##name[n]; \
  T* const name = kitae_shared_##name

namespace kitae::cuda {

KITAE_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
KITAE_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
KITAE_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
KITAE_DEVICE int block_count() { return static_cast<int>(gridDim.x); }

template <class T>
KITAE_DEVICE T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char kitae_dynamic_shared[];
  return reinterpret_cast<T*>(kitae_dynamic_shared);
}

KITAE_DEVICE void sync_block() { __syncthreads(); }
KITAE_DEVICE bool any_of_block(bool value) { return __syncthreads_or(value) != 0; }
KITAE_DEVICE int count_of_block(bool value) { return __syncthreads_count(value); }

KITAE_DEVICE void sync_warp(uint32_t mask = kAllLanes) { __syncwarp(mask); }
template <class T>
KITAE_DEVICE T shuffle(uint32_t mask, T value, int lane) {
  return __shfl_sync(mask, value, lane);
}
template <class T>
KITAE_DEVICE T shuffle_xor(uint32_t mask, T value, int lanes) {
  return __shfl_xor_sync(mask, value, lanes);
}
template <class T>
KITAE_DEVICE T shuffle_down(uint32_t mask, T value, int lanes) {
  return __shfl_down_sync(mask, value, lanes);
}
template <class T>
KITAE_DEVICE T shuffle_up(uint32_t mask, T value, int lanes) {
  return __shfl_up_sync(mask, value, lanes);
}
KITAE_DEVICE uint32_t ballot(uint32_t mask, bool value) { return __ballot_sync(mask, value); }
KITAE_DEVICE bool any_of_warp(uint32_t mask, bool value) { return __any_sync(mask, value) != 0; }
KITAE_DEVICE bool all_of_warp(uint32_t mask, bool value) { return __all_sync(mask, value) != 0; }

namespace detail {

template <int Bytes>
struct Raw;
template <>
struct Raw<1> {
  using type = unsigned char;
};
template <>
struct Raw<2> {
  using type = unsigned short;
};
template <>
struct Raw<4> {
  using type = unsigned int;
};
template <>
struct Raw<8> {
  using type = uint2;
};
template <>
struct Raw<16> {
  using type = uint4;
};

}  // namespace detail

template <int N, class T>
KITAE_DEVICE Vector<T, N> load_vector(const T* from) {
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  return bit_cast<Vector<T, N>>(*reinterpret_cast<const Raw*>(from));
}
template <class T, int N>
KITAE_DEVICE void store_vector(T* to, const Vector<T, N>& vector) {
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  *reinterpret_cast<Raw*>(to) = bit_cast<Raw>(vector);
}
// For data that is used once: evicted from the caches first.
template <int N, class T>
KITAE_DEVICE Vector<T, N> load_vector_streaming(const T* from) {
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  return bit_cast<Vector<T, N>>(__ldcs(reinterpret_cast<const Raw*>(from)));
}
template <class T, int N>
KITAE_DEVICE void store_vector_streaming(T* to, const Vector<T, N>& vector) {
  using Raw = typename detail::Raw<sizeof(T) * N>::type;
  __stcs(reinterpret_cast<Raw*>(to), bit_cast<Raw>(vector));
}

KITAE_DEVICE uint32_t atomic_add(uint32_t* to, uint32_t value) { return atomicAdd(to, value); }
KITAE_DEVICE uint64_t atomic_add(uint64_t* to, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
KITAE_DEVICE uint32_t atomic_max(uint32_t* to, uint32_t value) { return atomicMax(to, value); }
KITAE_DEVICE uint64_t atomic_max(uint64_t* to, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
KITAE_DEVICE uint32_t atomic_min(uint32_t* to, uint32_t value) { return atomicMin(to, value); }
KITAE_DEVICE uint64_t atomic_min(uint64_t* to, uint64_t value) {
  return atomicMin(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
KITAE_DEVICE uint32_t atomic_or(uint32_t* to, uint32_t value) { return atomicOr(to, value); }
KITAE_DEVICE uint32_t atomic_exchange(uint32_t* to, uint32_t value) { return atomicExch(to, value); }
KITAE_DEVICE uint32_t atomic_compare_and_swap(uint32_t* to, uint32_t expected, uint32_t value) {
  return atomicCAS(to, expected, value);
}
KITAE_DEVICE uint64_t atomic_compare_and_swap(uint64_t* to, uint64_t expected, uint64_t value) {
  return atomicCAS(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(expected),
                   static_cast<unsigned long long>(value));
}

KITAE_DEVICE void fence_device() { __threadfence(); }
KITAE_DEVICE uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(from)) : "memory");
  return value;
}
KITAE_DEVICE uint64_t load_acquire(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(__cvta_generic_to_global(from)) : "memory");
  return value;
}
KITAE_DEVICE void store_release(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "r"(value) : "memory");
}
KITAE_DEVICE void store_release(uint64_t* to, uint64_t value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "l"(value) : "memory");
}
// In a loop that waits for another block.
KITAE_DEVICE void spin() { __nanosleep(32); }

// Thread block clusters: on devices before compute capability 9 every block is a cluster of its own.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
KITAE_DEVICE int cluster_rank() { return static_cast<int>(__clusterRelativeBlockRank()); }
KITAE_DEVICE int cluster_size() { return static_cast<int>(__clusterSizeInBlocks()); }
KITAE_DEVICE void cluster_arrive() { __cluster_barrier_arrive(); }
KITAE_DEVICE void cluster_wait() { __cluster_barrier_wait(); }
template <class T>
KITAE_DEVICE T* cluster_map(T* shared, int rank) {
  return static_cast<T*>(
      __cluster_map_shared_rank(const_cast<void*>(static_cast<const void*>(shared)), static_cast<unsigned int>(rank)));
}
#else
KITAE_DEVICE int cluster_rank() { return 0; }
KITAE_DEVICE int cluster_size() { return 1; }
KITAE_DEVICE void cluster_arrive() {}
KITAE_DEVICE void cluster_wait() { __syncthreads(); }
template <class T>
KITAE_DEVICE T* cluster_map(T* shared, int) {
  return shared;
}
#endif
// Every thread of the cluster waits for all others; a block must not end while another one reads its shared memory.
KITAE_DEVICE void sync_cluster() {
  cluster_arrive();
  cluster_wait();
}

// 16 bytes from global to shared memory, both 16-byte aligned; there after async_copy_wait of the thread that asked.
KITAE_DEVICE void async_copy(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned int>(__cvta_generic_to_shared(shared))),
      "l"(__cvta_generic_to_global(global))
      : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
KITAE_DEVICE void async_copy_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace kitae::cuda
