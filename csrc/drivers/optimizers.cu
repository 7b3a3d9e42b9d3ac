#include <limits>
#include <stdexcept>

#include "cuda/launch.h"
#include "cuda/list_norms.h"
#include "cuda/update.h"
#include "cuda/uploads.h"
#include "drivers/optimizer_rules.h"
#include "drivers/optimizers.h"

namespace kitae {
namespace {

using namespace cuda;

// The tables in device memory and what of them has changed. All but the kernels' launches is the same for every rule.
class CudaPlan : public OptimizerPlan {
 public:
  // The tables, in one piece that is uploaded once. Gradients have one of their own.
  void finish(int64_t groups) override {
    resize_groups(groups);
    Layouts layouts;
    std::vector<Tensor> tensors;
    std::vector<cuda::Parameter> entries;
    int32_t sources = 0;
    for (const Parameter& parameter : parameters_) {
      const View& value = parameter.value;
      has_float64_ = has_float64_ || value.dtype == DType::float64;
      const auto count = static_cast<int32_t>(parameter.gradients.size());
      tensors.push_back(
          {value.size, sources, count, static_cast<int32_t>(parameter.place), value.dtype == DType::float64});
      sources += count;
      cuda::Parameter entry{};
      entry.value = value.data;
      entry.group = static_cast<int32_t>(parameter.group);
      entry.layout = layouts.add(value);
      entry.dtype = value.dtype;
      const auto take = [&](const View& array) {
        if (array.data && lead_of(array.data, size_of(array.dtype)) != entry.lead) entry.lead = -1;
        return array.data;
      };
      entry.lead = entry.layout == 0 ? lead_of(value.data, size_of(value.dtype)) : int8_t{-1};
      entry.master = reinterpret_cast<float*>(take(parameter.master));
      for (size_t i = 0; i < parameter.slots.size(); ++i) entry.slots[i] = take(parameter.slots[i]);
      entries.push_back(entry);
    }
    first_chunk_ = chunk_numbers(parameters_.size(), [&](size_t i) { return parameters_[i].value.size; });
    Blob blob;
    const size_t at_chunks = blob.add(first_chunk_), at_tensors = blob.add(tensors), at_entries = blob.add(entries),
                 at_layouts = blob.add(layouts.words());
    const NormMemory norms(parameters_.size());
    tables_ = DeviceBuffer(blob.size() + norms.bytes() + sizeof(Progress), true);
    char* const memory = tables_.as<char>();
    upload(current_stream(), memory, blob.data(), blob.size());
    KITAE_CUDA_CHECK(cudaStreamSynchronize(current_stream()));
    list_.first_chunk = reinterpret_cast<const int64_t*>(memory + at_chunks);
    list_.tensors = reinterpret_cast<const Tensor*>(memory + at_tensors);
    list_.chunks = first_chunk_.back();
    list_.count = static_cast<int32_t>(parameters_.size());
    entries_ = reinterpret_cast<const cuda::Parameter*>(memory + at_entries);
    layouts_ = reinterpret_cast<const int64_t*>(memory + at_layouts);
    progress_ = reinterpret_cast<Progress*>(memory + blob.size());
    norm_memory_ = memory + blob.size() + sizeof(Progress);
    numbers_ = DeviceBuffer(numbers_bytes());
  }

  void gradients_changed() override {
    Layouts layouts;
    std::vector<Source> sources;
    for (const Parameter& parameter : parameters_)
      for (const View& gradient : parameter.gradients) sources.push_back(source_of(gradient, layouts));
    Blob blob;
    blob.add(sources);
    const size_t at_layouts = blob.add(layouts.words());
    if (blob == gradients_) return;
    require_no_capture();
    if (gradient_table_.bytes() < blob.size()) gradient_table_ = DeviceBuffer(2 * blob.size());
    send(gradient_table_.as<char>(), blob.data(), blob.size());
    list_.sources = gradient_table_.as<Source>();
    list_.layouts = reinterpret_cast<const int64_t*>(gradient_table_.as<char>() + at_layouts);
    gradients_ = std::move(blob);
  }

