// The device and the stream of the native call under way. The bindings set them, drivers read them.
#pragma once

#include "cuda/check.h"

namespace kitae::cuda {
namespace detail {

struct Place {
  int device = 0;
  cudaStream_t stream = nullptr;
};

inline Place& place() {
  thread_local Place current;
  return current;
}

}  // namespace detail

inline int current_device() { return detail::place().device; }
inline cudaStream_t current_stream() { return detail::place().stream; }

// Makes a device and a stream current in this thread, and gives back what was.
class OnStream {
 public:
  OnStream(int device, cudaStream_t stream) : before_(detail::place()) {
    KITAE_CUDA_CHECK(cudaGetDevice(&device_before_));
    if (device != device_before_) KITAE_CUDA_CHECK(cudaSetDevice(device));
    detail::place() = {device, stream};
  }
  ~OnStream() {
    if (detail::place().device != device_before_) cudaSetDevice(device_before_);
    detail::place() = before_;
  }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  detail::Place before_;
  int device_before_ = 0;
};

}  // namespace kitae::cuda
