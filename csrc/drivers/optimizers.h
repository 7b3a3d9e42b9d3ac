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
  int64_t steps = 0;               // updates written so far
};

// Of one parameter in the last step that was tracked: by-products of the update, summed in double while the elements
// pass, in the order of ops/reduction_order.h.
struct Tracked {
  int64_t nonfinite = 0;  // infinite and NaN elements of the gradient
  double gradient_squares = 0;
  double absolute_update = 0, absolute_weight = 0;  // sums of magnitudes; the weight is the one before the update
  double update_squares = 0, weight_squares = 0;
};

// Of the parameters, from their chunks one after the other; first_chunk(i): number of parameter i's first one.
template <class FirstChunk>
std::vector<Tracked> add_chunks(const std::vector<Tracked>& chunks, size_t parameters, FirstChunk first_chunk) {
  std::vector<Tracked> totals(parameters);
  for (size_t i = 0; i < parameters; ++i) {
    for (auto chunk = first_chunk(i); chunk < first_chunk(i + 1); ++chunk) {
      const Tracked& part = chunks[static_cast<size_t>(chunk)];
      totals[i].nonfinite += part.nonfinite;
      totals[i].gradient_squares += part.gradient_squares;
      totals[i].absolute_update += part.absolute_update;
      totals[i].absolute_weight += part.absolute_weight;
      totals[i].update_squares += part.update_squares;
      totals[i].weight_squares += part.weight_squares;
    }
  }
  return totals;
}

class OptimizerPlan {
 public:
  struct Parameter {
    View value;
    View master;                  // float32 copy of a 16-bit parameter; absent: size 0 and no data
    std::vector<View> slots;      // state, of the arithmetic type, contiguous
    std::vector<View> gradients;  // one for each place in the user's list; an absent one has dtype other
    int64_t group = 0;
    int64_t place = -1;  // of its first gradient in the user's list
    bool active() const {
      for (const View& gradient : gradients)
        if (gradient.dtype != DType::other) return true;
      return false;
    }
  };

  virtual ~OptimizerPlan() = default;
  virtual int slots() const = 0;
  // Sets a group's number by name; false where the rule has none of that name.
  virtual bool set_number(int64_t group, const std::string& name, double value) = 0;
  // On a GPU nothing is waited for, and the result is "nothing known": NaN and -1.
  virtual StepResult step(int64_t number, const Scaling& scaling, Nonfinite rule) = 0;
  // What the last step saw; on a GPU this waits for it.
  virtual StepResult result() = 0;
  // Updates written so far, where the caller knows better (a loaded state): the next step's number is one more.
  virtual void set_steps(int64_t steps) = 0;
  // Whether steps fill tracked(). Changes no bit of what a step writes.
  virtual void set_tracking(bool tracking) = 0;
  // One for each parameter, of the last step; empty where it did not track or wrote nothing. On a GPU this waits.
  virtual const std::vector<Tracked>& tracked() = 0;
  // After a change of parameters()[...].gradients.
  virtual void gradients_changed() = 0;
  // Brings what changed since the last step to where the next one reads it, on a GPU: a captured step replays with it.
  virtual void refresh() = 0;

  void add_parameter(Parameter parameter) { parameters_.push_back(std::move(parameter)); }
  virtual void finish(int64_t groups) = 0;  // after the last parameter
  std::vector<Parameter>& parameters() { return parameters_; }

 protected:
  std::vector<Parameter> parameters_;
};

// The names are those of optimizer_rules.h; null for another one.
std::unique_ptr<OptimizerPlan> make_optimizer_plan(const std::string& rule);

}  // namespace kitae
