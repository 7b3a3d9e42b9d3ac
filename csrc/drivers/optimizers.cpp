#include "drivers/optimizers.h"

#include <atomic>
#include <cstring>
#include <limits>

#include "cpu/norms.h"
#include "cpu/rows.h"
#include "cpu/tiles.h"
#include "cpu/update_sums.h"
#include "drivers/optimizer_numbers.h"
#include "drivers/optimizer_rules.h"
#include "ops/global_norm.h"
#include "ops/gradient_terms.h"

namespace kitae {
namespace {

// The update of rows that lie in memory as arithmetic type. Returns the number of non-finite gradient elements.
template <class Rule, class T>
[[gnu::noinline]] int64_t update_rows(const typename Rule::template Scalars<T>& scalars, T weight_keep, T scale,
                                      int64_t count, T* __restrict weight, const T* __restrict gradient,
                                      T* __restrict slot0, T* __restrict slot1, T* __restrict slot2) {
  constexpr int kSlots = Rule::kSlots;
  decltype(nonfinite(T(0))) bad = 0;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    T slots[kSlots > 0 ? kSlots : 1];
    if constexpr (kSlots > 0) slots[0] = slot0[i];
    if constexpr (kSlots > 1) slots[1] = slot1[i];
    if constexpr (kSlots > 2) slots[2] = slot2[i];
    const T g = gradient[i];
    bad += nonfinite(g);
    T w = weight[i] * weight_keep;
    Rule::update(scalars, w, scale * g, slots);
    weight[i] = w;
    if constexpr (kSlots > 0) slot0[i] = flush(slots[0]);
    if constexpr (kSlots > 1) slot1[i] = flush(slots[1]);
    if constexpr (kSlots > 2) slot2[i] = flush(slots[2]);
  }
  return static_cast<int64_t>(bad);
}

// The sum of a parameter's gradients (several where its memory is listed several times), in the order of the list.
template <class T>
[[gnu::noinline]] void read_gradient(T* row, const OptimizerPlan::Parameter& parameter, int64_t begin, int64_t count) {
  bool first = true;
  T more[cpu::kRow];
  for (const View& gradient : parameter.gradients) {
    if (gradient.dtype == DType::other) continue;
    cpu::read_row(first ? row : more, gradient, begin, count);
    if (!first)
      for (int64_t i = 0; i < count; ++i) row[i] += more[i];
    first = false;
  }
}

// The gradient where it lies, if it is one array of T in memory order; else nullptr.
template <class T>
const T* direct_gradient(const OptimizerPlan::Parameter& parameter, int64_t begin) {
  return parameter.gradients.size() == 1 ? cpu::direct<T>(parameter.gradients[0], begin) : nullptr;
}

template <class T, class Use>
void gradient_rows(const OptimizerPlan::Parameter& parameter, int64_t begin, int64_t count, bool zero_nonfinite,
                   Use use) {
  const T* values = zero_nonfinite ? nullptr : direct_gradient<T>(parameter, begin);
  if (values) return use(values, count);
  T row[cpu::kRow];
  for (int64_t done = 0; done < count; done += cpu::kRow) {
    const int64_t length = count - done < cpu::kRow ? count - done : cpu::kRow;
    read_gradient(row, parameter, begin + done, length);
    if (zero_nonfinite)
      for (int64_t i = 0; i < length; ++i) row[i] = finite_or_zero(row[i]);
    use(static_cast<const T*>(row), length);
  }
}

// Whether a value may be another one than its master, rounded; NaN always may.
template <class Half>
bool may_differ(const float* master, const Half* values, int64_t count) {
  const uint16_t infinity = FromFloat<Half>::convert(std::numeric_limits<float>::infinity()).bits;
  Half rounded[cpu::kRow];
  cpu::narrow(rounded, master, count);
  uint16_t different = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = values[i].bits;
    different |= static_cast<uint16_t>(bits ^ rounded[i].bits) | static_cast<uint16_t>((bits & 0x7fffu) > infinity);
  }
  return different != 0;
}

