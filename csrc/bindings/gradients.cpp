#include "drivers/gradients.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/array.h"
#include "drivers/adaptive_clipping.h"
#include "drivers/normalization.h"

namespace kitae::bindings {
namespace {

// The arrays of a Python list, held while the GIL is released.
class Gradients {
 public:
  explicit Gradients(const py::list& gradients, Access access) {
    const auto count = static_cast<int64_t>(gradients.size());
    held_.reserve(gradients.size());
    arrays_.reserve(gradients.size());
    places_.reserve(gradients.size());
    for (int64_t i = 0; i < count; ++i) {
      const py::handle object = PyList_GET_ITEM(gradients.ptr(), i);
      const Array array = optional_array_argument(object, "grads", access, i);
      if (!array) continue;
      held_.push_back(py::reinterpret_borrow<py::object>(object));
      arrays_.push_back(array);
      places_.push_back(i);
    }
    if (access == Access::write) drop_repeated();
    list_->reserve(arrays_.size());
    for (size_t i = 0; i < arrays_.size(); ++i) list_->add(places_[i]).assign(arrays_[i]);
  }

  TensorList& list() { return *list_; }
  // layers: the place of every layer's first gradient, and the number of places; or None. Returns their number.
  int64_t cut_into_layers(const py::object& layers, int64_t places) {
    if (layers.is_none()) return 0;
    std::vector<int64_t> first;
    for (const py::handle place : layers.cast<py::list>()) first.push_back(place.cast<int64_t>());
    if (first.empty() || first.front() != 0 || first.back() != places || !std::is_sorted(first.begin(), first.end()))
      throw Rejected{"layers", "length"};
    std::vector<int64_t> kept;
    for (const int64_t place : first)
      kept.push_back(std::lower_bound(places_.begin(), places_.end(), place) - places_.begin());
    list_->cut_into_layers(std::move(kept), places);
    return static_cast<int64_t>(first.size()) - 1;
  }
  // The place in the user's list of the kept array i.
  int64_t place(int64_t i) const { return i < 0 ? i : places_[static_cast<size_t>(i)]; }
  const std::vector<int64_t>& places() const { return places_; }
  const Array& array(size_t i) const { return arrays_[i]; }
  py::handle object(size_t i) const { return held_[i]; }

 private:
  // An array listed twice counts and changes once; arrays that overlap in part are refused.
  void drop_repeated() {
    struct Listed {
      Extent at;
      size_t number;
    };
    const size_t count = arrays_.size();
    std::vector<Listed> order;  // by address, then as listed
    order.reserve(count);
    for (size_t i = 0; i < count; ++i) order.push_back({extent(arrays_[i]), i});
    std::sort(order.begin(), order.end(), [](const Listed& a, const Listed& b) {
      return a.at.begin != b.at.begin ? a.at.begin < b.at.begin : a.number < b.number;
    });
    std::vector<bool> repeated;
    bool any = false;
    for (size_t i = 0; i < count; ++i)
      for (size_t j = i + 1; j < count && order[j].at.begin < order[i].at.end; ++j) {
        repeated.resize(count);
        const auto [first, second] = std::minmax(order[i].number, order[j].number);
        if (repeated[first] || repeated[second]) continue;
        if (same(arrays_[first], arrays_[second]))
          repeated[second] = any = true;
        else if (overlap(arrays_[first], held_[first], arrays_[second], held_[second]))
          throw Rejected{"grads", "overlap", places_[second]};
      }
    if (!any) return;
    size_t kept = 0;
    for (size_t i = 0; i < count; ++i) {
      if (repeated[i]) continue;
      arrays_[kept] = arrays_[i];
      places_[kept] = places_[i];
      held_[kept] = held_[i];
      ++kept;
    }
    arrays_.resize(kept);
    places_.resize(kept);
    held_.resize(kept);
  }

  static bool same(const Array& a, const Array& b) {
    return a.data == b.data && a.dtype == b.dtype && a.ndim == b.ndim &&
           std::equal(a.shape, a.shape + a.ndim, b.shape) && std::equal(a.strides, a.strides + a.ndim, b.strides);
  }

