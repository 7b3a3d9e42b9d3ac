// Element-wise steps over rows of elements side by side, whose numbers belong to the row, the column or both: a warp
// takes a piece of a row.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace kitae::cuda {

constexpr int64_t kPieceOfRow = 4096;  // elements

// A step has
//   Numbers numbers(row)
//   apply(numbers, index, column)   computes and stores element `index` of the array
//   bool begin() const              once a thread, before anything; false: there is nothing to do
template <class Step>
struct ForEachRow {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSM = 4;
  Step step;
  int64_t rows, columns;

  KITAE_DEVICE void operator()() const {
    if (!step.begin()) return;
    const int64_t pieces = (columns + kPieceOfRow - 1) / kPieceOfRow;
    for (int64_t unit = global_thread() / kWarp; unit < rows * pieces; unit += grid_threads() / kWarp) {
      const int64_t row = unit / pieces, begin = unit % pieces * kPieceOfRow;
      const int64_t end = begin + kPieceOfRow < columns ? begin + kPieceOfRow : columns;
      const auto numbers = step.numbers(row);
#pragma unroll 4
      for (int64_t column = begin + lane_index(); column < end; column += kWarp)
        step.apply(numbers, row * columns + column, column);
    }
  }
};

template <class Step>
void for_each_row(int64_t rows, int64_t columns, const Step& step, cudaStream_t stream) {
  using Kernel = ForEachRow<Step>;
  const int64_t pieces = (columns + kPieceOfRow - 1) / kPieceOfRow;
  launch(Kernel{step, rows, columns}, Shape{grid_blocks<Kernel>(rows * pieces * kWarp)}, stream);
}

}  // namespace kitae::cuda
