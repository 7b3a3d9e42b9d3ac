// Batch norm forward and backward, in training and inference, over both layouts: channels side by side and apart; with
// activation and residual, and sequences longer than a chunk.
#include "check.h"
#include "drivers/normalization.h"
#include "golden.h"

namespace kitae::golden {
namespace {

constexpr double kEps = 1e-5, kRunningDecay = 0.9, kSlope = 0.01;

template <class T>
void normalize(const ChannelSizes& sizes, Activation activation, bool with_residual, bool training, Hash& hash) {
  Numbers numbers(31);
  const std::vector<int64_t> shape = {sizes.outer, sizes.channels, sizes.inner};
  std::vector<T> x = numbers.array<T>(sizes.size()), residual = numbers.array<T>(sizes.size());
  std::vector<T> dout = numbers.array<T>(sizes.size()), y(x.size()), dx(x.size()), dresidual(x.size());
  std::vector<float> gamma = numbers.array<float>(sizes.channels), beta = numbers.array<float>(sizes.channels);
  std::vector<float> running_mean = numbers.array<float>(sizes.channels), running_var(gamma.size(), 2.0f);
  std::vector<float> dgamma(gamma.size()), dbeta(gamma.size());
  std::vector<double> statistics(3 * gamma.size());
  std::vector<uint8_t> mask(static_cast<size_t>(mask_bytes(sizes)));
  const Contiguous<T> of_x(x, shape), of_residual(residual, shape), of_dout(dout, shape);
  const Contiguous<T> of_y(y, shape), of_dx(dx, shape), of_dresidual(dresidual, shape);
  const Contiguous<float> of_gamma(gamma), of_beta(beta), of_mean(running_mean), of_var(running_var);
  const Contiguous<float> of_dgamma(dgamma), of_dbeta(dbeta);

  BatchNormForward forward;
  forward.sizes = sizes;
  forward.x = of_x;
  forward.gamma = of_gamma;
  forward.beta = of_beta;
  forward.statistics = statistics.data();
  forward.mask = with_residual && activation != Activation::none ? mask.data() : nullptr;
  forward.training = training;
  forward.activation = activation;
  forward.slope = kSlope;
  BatchNormBackward backward;
  static_cast<BatchNorm&>(backward) = forward;

  forward.running_mean = of_mean;
  forward.running_var = of_var;
  if (with_residual) forward.residual = of_residual;
  forward.out = of_y;
  forward.eps = kEps;
  forward.running_decay = kRunningDecay;
  CHECK(batch_norm_forward(forward) == -1);
  hash.array(y);
  hash.array(statistics);
  hash.array(running_mean);
  hash.array(running_var);
  if (forward.mask) hash.array(mask);

  backward.dout = of_dout;
  backward.dx = of_dx;
  backward.dgamma = of_dgamma;
  backward.dbeta = of_dbeta;
  if (with_residual) backward.dresidual = of_dresidual;
  batch_norm_backward(backward);
  hash.array(dx);
  hash.array(dgamma);
  hash.array(dbeta);
  if (with_residual) hash.array(dresidual);
}

template <class T>
uint64_t batch_norm() {
  Hash hash;
  const ChannelSizes all_sizes[] = {{1, 3, 1}, {37, 19, 1}, {700, 130, 1}, {5, 6, 7}, {3, 9, 4099}, {40, 17, 49}};
  for (const ChannelSizes& sizes : all_sizes)
    for (const bool training : {true, false}) {
      normalize<T>(sizes, Activation::none, false, training, hash);
      normalize<T>(sizes, Activation::relu, false, training, hash);
      normalize<T>(sizes, Activation::leaky_relu, true, training, hash);
    }
  return hash.value();
}

}  // namespace

void add_normalization_rows(std::vector<Row>& rows) {
  rows.push_back({"batch_norm/float16", batch_norm<Float16>});
  rows.push_back({"batch_norm/bfloat16", batch_norm<BFloat16>});
  rows.push_back({"batch_norm/float32", batch_norm<float>});
  rows.push_back({"batch_norm/float64", batch_norm<double>});
}

}  // namespace kitae::golden
