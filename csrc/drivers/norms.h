// The body of Norms::measure, shared by the gradient functions and the optimizers.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/reduce_all.h"
#include "cpu/rows.h"
#include "drivers/gradients.h"
#include "ops/global_norm.h"

namespace kitae {

template <class Row>
void Norms::measure(const cpu::Tiles& tiles, bool has_float64, Row row) {
  partial_.resize(static_cast<size_t>(tiles.chunks()));
  tensors_.assign(static_cast<size_t>(tiles.tensors()), 0.0);
  first_nonfinite_ = -1;

  // One value a chunk, then in order: chunks of a tensor, tensors of the list.
  const auto chunks = [&](auto per_chunk) {
    tiles.for_each_piece([&](const cpu::Tiles::Piece& piece) {
      for (int64_t done = 0; done < piece.count; done += kChunk) {
        const int64_t count = piece.count - done < kChunk ? piece.count - done : kChunk;
        partial_[static_cast<size_t>(piece.chunk + done / kChunk)] = per_chunk(piece.tensor, piece.begin + done, count);
      }
    });
  };
  const auto sums = [&] {
    chunks([&](int64_t tensor, int64_t begin, int64_t count) {
      const double scale = scales_[static_cast<size_t>(tensor)];
      cpu::SumOfSquares sum;
      row(tensor, begin, count, [&](const auto* values, int64_t length) { sum.add(values, length, scale); });
      return sum.fold();
    });
    for (int64_t tensor = 0; tensor < tiles.tensors(); ++tensor) {
      double& total = tensors_[static_cast<size_t>(tensor)];
      total = 0.0;
      for (int64_t chunk = tiles.first_chunk(tensor); chunk < tiles.first_chunk(tensor + 1); ++chunk)
        total += partial_[static_cast<size_t>(chunk)];
    }
  };

  scales_.assign(static_cast<size_t>(tiles.tensors()), 1.0);
  sums();
  bool scaled = false;
  if (has_float64 && std::any_of(tensors_.begin(), tensors_.end(), needs_scaling)) {
    // The largest magnitude of every chunk whose tensor is to be redone; infinity stands for any non-finite element.
    chunks([&](int64_t tensor, int64_t begin, int64_t count) {
      if (!needs_scaling(tensors_[static_cast<size_t>(tensor)])) return 0.0;
      double largest = 0.0;
      row(tensor, begin, count, [&](const auto* values, int64_t length) {
        for (int64_t i = 0; i < length; ++i) {
          const double value = static_cast<double>(values[i]);
          const double magnitude = nonfinite(value) ? std::numeric_limits<double>::infinity() : absolute(value);
          largest = magnitude > largest ? magnitude : largest;
        }
      });
      return largest;
    });
    for (int64_t tensor = 0; tensor < tiles.tensors(); ++tensor) {
      double largest = 0.0;
      for (int64_t chunk = tiles.first_chunk(tensor); chunk < tiles.first_chunk(tensor + 1); ++chunk)
        largest = std::max(largest, partial_[static_cast<size_t>(chunk)]);
      if (largest > 0.0 && !nonfinite(largest)) {
        scales_[static_cast<size_t>(tensor)] = norm_scale(largest);
        scaled = true;
      }
    }
    if (scaled) sums();
  }

  double all = 0.0, largest = 0.0;
  for (int64_t tensor = 0; tensor < tiles.tensors(); ++tensor) {
    double& total = tensors_[static_cast<size_t>(tensor)];
    if (nonfinite(total) && first_nonfinite_ < 0) first_nonfinite_ = tensor;
    all += total;
    total = square_root(total) / scales_[static_cast<size_t>(tensor)];
    largest = total > largest ? total : largest;
  }
  if (scaled && first_nonfinite_ < 0) {
    all = 0.0;
    for (const double norm : tensors_) all += (norm / largest) * (norm / largest);
    all_ = largest * square_root(all);
  } else {
    all_ = square_root(all);
  }
}

}  // namespace kitae
