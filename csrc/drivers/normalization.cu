// Batch normalization on a GPU. Nothing waits: what the kernels find is a flag that check() reads (cuda/flags.h).
//
// Traffic, counted: bytes an element of float32 (16-bit types half of it), and 1/8 byte for each reading or writing of
// a mask.
//                                               resident          streamed   floor
//   forward in training                           8                 12          8
//     with a residual                            12                 16         12
//   backward in training                         12                 20         12
//     with a residual                            16                 24         16
//   backward, constant statistics                12                 16 (20)    12   (act' computed again from x)
//   inference (with a residual)                   -                  8 (12)     8 (12)
// Beside that, sums cost 16 bytes a chunk (4096 elements; 256 rows of a channel where channels lie side by side), and a
// second reading comes from the level-2 cache as far as that holds the tensor. Segments of a resident slice are copied
// in whole 16-byte blocks: at most 15 bytes at each end are read for nothing.
//
// Kernels: one where the slices are resident (csrc/cuda/specialized/resident_channels.h in a cluster of blocks,
// grid_resident_channels.h in a larger team of them, not in float64's forward), else three: sums of chunks,
// their folding, the element-wise step. float64 adds two, which sum again, scaled, what has overflowed. Inference: two.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "cuda/channel_statistics.h"
#include "cuda/memory.h"
#include "cuda/specialized/grid_resident_channels.h"
#include "cuda/specialized/resident_channels.h"
#include "drivers/normalization.h"

namespace kitae {
namespace {

using cuda::ChannelRows;
using cuda::ChannelVector;
using cuda::DeviationSource;
using cuda::launch;
using cuda::Layout;
using cuda::ScaledDeviationSource;
using cuda::Shape;
using cuda::Sums;

// ---- sums

template <class S, cuda::Through kThrough>
struct GradientSource {
  using T = Compute<S>;
  using Op = GradientTerms;
  struct Raw {
    S dout, x;
    bool bit;
  };
  struct Channel {
    double parameter;
    Normalize<T> normalize;
  };
  const S *dout, *x;
  cuda::ActivationGradient<T, kThrough> through;
  cuda::BackwardCall call;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t index) const {
    Channel channel;
    channel.parameter = gradient_shift<T>(call.statistics.read(index));
    if constexpr (kThrough == cuda::Through::recomputed) channel.normalize = call.normalize<T>(index);
    return channel;
  }
  KITAE_DEVICE Raw load(const cuda::Place& place) const {
    return {dout[place.index], x[place.index], through.bit(place)};
  }
  KITAE_DEVICE void value(const Raw& raw, const Channel& channel, double (&inputs)[2]) const {
    const T at = cuda::widen(raw.x);
    inputs[0] = static_cast<double>(through(cuda::widen(raw.dout), at, raw.bit, channel.normalize));
    inputs[1] = static_cast<double>(at);
  }
};

// ---- from sums to numbers

template <class S, bool kScaled>
struct FinishForward {
  using T = Compute<S>;
  const S* x;
  cuda::ShiftSamples samples;
  T* table;
  cuda::ForwardCall call;

  KITAE_DEVICE bool wanted(int64_t channel) const {
    if constexpr (kScaled)
      return ScaledDeviationSource{nullptr, 0, call.batch, call.channels()}.wanted(channel);
    else
      return true;
  }
  KITAE_DEVICE void operator()(int64_t channel, const Sums& sums) const {
    const double shift = cuda::channel_shift(x, samples, channel);
    const cuda::BatchResult result = kScaled ? cuda::batch_result_scaled(shift, sums, call.count, call.eps)
                                             : cuda::batch_result(shift, sums, call.count, call.eps);
    call.write(channel, result);
    cuda::store_numbers(table + 4 * channel, call.numbers<T>(channel, result.statistics));
    // In float64 the scaled sums have the last word.
    if (!result.finite() && (kScaled || !std::is_same_v<S, double>)) call.report(channel);
  }
};

template <class S>
struct FinishBackward {
  using T = Compute<S>;
  T* table;
  bool recomputes;
  cuda::BackwardCall call;

  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE void operator()(int64_t channel, const Sums& sums) const {
    if (recomputes) cuda::store_numbers(table + 8 * channel, call.normalize<T>(channel));
    cuda::store_numbers(table + 8 * channel + 4, call.finish<T>(channel, sums, true));
  }
};

// Statistics that are no sums: the running ones, or those of an empty batch. One block, which gives the verdict alone.
template <class S>
struct TakeStatistics {
  static constexpr int kThreads = 512;
  static constexpr int kBlocksPerSM = 1;
  using T = Compute<S>;
  T* table;
  cuda::ForwardCall call;

