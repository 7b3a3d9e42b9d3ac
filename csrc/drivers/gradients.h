// Norms of lists of tensors, and changes of whole lists in place.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "drivers/nonfinite.h"
#include "drivers/view.h"

namespace kitae {

// Over what a norm is taken.
enum class Scope : int { none = 0, all = 1, tensor = 2, layer = 3 };

// How gradients are scaled.
struct Scaling {
  Scope scope = Scope::none;  // over what the norm is taken; none: no norm
  double max_norm = 0;        // clip to it; 0: divide by the norm (a norm of 0 gives no update)
  double eps = 0;             // added to the norm when clipping
};

struct Norms {
  double of_all = 0;
  std::vector<double> of_tensors;
  std::vector<double> of_layers;  // where the list was cut into layers
  int64_t first_nonfinite = -1;   // the first tensor with an infinite or NaN element; -1 without one, or not known yet
};

// A list of arrays to read or change, made anew for every call.
// `norms`: memory for the norm of all, then of every place in the user's list, then of every layer, where a GPU is not
// waited for and the Norms that come back say nothing; or nullptr: the Norms that come back have them.
class TensorList {
 public:
  virtual ~TensorList() = default;

  // Room for `count` arrays.
  void reserve(size_t count) {
    places_.reserve(count);
    views_.reserve(count);
  }
  // `place`: in the user's list, which may have more of them.
  View& add(int64_t place) {
    places_.push_back(place);
    views_.emplace_back();
    return views_.back();
  }
  const std::vector<int64_t>& places() const { return places_; }
  // Before finish: `first` has the number, in order of add, of every layer's first tensor, and the end.
  // `after_places`: entries of `norms` before those of the layers.
  void cut_into_layers(std::vector<int64_t> first, int64_t after_places) {
    layers_ = std::move(first);
    after_places_ = after_places;
  }

  virtual void finish() = 0;  // after the last add
  virtual const Norms& measure(bool zero_nonfinite, double* norms) = 0;
  // g *= factor, rounded once; a factor of 1 leaves a tensor unread. With `raise` and `skip` nothing is written where
  // an element is not finite.
  virtual const Norms& clip(const Scaling& scaling, Nonfinite rule, double* norms) = 0;
  // g = min(max(g, -limit), limit); NaN stays NaN.
  virtual void clip_value(double limit) = 0;

 protected:
  std::vector<View> views_;
  std::vector<int64_t> places_;
  std::vector<int64_t> layers_;
  int64_t after_places_ = 0;
};

std::unique_ptr<TensorList> make_tensor_list();

}  // namespace kitae
