// Device memory that outlives a call. Nothing here waits for the user's stream, and all of it works while the stream is
// captured in a CUDA graph: what a graph has seen is never freed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/stream.h"

namespace kitae::cuda {

// Scratch of the current device and `stream`, 256-byte aligned, at least `bytes` large, undefined contents: one growing
// buffer, valid until the next call that asks for more. Kernels of one stream run one after the other, so they share
// it.
void* workspace(cudaStream_t stream, size_t bytes);

// `count` counters that are 0 and must be 0 again when the kernel that uses them ends (last_block, grid_sync). They
// belong to the current device and `stream`.
uint32_t* counters(cudaStream_t stream, size_t count);

// Whether `stream` is being captured in a CUDA graph: then no host memory that changes may be read by a copy.
bool capturing(cudaStream_t stream);

// Device memory of the current device; zeroed where asked. Freed in no stream's order: the owner waits first.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes, bool zeroed = false);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(DeviceBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
  int device_ = 0;
};

// Page-locked host memory, which copies to the device read without the host waiting.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(PinnedBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Copies in stream order. `from` must stay as it is until the copy is done, unless it is pageable: then it is staged
// before the function returns.
inline void upload(cudaStream_t stream, void* to, const void* from, size_t bytes) {
  if (bytes) KITAE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
}
inline void download(cudaStream_t stream, void* to, const void* from, size_t bytes) {
  if (bytes) KITAE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
}

// The call's scratch, one piece after the other.
class Layout {
 public:
  template <class T>
  int64_t add(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

}  // namespace kitae::cuda