  KITAE_DEVICE void operator()() const {
    if (cuda::thread_index() == 0) *call.bad = 0;
    cuda::fence_device();
    cuda::sync_block();
    for (int64_t channel = cuda::thread_index(); channel < call.channels(); channel += kThreads) {
      const double mean = call.training ? 0 : call.running_mean.read(channel, 0);
      const double variance = call.training ? 0 : call.running_var.read(channel, 1);
      const cuda::BatchResult result{{mean, 0, inverse_deviation(variance, call.eps)}, variance};
      call.write(channel, result);
      cuda::store_numbers(table + 4 * channel, call.numbers<T>(channel, result.statistics));
      if (!result.finite() || !is_finite(variance)) call.report(channel);
    }
  }
};

// ---- both in one kernel

template <class S>
constexpr int kResidentBlocks = sizeof(S) == 8 ? 1 : 2;
constexpr size_t kCounters = 1 + cuda::kMostTeams;  // of last_block, of the teams

template <class S_, bool kBits>
struct ResidentForward {
  using S = S_;
  using Source = DeviationSource<S>;
  using Step = cuda::NormalizeStep<S, kBits>;
  using Result = cuda::BatchResult;
  static constexpr int kInputs = 1;
  static constexpr int kThreads = 512;
  static constexpr int kBlocksPerSM = kResidentBlocks<S>;
  static constexpr bool kScaled = std::is_same_v<S, double>;
  Source source;
  Step step;
  uint32_t* counter;

  KITAE_HD const S* input(int) const { return source.x; }
  KITAE_DEVICE typename Source::Raw raw(const S* const (&elements)[1], const cuda::Place&) const {
    return {*elements[0]};
  }
  KITAE_DEVICE typename Step::Memory memory(const S* const (&elements)[1]) const { return elements[0]; }

  KITAE_DEVICE Result result(int64_t channel, const Sums& sums) const {
    return cuda::batch_result(source.channel(channel).parameter, sums, step.call.count, step.call.eps);
  }
  KITAE_DEVICE ScaledDeviationSource scaled_source() const {
    return {source.x, source.samples.inner, step.call.batch, step.call.channels()};
  }
  KITAE_DEVICE Result scaled_result(int64_t channel, const Sums& sums) const {
    return cuda::batch_result_scaled(source.channel(channel).parameter, sums, step.call.count, step.call.eps);
  }
  KITAE_DEVICE void keep(int64_t channel, const Result& result) const { step.call.write(channel, result); }
  KITAE_DEVICE typename Step::Numbers numbers(int64_t channel, const Result& result) const {
    return step.call.template numbers<Compute<S>>(channel, result.statistics);
  }
  KITAE_DEVICE void end() const {
    if (cuda::last_block(counter)) step.call.settle_alone();
  }
};

template <class S_, cuda::Through kThrough>
struct ResidentBackward {
  using S = S_;
  using T = Compute<S>;
  using Source = GradientSource<S, kThrough>;
  using Step = cuda::GradientStep<S, kThrough>;
  using Result = Sums;
  static constexpr int kInputs = 2;
  static constexpr int kThreads = 512;
  static constexpr int kBlocksPerSM = kResidentBlocks<S>;
  static constexpr bool kScaled = false;
  Source source;
  Step step;

