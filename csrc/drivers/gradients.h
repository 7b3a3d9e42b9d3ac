// Norms of lists of tensors, and changes of whole lists in place.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/tiles.h"
#include "cpu/view.h"
#include "drivers/nonfinite.h"

namespace kitae {

// Over what a norm is taken.
enum class Scope : int { none = 0, all = 1, tensor = 2 };

// Norms of a list whose rows are made by `read_row(tensor, begin, count, buffer)` -> pointer to double or float rows.
// Owns its workspace.
class Norms {
 public:
  // After `measure`: the norm of each tensor and of all.
  const std::vector<double>& of_tensors() const { return tensors_; }
  double of_all() const { return all_; }
  // The first tensor with an infinite or NaN element, -1 without one. With zero_nonfinite it is always -1.
  int64_t first_nonfinite() const { return first_nonfinite_; }

  // row(piece.tensor, begin, count, buffer, use): calls use(pointer, count) with the row's values.
  template <class Row>
  void measure(const cpu::Tiles& tiles, bool has_float64, Row row);

 private:
  std::vector<double> partial_, tensors_, scales_;
  double all_ = 0;
  int64_t first_nonfinite_ = -1;
};

// A list of arrays to read or change, with the workspace of the calls below; made anew for every call, memory kept.
class TensorList {
 public:
  void clear() { views_.clear(); }
  cpu::View& add() {
    views_.emplace_back();
    return views_.back();
  }
  void finish();  // after the last add

  const Norms& measure(bool zero_nonfinite);
  // g *= factors[i] (one factor for all: factors has one element), rounded once; 1 leaves a tensor unread.
  void scale(const std::vector<double>& factors, bool zero_nonfinite);
  // g = min(max(g, -limit), limit); NaN stays NaN.
  void clip_value(double limit);
  const std::vector<cpu::View>& views() const { return views_; }

 private:
  template <class Change>
  void change(Change change);

  std::vector<cpu::View> views_;
  cpu::Tiles tiles_;
  Norms norms_;
  bool has_float64_ = false;
};

}  // namespace kitae
