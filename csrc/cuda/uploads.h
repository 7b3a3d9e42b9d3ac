// Small tables from the host to the device without waiting: page-locked memory, used in turn.
#pragma once

#include <cstddef>

#include "cuda/memory.h"

namespace kitae::cuda {

class Uploads {
 public:
  Uploads() = default;
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;
  ~Uploads() {
    for (Turn& turn : turns_)
      if (turn.copied) cudaEventDestroy(turn.copied);
  }

  // Memory for `bytes`, to be filled before `send`. Waits where the copy of kTurns uploads ago is not done yet.
  void* memory(size_t bytes) {
    next_ = (next_ + 1) % kTurns;
    Turn& turn = turns_[next_];
    if (turn.sent) KITAE_CUDA_CHECK(cudaEventSynchronize(turn.copied));
    turn.sent = false;
    if (turn.buffer.bytes() < bytes) turn.buffer = PinnedBuffer(bytes + bytes / 2);
    return turn.buffer.as<void>();
  }

  void send(cudaStream_t stream, void* to, size_t bytes) {
    Turn& turn = turns_[next_];
    upload(stream, to, turn.buffer.as<void>(), bytes);
    if (!turn.copied) KITAE_CUDA_CHECK(cudaEventCreateWithFlags(&turn.copied, cudaEventDisableTiming));
    KITAE_CUDA_CHECK(cudaEventRecord(turn.copied, stream));
    turn.sent = true;
  }

 private:
  static constexpr int kTurns = 4;
  struct Turn {
    PinnedBuffer buffer;
    cudaEvent_t copied = nullptr;
    bool sent = false;
  };
  Turn turns_[kTurns];
  int next_ = 0;
};

}  // namespace kitae::cuda