  KITAE_HD const S* input(int index) const { return index == 0 ? source.dout : source.x; }
  KITAE_DEVICE typename Source::Raw raw(const S* const (&elements)[2], const cuda::Place& place) const {
    return {*elements[0], *elements[1], source.through.bit(place)};
  }
  KITAE_DEVICE typename Step::Memory memory(const S* const (&elements)[2]) const { return {elements[0], elements[1]}; }

  KITAE_DEVICE Result result(int64_t, const Sums& sums) const { return sums; }
  KITAE_DEVICE void keep(int64_t channel, const Result& sums) const {
    source.call.template finish<T>(channel, sums, true);
  }
  KITAE_DEVICE typename Step::Numbers numbers(int64_t channel, const Result& sums) const {
    typename Step::Numbers numbers;
    if constexpr (kThrough == cuda::Through::recomputed) numbers.normalize = source.call.template normalize<T>(channel);
    numbers.gradient = source.call.template finish<T>(channel, sums, false);
    return numbers;
  }
  KITAE_DEVICE void end() const {}
};

// KITAE_CUDA_BATCH_NORM is for tests: "streaming"; "resident" or "grid" with a number of blocks a cluster or a team
// ("resident4"), where the tensor lets it.
struct Forced {
  enum Path { nothing, streaming, resident, grid } path = nothing;
  int blocks = 1;

  static Forced read() {
    const char* const value = std::getenv("KITAE_CUDA_BATCH_NORM");
    if (!value) return {};
    if (std::strcmp(value, "streaming") == 0) return {streaming};
    const auto number = [&](size_t at) { return value[at] ? std::atoi(value + at) : 1; };
    if (std::strncmp(value, "resident", 8) == 0) return {resident, number(8)};
    if (std::strncmp(value, "grid", 4) == 0) return {grid, number(4)};
    return {};
  }
};

cuda::ResidentLimits resident_limits() {
  return {cuda::max_shared_bytes() - 1024, cuda::max_cluster(), cuda::sm_count()};
}

// Whether the job ran: its slices fit a cluster of blocks.
template <bool kAdjacent, class Job>
bool run_in_clusters(const Job& job, const cuda::ResidentNeeds& needs, const Forced& forced, cudaStream_t stream) {
  using Kernel = cuda::Resident<Job, kAdjacent>;
  const cuda::ResidentLimits limits = resident_limits();
  const auto shape = [](const cuda::ResidentPlan& plan) {
    return Shape{plan.slices * plan.cluster, plan.shared_bytes, plan.cluster};
  };
  cuda::ResidentPlan plan;
  if (forced.path == Forced::resident) {
    const int width = kAdjacent ? static_cast<int>(128 / needs.element_bytes) : 1;
    plan = cuda::resident_plan(needs, width, forced.blocks);
    if (plan.shared_bytes > limits.shared_bytes) return false;
  } else {
    plan = cuda::choose_resident_plan(needs, limits, [&](const cuda::ResidentPlan& large) {
      return cuda::resident_clusters<Kernel>(shape(large)) > 0;
    });
  }
  if (plan.slices == 0) return false;
  launch(Kernel{{job, needs.sizes, plan}}, shape(plan), stream);
  return true;
}

// Whether the job ran: its slices, of channels side by side, fit a team of blocks.
template <class Job>
bool run_in_teams(const Job& job, const cuda::ResidentNeeds& needs, const Forced& forced, double* partial,
                  cudaStream_t stream) {
  using Kernel = cuda::GridResident<Job>;
  const cuda::ResidentLimits limits = resident_limits();
  const int64_t room = limits.shared_bytes / Kernel::kBlocksPerSM - 1024;
  cuda::GridPlan plan;
  if (forced.path == Forced::grid) {
    plan.blocks = cuda::resident_plan(needs, static_cast<int>(64 / needs.element_bytes), forced.blocks);
    if (plan.blocks.shared_bytes > room) return false;
    const int64_t fit = cuda::resident_blocks<Kernel>(room) / plan.blocks.cluster;
    plan.teams = static_cast<int>(std::min({int64_t{2}, plan.blocks.slices, fit}));
  } else {
    plan = cuda::choose_grid_plan(needs, limits, room, [&] { return cuda::resident_blocks<Kernel>(room); });
  }
  if (plan.teams == 0) return false;
  uint32_t* const barriers = cuda::counters(stream, kCounters) + 1;
  const Shape shape{int64_t{plan.teams} * plan.blocks.cluster, plan.blocks.shared_bytes, 1, true};
  launch(Kernel{{job, needs.sizes, plan.blocks}, partial, barriers, plan.teams}, shape, stream);
  return true;
}

// Whether the job ran. `partial` is scratch as for reduce_channels.
template <class Job>
bool run_resident(const Job& job, const ChannelSizes& sizes, double* partial, cudaStream_t stream) {
  const Forced forced = Forced::read();
  if (forced.path == Forced::streaming) return false;
  bool aligned = true;
  for (int i = 0; i < Job::kInputs; ++i) aligned = aligned && cuda::aligned(job.input(i));
  const cuda::ResidentNeeds needs{sizes, static_cast<int64_t>(sizeof(typename Job::S)), Job::kInputs, aligned};
  if (!sizes.adjacent()) return run_in_clusters<false>(job, needs, forced, stream);
  if (forced.path != Forced::grid && run_in_clusters<true>(job, needs, forced, stream)) return true;
  if constexpr (!Job::kScaled)
    if (forced.path != Forced::resident) return run_in_teams(job, needs, forced, partial, stream);
  return false;
}

// ---- calls

template <class S>
class Forward {
 public:
  using T = Compute<S>;

