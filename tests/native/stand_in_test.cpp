// The host stand-in for the GPU's device features (csrc/cuda/stand_in.h): what kernels may rely on, and that what they
// must not do is found.
#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/flags.h"
#include "cuda/launch.h"
#include "cuda/memory.h"

namespace {

using namespace kitae::cuda;

constexpr int kSeeds = 5;

Shape shape(int64_t blocks, int64_t shared_bytes = 0, int cluster = 1, bool cooperative = false) {
  return {blocks, shared_bytes, cluster, cooperative};
}

KITAE_DEVICE double sum_of_warp(double value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += shuffle_xor(kAllLanes, value, lanes);
  return value;
}

struct Launch {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSM = 4;
};

// Sum of squares: lanes, warps, blocks, then the last block over all blocks.
struct SumOfSquares : Launch {
  const float* in;
  int64_t count;
  double* partial;
  double* out;
  uint32_t* counter;

  KITAE_DEVICE double sum_of_block(double value) const {
    KITAE_SHARED(double, of_warps, kThreads / kWarp);
    value = sum_of_warp(value);
    if (lane_index() == 0) of_warps[warp_index()] = value;
    sync_block();
    double sum = 0;
    for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += of_warps[warp];
    sync_block();
    return sum;
  }

  KITAE_DEVICE void operator()() const {
    double sum = 0;
    for (int64_t i = global_thread(); i < count; i += grid_threads()) sum += static_cast<double>(in[i]) * in[i];
    sum = sum_of_block(sum);
    if (thread_index() == 0) partial[block_index()] = sum;
    if (!last_block(counter)) return;
    double rest = 0;
    for (int block = thread_index(); block < block_count(); block += kThreads) rest += partial[block];
    rest = sum_of_block(rest);
    if (thread_index() == 0) *out = rest;
  }
};

void test_reduction() {
  std::vector<float> in(10007);
  double expected = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<float>(i % 17);
    expected += static_cast<double>(in[i]) * in[i];
  }
  const int64_t blocks = grid_blocks<SumOfSquares>(static_cast<int64_t>(in.size()));
  CHECK(blocks == 12);
  for (int seed = 0; seed < kSeeds; ++seed) {
    stand_in::set_seed(static_cast<uint64_t>(seed));
    double out = -1;
    auto* const partial = static_cast<double*>(workspace(nullptr, static_cast<size_t>(blocks) * sizeof(double)));
    uint32_t* const counter = counters(nullptr, 1);
    launch(SumOfSquares{{}, in.data(), static_cast<int64_t>(in.size()), partial, &out, counter}, shape(blocks),
           nullptr);
    CHECK(out == expected);
    CHECK(*counter == 0);
  }
}

// Every block of a cluster gives a number; each block reads those of the others from their shared memory.
struct ClusterSum : Launch {
  int* out;
  KITAE_DEVICE void operator()() const {
    KITAE_SHARED(int, own, 1);
    if (thread_index() == 0) own[0] = block_index() + 1;
    sync_cluster();
    int sum = 0;
    for (int rank = 0; rank < cluster_size(); ++rank) sum += cluster_map(own, rank)[0];
    if (thread_index() == 5) out[block_index()] = sum;
    sync_cluster();
  }
};

void test_cluster() {
  for (int seed = 0; seed < kSeeds; ++seed) {
    stand_in::set_seed(static_cast<uint64_t>(seed));
    std::vector<int> out(12, -1);
    launch(ClusterSum{{}, out.data()}, shape(12, 0, 4), nullptr);
    for (int block = 0; block < 12; ++block) CHECK(out[static_cast<size_t>(block)] == 4 * (block / 4 * 4) + 10);
  }
}

// Each round every block writes, all wait, every block reads its neighbour.
struct GridRounds : Launch {
  int* values;
  uint32_t* barrier;
  int rounds;
  KITAE_DEVICE void operator()() const {
    for (int round = 0; round < rounds; ++round) {
      const int other = values[(block_index() + 1) % block_count()];
      grid_sync(barrier);
      if (thread_index() == 0) values[block_index()] = other;
      grid_sync(barrier);
    }
  }
};

void test_grid_sync() {
  for (int seed = 0; seed < kSeeds; ++seed) {
    stand_in::set_seed(static_cast<uint64_t>(seed));
    std::vector<int> values{0, 1, 2, 3, 4, 5, 6};
    launch(GridRounds{{}, values.data(), counters(nullptr, 1), 5}, shape(7, 0, 1, true), nullptr);
    for (int i = 0; i < 7; ++i) CHECK(values[static_cast<size_t>(i)] == (i + 5) % 7);
  }
}

