// What kernels are written with: the only place that names CUDA's device features, or their stand-in on the host.
//
// A kernel is a struct of parameters (at most 4 KB, trivially copyable) with a body that runs once a thread:
//
//   template <class T>
//   struct ScaleKernel {
//     static constexpr int kThreads = 256;      // of a block
//     static constexpr int kBlocksPerSM = 4;    // that fit on a multiprocessor: registers are cut to this
//     T* out;
//     const T* in;
//     int64_t count;
//     T factor;
//     KITAE_DEVICE void operator()() const {
//       for (int64_t i = global_thread(); i < count; i += grid_threads()) out[i] = in[i] * factor;
//     }
//   };
//   launch(ScaleKernel<float>{out, in, count, 2.0f}, Shape{.blocks = grid_blocks<ScaleKernel<float>>(count)}, stream);
//
// Shared memory: KITAE_SHARED(float, partial, 32) declares float* partial; dynamic_shared<T>() is Shape::shared_bytes
// large and 16-byte aligned. Its contents are undefined at first. Warp functions name the lanes that take part; all of
// them must call, from the same place. sync_block is for all threads of a block: none may have returned before.
// Vectors are Vector<T, N> of 2 to 16 bytes; the address must be a multiple of that. Counters for last_block and
// grid_sync come from counters() of cuda/memory.h. Grids and blocks have one dimension. KITAE_UNROLL stands before a
// loop of constant length whose arrays must stay in registers, KITAE_NO_UNROLL before one that would take too many.
//
// Without a GPU the same source runs on the host (cuda/stand_in.h), which checks these rules.
#pragma once

#include <cstdint>

#if defined(KITAE_CUDA_SIMULATED)
#include "cuda/stand_in.h"
#else
#include "cuda/device_cuda.h"
#endif

namespace kitae::cuda {

KITAE_DEVICE int64_t global_thread() { return int64_t{block_index()} * thread_count() + thread_index(); }
KITAE_DEVICE int64_t grid_threads() { return int64_t{block_count()} * thread_count(); }
KITAE_DEVICE int lane_index() { return thread_index() % kWarp; }
KITAE_DEVICE int warp_index() { return thread_index() / kWarp; }

// Whether this block is the last of `blocks` (all of the grid) to come here: it then sees what the others wrote before.
// Every thread calls. `counter` is 0 before the first block comes and after the last.
KITAE_DEVICE bool last_block(uint32_t* counter, uint32_t blocks) {
  KITAE_SHARED(uint32_t, is_last, 1);
  fence_device();
  sync_block();
  if (thread_index() == 0) {
    is_last[0] = atomic_add(counter, 1u) == blocks - 1 ? 1u : 0u;
    if (is_last[0]) *counter = 0;
    fence_device();
  }
  sync_block();
  return is_last[0] != 0;
}
KITAE_DEVICE bool last_block(uint32_t* counter) { return last_block(counter, static_cast<uint32_t>(block_count())); }

// Every thread of `blocks` blocks, of which this one has the number `rank`, waits for all others of them and sees what
// they wrote. For cooperative launches. `barrier` is 0 at first and needs no reset: its top bit turns when all have
// come.
KITAE_DEVICE void sync_blocks(uint32_t* barrier, int blocks, int rank) {
  constexpr uint32_t kTop = 0x80000000u;
  sync_block();
  if (thread_index() == 0) {
    const uint32_t others = static_cast<uint32_t>(blocks) - 1;
    fence_device();
    const uint32_t before = atomic_add(barrier, rank == 0 ? kTop - others : 1u);
    while (((load_acquire(barrier) ^ before) & kTop) == 0) spin();
    fence_device();
  }
  sync_block();
}
KITAE_DEVICE void grid_sync(uint32_t* barrier) { sync_blocks(barrier, block_count(), block_index()); }

}  // namespace kitae::cuda
