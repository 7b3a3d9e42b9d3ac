// What batch normalization's kernels share: from sums to a channel's numbers, and the element-wise steps.
#pragma once

#include <cstdint>

#include "cuda/channel_vector.h"
#include "cuda/convert.h"
#include "cuda/flags.h"
#include "cuda/for_each_channel.h"
#include "cuda/reduce_channels.h"
#include "drivers/nonfinite.h"
#include "ops/batch_norm.h"

namespace kitae::cuda {

// A channel's four numbers of an element-wise step (Normalize<T>, InputGradient<T>), side by side.
template <class Numbers, class T>
KITAE_DEVICE Numbers load_numbers(const T* from) {
  struct Four {
    T value[4];
  } four;
  constexpr int kPer = kPerVector<T>;
#pragma unroll
  for (int at = 0; at < 4; at += kPer) {
    const Vector<T, kPer> vector = load_vector<kPer>(from + at);
#pragma unroll
    for (int i = 0; i < kPer; ++i) four.value[at + i] = vector[i];
  }
  return bit_cast<Numbers>(four);
}
template <class Numbers, class T>
KITAE_DEVICE void store_numbers(T* to, const Numbers& numbers) {
  struct Four {
    T value[4];
  };
  const Four four = bit_cast<Four>(numbers);
  constexpr int kPer = kPerVector<T>;
#pragma unroll
  for (int at = 0; at < 4; at += kPer) {
    Vector<T, kPer> vector;
#pragma unroll
    for (int i = 0; i < kPer; ++i) vector[i] = four.value[at + i];
    store_vector(to + at, vector);
  }
}

// Blocks of 256 threads on a multiprocessor, and items that a thread has under way: 48 KB in flight, which a GPU of 4
// TB/s needs, and no register spilled. Where an item is more than a vector (the 8 elements of a mask's byte), its
// numbers and both inputs take the registers of a second one.
template <class S, int kItem>
constexpr int kStepBlocks = kItem > kPerVector<S> ? 2 : 3;
template <class S, int kItem, int kInputs>
constexpr int kItemsUnderWay = kItem > kPerVector<S> ? 1 : 4 / kInputs;

// (3, channels): mean, mean_low, inv_std.
struct StatisticsArray {
  double* data;
  int64_t channels;

  KITAE_DEVICE ChannelStatistics read(int64_t channel) const {
    return {data[channel], data[channels + channel], data[2 * channels + channel]};
  }
  KITAE_DEVICE void write(int64_t channel, const ChannelStatistics& s) const {
    data[channel] = s.mean;
    data[channels + channel] = s.mean_low;
    data[2 * channels + channel] = s.inv_std;
  }
};

// ---- forward

// Where the elements that choose a channel's shift lie (ops/moments.h), counted from its first one. Where there are
// fewer, that one stands in for them: far_apart from itself only if it is 0, which is the shift then in any case.
struct ShiftSamples {
  int64_t inner, offset[kShiftSamples - 1] = {};

  explicit ShiftSamples(const ChannelSizes& sizes) : inner(sizes.inner) {
    const int64_t step = sample_step(sizes.count());
    for (int64_t i = 1; i < sample_count(sizes.count()); ++i)
      offset[i - 1] = i * step / inner * sizes.channels * inner + i * step % inner;
  }
};

// What a channel's deviations are taken from. No load waits for another one.
template <class S>
KITAE_DEVICE double channel_shift(const S* x, const ShiftSamples& samples, int64_t channel) {
  using T = Compute<S>;
  x += channel * samples.inner;
  const T first = widen(*x);
  bool far = false;
  if constexpr (sizeof(T) < sizeof(double)) {
#pragma unroll
    for (int i = 0; i < kShiftSamples - 1; ++i) far |= far_apart(widen(x[samples.offset[i]]), first);
  }
  return far ? 0 : static_cast<double>(first);
}

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
  ShiftSamples samples;
  uint64_t* bad;

