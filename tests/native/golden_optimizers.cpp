// Every optimizer rule on every dtype: 100 steps over small tensors, then steps over a list that wakes the threads;
// penalties on, gradients clipped in every other step. And the norms and clipping of gradients alone.
#include <map>
#include <memory>

#include "check.h"
#include "drivers/adaptive_clipping.h"
#include "drivers/gradients.h"
#include "drivers/optimizers.h"
#include "golden.h"

namespace kitae::golden {
namespace {

using NumbersOfRule = std::map<std::string, double>;

const NumbersOfRule kPenalties = {{"weight_keep", 0.9999}, {"l2", 0x1p-10}, {"l1", 0x1p-14}};
const NumbersOfRule kRootMeanSquare = {
    {"learning_rate", 0x1p-7}, {"rho", 0.9}, {"eps_inside", 0}, {"eps_outside", 1e-8}};

NumbersOfRule with(NumbersOfRule numbers, const NumbersOfRule& more) {
  numbers.insert(more.begin(), more.end());
  return numbers;
}

const std::map<std::string, NumbersOfRule>& rules() {
  static const NumbersOfRule velocity = {{"velocity_keep", 0.9}, {"velocity_gain", 0x1p-7}, {"parameter_gain", -1}};
  static const NumbersOfRule adam = {
      {"learning_rate", 0x1p-7}, {"beta1", 0.9}, {"beta2", 0.999}, {"eps", 1e-8}, {"eps_after_correction", 1}};
  static const NumbersOfRule adadelta = {{"learning_rate", 1}, {"rho", 0.95}, {"eps_inside", 1e-6}};
  static const std::map<std::string, NumbersOfRule> table = {
      {"average", {{"gain", 0x1p-5}}},
      {"gradient_descent", {{"gradient_gain", -0x1p-7}}},
      {"velocity", velocity},
      {"nesterov",
       {{"velocity_keep", 0.9}, {"velocity_gain", -0x1p-7}, {"parameter_gain", 0.9}, {"gradient_gain", -0x1p-7}}},
      {"adagrad", {{"learning_rate", 0x1p-7}, {"eps_inside", 0}, {"eps_outside", 1e-8}}},
      {"adadelta", adadelta},
      {"adadelta_of_quotient", adadelta},
      {"rmsprop", kRootMeanSquare},
      {"rmsprop_scaled_first", kRootMeanSquare},
      {"rmsprop_centered", kRootMeanSquare},
      {"rmsprop_velocity", with(kRootMeanSquare, velocity)},
      {"rmsprop_centered_velocity", with(kRootMeanSquare, velocity)},
      {"adam", adam},
      {"adam_by_differences", adam},
      {"adam_by_differences_float64_step", adam},
      {"amsgrad", adam},
      {"adamax", adam},
  };
  return table;
}

template <class T>
View view(std::vector<T>& values) {
  View result;
  result.assign(Contiguous<T>(values));
  return result;
}

// A plan over tensors of the given sizes, and all its memory.
template <class T>
class Training {
  using State = Compute<T>;

 public:
  Training(const std::string& rule, std::vector<int64_t> sizes) : plan_(make_optimizer_plan(rule)), numbers_(17) {
    CHECK(plan_ != nullptr);
    const auto count = sizes.size();
    weights_.resize(count), gradients_.resize(count), masters_.resize(count);
    slots_.resize(count * static_cast<size_t>(plan_->slots()));
    for (size_t i = 0; i < count; ++i) {
      weights_[i] = numbers_.array<T>(sizes[i]);
      gradients_[i] = numbers_.array<T>(sizes[i]);
      OptimizerPlan::Parameter parameter;
      parameter.value = view(weights_[i]);
      parameter.gradients.push_back(view(gradients_[i]));
      if (sizeof(T) == 2) {
        for (const T weight : weights_[i]) masters_[i].push_back(static_cast<float>(to_float(weight)));
        parameter.master = view(masters_[i]);
      }
      for (int slot = 0; slot < plan_->slots(); ++slot) {
        std::vector<State>& state = slots_[i * static_cast<size_t>(plan_->slots()) + static_cast<size_t>(slot)];
        state.assign(static_cast<size_t>(sizes[i]), State(0));
        parameter.slots.push_back(view(state));
      }
      plan_->add_parameter(std::move(parameter));
    }
    plan_->finish(1);
    for (const NumbersOfRule* numbers : {&kPenalties, &rules().at(rule)})
      for (const auto& [name, value] : *numbers) CHECK(plan_->set_number(0, name, value));
  }