// A float that lies nearer than halfway to the value, both as integers, rounds to it; one that lies halfway may.
bool may_differ(const float* master, const BFloat16* values, int64_t count) {
  uint32_t farthest = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = bit_cast<uint32_t>(master[i]);
    const uint32_t distance = bits - (static_cast<uint32_t>(values[i].bits) << 16) + 0x7fffu;  // 0 to 0xfffe: nearer
    const uint32_t magnitude = bits & 0x7fffffffu;
    farthest = farthest > distance ? farthest : distance;
    largest = largest > magnitude ? largest : magnitude;
  }
  return farthest > 0xfffeu || largest > 0x7f800000u;
}

// A 16-bit parameter is its float32 master; where the master, rounded, is no longer the parameter, the caller has
// changed the parameter and it wins. Mostly nothing has changed.
template <class Half>
[[gnu::noinline]] void take_changes(float* master, const Half* values, int64_t count) {
  if (!may_differ(master, values, count)) return;
  for (int64_t i = 0; i < count; ++i) {
    const float value = to_float(values[i]);
    if (!(to_float(FromFloat<Half>::convert(master[i])) == value)) master[i] = value;
  }
}

void take_changes(float* master, const View& parameter, int64_t begin, int64_t count) {
  visit_dtype(parameter.dtype, [&](auto zero) {
    using Half = decltype(zero);
    if constexpr (sizeof(Half) == 2) {
      if (parameter.contiguous)
        return take_changes(master, reinterpret_cast<const Half*>(parameter.data) + begin, count);
      Half row[cpu::kRow];
      parameter.walk(begin, count,
                     [&](const char* element, int64_t i) { row[i] = *reinterpret_cast<const Half*>(element); });
      take_changes(master, row, count);
    }
  });
}

template <class Rule>
class RulePlan final : public OptimizerPlan {
 public:
  int slots() const override { return Rule::kSlots; }

  bool set_number(int64_t group, const std::string& name, double value) override {
    Group& numbers = groups_[static_cast<size_t>(group)];
    return set_field(numbers.common, name, value) || set_field(numbers.rule, name, value);
  }

  StepResult step(int64_t number, const Scaling& scaling, Nonfinite rule) override {
    return result_ = step_now(number, scaling, rule);
  }
  StepResult result() override { return result_; }
  void set_steps(int64_t steps) override { result_.steps = steps; }
  void set_tracking(bool tracking) override {
    tracking_ = tracking;
    tracked_.clear();
  }
  const std::vector<Tracked>& tracked() override { return tracked_; }
  void gradients_changed() override {}
  void refresh() override {}

  void finish(int64_t groups) override {
    groups_.resize(static_cast<size_t>(groups));
    tiles_.assign(static_cast<int64_t>(parameters_.size()),
                  [&](int64_t i) { return parameters_[static_cast<size_t>(i)].value.size; });
    for (const Parameter& parameter : parameters_) {
      const bool is_float64 = parameter.value.dtype == DType::float64;
      Group& group = groups_[static_cast<size_t>(parameter.group)];
      (is_float64 ? group.in_double : group.in_float) = true;
      has_float64_ = has_float64_ || is_float64;
    }
  }