  explicit Forward(const BatchNormForward& call) : call_(call), stream_(cuda::current_stream()) {
    const ChannelSizes& sizes = call.sizes;
    Layout layout;
    const int64_t bad = layout.add<uint64_t>(1), batch = layout.add<double>(2 * sizes.channels),
                  table = layout.add<T>(4 * sizes.channels);
    const int64_t partial = layout.add<double>(sums_needed() ? cuda::partial_count(sizes) : 0);
    char* const scratch = static_cast<char*>(cuda::workspace(stream_, static_cast<size_t>(layout.bytes())));
    table_ = reinterpret_cast<T*>(scratch + table);
    partial_ = reinterpret_cast<double*>(scratch + partial);
    const double count = static_cast<double>(sizes.count());
    device_ = {ChannelVector(call.gamma),
               ChannelVector(call.beta),
               ChannelVector(call.running_mean),
               ChannelVector(call.running_var),
               {call.statistics, sizes.channels},
               reinterpret_cast<double*>(scratch + batch),
               reinterpret_cast<uint64_t*>(scratch + bad),
               cuda::device_flags(),
               count,
               call.eps,
               call.running_decay,
               variance_correction(count, call.unbiased),
               call.nonfinite,
               call.training};
  }

  void run() const {
    const ChannelSizes& sizes = call_.sizes;
    if (sizes.channels == 0) return;
    if (!sums_needed()) {
      launch(TakeStatistics<S>{table_, device_}, Shape{1}, stream_);
      if (sizes.size() > 0) map();
      return;
    }
    const S* const x = call_.x.as<const S>();
    const cuda::ShiftSamples samples(sizes);
    const DeviationSource<S> source{x, samples, device_.bad};
    // "raise" and "zero" keep an `out` of the caller's as it is until all statistics are known.
    const bool at_once = call_.fresh || call_.nonfinite == Nonfinite::skip || call_.nonfinite == Nonfinite::propagate;
    if (at_once && resident(source)) return;
    cuda::reduce_channels(sizes, source, FinishForward<S, false>{x, samples, table_, device_}, partial_, stream_);
    if constexpr (std::is_same_v<S, double>)
      cuda::reduce_channels(sizes, ScaledDeviationSource{x, sizes.inner, device_.batch, sizes.channels},
                            FinishForward<S, true>{x, samples, table_, device_}, partial_, stream_);
    map();
  }

