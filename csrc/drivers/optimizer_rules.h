// The rules by the names that Python gives them.
#pragma once

#include <memory>
#include <string>

#include "drivers/optimizers.h"
#include "ops/adam.h"
#include "ops/adamax.h"
#include "ops/adaptive_gradient.h"
#include "ops/averaging.h"
#include "ops/gradient_descent.h"

namespace kitae {

template <class Plan>
std::unique_ptr<OptimizerPlan> make_plan() {
  return std::make_unique<Plan>();
}

// Plan<Rule>, made; null where no rule has this name.
template <template <class Rule> class Plan>
std::unique_ptr<OptimizerPlan> make_rule_plan(const std::string& name) {
  struct Named {
    const char* name;
    std::unique_ptr<OptimizerPlan> (*make)();
  };
  static constexpr Named kRules[] = {
      {"gradient_descent", make_plan<Plan<GradientDescent>>},
      {"average", make_plan<Plan<Average>>},
      {"velocity", make_plan<Plan<Velocity>>},
      {"nesterov", make_plan<Plan<Nesterov>>},
      {"adagrad", make_plan<Plan<AdaGrad>>},
      {"adadelta", make_plan<Plan<AdaDelta>>},
      {"adadelta_of_quotient", make_plan<Plan<AdaDeltaOfQuotient>>},
      {"rmsprop", make_plan<Plan<RMSPropRule<false, false>>>},
      {"rmsprop_scaled_first", make_plan<Plan<RMSPropScaledFirst>>},
      {"rmsprop_centered", make_plan<Plan<RMSPropRule<true, false>>>},
      {"rmsprop_velocity", make_plan<Plan<RMSPropRule<false, true>>>},
      {"rmsprop_centered_velocity", make_plan<Plan<RMSPropRule<true, true>>>},
      {"adam", make_plan<Plan<Adam>>},
      {"adam_by_differences", make_plan<Plan<AdamByDifferences<false>>>},
      {"adam_by_differences_float64_step", make_plan<Plan<AdamByDifferences<true>>>},
      {"amsgrad", make_plan<Plan<AMSGrad>>},
      {"adamax", make_plan<Plan<AdaMax>>},
  };
  for (const Named& rule : kRules)
    if (name == rule.name) return rule.make();
  return nullptr;
}

}  // namespace kitae