  std::unique_ptr<TensorList> list_ = make_tensor_list();
  std::vector<Array> arrays_;
  std::vector<py::object> held_;
  std::vector<int64_t> places_;
};

// Memory for the norm of all, of every place and of every layer, or nullptr.
double* memory_for(py::handle norms, const py::list& grads, int64_t layers) {
  const Array array = optional_array_argument(norms, "norms", Access::write);
  if (!array) return nullptr;
  require_dtype(array, DType::float64, "norms");
  require_contiguous(array, "norms");
  require_vector(array, 1 + static_cast<int64_t>(grads.size()) + layers, "norms");
  return array.as<double>();
}

py::tuple measure(const py::list& grads, bool zero_nonfinite, const py::object& norms) {
  Gradients gradients(grads, Access::read);
  double* const memory = memory_for(norms, grads, 0);
  const Norms* found = nullptr;
  {
    const NativeCall native;
    gradients.list().finish();
    found = &gradients.list().measure(zero_nonfinite, memory);
  }
  return py::make_tuple(found->of_all, gradients.place(found->first_nonfinite));
}

py::tuple clip(const py::list& grads, double max_norm, double eps, int nonfinite, int scope, const py::object& layers,
               const py::object& norms) {
  Gradients gradients(grads, Access::write);
  const int64_t layer_count = gradients.cut_into_layers(layers, static_cast<int64_t>(grads.size()));
  double* const memory = memory_for(norms, grads, layer_count);
  const Norms* found = nullptr;
  {
    const NativeCall native;
    gradients.list().finish();
    found =
        &gradients.list().clip({static_cast<Scope>(scope), max_norm, eps}, static_cast<Nonfinite>(nonfinite), memory);
  }
  py::list of_tensors(memory ? 0 : grads.size());
  for (size_t i = 0, next = 0; i < of_tensors.size(); ++i) {
    const bool here = next < gradients.places().size() && gradients.places()[next] == static_cast<int64_t>(i);
    of_tensors[i] = py::float_(here ? found->of_tensors[next++] : 0.0);
  }
  py::list of_layers;
  for (const double norm : found->of_layers) of_layers.append(norm);
  return py::make_tuple(found->of_all, gradients.place(found->first_nonfinite), of_tensors, of_layers);
}

void clip_by_value(const py::list& grads, double limit) {
  Gradients gradients(grads, Access::write);
  const NativeCall native;
  gradients.list().finish();
  gradients.list().clip_value(limit);
}

// axis -1: the array is one unit.
ChannelSizes units_of(const Array& array, const char* argument, int64_t place, int64_t axis) {
  if (axis < -1 || axis >= array.ndim) throw Rejected{"axes", "shape"};
  const std::optional<ChannelSizes> sizes = channel_sizes(array, static_cast<int>(axis));
  if (!sizes) throw Rejected{argument, "layout", place};
  return *sizes;
}

int64_t clip_by_unit(const py::list& params, const py::list& grads, const py::list& axes, double clipping, double eps,
                     int nonfinite) {
  const Gradients gradients(grads, Access::write);
  if (params.size() != grads.size()) throw Rejected{"params", "length"};
  if (axes.size() != grads.size()) throw Rejected{"axes", "length"};
  std::vector<UnitPair> pairs;
  std::vector<py::object> held;  // parameters, while the GIL is released
  for (size_t i = 0; i < gradients.places().size(); ++i) {
    const int64_t place = gradients.places()[i];
    held.push_back(py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), place)));
    const Array &grad = gradients.array(i), param = array_argument(held.back(), "params", Access::read, place);
    require_same_shape(grad, param, "grads", place);
    if (grad.size == 0) continue;
    if (overlap(grad, gradients.object(i), param, held.back())) throw Rejected{"grads", "overlap", place};
    const auto axis = axes[static_cast<size_t>(place)].cast<int64_t>();
    pairs.push_back({units_of(param, "params", place, axis), units_of(grad, "grads", place, axis), param, grad, place});
  }
  int64_t bad = -1;
  {
    const NativeCall native;
    bad = clip_units(pairs, {clipping, eps, static_cast<Nonfinite>(nonfinite)});
  }
  return bad < 0 ? bad : pairs[static_cast<size_t>(bad)].place;
}

}  // namespace

void register_gradients(py::module_& module) {
  module.def("global_norm", &measure, py::call_guard<Arguments>(), py::arg("grads"), py::arg("zero_nonfinite"),
             py::arg("norms"),
             "(norm, place of the first non-finite gradient or -1); norms: a float64 vector for the norm of all and of "
             "each gradient, with which a GPU is not waited for.");
  module.def("clip_grad_norm", &clip, py::call_guard<Arguments>(), py::arg("grads"), py::arg("max_norm"),
             py::arg("eps"), py::arg("nonfinite"), py::arg("scope"), py::arg("layers"), py::arg("norms"),
             "In place; (norm, place of the first non-finite gradient or -1, norm of each and of each layer without "
             "`norms`). max_norm 0: divides by the norm. layers: the first place of each and the end, or None.");
  module.def("clip_grad_value", &clip_by_value, py::call_guard<Arguments>(), py::arg("grads"), py::arg("limit"),
             "In place.");
  module.def("clip_grad_adaptive", &clip_by_unit, py::call_guard<Arguments>(), py::arg("params"), py::arg("grads"),
             py::arg("axes"), py::arg("clipping"), py::arg("eps"), py::arg("nonfinite"),
             "In place; the place of the first non-finite gradient or -1. axes: that of the units, -1: one unit.");
}

}  // namespace kitae::bindings