struct WriteOrder : Launch {
  std::vector<int>* order;
  KITAE_DEVICE void operator()() const {
    if (thread_index() == 0) order->push_back(block_index());
  }
};

void test_order_of_blocks_is_shuffled() {
  std::set<std::vector<int>> orders;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::vector<int> order, again;
    stand_in::set_seed(static_cast<uint64_t>(seed));
    launch(WriteOrder{{}, &order}, shape(10), nullptr);
    stand_in::set_seed(static_cast<uint64_t>(seed));
    launch(WriteOrder{{}, &again}, shape(10), nullptr);
    CHECK(order == again);
    orders.insert(order);
    std::sort(order.begin(), order.end());
    for (int block = 0; block < 10; ++block) CHECK(order[static_cast<size_t>(block)] == block);
  }
  CHECK(orders.size() == kSeeds);
}

struct ReadUnwritten : Launch {
  unsigned char* out;
  KITAE_DEVICE void operator()() const {
    KITAE_SHARED(unsigned char, bytes, 16);
    auto* const dynamic = dynamic_shared<unsigned char>();
    if (thread_index() == 0) {
      out[0] = bytes[3];
      out[1] = dynamic[99];
      bytes[3] = dynamic[99] = 1;  // the next block must not see it
    }
  }
};

void test_shared_memory_is_poisoned() {
  unsigned char out[2] = {0, 0};
  launch(ReadUnwritten{{}, out}, shape(5, 100), nullptr);
  CHECK(out[0] == 0xA5 && out[1] == 0xA5);
}

struct AsyncCopy : Launch {
  const float* in;
  float* early;
  float* out;
  KITAE_DEVICE void operator()() const {
    auto* const tile = dynamic_shared<float>();
    if (thread_index() < 4) async_copy(tile + 4 * thread_index(), in + 4 * thread_index());
    if (thread_index() == 0) *early = tile[0];
    async_copy_wait();
    sync_block();
    if (thread_index() < 16) out[thread_index()] = tile[thread_index()];
  }
};

void test_async_copy() {
  alignas(16) float in[16];
  float out[16], early = 0;
  for (int i = 0; i < 16; ++i) in[i] = static_cast<float>(i);
  launch(AsyncCopy{{}, in, &early, out}, shape(1, sizeof(in)), nullptr);
  CHECK(std::memcmp(in, out, sizeof(in)) == 0);
  CHECK(early != 0.0f);
}

struct PartOfWarp : Launch {
  uint32_t* out;
  KITAE_DEVICE void operator()() const {
    const uint32_t half = lane_index() < 16 ? 0x0000ffffu : 0xffff0000u;
    const uint32_t even = ballot(half, thread_index() % 2 == 0);
    uint32_t from = 0;
    if (lane_index() < 16)
      from = shuffle(half, static_cast<uint32_t>(thread_index()), 3);
    else
      from = shuffle_down(half, static_cast<uint32_t>(thread_index()), 1);
    out[2 * thread_index()] = even;
    out[2 * thread_index() + 1] = from;
  }
};

void test_masks_of_warps() {
  std::vector<uint32_t> out(2 * PartOfWarp::kThreads);
  launch(PartOfWarp{{}, out.data()}, shape(1), nullptr);
  for (uint32_t thread = 0; thread < PartOfWarp::kThreads; ++thread) {
    const uint32_t lane = thread % 32;
    CHECK(out[2 * thread] == (lane < 16 ? 0x5555u : 0x55550000u));
    CHECK(out[2 * thread + 1] == (lane < 16 ? thread - lane + 3 : lane == 31 ? thread : thread + 1));
  }
}

struct Raise : Launch {
  Flags* flags;
  KITAE_DEVICE void operator()() const {
    if (thread_index() % 50 == 7) raise_flag(flags, Finding::nonfinite_channel, thread_index());
  }
};

void test_flags() {
  CHECK(!check_flags());
  launch(Raise{{}, device_flags()}, shape(1), nullptr);
  const auto found = check_flags();
  CHECK(found && found->code == Finding::nonfinite_channel && found->place == 7);
  CHECK(!check_flags());
}

// What must be found

