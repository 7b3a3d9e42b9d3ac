// A plan updates a fixed list of parameters by one rule in one call a step: norm, clip factor, penalties and update.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "drivers/gradients.h"

namespace kitae {

struct StepResult {
  bool written = true;             // false: a non-finite gradient stopped the step before anything was written
  double norm = 0;                 // over all gradients; NaN where no norm was asked for
  int64_t nonfinite_elements = 0;  // infinite and NaN elements of the gradients, where the step wrote
  int64_t first_nonfinite = -1;    // parameter, where a norm was taken
};

// How gradients are scaled before the update.
struct Scaling {
  Scope scope = Scope::none;  // over what the norm is taken; none: no norm
  double max_norm = 0;        // clip to it; 0: divide by the norm (a norm of 0 gives no update)
  double eps = 0;             // added to the norm when clipping
};

class OptimizerPlan {
 public:
  struct Parameter {
    cpu::View value;
    cpu::View master;                  // float32 copy of a 16-bit parameter; absent: size 0 and no data
    std::vector<cpu::View> slots;      // state, of the arithmetic type, contiguous
    std::vector<cpu::View> gradients;  // one for each place in the user's list; an absent one has dtype other
    int64_t group = 0;
    bool active() const {
      for (const cpu::View& gradient : gradients)
        if (gradient.dtype != DType::other) return true;
      return false;
    }
  };

  virtual ~OptimizerPlan() = default;
  virtual int slots() const = 0;
  // Sets a group's number by name; false where the rule has none of that name.
  virtual bool set_number(int64_t group, const std::string& name, double value) = 0;
  virtual StepResult step(int64_t number, const Scaling& scaling, Nonfinite rule) = 0;

  void add_parameter(Parameter parameter) { parameters_.push_back(std::move(parameter)); }
  void finish(int64_t groups);  // after the last parameter
  std::vector<Parameter>& parameters() { return parameters_; }

 protected:
  virtual void resize_groups(int64_t groups) = 0;

  std::vector<Parameter> parameters_;
  cpu::Tiles tiles_;
  Norms norms_;
  std::vector<double> factors_;
  bool has_float64_ = false;
};

// The names are those of kRules (optimizers.cpp); null for another one.
std::unique_ptr<OptimizerPlan> make_optimizer_plan(const std::string& rule);

}  // namespace kitae