  StepResult step(int64_t number, const Scaling& scaling, Nonfinite rule) override {
    if (number != expected_ + 1) set_steps(number - 1);
    refresh();
    const bool must_know = rule == Nonfinite::raise || rule == Nonfinite::skip;
    norms_ = FoundNorms{};
    if (scaling.scope != Scope::none || must_know)
      norms_ = launch_norms(list_, has_float64_, scaling, rule, norm_memory_, nullptr);
    launch_update(scaling, rule == Nonfinite::zero);
    last_tracked_ = tracking_;
    expected_ = number;
    StepResult nothing_known;
    nothing_known.norm = std::numeric_limits<double>::quiet_NaN();
    nothing_known.nonfinite_elements = -1;
    nothing_known.steps = number;
    return nothing_known;
  }

  StepResult result() override {
    const cudaStream_t stream = current_stream();
    Progress progress{};
    FoundNorm found{};
    download(stream, &progress, progress_, sizeof(progress));
    if (norms_.found) download(stream, &found, norms_.found, sizeof(found));
    KITAE_CUDA_CHECK(cudaStreamSynchronize(stream));
    StepResult result;
    result.norm = std::numeric_limits<double>::quiet_NaN();
    if (progress.launches > 0)
      result.nonfinite_elements = static_cast<int64_t>(progress.nonfinite[(progress.launches - 1) & 1]);
    if (norms_.found) {
      result.written = found.stop == 0;
      result.norm = found.norm;
      result.first_nonfinite = found.first_nonfinite;
    }
    if (!count_changed_) expected_ = progress.steps;
    result.steps = expected_;
    return result;
  }

  // The memory stays: a captured step goes on writing there.
  void set_tracking(bool tracking) override {
    if (tracking && chunk_sums_.bytes() == 0)
      chunk_sums_ = DeviceBuffer(static_cast<size_t>(list_.chunks) * sizeof(Tracked));
    tracking_ = tracking;
    last_tracked_ = false;
  }

  const std::vector<Tracked>& tracked() override {
    tracked_.clear();
    if (!last_tracked_) return tracked_;
    const cudaStream_t stream = current_stream();
    FoundNorm found{};
    std::vector<Tracked> chunks(static_cast<size_t>(list_.chunks));
    if (norms_.found) download(stream, &found, norms_.found, sizeof(found));
    download(stream, chunks.data(), chunk_sums_.as<void>(), chunk_sums_.bytes());
    KITAE_CUDA_CHECK(cudaStreamSynchronize(stream));
    if (!found.stop) tracked_ = add_chunks(chunks, parameters_.size(), [&](size_t i) { return first_chunk_[i]; });
    return tracked_;
  }

  void set_steps(int64_t steps) override {
    expected_ = steps;
    count_changed_ = true;
  }

  void refresh() override {
    if (!numbers_changed_ && !count_changed_) return;
    require_no_capture();
    if (numbers_changed_) send_numbers();
    if (count_changed_) send(&progress_->steps, &expected_, sizeof(expected_));
    launch_prepare();
    numbers_changed_ = count_changed_ = false;
  }

 protected:
  virtual void resize_groups(int64_t groups) = 0;
  virtual size_t numbers_bytes() const = 0;
  virtual void send_numbers() = 0;
  virtual void launch_prepare() = 0;
  virtual void launch_update(const Scaling& scaling, bool zero_nonfinite) = 0;

  void send(void* to, const void* from, size_t bytes) {
    std::memcpy(uploads_.memory(bytes), from, bytes);
    uploads_.send(current_stream(), to, bytes);
  }

  List list_{};
  const cuda::Parameter* entries_ = nullptr;
  const int64_t* layouts_ = nullptr;
  Progress* progress_ = nullptr;
  DeviceBuffer numbers_;     // of the groups, then their scalars
  FoundNorms norms_;         // of the last step, where it took any
  DeviceBuffer chunk_sums_;  // Tracked, where a step measured itself
  bool numbers_changed_ = true, has_float64_ = false, tracking_ = false;

