// Batch norm's sums and its element-wise step in one kernel, where a slice (slices_on_chip.h) fits the shared memory of
// a cluster of blocks: each element is read once. All blocks fold all chunks' sums, read from each other's shared
// memory, in their order. So the bits are those of reduce_channels.h, for clusters of any size.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/specialized/slices_on_chip.h"

namespace kitae::cuda {

template <class Job, bool kAdjacent>
struct Resident : SlicesOnChip<Job, kAdjacent, Job::kThreads> {
  using Base = SlicesOnChip<Job, kAdjacent, Job::kThreads>;
  using Base::job;
  using Base::plan;
  using Base::sizes;
  static constexpr int kBlocksPerSM = Job::kBlocksPerSM;
  using typename Base::Numbers;
  using typename Base::Result;
  using typename Base::Slice;

  KITAE_DEVICE void operator()() const {
    const Slice slice(*this, block_index() / plan.cluster, cluster_rank());
    this->load(slice);
    Numbers* const numbers = this->numbers_in_shared();
    sum(slice, job.source);
    sync_cluster();
    Result result;
    const bool folds = fold(slice, result, [&](int64_t channel, const Sums& s) { return job.result(channel, s); });
    if constexpr (Job::kScaled) {
      const bool again = folds && !result.finite();
      if (any_of_block(again)) {  // of all blocks of the cluster: they have the same sums
        sync_cluster();
        sum(slice, job.scaled_source());
        sync_cluster();
        Result scaled;
        fold(slice, scaled, [&](int64_t channel, const Sums& s) { return job.scaled_result(channel, s); });
        if (again) result = scaled;
      }
    }
    cluster_arrive();  // the other blocks may still read this one's sums
    if (folds) {
      const int64_t channel = slice.channel + (kAdjacent ? thread_index() : 0);
      if (slice.rank == 0) job.keep(channel, result);
      numbers[kAdjacent ? thread_index() : 0] = job.numbers(channel, result);
    }
    sync_block();
    this->map(slice, numbers);
    cluster_wait();
    job.end();
  }

 private:
  template <class Source>
  KITAE_DEVICE void sum(const Slice& slice, const Source& source) const {
    Base::sum(slice, source, [&](int chunk, int column, const Sums& s) {
      store_vector(this->sums() + 2 * (chunk * plan.width + column), Vector<double, 2>{{s.first, s.second}});
    });
  }

  // All blocks' chunks, in every block: true in the threads that get a channel's result.
  template <class Finish>
  KITAE_DEVICE bool fold(const Slice& slice, Result& result, Finish&& finish) const {
    const int64_t count = ChannelChunks(sizes).count;
    if constexpr (kAdjacent) {
      if (thread_index() >= slice.columns) return false;
      Sums total;
      for (int rank = 0; rank * int64_t{plan.chunks} < count; ++rank) {
        const double* const from = cluster_map(this->sums(), rank) + 2 * thread_index();
        const int64_t left = count - rank * int64_t{plan.chunks};
        const int chunks = left < plan.chunks ? static_cast<int>(left) : plan.chunks;
#pragma unroll 4
        for (int chunk = 0; chunk < chunks; ++chunk) {
          total.first += from[2 * chunk * plan.width];
          total.second += from[2 * chunk * plan.width + 1];
        }
      }
      result = finish(slice.channel + thread_index(), total);
      return true;
    } else {
      if (warp_index() != 0) return false;
      const Sums total = fold_chunks(count, [&](int64_t chunk, int which) {
        const int rank = static_cast<int>(chunk) / plan.chunks;
        return cluster_map(this->sums(), rank)[2 * (static_cast<int>(chunk) - rank * plan.chunks) + which];
      });
      if (lane_index() != 0) return false;
      result = finish(slice.channel, total);
      return true;
    }
  }
};

constexpr int kPortableCluster = 8;  // the largest that every device with clusters has

// What this device holds.
struct ResidentLimits {
  int64_t shared_bytes;  // of a block
  int cluster;           // the largest
  int multiprocessors;
};

// The plan, or an empty one. Two blocks on a multiprocessor, of which one copies while the other one computes, are
// worth a larger cluster; so are blocks for all multiprocessors. Clusters of 16 blocks are not portable: runs(plan)
// says whether this device takes them.
template <class Runs>
inline ResidentPlan choose_resident_plan(const ResidentNeeds& needs, const ResidentLimits& limits, Runs&& runs) {
  constexpr int64_t kSmallBlock = 8192;
  const ChannelSizes& sizes = needs.sizes;
  const ChannelChunks chunks(sizes);
  const int widest = sizes.adjacent() ? static_cast<int>(128 / needs.element_bytes) : 1;
  const int narrowest = sizes.adjacent() ? widest / 2 : 1;
  const auto grown = [&](ResidentPlan plan) {
    while (plan.slices * plan.cluster < limits.multiprocessors && 2 * plan.cluster <= limits.cluster &&
           2 * plan.cluster <= kPortableCluster && 2 * plan.cluster <= chunks.count)
      plan = resident_plan(needs, plan.width, 2 * plan.cluster);
    return plan;
  };
  for (const int most : {kPortableCluster, 2 * kPortableCluster})
    for (const int64_t room : {limits.shared_bytes / 2 - 1024, limits.shared_bytes})
      for (int width = widest; width >= narrowest; width /= 2)
        for (int cluster = most == kPortableCluster ? 1 : most; cluster <= most && cluster <= limits.cluster;
             cluster *= 2) {
          if (cluster > 1 && cluster > chunks.count) break;
          const ResidentPlan plan = resident_plan(needs, width, cluster);
          if (plan.slices == 0 || plan.shared_bytes > room) continue;
          // Little blocks in great numbers only wait; of short segments, most is what lies around them.
          const int64_t segment = (sizes.adjacent() ? width : chunks.per_piece) * needs.element_bytes;
          if (plan.pitch > 2 * segment) return {};
          if (plan.shared_bytes < kSmallBlock && plan.slices * cluster > 8 * limits.multiprocessors) return {};
          if (cluster > kPortableCluster && !runs(plan)) continue;
          return grown(plan);
        }
  return {};
}

}  // namespace kitae::cuda
