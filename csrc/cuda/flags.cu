#include <map>
#include <mutex>

#include "cuda/flags.h"
#include "cuda/memory.h"

namespace kitae::cuda {
namespace {

std::mutex mutex;

// Never freed: kernels under way may write to it.
DeviceBuffer& buffer_of(int device) {
  static auto* const buffers = new std::map<int, DeviceBuffer>;
  return (*buffers)[device];
}

}  // namespace

Flags* device_flags() {
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceBuffer& buffer = buffer_of(device);
  if (buffer.bytes() == 0) buffer = DeviceBuffer(sizeof(Flags), true);
  return buffer.as<Flags>();
}

std::optional<Found> check_flags() {
  int device = 0;
  KITAE_CUDA_CHECK(cudaGetDevice(&device));
  KITAE_CUDA_CHECK(cudaDeviceSynchronize());
  Flags* flags = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    flags = buffer_of(device).as<Flags>();
  }
  if (!flags) return std::nullopt;
  Flags found{};
  download(nullptr, &found, flags, sizeof(found));
  KITAE_CUDA_CHECK(cudaStreamSynchronize(nullptr));
  if (found.record == 0) return std::nullopt;
  KITAE_CUDA_CHECK(cudaMemsetAsync(flags, 0, sizeof(Flags), nullptr));
  KITAE_CUDA_CHECK(cudaStreamSynchronize(nullptr));
  constexpr uint64_t kPlace = (uint64_t{1} << kPlaceBits) - 1;
  return Found{static_cast<Finding>(found.record >> kPlaceBits), static_cast<int64_t>(found.record & kPlace)};
}

}  // namespace kitae::cuda
