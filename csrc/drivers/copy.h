// The benchmark's yardstick: how fast this machine moves bytes with our threads.
#pragma once

#include <cstdint>

namespace kitae {

void copy_split(void* to, const void* from, int64_t bytes);      // memcpy, split over the threads
void copy_streaming(void* to, const void* from, int64_t bytes);  // stores that bypass the caches

}  // namespace kitae
