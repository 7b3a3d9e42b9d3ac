#include "drivers/normalization.h"

#include "bindings/argument.h"

namespace kitae::bindings {
namespace {

// Of x's dtype and shape, and in the same order in memory.
void require_like(const Argument& argument, const Array& x) {
  if (!argument.array) return;
  require_dtype(argument.array, x.dtype, argument.name);
  require_same_shape(argument.array, x, argument.name);
  if (!same_layout(argument.array, x)) throw Rejected{argument.name, "layout"};
}

ChannelSizes sizes_of(const Array& x, int axis) {
  if (axis < 0 || axis >= x.ndim) throw Rejected{"axis", "shape"};
  const std::optional<ChannelSizes> sizes = channel_sizes(x, axis);
  if (!sizes) throw Rejected{"x", "layout"};
  return *sizes;
}

double* statistics_argument(py::handle object, int64_t channels) {
  const Array array = array_argument(object, "statistics", Access::read);
  require_dtype(array, DType::float64, "statistics");
  require_contiguous(array, "statistics");
  if (array.ndim != 2 || array.shape[0] != 3 || array.shape[1] != channels) throw Rejected{"statistics", "shape"};
  return array.as<double>();
}

py::tuple batch_norm_sizes(py::handle x, int axis) {
  const ChannelSizes sizes = sizes_of(array_argument(x, "x", Access::read), axis);
  return py::make_tuple(sizes.outer, sizes.channels, sizes.inner);
}

int64_t forward(py::handle x_object, py::handle gamma_object, py::handle beta_object, py::handle running_mean_object,
                py::handle running_var_object, py::handle residual_object, py::handle out_object, py::handle statistics,
                py::handle mask, bool training, int axis, double eps, double running_decay, bool unbiased,
                int activation, double slope, int nonfinite, bool fresh) {
  const Access running = training ? Access::write : Access::read;
  const Argument x{array_argument(x_object, "x", Access::read), x_object, "x"};
  const Argument gamma = argument(gamma_object, "gamma", Access::read);
  const Argument beta = argument(beta_object, "beta", Access::read);
  const Argument running_mean = argument(running_mean_object, "running_mean", running);
  const Argument running_var = argument(running_var_object, "running_var", running);
  const Argument residual = argument(residual_object, "residual", Access::read);
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};

  BatchNormForward call;
  call.sizes = sizes_of(x.array, axis);
  for (const Argument* vector : {&gamma, &beta, &running_mean, &running_var})
    require_channel_vector(*vector, x.array, call.sizes.channels);
  require_like(residual, x.array);
  require_like(out, x.array);
  if (training) {
    require_apart(running_mean, {&x, &gamma, &beta, &residual, &running_var});
    require_apart(running_var, {&x, &gamma, &beta, &residual});
  }
  if (!fresh) {
    require_apart(out, {&gamma, &beta, &running_mean, &running_var, &residual});
    // Backward needs x; inference may overwrite it element by element.
    if (training || out.array.data != x.array.data) require_apart(out, {&x});
  }

  call.x = x.array;
  call.gamma = gamma.array;
  call.beta = beta.array;
  call.running_mean = running_mean.array;
  call.running_var = running_var.array;
  call.residual = residual.array;
  call.out = out.array;
  call.statistics = statistics_argument(statistics, call.sizes.channels);
  call.mask = bytes_argument(mask, mask_bytes(call.sizes), "mask", Access::write);
  call.training = training;
  call.eps = eps;
  call.running_decay = running_decay;
  call.unbiased = unbiased;
  call.activation = static_cast<Activation>(activation);
  call.slope = slope;
  call.nonfinite = static_cast<Nonfinite>(nonfinite);
  call.fresh = fresh;
  if (fresh) {
    const InterruptibleCall native;
    return batch_norm_forward(call);
  }
  const NativeCall native;
  return batch_norm_forward(call);
}

void backward(py::handle dout_object, py::handle x_object, py::handle gamma_object, py::handle beta_object,
              py::handle statistics, py::handle mask, py::handle out_object, py::handle dgamma_object,
              py::handle dbeta_object, py::handle dresidual_object, bool training, int axis, int activation,
              double slope, bool fresh) {
  const Argument dout{array_argument(dout_object, "dout", Access::read), dout_object, "dout"};
  const Argument x{array_argument(x_object, "x", Access::read), x_object, "x"};
  const Argument gamma = argument(gamma_object, "gamma", Access::read);
  const Argument beta = argument(beta_object, "beta", Access::read);
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};
  const Argument dgamma{array_argument(dgamma_object, "dgamma", Access::write), dgamma_object, "dgamma"};
  const Argument dbeta{array_argument(dbeta_object, "dbeta", Access::write), dbeta_object, "dbeta"};
  const Argument dresidual = argument(dresidual_object, "dresidual", Access::write);

  BatchNormBackward call;
  call.sizes = sizes_of(x.array, axis);
  for (const Argument* vector : {&gamma, &beta, &dgamma, &dbeta})
    require_channel_vector(*vector, x.array, call.sizes.channels);
  require_like(dout, x.array);
  require_like(out, x.array);
  require_like(dresidual, x.array);
  if (!fresh) {
    require_apart(out, {&x, &gamma, &beta, &dgamma, &dbeta, &dresidual});
    if (out.array.data != dout.array.data) require_apart(out, {&dout});
  }

  call.x = x.array;
  call.gamma = gamma.array;
  call.beta = beta.array;
  call.statistics = statistics_argument(statistics, call.sizes.channels);
  call.mask = bytes_argument(mask, mask_bytes(call.sizes), "mask", Access::read);
  call.dout = dout.array;
  call.dx = out.array;
  call.dgamma = dgamma.array;
  call.dbeta = dbeta.array;
  call.dresidual = dresidual.array;
  call.training = training;
  call.activation = static_cast<Activation>(activation);
  call.slope = slope;
  if (fresh) {
    const InterruptibleCall native;
    return batch_norm_backward(call);
  }
  const NativeCall native;
  batch_norm_backward(call);
}

}  // namespace

void register_normalization(py::module_& module) {
  using py::arg;
  module.def("batch_norm_sizes", &batch_norm_sizes, py::call_guard<Arguments>(), arg("x"), arg("axis"),
             "(outer, channels, inner) of an array whose memory has no gaps.");
  module.def("batch_norm_forward", &forward, py::call_guard<Arguments>(), arg("x"), arg("gamma"), arg("beta"),
             arg("running_mean"), arg("running_var"), arg("residual"), arg("out"), arg("statistics"), arg("mask"),
             arg("training"), arg("axis"), arg("eps"), arg("running_decay"), arg("unbiased"), arg("activation"),
             arg("slope"), arg("nonfinite"), arg("fresh"),
             "Writes out, statistics (3, channels: mean, mean_low, inv_std), mask and, in training, the running "
             "statistics; returns the first channel whose statistics are not finite, or -1.");
  module.def("batch_norm_backward", &backward, py::call_guard<Arguments>(), arg("dout"), arg("x"), arg("gamma"),
             arg("beta"), arg("statistics"), arg("mask"), arg("out"), arg("dgamma"), arg("dbeta"), arg("dresidual"),
             arg("training"), arg("axis"), arg("activation"), arg("slope"), arg("fresh"),
             "Writes out (dx), dgamma, dbeta and, where given, dresidual.");
}

}  // namespace kitae::bindings
