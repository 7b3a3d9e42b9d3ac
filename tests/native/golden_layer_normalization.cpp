// Layer norm, rows short, long and longer than a chunk; weight norm of dense and of convolution weights.
#include "check.h"
#include "drivers/layer_normalization.h"
#include "drivers/weight_normalization.h"
#include "golden.h"

namespace kitae::golden {
namespace {

template <class T>
uint64_t layer_norm() {
  Hash hash;
  const int64_t all_sizes[][2] = {{1, 1}, {7, 1}, {700, 13}, {37, 130}, {3, 9001}};
  for (const auto& [rows, columns] : all_sizes) {
    Numbers numbers(41);
    std::vector<T> x = numbers.array<T>(rows * columns), dout = numbers.array<T>(rows * columns);
    std::vector<T> y(x.size()), dx(x.size());
    std::vector<float> gamma = numbers.array<float>(columns), beta = numbers.array<float>(columns);
    std::vector<float> dgamma(gamma.size()), dbeta(gamma.size());
    std::vector<double> statistics(static_cast<size_t>(3 * rows));
    const Contiguous<T> of_x(x, {rows, columns}), of_dout(dout, {rows, columns});
    const Contiguous<T> of_y(y, {rows, columns}), of_dx(dx, {rows, columns});
    const Contiguous<float> of_gamma(gamma), of_beta(beta), of_dgamma(dgamma), of_dbeta(dbeta);

    LayerNormForward forward;
    forward.rows = rows;
    forward.columns = columns;
    forward.x = of_x;
    forward.gamma = of_gamma;
    forward.statistics = statistics.data();
    LayerNormBackward backward;
    static_cast<LayerNorm&>(backward) = forward;
    forward.beta = of_beta;
    forward.out = of_y;
    forward.eps = 1e-5;
    CHECK(layer_norm_forward(forward) == -1);
    hash.array(y);
    hash.array(statistics);

    backward.dout = of_dout;
    backward.dx = of_dx;
    backward.dgamma = of_dgamma;
    backward.dbeta = of_dbeta;
    layer_norm_backward(backward);
    hash.array(dx);
    hash.array(dgamma);
    hash.array(dbeta);
  }
  return hash.value();
}

template <class T>
uint64_t weight_norm() {
  Hash hash;
  const ChannelSizes all_sizes[] = {{1, 3, 1}, {300, 19, 1}, {1, 7, 27}, {1, 5, 9001}, {4, 6, 5}};
  for (const ChannelSizes& sizes : all_sizes) {
    Numbers numbers(43);
    const std::vector<int64_t> shape = {sizes.outer, sizes.channels, sizes.inner};
    std::vector<T> v = numbers.array<T>(sizes.size()), dw = numbers.array<T>(sizes.size()), w(v.size()), dv(v.size());
    std::vector<float> g = numbers.array<float>(sizes.channels), dg(g.size());
    std::vector<double> norms(g.size());
    const Contiguous<T> of_v(v, shape), of_dw(dw, shape), of_w(w, shape), of_dv(dv, shape);
    const Contiguous<float> of_g(g), of_dg(dg);

    WeightNormForward forward;
    forward.sizes = sizes;
    forward.v = of_v;
    forward.g = of_g;
    forward.norms = norms.data();
    WeightNormBackward backward;
    static_cast<WeightNorm&>(backward) = forward;
    forward.out = of_w;
    weight_norm_forward(forward);
    hash.array(w);
    hash.array(norms);

    backward.dw = of_dw;
    backward.dv = of_dv;
    backward.dg = of_dg;
    weight_norm_backward(backward);
    hash.array(dv);
    hash.array(dg);
  }
  return hash.value();
}

}  // namespace

void add_layer_normalization_rows(std::vector<Row>& rows) {
  rows.push_back({"layer_norm/float16", layer_norm<Float16>});
  rows.push_back({"layer_norm/bfloat16", layer_norm<BFloat16>});
  rows.push_back({"layer_norm/float32", layer_norm<float>});
  rows.push_back({"layer_norm/float64", layer_norm<double>});
  rows.push_back({"weight_norm/float16", weight_norm<Float16>});
  rows.push_back({"weight_norm/bfloat16", weight_norm<BFloat16>});
  rows.push_back({"weight_norm/float32", weight_norm<float>});
  rows.push_back({"weight_norm/float64", weight_norm<double>});
}

}  // namespace kitae::golden
