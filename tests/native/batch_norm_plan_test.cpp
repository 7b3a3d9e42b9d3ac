// Which of batch norm's kernels a GPU's memory allows, for channels side by side: plans of slices_on_chip.h cover every
// chunk and stay within what the device has; the sizes of ResNet-50 get what they were made for.
#include <cstdio>

#include "check.h"
#include "cuda/specialized/grid_resident_channels.h"

namespace {

using namespace kitae;
using namespace kitae::cuda;

constexpr int64_t kBlocksPerSM = 2;
const ResidentLimits kH200{227 * 1024 - 1024, 16, 132}, kA100{163 * 1024 - 1024, 1, 108};

ResidentNeeds needs_of(int64_t rows, int64_t channels, int64_t element_bytes, int inputs) {
  return {{rows, channels, 1}, element_bytes, inputs, true};
}

GridPlan grid_plan(const ResidentNeeds& needs, const ResidentLimits& limits) {
  const int64_t room = limits.shared_bytes / kBlocksPerSM - 1024;
  const int64_t resident = kBlocksPerSM * limits.multiprocessors;
  const GridPlan plan = choose_grid_plan(needs, limits, room, [&] { return resident; });
  if (plan.teams > 0) {
    CHECK(plan.teams <= kMostTeams && plan.teams <= plan.blocks.slices);
    CHECK(plan.teams >= 2 || plan.blocks.slices == 1);
    CHECK(int64_t{plan.teams} * plan.blocks.cluster <= resident);
    CHECK(plan.blocks.shared_bytes <= room);
    CHECK(int64_t{plan.blocks.chunks} * plan.blocks.cluster >= ChannelChunks(needs.sizes).count);
    CHECK(plan.blocks.slices * plan.blocks.width >= needs.sizes.channels);
  }
  return plan;
}

bool in_cluster(const ResidentNeeds& needs, const ResidentLimits& limits) {
  return choose_resident_plan(needs, limits, [](const ResidentPlan&) { return true; }).slices > 0;
}

}  // namespace

int main() {
  // Images, height x width, channels, bytes an element, inputs (2: backward); whether a slice fits a cluster, teams.
  const struct {
    int64_t images, pixels, channels, bytes;
    int inputs;
    bool cluster;
    int teams;
  } rows[] = {
      {32, 14 * 14, 256, 4, 1, true, 0},   {32, 28 * 28, 128, 4, 1, true, 0},   {32, 28 * 28, 128, 4, 2, false, 2},
      {32, 56 * 56, 64, 4, 1, false, 2},   {32, 56 * 56, 64, 4, 2, false, 2},   {256, 14 * 14, 256, 2, 2, false, 4},
      {256, 28 * 28, 512, 2, 1, false, 2}, {256, 28 * 28, 512, 2, 2, false, 0}, {256, 56 * 56, 256, 2, 1, false, 0},
      {32, 56 * 56, 16, 4, 1, false, 1},   {32, 56 * 56, 8, 4, 1, false, 0},
  };
  for (const auto& row : rows) {
    const ResidentNeeds needs = needs_of(row.images * row.pixels, row.channels, row.bytes, row.inputs);
    const GridPlan plan = grid_plan(needs, kH200);
    std::fprintf(stderr,
                 "%4d x %5d, %4d channels of %d bytes, %d inputs: cluster %d, teams %d of %d blocks, %d bytes\n",
                 int(row.images), int(row.pixels), int(row.channels), int(row.bytes), row.inputs,
                 int(in_cluster(needs, kH200)), plan.teams, plan.blocks.cluster, int(plan.blocks.shared_bytes));
    CHECK(in_cluster(needs, kH200) == row.cluster);
    CHECK(plan.teams == row.teams);
  }
  for (int64_t rows_of = 1; rows_of < 3'000'000; rows_of = rows_of * 5 / 3 + 1)
    for (int64_t channels = 1; channels < 5000; channels = channels * 2 + channels % 3)
      for (const int64_t bytes : {2, 4, 8})
        for (const int inputs : {1, 2})
          for (const ResidentLimits& limits : {kH200, kA100})
            grid_plan(needs_of(rows_of, channels, bytes, inputs), limits);
  CHECK(grid_plan(needs_of(32 * 28 * 28, 128, 4, 1), kA100).teams >= 2);
  std::puts("ok");
}
