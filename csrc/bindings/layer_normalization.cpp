#include "drivers/layer_normalization.h"

#include "bindings/argument.h"

namespace kitae::bindings {
namespace {

// The call's rows and columns: the last `normalized` axes of x make a row.
void set_x(LayerNorm& call, const Argument& x, int normalized) {
  if (normalized < 1 || normalized > x.array.ndim) throw Rejected{"axis", "shape"};
  require_contiguous(x.array, "x");
  call.x = x.array;
  call.rows = call.columns = 1;
  for (int axis = 0; axis < x.array.ndim; ++axis)
    (axis < x.array.ndim - normalized ? call.rows : call.columns) *= x.array.shape[axis];
}

void require_like_x(const Argument& argument, const Array& x) {
  require_dtype(argument.array, x.dtype, argument.name);
  require_same_shape(argument.array, x, argument.name);
  require_contiguous(argument.array, argument.name);
}

// One number a column: float32, float64, or x's dtype, in the shape of the normalized axes.
void require_row(const Argument& row, const Array& x, int normalized) {
  if (!row.array) return;
  const DType dtype = row.array.dtype;
  if (dtype != DType::float32 && dtype != DType::float64 && dtype != x.dtype) throw Rejected{row.name, "dtype"};
  bool same = row.array.ndim == normalized;
  for (int axis = 0; same && axis < normalized; ++axis)
    same = row.array.shape[axis] == x.shape[x.ndim - normalized + axis];
  if (!same) throw Rejected{row.name, "shape"};
  require_contiguous(row.array, row.name);
}

double* statistics_argument(py::handle object, int64_t rows) {
  const Array array = array_argument(object, "statistics", Access::read);
  require_dtype(array, DType::float64, "statistics");
  require_contiguous(array, "statistics");
  if (array.ndim != 2 || array.shape[0] != 3 || array.shape[1] != rows) throw Rejected{"statistics", "shape"};
  return array.as<double>();
}

int64_t forward(py::handle x_object, py::handle gamma_object, py::handle beta_object, py::handle out_object,
                py::handle statistics, int normalized, double eps, int nonfinite, bool fresh) {
  const Argument x{array_argument(x_object, "x", Access::read), x_object, "x"};
  const Argument gamma = argument(gamma_object, "gamma", Access::read);
  const Argument beta = argument(beta_object, "beta", Access::read);
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};

  LayerNormForward call;
  set_x(call, x, normalized);
  require_row(gamma, x.array, normalized);
  require_row(beta, x.array, normalized);
  require_like_x(out, x.array);
  if (!fresh) require_apart(out, {&x, &gamma, &beta});
  call.gamma = gamma.array;
  call.beta = beta.array;
  call.out = out.array;
  call.statistics = statistics_argument(statistics, call.rows);
  call.eps = eps;
  call.nonfinite = static_cast<Nonfinite>(nonfinite);
  call.fresh = fresh;
  if (fresh) {
    const InterruptibleCall native;
    return layer_norm_forward(call);
  }
  const NativeCall native;
  return layer_norm_forward(call);
}

void backward(py::handle dout_object, py::handle x_object, py::handle gamma_object, py::handle statistics,
              py::handle out_object, py::handle dgamma_object, py::handle dbeta_object, int normalized, bool fresh) {
  const Argument dout{array_argument(dout_object, "dout", Access::read), dout_object, "dout"};
  const Argument x{array_argument(x_object, "x", Access::read), x_object, "x"};
  const Argument gamma = argument(gamma_object, "gamma", Access::read);
  const Argument out{array_argument(out_object, "out", Access::write), out_object, "out"};
  const Argument dgamma{array_argument(dgamma_object, "dgamma", Access::write), dgamma_object, "dgamma"};
  const Argument dbeta{array_argument(dbeta_object, "dbeta", Access::write), dbeta_object, "dbeta"};

  LayerNormBackward call;
  set_x(call, x, normalized);
  require_row(gamma, x.array, normalized);
  require_channel_vector(dgamma, x.array, call.columns);
  require_channel_vector(dbeta, x.array, call.columns);
  require_like_x(dout, x.array);
  require_like_x(out, x.array);
  if (!fresh) {
    require_apart(out, {&x, &gamma, &dgamma, &dbeta});
    if (out.array.data != dout.array.data) require_apart(out, {&dout});
  }
  call.gamma = gamma.array;
  call.statistics = statistics_argument(statistics, call.rows);
  call.dout = dout.array;
  call.dx = out.array;
  call.dgamma = dgamma.array;
  call.dbeta = dbeta.array;
  if (fresh) {
    const InterruptibleCall native;
    return layer_norm_backward(call);
  }
  const NativeCall native;
  layer_norm_backward(call);
}

}  // namespace

void register_layer_normalization(py::module_& module) {
  using py::arg;
  module.def("layer_norm_forward", &forward, py::call_guard<Arguments>(), arg("x"), arg("gamma"), arg("beta"),
             arg("out"), arg("statistics"), arg("normalized"), arg("eps"), arg("nonfinite"), arg("fresh"),
             "Writes out and statistics (3, rows: mean, mean_low, inv_std), the last `normalized` axes of x being a "
             "row; returns the first row whose statistics are not finite, or -1.");
  module.def("layer_norm_backward", &backward, py::call_guard<Arguments>(), arg("dout"), arg("x"), arg("gamma"),
             arg("statistics"), arg("out"), arg("dgamma"), arg("dbeta"), arg("normalized"), arg("fresh"),
             "Writes out (dx) and the vectors dgamma and dbeta.");
}

}  // namespace kitae::bindings