 private:
  StepResult step_now(int64_t number, const Scaling& scaling, Nonfinite rule) {
    StepResult result;
    result.steps = number;
    result.norm = std::numeric_limits<double>::quiet_NaN();
    tracked_.clear();
    const bool zero = rule == Nonfinite::zero;
    const bool must_know = rule == Nonfinite::raise || rule == Nonfinite::skip;
    factors_.assign(1, 1.0);
    if (scaling.scope != Scope::none || must_know) {
      measure(zero);
      result.norm = norms_.get().of_all;
      result.first_nonfinite = norms_.get().first_nonfinite;
      if (must_know && result.first_nonfinite >= 0) {
        result.written = false;
        result.steps = number - 1;
        return result;
      }
    }
    if (scaling.scope == Scope::all) factors_[0] = gradient_factor(norms_.get().of_all, scaling.max_norm, scaling.eps);
    if (scaling.scope == Scope::tensor) {
      factors_.clear();
      for (const double norm : norms_.get().of_tensors)
        factors_.push_back(gradient_factor(norm, scaling.max_norm, scaling.eps));
    }
    for (Group& group : groups_) group.prepare(number);
    if (tracking_) chunks_.assign(static_cast<size_t>(tiles_.chunks()), Tracked{});
    std::atomic<int64_t> bad{0};
    tiles_.for_each_piece([&](const cpu::Tiles::Piece& piece) {
      const int64_t count = update(piece, zero);
      if (count) bad.fetch_add(count, std::memory_order_relaxed);
    });
    result.nonfinite_elements = bad.load();
    if (tracking_)
      tracked_ = add_chunks(chunks_, parameters_.size(),
                            [&](size_t i) { return tiles_.first_chunk(static_cast<int64_t>(i)); });
    return result;
  }

  // What the update of one type reads, rounded to it once a step.
  template <class T>
  struct Rounded {
    typename Rule::template Scalars<T> scalars{typename Rule::Hyperparameters{}, 1};
    T weight_keep = T(1), l2 = T(0), l1 = T(0);
  };

  struct Group {
    typename Rule::Hyperparameters rule;
    CommonNumbers common;
    Rounded<float> as_float;
    Rounded<double> as_double;
    bool in_float = false, in_double = false;  // whether it has such parameters

    void prepare(int64_t number) {
      if (in_float) round(as_float, number);
      if (in_double) round(as_double, number);
    }
    template <class T>
    void round(Rounded<T>& rounded, int64_t number) const {
      rounded.scalars = typename Rule::template Scalars<T>(rule, number);
      rounded.weight_keep = static_cast<T>(common.weight_keep);
      rounded.l2 = static_cast<T>(common.l2);
      rounded.l1 = static_cast<T>(common.l1);
    }
    template <class T>
    const Rounded<T>& as() const {
      if constexpr (std::is_same_v<T, double>)
        return as_double;
      else
        return as_float;
    }
  };

  void measure(bool zero) {
    norms_.measure(tiles_, has_float64_, [&](int64_t tensor, int64_t begin, int64_t count, auto use) {
      const Parameter& parameter = parameters_[static_cast<size_t>(tensor)];
      if (!parameter.active()) return;
      if (parameter.value.dtype == DType::float64)
        gradient_rows<double>(parameter, begin, count, zero, use);
      else
        gradient_rows<float>(parameter, begin, count, zero, use);
    });
  }

  int64_t update(const cpu::Tiles::Piece& piece, bool zero) {
    const Parameter& parameter = parameters_[static_cast<size_t>(piece.tensor)];
    if (!parameter.active()) return 0;
    return parameter.value.dtype == DType::float64 ? update_as<double>(piece, parameter, zero)
                                                   : update_as<float>(piece, parameter, zero);
  }