 private:
  bool sums_needed() const { return call_.training && call_.sizes.size() > 0; }

  template <bool kBits>
  cuda::NormalizeStep<S, kBits> step() const {
    return {call_.x.as<const S>(),
            call_.residual ? call_.residual.as<const S>() : nullptr,
            call_.out.as<S>(),
            call_.mask,
            ChannelRows(call_.sizes).mask_bytes(),
            table_,
            static_cast<T>(call_.slope),
            call_.activation,
            device_};
  }
  bool resident(const DeviationSource<S>& source) const {
    uint32_t* const counter = cuda::counters(stream_, kCounters);
    const auto run = [&](const auto& job) { return run_resident(job, call_.sizes, partial_, stream_); };
    return call_.mask ? run(ResidentForward<S, true>{source, step<true>(), counter})
                      : run(ResidentForward<S, false>{source, step<false>(), counter});
  }
  void map() const {
    if (call_.mask)
      cuda::for_each_channel(call_.sizes, step<true>(), stream_);
    else
      cuda::for_each_channel(call_.sizes, step<false>(), stream_);
  }

  const BatchNormForward& call_;
  cudaStream_t stream_;
  T* table_;
  double* partial_;
  cuda::ForwardCall device_;
};

template <class S>
class Backward {
 public:
  using T = Compute<S>;

  explicit Backward(const BatchNormBackward& call) : call_(call), stream_(cuda::current_stream()) {
    const ChannelSizes& sizes = call.sizes;
    Layout layout;
    const int64_t table = layout.add<T>(8 * sizes.channels);
    const int64_t partial = layout.add<double>(sizes.size() > 0 ? cuda::partial_count(sizes) : 0);
    char* const scratch = static_cast<char*>(cuda::workspace(stream_, static_cast<size_t>(layout.bytes())));
    table_ = reinterpret_cast<T*>(scratch + table);
    partial_ = reinterpret_cast<double*>(scratch + partial);
    device_ = {ChannelVector(call.gamma), ChannelVector(call.beta),          ChannelVector(call.dgamma),
               ChannelVector(call.dbeta), {call.statistics, sizes.channels}, static_cast<double>(sizes.count())};
  }

  void run() const {
    if (call_.sizes.channels == 0) return;
    if (call_.activation == Activation::none) return run_through<cuda::Through::nothing>();
    if (call_.mask) return run_through<cuda::Through::mask>();
    run_through<cuda::Through::recomputed>();
  }

 private:
  template <cuda::Through kThrough>
  void run_through() const {
    const ChannelSizes& sizes = call_.sizes;
    const S *const dout = call_.dout.as<const S>(), *const x = call_.x.as<const S>();
    const cuda::ActivationGradient<T, kThrough> through{call_.mask, ChannelRows(sizes).mask_bytes(),
                                                        static_cast<T>(call_.slope), call_.activation};
    const GradientSource<S, kThrough> source{dout, x, through, device_};
    S* const dresidual = call_.dresidual ? call_.dresidual.as<S>() : nullptr;
    const cuda::GradientStep<S, kThrough> step{{dout, x}, call_.dx.as<S>(), dresidual, table_, through, call_.training};
    if (sizes.size() > 0 && run_resident(ResidentBackward<S, kThrough>{source, step}, sizes, partial_, stream_)) return;
    cuda::reduce_channels(sizes, source, FinishBackward<S>{table_, kThrough == cuda::Through::recomputed, device_},
                          partial_, stream_);
    if (sizes.size() > 0) cuda::for_each_channel(sizes, step, stream_);
  }

  const BatchNormBackward& call_;
  cudaStream_t stream_;
  T* table_;
  double* partial_;
  cuda::BackwardCall device_;
};

}  // namespace

int64_t batch_norm_forward(const BatchNormForward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Forward<decltype(zero)>(call).run(); });
  return -1;
}

void batch_norm_backward(const BatchNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