  // The first kernel of the call, so it is the one to begin the call's verdict.
  KITAE_DEVICE void begin() const {
    if (global_thread() == 0) *bad = 0;
  }
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t index) const { return {channel_shift(x, samples, index)}; }
  KITAE_DEVICE Raw load(const Place& place) const { return {x[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const {
    inputs[0] = static_cast<double>(widen(raw.x));
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
  KITAE_DEVICE Raw load(const Place& place) const { return {x[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[1]) const { inputs[0] = raw.x; }
};

struct BatchResult {
  ChannelStatistics statistics;
  double variance;

  KITAE_DEVICE bool finite() const { return is_finite(statistics.mean) && is_finite(statistics.inv_std); }
};

KITAE_DEVICE BatchResult batch_result(double shift, const Sums& sums, double count, double eps) {
  const Moments m = moments(shift, sums.first, sums.second, count);
  const double inv_std = m.finite() ? inverse_deviation(m.variance, eps) : bit_cast<double>(0x7ff8000000000000ull);
  return {{m.mean, m.mean_low, inv_std}, m.variance};
}
// From sums of ScaledDeviationTerms: float64 sums that have overflowed.
KITAE_DEVICE BatchResult batch_result_scaled(double first_element, const Sums& sums, double count, double eps) {
  const Moments m = moments(first_element * kOverflowScale, sums.first, sums.second, count);
  const double inv_std =
      m.finite() ? inverse_deviation_scaled(m.variance, eps) : bit_cast<double>(0x7ff8000000000000ull);
  return {{m.mean * kOverflowUnscale, m.mean_low * kOverflowUnscale, inv_std},
          m.variance * kOverflowUnscale * kOverflowUnscale};
}

// What the call's kernels know of it; no kernel waits for another one's answer but by the order of the stream.
struct ForwardCall {
  ChannelVector gamma, beta, running_mean, running_var;
  StatisticsArray statistics;
  double* batch;  // (2, channels): mean, variance
  uint64_t* bad;  // channels - the first one whose statistics are not finite; 0: none
  Flags* flags;
  double count, eps, decay, correction;
  Nonfinite nonfinite;
  bool training;

  KITAE_DEVICE int64_t channels() const { return statistics.channels; }
  KITAE_DEVICE void write(int64_t channel, const BatchResult& result) const {
    statistics.write(channel, result.statistics);
    batch[channel] = result.statistics.mean;
    batch[channels() + channel] = result.variance;
  }
  KITAE_DEVICE void report(int64_t channel) const { atomic_max(bad, static_cast<uint64_t>(channels() - channel)); }
  template <class T>
  KITAE_DEVICE Normalize<T> numbers(int64_t channel, const ChannelStatistics& s) const {
    return Normalize<T>::from(s, gamma.read(channel, 1), beta.read(channel, 0));
  }

  // Once all statistics are known, by every thread of the grid that `thread` of `threads` numbers: the running
  // statistics, or the flag. False: nothing else may be written.
  KITAE_DEVICE bool settle(uint64_t found, int64_t thread, int64_t threads) const {
    if (found != 0 && nonfinite == Nonfinite::raise) {
      if (thread == 0)
        raise_flag(flags, training ? Finding::nonfinite_channel : Finding::nonfinite_running,
                   channels() - static_cast<int64_t>(found));
      return false;
    }
    if (training && running_mean.present() && (found == 0 || nonfinite == Nonfinite::propagate))
      for (int64_t channel = thread; channel < channels(); channel += threads) {
        update(running_mean, channel, batch[channel]);
        update(running_var, channel, batch[channels() + channel] * correction);
      }
    return true;
  }

  // The same by the last block of a kernel that has written all statistics.
  KITAE_DEVICE void settle_alone() const {
    if (thread_index() == 0) *bad = 0;
    fence_device();
    sync_block();
    for (int64_t channel = thread_index(); channel < channels(); channel += thread_count())
      if (!is_finite(batch[channel]) || !is_finite(statistics.data[2 * channels() + channel])) report(channel);
    fence_device();
    sync_block();
    settle(load_acquire(bad), thread_index(), thread_count());
  }

 private:
  KITAE_DEVICE void update(const ChannelVector& running, int64_t channel, double value) const {
    running.write(channel, running_value(running.read(channel, 0), decay, value));
  }
};

// y = act(normalized x [+ residual]), and the mask.
template <class S, bool kBits>
struct NormalizeStep {
  using T = Compute<S>;
  using Numbers = Normalize<T>;
  static constexpr int kItem = kBits ? 8 : kPerVector<S>;
  static constexpr bool kByRow = kBits;
  static constexpr int kUnroll = kItemsUnderWay < S, kItem, kBits ? 2 : 1 > ;
  static constexpr int kBlocksPerSM = kStepBlocks<S, kItem>;
  using Memory = const S*;  // x
  struct Inputs {
    Elements<S, kItem> x, residual;
  };

  const S *x, *residual;  // residual may be absent
  S* out;
  uint8_t* mask;
  int64_t mask_bytes;  // of a row
  T* table;            // four numbers a channel
  T slope;
  Activation activation;
  ForwardCall call;

  KITAE_DEVICE bool begin() const { return call.settle(*call.bad, global_thread(), grid_threads()); }
  KITAE_HD S* target() const { return out; }
  KITAE_DEVICE Numbers numbers(int64_t channel) const { return load_numbers<Numbers>(table + 4 * channel); }
  KITAE_DEVICE void keep_numbers(int64_t channel, const Numbers& numbers) const {
    store_numbers(table + 4 * channel, numbers);
  }
  KITAE_DEVICE Memory memory(const Place& place) const { return x + place.index; }

  KITAE_DEVICE void load(Inputs& inputs, Memory from, const Place& place) const {
    inputs.x.load(from);
    if (residual) inputs.residual.load(residual + place.index);
  }
  template <class NumbersOf>
  KITAE_DEVICE void apply(const Inputs& inputs, const Place& place, NumbersOf&& numbers_of) const {
    S y[kItem];
    unsigned int bits = 0;
#pragma unroll
    for (int i = 0; i < kItem; ++i)
      bits |= (element(inputs.x[i], inputs.residual[i], numbers_of(i), y[i]) ? 1u : 0u) << i;
    store_item(out + place.index, y);
    if constexpr (kBits) store_bits(place, bits);
  }
  KITAE_DEVICE bool apply_one(Memory from, const Place& place, const Numbers& numbers) const {
    return element(*from, residual ? residual[place.index] : S{}, numbers, out[place.index]);
  }
  KITAE_DEVICE void store_bits(const Place& place, unsigned int bits) const {
    mask[place.row * mask_bytes + place.column / 8] = static_cast<uint8_t>(bits);
  }

 private:
  // The mask's bit: !(z <= 0).
  KITAE_DEVICE bool element(S x_element, S added, const Numbers& normalize, S& y) const {
    T z = normalize(widen(x_element));
    if (residual) z = z + widen(added);
    const bool negative = z <= T(0);
    if (activation != Activation::none && negative) z = activation == Activation::relu ? T(0) : slope * z;
    y = narrow<S>(z);
    return !negative;
  }
};

// ---- backward

// How backward knows act'(z).
enum class Through : int { nothing, mask, recomputed };

// g = dout act'(z): from the mask's bit, or z computed again from x with the same bits as in forward.
template <class T, Through kThrough>
struct ActivationGradient {
  const uint8_t* mask;
  int64_t mask_bytes;  // of a row
  T slope;
  Activation activation;

  KITAE_DEVICE bool bit(const Place& place) const {
    if constexpr (kThrough == Through::mask)
      return (mask[place.row * mask_bytes + place.column / 8] >> (place.column % 8) & 1) != 0;
    else
      return false;
  }
  KITAE_DEVICE T operator()(T dout, T x, bool bit, const Normalize<T>& normalize) const {
    if constexpr (kThrough == Through::nothing) return dout;
    const bool passes = kThrough == Through::mask ? bit : !(normalize(x) <= T(0));
    return passes ? dout : activation == Activation::relu ? T(0) : slope * dout;
  }
};

template <class T>
struct GradientNumbers {
  Normalize<T> normalize;  // only where act' is computed again
  InputGradient<T> gradient;
};

struct BackwardCall {
  ChannelVector gamma, beta, dgamma, dbeta;
  StatisticsArray statistics;
  double count;

  template <class T>
  KITAE_DEVICE Normalize<T> normalize(int64_t channel) const {
    return Normalize<T>::from(statistics.read(channel), gamma.read(channel, 1), beta.read(channel, 0));
  }
  // Where `write`, also stores the parameters' gradients.
  template <class T>
  KITAE_DEVICE InputGradient<T> finish(int64_t channel, const Sums& sums, bool write) const {
    const ChannelStatistics s = statistics.read(channel);
    const double slope = count > 0 ? gamma_gradient<T>(s, sums.first, sums.second) : 0;
    if (write) {
      dbeta.write(channel, sums.first);
      dgamma.write(channel, slope);
    }
    return InputGradient<T>::from(s, gamma.read(channel, 1), slope, sums.first, count);
  }
};

template <class S>
struct GradientMemory {
  const S *dout, *x;
};

template <class S, Through kThrough>
struct GradientStep {
  static constexpr bool kBits = kThrough == Through::mask;
  using T = Compute<S>;
  using Numbers = GradientNumbers<T>;
  static constexpr int kItem = kBits ? 8 : kPerVector<S>;
  static constexpr bool kByRow = kBits;
  static constexpr int kUnroll = kThrough == Through::recomputed && sizeof(S) == 2 ? 1 : kItemsUnderWay<S, kItem, 2>;
  static constexpr int kBlocksPerSM = kStepBlocks<S, kItem>;
  using Memory = GradientMemory<S>;
  struct Inputs {
    Elements<S, kItem> dout, x;
    unsigned int bits;
  };

  Memory inputs;
  S *dx, *dresidual;  // dresidual may be absent
  T* table;           // eight numbers a channel
  ActivationGradient<T, kThrough> through;
  bool training;

  KITAE_DEVICE bool begin() const { return true; }
  KITAE_HD S* target() const { return dx; }
  KITAE_DEVICE Numbers numbers(int64_t channel) const {
    Numbers numbers;
    if constexpr (kThrough == Through::recomputed) numbers.normalize = load_numbers<Normalize<T>>(table + 8 * channel);
    numbers.gradient = load_numbers<InputGradient<T>>(table + 8 * channel + 4);
    return numbers;
  }
  KITAE_DEVICE void keep_numbers(int64_t channel, const Numbers& numbers) const {
    if constexpr (kThrough == Through::recomputed) store_numbers(table + 8 * channel, numbers.normalize);
    store_numbers(table + 8 * channel + 4, numbers.gradient);
  }
  KITAE_DEVICE Memory memory(const Place& place) const { return {inputs.dout + place.index, inputs.x + place.index}; }

  KITAE_DEVICE void load(Inputs& item, const Memory& from, const Place& place) const {
    item.dout.load(from.dout);
    if (with_x()) item.x.load(from.x);
    if constexpr (kBits) item.bits = through.mask[place.row * through.mask_bytes + place.column / 8];
  }
  template <class NumbersOf>
  KITAE_DEVICE void apply(const Inputs& item, const Place& place, NumbersOf&& numbers_of) const {
    S gradient[kItem], to_residual[kItem];
#pragma unroll
    for (int i = 0; i < kItem; ++i)
      element(item.dout[i], item.x[i], kBits && (item.bits >> i & 1) != 0, numbers_of(i), gradient[i], to_residual[i]);
    if (dresidual) store_item(dresidual + place.index, to_residual);
    store_item(dx + place.index, gradient);
  }
  KITAE_DEVICE bool apply_one(const Memory& from, const Place& place, const Numbers& numbers) const {
    S gradient, to_residual;
    element(*from.dout, with_x() ? *from.x : S{}, through.bit(place), numbers, gradient, to_residual);
    if (dresidual) dresidual[place.index] = to_residual;
    dx[place.index] = gradient;
    return false;
  }
  KITAE_DEVICE void store_bits(const Place&, unsigned int) const {}

 private:
  KITAE_DEVICE bool with_x() const { return training || kThrough == Through::recomputed; }
  KITAE_DEVICE void element(S dout, S x, bool bit, const Numbers& numbers, S& gradient, S& to_residual) const {
    const T at = widen(x);
    const T g = through(widen(dout), at, bit, numbers.normalize);
    to_residual = narrow<S>(g);
    gradient = narrow<S>(training ? numbers.gradient(g, at) : g * numbers.gradient.gain);
  }
};

}  // namespace kitae::cuda
