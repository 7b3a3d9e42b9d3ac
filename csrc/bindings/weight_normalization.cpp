#include "drivers/weight_normalization.h"

#include "bindings/argument.h"
#include "drivers/normalization.h"

namespace kitae::bindings {
namespace {

void set_v(WeightNorm& call, const Argument& v, const Argument& g, int axis) {
  if (axis < 0 || axis >= v.array.ndim) throw Rejected{"axis", "shape"};
  const std::optional<ChannelSizes> sizes = channel_sizes(v.array, axis);
  if (!sizes) throw Rejected{"v", "layout"};
  require_channel_vector(g, v.array, sizes->channels);
  call.sizes = *sizes;
  call.v = v.array;
  call.g = g.array;
}

// Of v's dtype and shape, and in the same order in memory.
void require_like_v(const Argument& argument, const Array& v) {
  require_dtype(argument.array, v.dtype, argument.name);
  require_same_shape(argument.array, v, argument.name);
  if (!same_layout(argument.array, v)) throw Rejected{argument.name, "layout"};
}

double* norms_argument(py::handle object, int64_t channels) {
  const Array array = array_argument(object, "norms", Access::read);
  require_dtype(array, DType::float64, "norms");
  require_contiguous(array, "norms");
  require_vector(array, channels, "norms");
  return array.as<double>();
}

void forward(py::handle v_object, py::handle g_object, py::handle out_object, py::handle norms, int axis, bool fresh) {
  const Argument v{array_argument(v_object, "v", Access::read), v_object, "v"};
  const Argument g{array_argument(g_object, "g", Access::read), g_object, "g"};
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};

  WeightNormForward call;
  set_v(call, v, g, axis);
  require_like_v(out, v.array);
  if (!fresh) require_apart(out, {&v, &g});
  call.norms = norms_argument(norms, call.sizes.channels);
  call.out = out.array;
  if (fresh) {
    const InterruptibleCall native;
    return weight_norm_forward(call);
  }
  const NativeCall native;
  weight_norm_forward(call);
}

void backward(py::handle dw_object, py::handle v_object, py::handle g_object, py::handle norms, py::handle out_object,
              py::handle dg_object, int axis, bool fresh) {
  const Argument dw{array_argument(dw_object, "dw", Access::read), dw_object, "dw"};
  const Argument v{array_argument(v_object, "v", Access::read), v_object, "v"};
  const Argument g{array_argument(g_object, "g", Access::read), g_object, "g"};
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};
  const Argument dg{array_argument(dg_object, "dg", Access::write), dg_object, "dg"};

  WeightNormBackward call;
  set_v(call, v, g, axis);
  require_channel_vector(dg, v.array, call.sizes.channels);
  require_like_v(dw, v.array);
  require_like_v(out, v.array);
  if (!fresh) {
    require_apart(out, {&v, &g, &dg});
    if (out.array.data != dw.array.data) require_apart(out, {&dw});
  }
  call.norms = norms_argument(norms, call.sizes.channels);
  call.dw = dw.array;
  call.dv = out.array;
  call.dg = dg.array;
  if (fresh) {
    const InterruptibleCall native;
    return weight_norm_backward(call);
  }
  const NativeCall native;
  weight_norm_backward(call);
}

}  // namespace

void register_weight_normalization(py::module_& module) {
  using py::arg;
  module.def("weight_norm_forward", &forward, py::call_guard<Arguments>(), arg("v"), arg("g"), arg("out"), arg("norms"),
             arg("axis"), arg("fresh"), "Writes out (w) and norms, one a channel of `axis`.");
  module.def("weight_norm_backward", &backward, py::call_guard<Arguments>(), arg("dw"), arg("v"), arg("g"),
             arg("norms"), arg("out"), arg("dg"), arg("axis"), arg("fresh"), "Writes out (dv) and dg.");
}

}  // namespace kitae::bindings
