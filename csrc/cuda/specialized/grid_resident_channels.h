// Batch norm's sums and its element-wise step in one kernel, where a slice (slices_on_chip.h) is too large for a
// cluster but not for a team of blocks: all of the grid, which is on the device at once, is cut into teams, and each
// takes slice after slice. Blocks tell each other through device memory: one adds a channel's chunks, in their order,
// and leaves the channel's numbers. So the bits are those of reduce_channels.h, for teams of any size.
//
// Beside its elements a slice costs what reduce_channels.h costs: 16 bytes a chunk, written and read in the level-2
// cache. A team waits twice a slice; meanwhile the other teams' memory traffic goes on, which is why there are two
// teams at least where there are two slices.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/specialized/resident_channels.h"
#include "cuda/specialized/slices_on_chip.h"

namespace kitae::cuda {

constexpr int kMostTeams = 64;

// A slice's blocks are a team, not a cluster. For cooperative launches, where channels lie side by side.
template <class Job>
struct GridResident : SlicesOnChip<Job, true, 256> {
  using Base = SlicesOnChip<Job, true, 256>;
  using Base::job;
  using Base::plan;
  using typename Base::Numbers;
  using typename Base::Result;
  using typename Base::Slice;
  // 128 registers: 64, for 512 threads, do not hold what lives around the loop. Copies take none.
  static constexpr int kBlocksPerSM = 2;
  static constexpr int kWarps = Base::kThreads / kWarp;

  double* partial;     // (channel, chunk, sum)
  uint32_t* barriers;  // of the teams; a slice turns its team's twice, so they are 0 again
  int teams;

  KITAE_DEVICE void operator()() const {
    const int64_t count = ChannelChunks(this->sizes).count;
    const int team = block_index() / plan.cluster, rank = block_index() % plan.cluster;
    Numbers* const numbers = this->numbers_in_shared();
    KITAE_NO_UNROLL
    for (int64_t number = team; number < plan.slices; number += teams) {
      const Slice slice(*this, number, rank);
      this->load(slice);
      double* const of_slice = partial + 2 * slice.channel * count;
      this->sum(slice, job.source, [&](int chunk, int column, const Sums& s) {
        const int64_t at = column * count + int64_t{rank} * plan.chunks + chunk;
        store_vector(of_slice + 2 * at, Vector<double, 2>{{s.first, s.second}});
      });
      sync_blocks(barriers + team, plan.cluster, rank);
      for (int column = rank + warp_index() * plan.cluster; column < slice.columns; column += kWarps * plan.cluster) {
        const double* const of_channel = of_slice + 2 * column * count;
        const Sums total = fold_chunks(count, [&](int64_t chunk, int which) { return of_channel[2 * chunk + which]; });
        if (lane_index() != 0) continue;
        const int64_t channel = slice.channel + column;
        const Result result = job.result(channel, total);
        job.keep(channel, result);
        job.step.keep_numbers(channel, job.numbers(channel, result));
      }
      sync_blocks(barriers + team, plan.cluster, rank);
      if (thread_index() < slice.columns) numbers[thread_index()] = job.step.numbers(slice.channel + thread_index());
      sync_block();
      this->map(slice, numbers);
      sync_block();
    }
    job.end();
  }
};

struct GridPlan {
  ResidentPlan blocks;  // its cluster is a team
  int teams = 0;        // 0: it does not fit, or a cluster is enough
};

// resident_blocks() of `room` bytes of shared memory are on the device at once.
template <class ResidentBlocks>
inline GridPlan choose_grid_plan(const ResidentNeeds& needs, const ResidentLimits& limits, int64_t room,
                                 ResidentBlocks&& resident_blocks) {
  const auto widest = static_cast<int>(128 / needs.element_bytes);
  const int64_t chunks = ChannelChunks(needs.sizes).count;
  const int cluster = limits.cluster < kPortableCluster ? limits.cluster : kPortableCluster;
  const ResidentPlan in_cluster = resident_plan(needs, widest / 2, cluster);
  if (in_cluster.slices > 0 && in_cluster.shared_bytes <= limits.shared_bytes) return {};
  const int64_t resident = resident_blocks();
  for (const int width : {widest, widest / 2}) {
    const ResidentPlan one_chunk = resident_plan(needs, width, static_cast<int>(chunks));
    const int64_t numbers = width * kResidentNumbersBytes;
    const int64_t of_block = (room - numbers) / (one_chunk.shared_bytes - numbers);
    if (of_block == 0) continue;
    const int64_t team = (chunks + of_block - 1) / of_block, wanted = one_chunk.slices < 2 ? 1 : 2;
    int64_t teams = resident / team < one_chunk.slices ? resident / team : one_chunk.slices;
    if (teams < wanted || needs.sizes.channels < width) continue;
    if (teams > kMostTeams) teams = kMostTeams;
    const int64_t blocks = resident / teams < chunks ? resident / teams : chunks;
    return {resident_plan(needs, width, static_cast<int>(blocks)), static_cast<int>(teams)};
  }
  return {};
}

}  // namespace kitae::cuda
