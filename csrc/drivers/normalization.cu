// Batch normalization on a GPU. Nothing waits: what the kernels find is a flag that check() reads (cuda/flags.h).
#include <type_traits>

#include "cuda/channel_statistics.h"
#include "cuda/memory.h"
#include "drivers/normalization.h"

namespace kitae {
namespace {

using cuda::ChannelRows;
using cuda::ChannelVector;
using cuda::launch;
using cuda::Shape;
using cuda::Sums;

// The call's scratch, one piece after the other.
class Layout {
 public:
  template <class T>
  int64_t add(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

// ---- sums

template <class S>
struct DeviationSource {
  using Op = DeviationTerms;
  struct Raw {
    S x;
  };
  struct Channel {
    double parameter;
  };
  const S* x;
  int64_t inner;
  uint64_t* bad;

  // The first kernel of the call, so it is the one to begin the call's verdict.
  KITAE_DEVICE void begin() const {
    if (cuda::global_thread() == 0) *bad = 0;
  }
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t index) const { return {static_cast<double>(cuda::widen(x[index * inner]))}; }
  KITAE_DEVICE Raw load(const cuda::Place& place) const { return {x[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const {
    inputs[0] = static_cast<double>(cuda::widen(raw.x));
  }
};

// Channels of float64 whose sums are not finite: they may only have overflowed.
struct ScaledDeviationSource {
  using Op = ScaledDeviationTerms;
  using Raw = DeviationSource<double>::Raw;
  using Channel = DeviationSource<double>::Channel;
  const double* x;
  int64_t inner;
  const double* batch;
  int64_t channels;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t channel) const {
    return !is_finite(batch[channel]) || !is_finite(batch[channels + channel]);
  }
  KITAE_DEVICE Channel channel(int64_t index) const { return {x[index * inner] * kOverflowScale}; }
  KITAE_DEVICE Raw load(const cuda::Place& place) const { return {x[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const { inputs[0] = raw.x; }
};

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
    channel.parameter = call.statistics.data[index];
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
  int64_t inner;
  T* table;
  cuda::ForwardCall call;

  KITAE_DEVICE bool wanted(int64_t channel) const {
    if constexpr (kScaled)
      return ScaledDeviationSource{nullptr, 0, call.batch, call.channels()}.wanted(channel);
    else
      return true;
  }
  KITAE_DEVICE void operator()(int64_t channel, const Sums& sums) const {
    const double first_element = static_cast<double>(cuda::widen(x[channel * inner]));
    const cuda::BatchResult result = kScaled ? cuda::batch_result_scaled(first_element, sums, call.count, call.eps)
                                             : cuda::batch_result(first_element, sums, call.count, call.eps);
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
    cuda::reduce_channels(sizes, DeviationSource<S>{x, sizes.inner, device_.bad},
                          FinishForward<S, false>{x, sizes.inner, table_, device_}, partial_, stream_);
    if constexpr (std::is_same_v<S, double>)
      cuda::reduce_channels(sizes, ScaledDeviationSource{x, sizes.inner, device_.batch, sizes.channels},
                            FinishForward<S, true>{x, sizes.inner, table_, device_}, partial_, stream_);
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
    cuda::reduce_channels(sizes, GradientSource<S, kThrough>{dout, x, through, device_},
                          FinishBackward<S>{table_, kThrough == cuda::Through::recomputed, device_}, partial_, stream_);
    if (sizes.size() == 0) return;
    S* const dresidual = call_.dresidual ? call_.dresidual.as<S>() : nullptr;
    cuda::for_each_channel(
        sizes, cuda::GradientStep<S, kThrough>{{dout, x}, call_.dx.as<S>(), dresidual, table_, through, call_.training},
        stream_);
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