  template <class T>
  int64_t update_as(const cpu::Tiles::Piece& piece, const Parameter& parameter, bool zero) {
    const Group& group = groups_[static_cast<size_t>(parameter.group)];
    const Rounded<T>& numbers = group.template as<T>();
    const double factor = factors_[factors_.size() == 1 ? 0 : static_cast<size_t>(piece.tensor)];
    GradientTerms<T> terms;
    terms.scale = static_cast<T>(factor);
    terms.l2 = numbers.l2;
    terms.l1 = numbers.l1;
    const bool penalties = group.common.l2 != 0 || group.common.l1 != 0;

    T* const weight = cpu::direct<T>(parameter.value, piece.begin);
    const T* const gradient = zero || penalties ? nullptr : direct_gradient<T>(parameter, piece.begin);
    const auto slot = [&](int i, int64_t begin) -> T* {
      return i < Rule::kSlots ? reinterpret_cast<T*>(parameter.slots[static_cast<size_t>(i)].data) + begin : nullptr;
    };
    const auto update = [&](T scale, int64_t begin, int64_t count, T* w, const T* g) {
      return update_rows<Rule, T>(numbers.scalars, numbers.weight_keep, scale, count, w, g, slot(0, begin),
                                  slot(1, begin), slot(2, begin));
    };
    if (weight && gradient && !tracking_) return update(terms.scale, piece.begin, piece.count, weight, gradient);

    int64_t bad = 0;
    T weights[cpu::kRow], gradients[cpu::kRow], before[cpu::kRow];
    cpu::UpdateSums sums;
    for (int64_t done = 0; done < piece.count; done += cpu::kRow) {
      const int64_t begin = piece.begin + done;
      const int64_t count = piece.count - done < cpu::kRow ? piece.count - done : cpu::kRow;
      const int64_t bad_before = bad;
      T* const w = weight ? weight + done : read_weights(weights, parameter, begin, count);
      const T* g = gradient ? gradient + done : gradients;
      T scale = terms.scale;
      if (!gradient) {
        read_gradient(gradients, parameter, begin, count);
        if (zero) {
          for (int64_t i = 0; i < count; ++i) bad += static_cast<int64_t>(nonfinite(gradients[i]));
          for (int64_t i = 0; i < count; ++i) gradients[i] = finite_or_zero(gradients[i]);
        }
        if (tracking_) sums.add_gradient(gradients, count);  // a penalty would change it
        if (penalties) {
          if (!zero)  // counted here: a penalty could hide what the rule is given
            for (int64_t i = 0; i < count; ++i) bad += static_cast<int64_t>(nonfinite(gradients[i]));
          for (int64_t i = 0; i < count; ++i) gradients[i] = terms(gradients[i], w[i]);
          scale = T(1);
        }
      }
      if (tracking_) {
        if (gradient) sums.add_gradient(g, count);
        std::memcpy(before, w, static_cast<size_t>(count) * sizeof(T));
      }
      const int64_t counted = update(scale, begin, count, w, g);
      if (!zero && !penalties) bad += counted;
      if (tracking_) {
        sums.add_update(before, w, count);
        Tracked& chunk = chunks_[static_cast<size_t>(piece.chunk + done / kChunk)];
        const int64_t nonfinite = chunk.nonfinite + bad - bad_before;
        if ((done + count) % kChunk == 0 || done + count == piece.count) {
          chunk = sums.fold();
          sums = cpu::UpdateSums();
        }
        chunk.nonfinite = nonfinite;
      }
      if (!weight) cpu::write_row(parameter.value, begin, w, count);
    }
    return bad;
  }

  // Where the weights are to be updated: in the float32 master of a 16-bit parameter, else in `row`.
  template <class T>
  static T* read_weights(T* row, const Parameter& parameter, int64_t begin, int64_t count) {
    if constexpr (std::is_same_v<T, float>) {
      if (parameter.master.data) {
        float* const master = reinterpret_cast<float*>(parameter.master.data) + begin;
        take_changes(master, parameter.value, begin, count);
        return master;
      }
    }
    cpu::read_row(row, parameter.value, begin, count);
    return row;
  }

  std::vector<Group> groups_;
  cpu::Tiles tiles_;
  cpu::ListNorms norms_;
  std::vector<double> factors_;
  bool has_float64_ = false, tracking_ = false;
  std::vector<Tracked> chunks_, tracked_;  // of the chunks of tiles_, of the parameters
  StepResult result_;
};

}  // namespace

std::unique_ptr<OptimizerPlan> make_optimizer_plan(const std::string& rule) { return make_rule_plan<RulePlan>(rule); }

}  // namespace kitae
