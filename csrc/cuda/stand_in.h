// cuda/device.h by the host, to test kernels where there is no GPU. Threads are fibers, blocks run in an order shuffled
// by KITAE_SIMULATED_SEED, warps and lanes in varied order. What the rules of cuda/device.h forbid ends the launch with
// a SimulationError: a lane that is missing from a warp function, sync_block by a part of the threads, a deadlock, a
// misaligned vector, another block's shared memory after that block has ended. Shared memory starts as 0xA5.
//
// Not seen here: missing fences, bank conflicts, registers, more resident blocks than fit.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/vector.h"

#define KITAE_DEVICE inline
#define KITAE_UNROLL
#define KITAE_NO_UNROLL
#define KITAE_SHARED(T, name, n)         \
  static const char kitae_site_##name{}; \
  T* const name = static_cast<T*>(::kitae::cuda::stand_in::shared(&kitae_site_##name, sizeof(T) * (n)))

namespace kitae::cuda {
namespace stand_in {

class SimulationError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

struct Config {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster;
  bool cooperative;
  int max_resident;  // blocks of the whole device, for cooperative launches
};

// Runs body(kernel) once a thread and returns when all have; throws a SimulationError that names the kernel.
void launch(const Config& config, const char* name, void (*body)(const void*), const void* kernel);
// The order of blocks, warps and lanes from now on; at first KITAE_SIMULATED_SEED's.
void set_seed(uint64_t seed);

// What launches of this process have done, for tests.
struct Launched {
  int64_t count;
  int device;          // of the latest
  const void* stream;  // of the latest
};
inline Launched& launched() {
  static Launched launched{0, 0, nullptr};
  return launched;
}

struct Site {
  const char* file;
  int line;

  // AddressSanitizer's strcmp would take half of a simulation's time.
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
};

// What a kernel asks for often, filled in before its thread runs.
struct Position {
  int thread, threads, block, blocks, rank, cluster;
};
extern __thread const Position* position;

void* shared(const void* site, size_t bytes);
void* dynamic_shared();
void* map(void* address, int rank);

enum class Warp { shuffle, ballot };
// For a shuffle the bits of the value of lane `source`, for a ballot the mask of lanes whose value is not 0.
uint64_t warp(Warp kind, uint32_t mask, uint64_t value, int source, Site site);
// How many of the block's threads gave true.
int block(bool value, Site site);
void cluster_arrive();
void cluster_wait();
void yield();
void require_aligned(const void* address, size_t bytes);
void async_copy(void* to, const void* from);
void async_copy_wait();

template <class T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class T>
T shuffle(uint32_t mask, T value, int source, Site site) {
  return from_bits<T>(warp(Warp::shuffle, mask, bits_of(value), source, site));
}

}  // namespace stand_in

inline int thread_index() { return stand_in::position->thread; }
inline int thread_count() { return stand_in::position->threads; }
inline int block_index() { return stand_in::position->block; }
inline int block_count() { return stand_in::position->blocks; }

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(stand_in::dynamic_shared());
}

// The call's file and line say which lanes stand at the same place.
#define KITAE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void sync_block(KITAE_SITE) { stand_in::block(false, {file, line}); }
inline bool any_of_block(bool value, KITAE_SITE) { return stand_in::block(value, {file, line}) > 0; }
inline int count_of_block(bool value, KITAE_SITE) { return stand_in::block(value, {file, line}); }

inline void sync_warp(uint32_t mask = kAllLanes, KITAE_SITE) {
  stand_in::warp(stand_in::Warp::ballot, mask, 0, 0, {file, line});
}
template <class T>
T shuffle(uint32_t mask, T value, int lane, KITAE_SITE) {
  return stand_in::shuffle(mask, value, lane & (kWarp - 1), {file, line});
}
template <class T>
T shuffle_xor(uint32_t mask, T value, int lanes, KITAE_SITE) {
  return stand_in::shuffle(mask, value, (stand_in::position->thread % kWarp) ^ lanes, {file, line});
}
template <class T>
T shuffle_down(uint32_t mask, T value, int lanes, KITAE_SITE) {
  const int lane = stand_in::position->thread % kWarp;
  return stand_in::shuffle(mask, value, lane + lanes < kWarp ? lane + lanes : lane, {file, line});
}
template <class T>
T shuffle_up(uint32_t mask, T value, int lanes, KITAE_SITE) {
  const int lane = stand_in::position->thread % kWarp;
  return stand_in::shuffle(mask, value, lane >= lanes ? lane - lanes : lane, {file, line});
}
inline uint32_t ballot(uint32_t mask, bool value, KITAE_SITE) {
  return static_cast<uint32_t>(stand_in::warp(stand_in::Warp::ballot, mask, value, 0, {file, line}));
}
inline bool any_of_warp(uint32_t mask, bool value, KITAE_SITE) {
  return stand_in::warp(stand_in::Warp::ballot, mask, value, 0, {file, line}) != 0;
}
inline bool all_of_warp(uint32_t mask, bool value, KITAE_SITE) {
  return stand_in::warp(stand_in::Warp::ballot, mask, value, 0, {file, line}) == mask;
}

#undef KITAE_SITE

template <int N, class T>
Vector<T, N> load_vector(const T* from) {
  stand_in::require_aligned(from, sizeof(T) * N);
  return *reinterpret_cast<const Vector<T, N>*>(from);
}
template <class T, int N>
void store_vector(T* to, const Vector<T, N>& vector) {
  stand_in::require_aligned(to, sizeof(T) * N);
  *reinterpret_cast<Vector<T, N>*>(to) = vector;
}
template <int N, class T>
Vector<T, N> load_vector_streaming(const T* from) {
  return load_vector<N>(from);
}
template <class T, int N>
void store_vector_streaming(T* to, const Vector<T, N>& vector) {
  store_vector(to, vector);
}

// Fibers of one host thread: nothing happens between a read and a write.
template <class T>
T atomic_add(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}
template <class T>
T atomic_max(T* to, T value) {
  const T before = *to;
  if (value > before) *to = value;
  return before;
}
template <class T>
T atomic_min(T* to, T value) {
  const T before = *to;
  if (value < before) *to = value;
  return before;
}
inline uint32_t atomic_or(uint32_t* to, uint32_t value) {
  const uint32_t before = *to;
  *to = before | value;
  return before;
}
inline uint32_t atomic_exchange(uint32_t* to, uint32_t value) {
  const uint32_t before = *to;
  *to = value;
  return before;
}
template <class T>
T atomic_compare_and_swap(T* to, T expected, T value) {
  const T before = *to;
  if (before == expected) *to = value;
  return before;
}

inline void fence_device() {}
template <class T>
T load_acquire(const T* from) {
  return *const_cast<const volatile T*>(from);
}
template <class T>
void store_release(T* to, T value) {
  *const_cast<volatile T*>(to) = value;
}
inline void spin() { stand_in::yield(); }

inline int cluster_rank() { return stand_in::position->rank; }
inline int cluster_size() { return stand_in::position->cluster; }
inline void cluster_arrive() { stand_in::cluster_arrive(); }
inline void cluster_wait() { stand_in::cluster_wait(); }
inline void sync_cluster() {
  cluster_arrive();
  cluster_wait();
}
template <class T>
T* cluster_map(T* shared, int rank) {
  return static_cast<T*>(stand_in::map(const_cast<void*>(static_cast<const void*>(shared)), rank));
}

inline void async_copy(void* shared, const void* global) { stand_in::async_copy(shared, global); }
inline void async_copy_wait() { stand_in::async_copy_wait(); }

}  // namespace kitae::cuda