template <class Kernel>
std::string failure(const Kernel& kernel, const Shape& how) {
  std::string message;
  for (int seed = 0; seed < kSeeds; ++seed) {
    stand_in::set_seed(static_cast<uint64_t>(seed));
    message.clear();
    try {
      launch(kernel, how, nullptr);
    } catch (const stand_in::SimulationError& error) {
      message = error.what();
    }
    if (message.empty()) return message;
  }
  return message;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

struct DivergentShuffle : Launch {
  int* out;
  KITAE_DEVICE void operator()() const {
    if (lane_index() < 16) out[thread_index()] = shuffle_xor(kAllLanes, 1, 1);
  }
};
struct DifferentSites : Launch {
  int* out;
  KITAE_DEVICE void operator()() const {
    if (lane_index() < 16)
      out[thread_index()] = shuffle_xor(kAllLanes, 1, 1);
    else
      out[thread_index()] = shuffle_xor(kAllLanes, 2, 1);
  }
};
struct PartOfBlock : Launch {
  KITAE_DEVICE void operator()() const {
    if (warp_index() == 1) return;
    sync_block();
  }
};
struct TwoBarriers : Launch {
  KITAE_DEVICE void operator()() const {
    if (warp_index() == 1)
      sync_block();
    else
      sync_block();
  }
};
struct WaitForNobody : Launch {
  uint32_t* flag;
  KITAE_DEVICE void operator()() const {
    while (load_acquire(flag) == 0) spin();
  }
};
struct OneOfCluster : Launch {
  KITAE_DEVICE void operator()() const {
    if (cluster_rank() == 0) sync_cluster();
  }
};
struct MisalignedVector : Launch {
  const float* in;
  float* out;
  KITAE_DEVICE void operator()() const { out[0] = load_vector<4>(in + 1)[0]; }
};
struct AfterItsEnd : Launch {
  int* out;
  KITAE_DEVICE void operator()() const {
    KITAE_SHARED(int, own, 1);
    if (cluster_rank() == 1) return;
    for (int i = 0; i < 100; ++i) spin();
    *out = cluster_map(own, 1)[0];
  }
};

void test_mistakes_are_found() {
  std::vector<int> out(DivergentShuffle::kThreads);
  CHECK(contains(failure(DivergentShuffle{{}, out.data()}, shape(1)), "left the kernel"));
  CHECK(contains(failure(DivergentShuffle{{}, out.data()}, shape(1)), "DivergentShuffle"));
  CHECK(contains(failure(DifferentSites{{}, out.data()}, shape(1)), "another warp function"));
  CHECK(contains(failure(PartOfBlock{}, shape(2)), "sync_block"));
  CHECK(contains(failure(TwoBarriers{}, shape(2)), "sync_block by a part"));
  CHECK(contains(failure(OneOfCluster{}, shape(4, 0, 2)), "deadlock"));
  CHECK(contains(failure(AfterItsEnd{{}, out.data()}, shape(2, 0, 2)), "has ended"));
  uint32_t flag = 0;
  CHECK(contains(failure(WaitForNobody{{}, &flag}, shape(2)), "deadlock"));
  alignas(16) float in[8] = {};
  float value = 0;
  CHECK(contains(failure(MisalignedVector{{}, in, &value}, shape(1)), "multiple of its size"));
  int values[13] = {};
  CHECK(contains(failure(GridRounds{{}, values, counters(nullptr, 1), 1}, shape(13, 0, 1, true)), "at once"));
  CHECK(contains(failure(GridRounds{{}, values, &flag, 1}, shape(7)), "deadlock"));  // not cooperative
}

void test_out_of_memory() {
  stand_in::allocations_until_failure() = 0;
  bool thrown = false;
  try {
    const DeviceBuffer buffer(100);
  } catch (const CudaError& error) {
    thrown = error.code == cudaErrorMemoryAllocation && contains(error.what(), "cudaMalloc(&memory, bytes)");
  }
  stand_in::allocations_until_failure() = -1;
  CHECK(thrown);
}

}  // namespace

int main() {
  test_reduction();
  test_cluster();
  test_grid_sync();
  test_order_of_blocks_is_shuffled();
  test_shared_memory_is_poisoned();
  test_async_copy();
  test_masks_of_warps();
  test_flags();
  test_mistakes_are_found();
  test_out_of_memory();
  std::puts("stand_in_test: passed");
  return 0;
}
