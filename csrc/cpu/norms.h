// Norms of a list of tensors, as the gradient functions and the optimizers take them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/reduce_all.h"
#include "cpu/tiles.h"
#include "drivers/gradients.h"
#include "ops/global_norm.h"

namespace kitae::cpu {

// Owns its workspace.
class ListNorms {
 public:
  const Norms& get() const { return norms_; }

  // row(tensor, begin, count, use): calls use(pointer, count) with the rows of values, float or double.
  // layers: runs of tensors that have a norm each, the number of every run's first tensor and the end.
  template <class Row>
  const Norms& measure(const Tiles& tiles, bool has_float64, Row row, const std::vector<int64_t>& layers = {});

 private:
  // The norm of the tensors [first, last), from their sums or, where one of those was scaled, from their norms.
  double combined(int64_t first, int64_t last) const {
    const auto begin = static_cast<size_t>(first), end = static_cast<size_t>(last);
    double all = 0.0;
    for (size_t tensor = begin; tensor < end; ++tensor) all += norms_.of_tensors[tensor];
    if (!scaled_) return square_root(all);
    double largest = 0.0;
    bool scaled = false;
    for (size_t tensor = begin; tensor < end; ++tensor) {
      if (nonfinite(norms_.of_tensors[tensor])) return square_root(all);
      scaled = scaled || scales_[tensor] != 1.0;
      largest = std::max(largest, norm_of(tensor));
    }
    if (!scaled) return square_root(all);
    all = 0.0;
    for (size_t tensor = begin; tensor < end; ++tensor) {
      const double part = norm_of(tensor) / largest;
      all += part * part;
    }
    return largest * square_root(all);
  }
  double norm_of(size_t tensor) const { return square_root(norms_.of_tensors[tensor]) / scales_[tensor]; }

  Norms norms_;
  std::vector<double> partial_, scales_;
  bool scaled_ = false;
};

template <class Row>
const Norms& ListNorms::measure(const Tiles& tiles, bool has_float64, Row row, const std::vector<int64_t>& layers) {
  std::vector<double>& tensors = norms_.of_tensors;
  partial_.resize(static_cast<size_t>(tiles.chunks()));
  tensors.assign(static_cast<size_t>(tiles.tensors()), 0.0);
  norms_.first_nonfinite = -1;

  // One value a chunk, then in order: chunks of a tensor, tensors of the list.
  const auto chunks = [&](auto per_chunk) {
    tiles.for_each_piece([&](const Tiles::Piece& piece) {
      for (int64_t done = 0; done < piece.count; done += kChunk) {
        const int64_t count = piece.count - done < kChunk ? piece.count - done : kChunk;
        partial_[static_cast<size_t>(piece.chunk + done / kChunk)] = per_chunk(piece.tensor, piece.begin + done, count);
      }
    });
  };
  const auto sums = [&] {
    chunks([&](int64_t tensor, int64_t begin, int64_t count) {
      const double scale = scales_[static_cast<size_t>(tensor)];
      SumOfSquares sum;
      row(tensor, begin, count, [&](const auto* values, int64_t length) { sum.add(values, length, scale); });
      return sum.fold();
    });
    for (int64_t tensor = 0; tensor < tiles.tensors(); ++tensor) {
      double& total = tensors[static_cast<size_t>(tensor)];
      total = 0.0;
      for (int64_t chunk = tiles.first_chunk(tensor); chunk < tiles.first_chunk(tensor + 1); ++chunk)
        total += partial_[static_cast<size_t>(chunk)];
    }
  };

  scales_.assign(static_cast<size_t>(tiles.tensors()), 1.0);
  scaled_ = false;
  sums();
  if (has_float64 && std::any_of(tensors.begin(), tensors.end(), needs_scaling)) {
    // The largest magnitude of every chunk whose tensor is to be redone; infinity stands for any non-finite element.
    chunks([&](int64_t tensor, int64_t begin, int64_t count) {
      if (!needs_scaling(tensors[static_cast<size_t>(tensor)])) return 0.0;
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
        scaled_ = true;
      }
    }
    if (scaled_) sums();
  }

  // of_tensors has the sums of squares until here.
  norms_.of_all = combined(0, tiles.tensors());
  norms_.of_layers.clear();
  for (size_t i = 0; i + 1 < layers.size(); ++i) norms_.of_layers.push_back(combined(layers[i], layers[i + 1]));
  for (int64_t tensor = 0; tensor < tiles.tensors(); ++tensor) {
    double& total = tensors[static_cast<size_t>(tensor)];
    if (nonfinite(total) && norms_.first_nonfinite < 0) norms_.first_nonfinite = tensor;
    total = square_root(total) / scales_[static_cast<size_t>(tensor)];
  }
  return norms_;
}

}  // namespace kitae::cpu