  void run(int steps, Hash& hash) {
    for (int step = 1; step <= steps; ++step) {
      for (std::vector<T>& gradient : gradients_) {
        const std::vector<T> fresh = numbers_.array<T>(static_cast<int64_t>(gradient.size()));
        std::copy(fresh.begin(), fresh.end(), gradient.begin());  // where the plan looks
      }
      const Scaling scaling = {step % 2 ? Scope::none : Scope::all, 10.0, 1e-6};
      const StepResult result = plan_->step(step, scaling, Nonfinite::propagate);
      CHECK(result.written && result.nonfinite_elements == 0);
      if (step % 2 == 0) hash.number(result.norm);
    }
    for (const std::vector<T>& weights : weights_) hash.array(weights);
    for (const std::vector<float>& master : masters_) hash.array(master);
    for (const std::vector<State>& state : slots_) hash.array(state);
  }

 private:
  std::unique_ptr<OptimizerPlan> plan_;
  Numbers numbers_;
  std::vector<std::vector<T>> weights_, gradients_;
  std::vector<std::vector<float>> masters_;
  std::vector<std::vector<State>> slots_;
};

template <class T>
uint64_t train(const std::string& rule) {
  Hash hash;
  Training<T>(rule, {1, 0, 17, 700, 1025}).run(100, hash);
  Training<T>(rule, {3, 50000, 5000, 1}).run(2, hash);
  return hash.value();
}

template <class T>
uint64_t clip() {
  Hash hash;
  Numbers numbers(23);
  std::vector<T> first = numbers.array<T>(70001), empty, last = numbers.array<T>(33);
  const std::unique_ptr<TensorList> list = make_tensor_list();
  for (std::vector<T>* tensor : {&first, &empty, &last}) list->add(0) = view(*tensor);
  list->finish();
  const Norms& norms = list->clip({Scope::all, 100.0, 1e-6}, Nonfinite::raise, nullptr);
  CHECK(norms.first_nonfinite == -1);
  hash.number(norms.of_all);
  hash.array(norms.of_tensors);
  list->clip({Scope::tensor, 50.0, 0.0}, Nonfinite::raise, nullptr);
  list->clip_value(1.0 / 3.0);
  hash.array(first);
  hash.array(last);
  return hash.value();
}

template <class T>
uint64_t clip_by_unit() {
  Hash hash;
  const ChannelSizes all_sizes[] = {{1, 1, 1025}, {300, 19, 1}, {1, 7, 27}, {1, 5, 9001}, {4, 6, 5}};
  for (const ChannelSizes& sizes : all_sizes) {
    Numbers numbers(47);
    const std::vector<int64_t> shape = {sizes.outer, sizes.channels, sizes.inner};
    std::vector<T> param = numbers.array<T>(sizes.size()), grad = numbers.array<T>(sizes.size());
    const Contiguous<T> of_param(param, shape), of_grad(grad, shape);
    CHECK(clip_units({{sizes, sizes, of_param, of_grad, 0}}, {1.0, 1e-3, Nonfinite::raise}) == -1);
    hash.array(grad);
    CHECK(clip_units({{sizes, sizes, of_param, of_grad, 0}}, {1.0 / 3, 1e-3, Nonfinite::raise}) == -1);
    hash.array(grad);
  }
  return hash.value();
}

}  // namespace

void add_optimizer_rows(std::vector<Row>& rows) {
  for (const auto& [rule, numbers] : rules()) {
    rows.push_back({rule + "/float16", [rule = rule] { return train<Float16>(rule); }});
    rows.push_back({rule + "/bfloat16", [rule = rule] { return train<BFloat16>(rule); }});
    rows.push_back({rule + "/float32", [rule = rule] { return train<float>(rule); }});
    rows.push_back({rule + "/float64", [rule = rule] { return train<double>(rule); }});
  }
  rows.push_back({"clip/float16", clip<Float16>});
  rows.push_back({"clip/bfloat16", clip<BFloat16>});
  rows.push_back({"clip/float32", clip<float>});
  rows.push_back({"clip/float64", clip<double>});
  rows.push_back({"clip_by_unit/float16", clip_by_unit<Float16>});
  rows.push_back({"clip_by_unit/bfloat16", clip_by_unit<BFloat16>});
  rows.push_back({"clip_by_unit/float32", clip_by_unit<float>});
  rows.push_back({"clip_by_unit/float64", clip_by_unit<double>});
}

}  // namespace kitae::golden
