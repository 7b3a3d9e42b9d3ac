// Small rows of every family for callgrind: `instructions NAME` sets a row up and runs it once in measured(), whose
// instructions are counted (tools/count_instructions.py). One thread; callgrind knows no AVX-512, so x86-64-v3.
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/threads.h"
#include "drivers/dropout.h"
#include "drivers/gradients.h"
#include "drivers/layer_normalization.h"
#include "drivers/normalization.h"
#include "drivers/optimizers.h"
#include "golden.h"

// Neither inlined nor cloned: callgrind finds it by name.
extern "C" [[gnu::noipa]] void measured(const std::function<void()>& call) {
  call();
  __asm__ volatile("" ::: "memory");
}

namespace kitae::golden {
namespace {

using Floats = std::vector<float>;

View view(Floats& values) {
  View result;
  result.assign(Contiguous<float>(values));
  return result;
}

void batch_norm(const ChannelSizes& sizes, bool training, Activation activation, bool backward) {
  Numbers numbers(1);
  const std::vector<int64_t> shape = {sizes.outer, sizes.channels, sizes.inner};
  Floats x = numbers.array<float>(sizes.size()), dout = numbers.array<float>(sizes.size()), y(x.size());
  Floats gamma = numbers.array<float>(sizes.channels), beta = numbers.array<float>(sizes.channels);
  Floats running_mean(gamma.size()), running_var(gamma.size(), 1.0f), dgamma(gamma.size()), dbeta(gamma.size());
  std::vector<double> statistics(3 * gamma.size());
  const Contiguous<float> of_x(x, shape), of_dout(dout, shape), of_y(y, shape), of_gamma(gamma), of_beta(beta);
  const Contiguous<float> of_mean(running_mean), of_var(running_var), of_dgamma(dgamma), of_dbeta(dbeta);

  BatchNormForward forward;
  forward.sizes = sizes;
  forward.x = of_x;
  forward.gamma = of_gamma;
  forward.beta = of_beta;
  forward.statistics = statistics.data();
  forward.training = training;
  forward.activation = activation;
  BatchNormBackward gradient;
  static_cast<BatchNorm&>(gradient) = forward;
  forward.running_mean = of_mean;
  forward.running_var = of_var;
  forward.out = of_y;
  forward.eps = 1e-5;
  forward.running_decay = 0.9;
  gradient.dout = of_dout;
  gradient.dx = of_y;
  gradient.dgamma = of_dgamma;
  gradient.dbeta = of_dbeta;

  batch_norm_forward(forward);
  if (backward)
    measured([&] { batch_norm_backward(gradient); });
  else
    measured([&] { batch_norm_forward(forward); });
}

void layer_norm(int64_t rows, int64_t columns, bool backward) {
  Numbers numbers(5);
  const std::vector<int64_t> shape = {rows, columns};
  Floats x = numbers.array<float>(rows * columns), dout = numbers.array<float>(rows * columns), y(x.size());
  Floats gamma = numbers.array<float>(columns), beta = numbers.array<float>(columns), dgamma(gamma), dbeta(gamma);
  std::vector<double> statistics(3 * static_cast<size_t>(rows));
  const Contiguous<float> of_x(x, shape), of_dout(dout, shape), of_y(y, shape), of_gamma(gamma), of_beta(beta);
  const Contiguous<float> of_dgamma(dgamma), of_dbeta(dbeta);

  LayerNormForward forward;
  forward.rows = rows;
  forward.columns = columns;
  forward.x = of_x;
  forward.gamma = of_gamma;
  forward.statistics = statistics.data();
  LayerNormBackward gradient;
  static_cast<LayerNorm&>(gradient) = forward;
  forward.beta = of_beta;
  forward.out = of_y;
  forward.eps = 1e-5;
  gradient.dout = of_dout;
  gradient.dx = of_y;
  gradient.dgamma = of_dgamma;
  gradient.dbeta = of_dbeta;

  layer_norm_forward(forward);
  if (backward)
    measured([&] { layer_norm_backward(gradient); });
  else
    measured([&] { layer_norm_forward(forward); });
}

void dropout(bool backward) {
  Floats x = Numbers(2).array<float>(20000), y(x.size());
  std::vector<uint8_t> bits(static_cast<size_t>(8 * mask_words(20000)));
  const DropoutDraw draw{0x4ccccccc, 9, 1};
  dropout_forward(Contiguous<float>(x), Contiguous<float>(y), bits.data(), draw, 2.0);
  measured([&] {
    if (backward)
      dropout_backward(Contiguous<float>(x), Contiguous<float>(y), bits.data(), draw, 2.0);
    else
      dropout_forward(Contiguous<float>(x), Contiguous<float>(y), bits.data(), draw, 2.0);
  });
}

void optimizer(const std::string& rule, const std::vector<std::pair<std::string, double>>& hyperparameters,
               const Scaling& scaling) {
  const std::unique_ptr<OptimizerPlan> plan = make_optimizer_plan(rule);
  CHECK(plan != nullptr);
  Numbers numbers(3);
  std::vector<Floats> memory;
  memory.reserve(5 * 40);
  const auto room = [&](int64_t size) { return view(memory.emplace_back(numbers.array<float>(size))); };
  for (int tensor = 0; tensor < 40; ++tensor) {
    const int64_t size = tensor % 8 ? 10 : 2000;
    OptimizerPlan::Parameter parameter;
    parameter.value = room(size);
    parameter.gradients.push_back(room(size));
    for (int slot = 0; slot < plan->slots(); ++slot) {
      parameter.slots.push_back(room(size));
      memory.back().assign(static_cast<size_t>(size), 0.0f);
    }
    plan->add_parameter(std::move(parameter));
  }
  plan->finish(1);
  for (const auto& [name, value] : hyperparameters) CHECK(plan->set_number(0, name, value));
  plan->step(1, scaling, Nonfinite::propagate);
  measured([&] { plan->step(2, scaling, Nonfinite::propagate); });
}

void clip() {
  Numbers numbers(4);
  std::vector<Floats> memory;
  const std::unique_ptr<TensorList> list = make_tensor_list();
  for (int tensor = 0; tensor < 40; ++tensor) memory.push_back(numbers.array<float>(tensor % 8 ? 10 : 2000));
  for (Floats& gradient : memory) list->add(0) = view(gradient);
  list->finish();
  measured([&] { list->clip({Scope::all, 1.0, 1e-6}, Nonfinite::raise, nullptr); });
}

const std::vector<std::pair<std::string, double>> kAdam = {
    {"learning_rate", 0x1p-7}, {"beta1", 0.9}, {"beta2", 0.999}, {"eps", 1e-8}, {"eps_after_correction", 1}};

const std::vector<std::pair<const char*, std::function<void()>>> kRows = {
    {"batch_norm/128x256", [] { batch_norm({128, 256, 1}, true, Activation::none, false); }},
    {"batch_norm/8x32x14x14", [] { batch_norm({8, 32, 196}, true, Activation::relu, false); }},
    {"batch_norm/16x128x4x4", [] { batch_norm({16, 128, 16}, true, Activation::none, false); }},
    {"batch_norm_inference/8x64x7x7", [] { batch_norm({8, 64, 49}, false, Activation::none, false); }},
    {"batch_norm_backward/128x256", [] { batch_norm({128, 256, 1}, true, Activation::none, true); }},
    {"batch_norm_relu_backward/8x32x14x14", [] { batch_norm({8, 32, 196}, true, Activation::relu, true); }},
    {"layer_norm/512x40", [] { layer_norm(512, 40, false); }},
    {"layer_norm/1024x8", [] { layer_norm(1024, 8, false); }},
    {"layer_norm_backward/512x40", [] { layer_norm(512, 40, true); }},
    {"layer_norm_backward/1024x8", [] { layer_norm(1024, 8, true); }},
    {"dropout/20000", [] { dropout(false); }},
    {"dropout_backward/20000", [] { dropout(true); }},
    {"momentum/40 tensors",
     [] { optimizer("velocity", {{"velocity_keep", 0.9}, {"velocity_gain", 0.1}, {"parameter_gain", -1}}, {}); }},
    {"adam/40 tensors", [] { optimizer("adam", kAdam, {}); }},
    {"adam_max_norm/40 tensors", [] { optimizer("adam", kAdam, {Scope::all, 1.0, 1e-6}); }},
    {"clip_grad_norm/40 tensors", clip},
};

}  // namespace
}  // namespace kitae::golden

int main(int count, char** arguments) {
  kitae::cpu::set_num_threads(1);
  for (const auto& [name, run] : kitae::golden::kRows) {
    if (count == 1) std::puts(name);
    if (count == 2 && name == std::string(arguments[1])) {
      run();
      return 0;
    }
  }
  return count == 1 ? 0 : 2;
}