 private:
  // A captured copy would bring back the old table at every replay.
  static void require_no_capture() {
    if (capturing(current_stream()))
      throw std::runtime_error(
          "kitae: a CUDA graph is being captured, but gradients or numbers of the optimizer have changed since its "
          "last "
          "step: call bind(grads), then step() once, before the capture");
  }

  DeviceBuffer tables_, gradient_table_;
  Blob gradients_;  // as the device has them
  char* norm_memory_ = nullptr;
  std::vector<int64_t> first_chunk_;
  std::vector<Tracked> tracked_;
  bool last_tracked_ = false;  // the last step
  Uploads uploads_;
  int64_t expected_ = 0;  // steps that the device will have counted, unless it skipped some or a graph was replayed
  bool count_changed_ = false;
};

template <class Rule>
class RulePlan final : public CudaPlan {
 public:
  int slots() const override { return Rule::kSlots; }

  bool set_number(int64_t group, const std::string& name, double value) override {
    GroupNumbers<Rule>& numbers = groups_[static_cast<size_t>(group)];
    numbers_changed_ = true;
    return set_field(numbers.common, name, value) || set_field(numbers.rule, name, value);
  }

 protected:
  void resize_groups(int64_t groups) override { groups_.resize(static_cast<size_t>(groups)); }

  size_t numbers_bytes() const override {
    return groups_.size() *
           (sizeof(GroupNumbers<Rule>) + 2 * sizeof(Rounded<Rule, double>) + 2 * sizeof(Rounded<Rule, float>));
  }

  void send_numbers() override { send(numbers_.as<void>(), groups_.data(), groups_.size() * sizeof(groups_[0])); }

  void launch_prepare() override { launch(PrepareKernel<Rule>{step_numbers(), progress_}, Shape{}, current_stream()); }

  void launch_update(const Scaling& scaling, bool zero_nonfinite) override {
    if (tracking_)
      launch_as<true, true>(scaling, zero_nonfinite);
    else if (has_float64_)
      launch_as<true, false>(scaling, zero_nonfinite);
    else
      launch_as<false, false>(scaling, zero_nonfinite);
  }

 private:
  template <bool has_float64, bool tracks>
  void launch_as(const Scaling& scaling, bool zero_nonfinite) {
    using Kernel = UpdateKernel<Rule, has_float64, tracks>;
    Kernel kernel{};
    kernel.list = list_;
    kernel.parameters = entries_;
    kernel.layouts = layouts_;
    kernel.numbers = step_numbers();
    kernel.progress = progress_;
    kernel.found = norms_.found;
    kernel.factors = scaling.scope == Scope::none ? nullptr : norms_.factors;
    kernel.tracked = chunk_sums_.as<Tracked>();
    kernel.per_tensor = scaling.scope == Scope::tensor;
    kernel.zero_nonfinite = zero_nonfinite;
    Shape shape;
    shape.blocks = Kernel::blocks_for(list_.chunks, int64_t{sm_count()} * Kernel::kBlocksPerSM);
    launch(kernel, shape, current_stream());
  }

  StepNumbers<Rule> step_numbers() const {
    const size_t groups = groups_.size();
    StepNumbers<Rule> numbers{};
    numbers.numbers = numbers_.as<GroupNumbers<Rule>>();
    numbers.of_double = reinterpret_cast<Rounded<Rule, double>*>(numbers_.as<GroupNumbers<Rule>>() + groups);
    numbers.of_float = reinterpret_cast<Rounded<Rule, float>*>(numbers.of_double + 2 * groups);
    numbers.groups = static_cast<int32_t>(groups);
    return numbers;
  }

  std::vector<GroupNumbers<Rule>> groups_;
};

}  // namespace

std::unique_ptr<OptimizerPlan> make_optimizer_plan(const std::string& rule) { return make_rule_plan<RulePlan>(rule); }

}  // namespace kitae
