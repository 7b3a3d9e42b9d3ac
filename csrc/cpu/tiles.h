// A list of tensors as one sequence of elements, cut into units of about equal size: threads are balanced by elements,
// not by tensors, and several tiny tensors share a unit. A piece is a range of one tensor; pieces start on chunk
// boundaries of reduction_order.h, so a sum over the list falls apart into whole chunks.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/threads.h"
#include "ops/reduction_order.h"

namespace kitae::cpu {

constexpr int64_t kPiece = 4 * kChunk;       // elements of a unit, or more (elements_of_unit)
constexpr int64_t kAloneBelow = 2 * kPiece;  // a list with fewer elements wakes no thread

class Tiles {
 public:
  struct Piece {
    int32_t tensor;
    int64_t begin, count;
    int64_t chunk;  // number, over the whole list, of the piece's first chunk
  };

  // size(i): elements of tensor i.
  template <class Size>
  void assign(int64_t tensors, Size size) {
    pieces_.clear();
    units_.assign(1, 0);
    first_chunk_.clear();
    pieces_.reserve(static_cast<size_t>(tensors));
    first_chunk_.reserve(static_cast<size_t>(tensors) + 1);
    elements_ = 0;
    for (int64_t tensor = 0; tensor < tensors; ++tensor) elements_ += size(tensor);
    const int64_t most = elements_of_unit(kPiece, elements_);
    int64_t chunk = 0, in_unit = 0;
    for (int64_t tensor = 0; tensor < tensors; ++tensor) {
      first_chunk_.push_back(chunk);
      const int64_t count = size(tensor);
      for (int64_t begin = 0; begin < count; begin += most) {
        const int64_t length = count - begin < most ? count - begin : most;
        pieces_.push_back({static_cast<int32_t>(tensor), begin, length, chunk});
        chunk += (length + kChunk - 1) / kChunk;
        in_unit += length;
        if (in_unit >= most) {
          units_.push_back(static_cast<int64_t>(pieces_.size()));
          in_unit = 0;
        }
      }
    }
    if (in_unit > 0) units_.push_back(static_cast<int64_t>(pieces_.size()));
    first_chunk_.push_back(chunk);
  }

  int64_t tensors() const { return static_cast<int64_t>(first_chunk_.size()) - 1; }
  int64_t chunks() const { return first_chunk_.back(); }
  int64_t first_chunk(int64_t tensor) const { return first_chunk_[static_cast<size_t>(tensor)]; }

  template <class F>
  void for_each_piece(F f) const {
    if (elements_ < kAloneBelow) {
      for (const Piece& piece : pieces_) f(piece);
      return;
    }
    parallel_for(static_cast<int64_t>(units_.size()) - 1, [&](int64_t unit) {
      const auto at = static_cast<size_t>(unit);
      for (int64_t i = units_[at]; i < units_[at + 1]; ++i) f(pieces_[static_cast<size_t>(i)]);
    });
  }

 private:
  std::vector<Piece> pieces_;
  std::vector<int64_t> units_{0};        // first piece of each unit, and the end
  std::vector<int64_t> first_chunk_{0};  // of each tensor, and the end
  int64_t elements_ = 0;
};

}  // namespace kitae::cpu
