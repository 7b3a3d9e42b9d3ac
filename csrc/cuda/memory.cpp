#include "cuda/memory.h"

#include <map>
#include <mutex>
#include <tuple>

namespace kitae::cuda {
namespace {

constexpr size_t kSmallest = 1 << 16;

struct Capture {
  bool active = false;
  unsigned long long id = 0;
};

Capture capture_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  Capture capture;
  KITAE_CUDA_CHECK(cudaStreamGetCaptureInfo(stream, &status, &capture.id));
  capture.active = status == cudaStreamCaptureStatusActive;
  if (!capture.active) capture.id = 0;
  return capture;
}

// While it lives, this thread may allocate although a stream is being captured; what it does is not part of the graph.
class OutsideOfCapture {
 public:
  OutsideOfCapture() { KITAE_CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  ~OutsideOfCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

void* allocate(size_t bytes, bool zeroed) {
  const OutsideOfCapture outside;
  void* memory = nullptr;
  KITAE_CUDA_CHECK(cudaMalloc(&memory, bytes));
  if (!zeroed) return memory;
  // A stream of our own: the user's may be under capture, and the legacy stream would wait for it.
  static std::mutex mutex;
  static std::map<int, cudaStream_t> streams;
  const std::lock_guard<std::mutex> lock(mutex);
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  if (!streams.count(device)) {
    cudaStream_t stream = nullptr;
    KITAE_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    streams[device] = stream;
  }
  KITAE_CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes, streams[device]));
  KITAE_CUDA_CHECK(cudaStreamSynchronize(streams[device]));
  return memory;
}

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
};

// Buffers by device, stream and capture: a graph replays on any stream, so it never shares its scratch. Static storage
// that is never destroyed: when the process ends, the driver may be gone before us.
class Buffers {
 public:
  explicit Buffers(bool zeroed) : zeroed_(zeroed) {}

  void* at_least(cudaStream_t stream, size_t bytes) {
    int device = 0;
    KITAE_CUDA_CHECK(cudaGetDevice(&device));
    const Capture capture = capture_of(stream);
    const std::lock_guard<std::mutex> lock(mutex_);
    Buffer& buffer = buffers_[{device, stream, capture.id}];
    if (buffer.bytes >= bytes && buffer.data) return buffer.data;
    size_t size = kSmallest;
    while (size < bytes) size *= 2;
    void* grown = nullptr;
    if (capture.active || zeroed_) {
      grown = allocate(size, zeroed_);  // the old one stays: a graph, or a kernel under way, may use it
    } else {
      KITAE_CUDA_CHECK(cudaMallocAsync(&grown, size, stream));
      if (buffer.data) cudaFreeAsync(buffer.data, stream);
    }
    buffer = {grown, size};
    return grown;
  }

 private:
  bool zeroed_;
  std::mutex mutex_;
  std::map<std::tuple<int, cudaStream_t, unsigned long long>, Buffer> buffers_;
};

}  // namespace

void* workspace(cudaStream_t stream, size_t bytes) {
  static auto* const buffers = new Buffers(false);
  return buffers->at_least(stream, bytes);
}

uint32_t* counters(cudaStream_t stream, size_t count) {
  static auto* const buffers = new Buffers(true);
  return static_cast<uint32_t*>(buffers->at_least(stream, count * sizeof(uint32_t)));
}

bool capturing(cudaStream_t stream) { return capture_of(stream).active; }

DeviceBuffer::DeviceBuffer(size_t bytes, bool zeroed) {
  if (bytes == 0) return;
  KITAE_CUDA_CHECK(cudaGetDevice(&device_));
  data_ = allocate(bytes, zeroed);
  bytes_ = bytes;
}

DeviceBuffer::~DeviceBuffer() {
  if (!data_) return;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return;
  if (device != device_) cudaSetDevice(device_);
  cudaFree(data_);
  if (device != device_) cudaSetDevice(device);
}

PinnedBuffer::PinnedBuffer(size_t bytes) {
  if (bytes == 0) return;
  const OutsideOfCapture outside;
  KITAE_CUDA_CHECK(cudaMallocHost(&data_, bytes));
  bytes_ = bytes;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_) cudaFreeHost(data_);
}

}  // namespace kitae::cuda
