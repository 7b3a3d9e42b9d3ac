#include "drivers/copy.h"

#include <cstring>

#include "cpu/stream.h"
#include "cpu/threads.h"

namespace kitae {
namespace {

// One range a thread (memcpy does best on long ranges), cut on cache lines.
template <class Copy>
void split(int64_t bytes, Copy copy) {
  constexpr int64_t kLine = 64, kSmallest = 1 << 16;
  const int64_t threads = cpu::num_threads();
  int64_t grain = ((bytes + threads - 1) / threads + kLine - 1) / kLine * kLine;
  if (grain < kSmallest) grain = kSmallest;
  cpu::parallel_ranges(bytes, grain, copy);
}

}  // namespace

void copy_split(void* to, const void* from, int64_t bytes) {
  split(bytes, [=](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                static_cast<size_t>(end - begin));
  });
}

void copy_streaming(void* to, const void* from, int64_t bytes) {
  split(bytes, [=](int64_t begin, int64_t end) {
    cpu::stream_bytes(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, end - begin);
    cpu::stream_fence();
  });
}

}  // namespace kitae
