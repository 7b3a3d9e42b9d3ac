#include "drivers/optimizers.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "bindings/array.h"

namespace kitae::bindings {
namespace {

// The plan and the Python arrays whose memory it uses.
class Plan {
 public:
  // parameters: distinct arrays. masters: for each a float32 array or None. slots: for each a list of state arrays.
  // groups: for each its group. places: for each gradient of the user's list (parameter, axes or None): `axes` orders
  // the gradient's axes like the parameter's where that memory was listed transposed.
  Plan(const std::string& rule, const py::list& parameters, const py::list& masters, const py::list& slots,
       const py::list& groups, const py::list& places, int64_t group_count)
      : plan_(make_optimizer_plan(rule)) {
    if (!plan_) throw py::value_error("kitae: no rule named " + rule);
    for (size_t i = 0; i < parameters.size(); ++i) add(parameters[i], masters[i], slots[i], groups[i]);
    for (const py::handle place : places) {
      const auto pair = place.cast<py::tuple>();
      const auto parameter = pair[0].cast<int64_t>();
      auto& views = plan_->parameters()[static_cast<size_t>(parameter)].gradients;
      Place next{parameter, static_cast<int64_t>(views.size()), {}, {}};
      if (!pair[1].is_none())
        for (const py::handle axis : pair[1].cast<py::list>()) next.axes.push_back(axis.cast<int64_t>());
      if (views.empty())
        plan_->parameters()[static_cast<size_t>(parameter)].place = static_cast<int64_t>(places_.size());
      views.emplace_back();
      places_.push_back(std::move(next));
    }
    {
      const NativeCall native;
      plan_->finish(group_count);
    }
    device_ = device_of_arguments();
    gradients_.resize(places_.size());
    std::sort(written_.begin(), written_.end(),
              [](const Written& a, const Written& b) { return a.at.begin < b.at.begin; });
  }

  void set_numbers(int64_t group, const py::dict& numbers) {
    for (const auto& item : numbers)
      if (!plan_->set_number(group, item.first.cast<std::string>(), item.second.cast<double>()))
        throw py::value_error("kitae: the rule has no number " + item.first.cast<std::string>());
  }

  // Fixes the gradient arrays; `step` with None then looks at none of them.
  void bind(const py::list& grads) {
    bound_ = false;
    set_device_of_arguments(device_);
    read(grads);
    {
      const NativeCall native;
      plan_->gradients_changed();
      plan_->refresh();
    }
    bound_ = true;
  }

  void refresh() {
    set_device_of_arguments(device_);
    const NativeCall native;
    plan_->refresh();
  }

  void set_steps(int64_t steps) { plan_->set_steps(steps); }

  void set_tracking(bool tracking) {
    set_device_of_arguments(device_);
    const NativeCall native;
    plan_->set_tracking(tracking);
  }

  py::list tracked() {
    set_device_of_arguments(device_);
    const std::vector<Tracked>* found = nullptr;
    {
      const NativeCall native;
      found = &plan_->tracked();
    }
    py::list parameters;
    for (const Tracked& of : *found)
      parameters.append(py::make_tuple(of.nonfinite, of.gradient_squares, of.absolute_update, of.absolute_weight,
                                       of.update_squares, of.weight_squares));
    return parameters;
  }

  py::tuple result() {
    set_device_of_arguments(device_);
    StepResult result;
    {
      const NativeCall native;
      result = plan_->result();
    }
    return py::make_tuple(result.written, result.norm, result.nonfinite_elements, result.first_nonfinite, result.steps);
  }

  // grads: a list with an array or None for each place, or None: the bound ones.
  py::tuple step(const py::object& grads, int64_t number, int scope, double max_norm, double eps, int nonfinite) {
    set_device_of_arguments(device_);
    if (!grads.is_none()) {
      bound_ = false;
      read(py::reinterpret_borrow<py::list>(grads));
    } else if (!bound_) {
      throw Rejected{"grads", "type"};
    }
    StepResult result;
    {
      const NativeCall native;
      if (!bound_) plan_->gradients_changed();
      result = plan_->step(number, {static_cast<Scope>(scope), max_norm, eps}, static_cast<Nonfinite>(nonfinite));
    }
    if (!bound_) release();
    return py::make_tuple(result.written, result.norm, result.nonfinite_elements, result.first_nonfinite);
  }

  bool bound() const { return bound_; }

 private:
  struct Place {
    int64_t parameter, gradient;
    std::vector<int64_t> axes;
    Extent apart{0, 0};  // where a gradient lay that met nothing the step writes: it need not be looked for again
  };
  static constexpr size_t kAhead = 8;  // gradients

  struct Written {
    Extent at;
    Array array;
    py::handle object;
  };

  void add(py::handle parameter, py::handle master, py::handle slots, py::handle group) {
    const auto index = static_cast<int64_t>(plan_->parameters().size());
    OptimizerPlan::Parameter entry;
    const Array value = write(parameter, "params", index);
    entry.value.assign(value);
    values_.push_back(value);
    const DType state = value.dtype == DType::float64 ? DType::float64 : DType::float32;
    if (!master.is_none()) entry.master.assign(write_state(master, value, DType::float32, "master", index));
    for (const py::handle slot : slots.cast<py::list>()) {
      entry.slots.emplace_back();
      entry.slots.back().assign(write_state(slot, value, state, "slots", index));
    }
    if (static_cast<int>(entry.slots.size()) != plan_->slots()) throw Rejected{"slots", "length", index};
    entry.group = group.cast<int64_t>();
    plan_->add_parameter(std::move(entry));
  }

  Array write(py::handle object, const char* argument, int64_t index) {
    const Array array = array_argument(object, argument, Access::write, index);
    held_.push_back(py::reinterpret_borrow<py::object>(object));
    if (array.size > 0) {
      const Extent at = extent(array);
      written_.push_back({at, array, object});
      longest_ = std::max(longest_, at.end - at.begin);
    }
    return array;
  }

  Array write_state(py::handle object, const Array& value, DType dtype, const char* argument, int64_t index) {
    const Array array = write(object, argument, index);
    require_dtype(array, dtype, argument, index);
    require_same_shape(array, value, argument, index);
    require_contiguous(array, argument, index);
    return array;
  }

  void read(const py::list& grads) {
    if (grads.size() != places_.size()) throw Rejected{"grads", "length"};
    try {
      const auto item = [&](size_t i) { return PyList_GET_ITEM(grads.ptr(), static_cast<py::ssize_t>(i)); };
      for (size_t i = 0; i < places_.size(); ++i) {
        const py::handle object = item(i);
        // The update before has thrown these out of the caches.
        if (i + kAhead < places_.size()) __builtin_prefetch(item(i + kAhead));
        read_one(places_[i], object, static_cast<int64_t>(i));
        gradients_[i] = py::reinterpret_borrow<py::object>(object);
      }
    } catch (...) {
      release();
      throw;
    }
  }

  void read_one(Place& place, py::handle object, int64_t index) {
    View& view =
        plan_->parameters()[static_cast<size_t>(place.parameter)].gradients[static_cast<size_t>(place.gradient)];
    view.dtype = DType::other;
    if (object.is_none()) return;
    const Array array = array_argument(object, "grads", Access::read, index);
    const Array& value = values_[static_cast<size_t>(place.parameter)];
    if (array.dtype != value.dtype && array.dtype != DType::float32) throw Rejected{"grads", "dtype", index};
    require_shape(array, value, place.axes, index);
    require_apart(place, array, object, index);
    view.assign(array, place.axes.empty() ? nullptr : place.axes.data());
  }

  static void require_shape(const Array& array, const Array& value, const std::vector<int64_t>& axes, int64_t index) {
    if (axes.empty()) return require_same_shape(array, value, "grads", index);
    bool same = array.ndim == value.ndim;
    for (int axis = 0; same && axis < array.ndim; ++axis)
      same = array.shape[axes[static_cast<size_t>(axis)]] == value.shape[axis];
    if (!same) throw Rejected{"grads", "shape", index};
  }

  // A gradient must not share memory with anything that the step writes.
  void require_apart(Place& place, const Array& array, py::handle object, int64_t index) const {
    if (array.size == 0) return;
    const Extent at = extent(array);
    if (at.begin == place.apart.begin && at.end == place.apart.end) return;
    bool apart = true;
    auto next = std::lower_bound(written_.begin(), written_.end(), at.end,
                                 [](const Written& entry, uintptr_t end) { return entry.at.begin < end; });
    // Extents of distinct views may interleave (columns of one matrix): look back as far as the longest one reaches.
    while (next != written_.begin()) {
      --next;
      if (next->at.begin + longest_ <= at.begin) break;
      if (next->at.end <= at.begin) continue;
      if (overlap(array, object, next->array, next->object)) throw Rejected{"grads", "overlap", index};
      apart = false;  // interleaved, and for other strides perhaps not
    }
    if (apart) place.apart = at;
  }

  void release() {
    bound_ = false;
    for (py::object& gradient : gradients_) gradient = py::object();
  }

  std::unique_ptr<OptimizerPlan> plan_;
  std::vector<py::object> held_;  // parameters and state
  std::vector<Array> values_;     // of the parameters
  std::vector<Written> written_;  // sorted by address
  std::vector<Place> places_;
  std::vector<py::object> gradients_;  // of the call under way, or bound
  uintptr_t longest_ = 0;
  bool bound_ = false;
  int device_ = 0;
};

}  // namespace

void register_optimizers(py::module_& module) {
  py::class_<Plan>(module, "OptimizerPlan", "Parameters and states of one optimizer, updated in one call a step.")
      .def(py::init<const std::string&, const py::list&, const py::list&, const py::list&, const py::list&,
                    const py::list&, int64_t>(),
           py::call_guard<Arguments>(), py::arg("rule"), py::arg("parameters"), py::arg("masters"), py::arg("slots"),
           py::arg("groups"), py::arg("places"), py::arg("group_count"))
      .def("set_numbers", &Plan::set_numbers, py::arg("group"), py::arg("numbers"), "The group's numbers, by name.")
      .def("bind", &Plan::bind, py::call_guard<Arguments>(), py::arg("grads"), "Fixes the gradient arrays.")
      .def("bound", &Plan::bound, "Whether gradient arrays are fixed.")
      .def("step", &Plan::step, py::call_guard<Arguments>(), py::arg("grads"), py::arg("number"), py::arg("scope"),
           py::arg("max_norm"), py::arg("eps"), py::arg("nonfinite"),
           "One update; (written, norm, count of non-finite elements, first parameter with one); -1: not waited for.")
      .def("result", &Plan::result, py::call_guard<Arguments>(),
           "What the last step saw, as step gives it, and the number of steps; waits for a GPU.")
      .def("set_steps", &Plan::set_steps, py::arg("steps"), "Sets the number of steps written so far.")
      .def("set_tracking", &Plan::set_tracking, py::call_guard<Arguments>(), py::arg("tracking"),
           "Whether steps fill tracked().")
      .def("tracked", &Plan::tracked, py::call_guard<Arguments>(),
           "For each parameter of the last step (count of non-finite elements, then sums: squares of the gradient, "
           "magnitudes of update and weight, squares of update and weight); waits for a GPU.")
      .def("refresh", &Plan::refresh, py::call_guard<Arguments>(),
           "Brings changed numbers to where a captured step reads them.");
}

}  // namespace kitae::bindings
