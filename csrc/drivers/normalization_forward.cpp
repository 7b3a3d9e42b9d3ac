#include <limits>
#include <type_traits>

#include "cpu/activation_bits.h"
#include "cpu/channel_shifts.h"
#include "drivers/normalization_pass.h"

namespace kitae {
namespace {

using namespace normalization;
using cpu::Ahead;
using cpu::Tile;
using cpu::TileBuffer;
using cpu::TileReader;

template <Activation activation, class T>
struct Activated {
  Normalize<T> normalize;
  T slope;
  T operator()(T x) const { return activate<activation>(normalize(x), slope); }
  T operator()(T x, T residual) const { return activate<activation>(normalize(x, residual), slope); }
};
template <Activation activation, class T>
struct ActivatedTable {
  NormalizeTable<T> table;
  T slope;
  Activated<activation, T> operator()(int64_t channel) const { return {table(channel), slope}; }
};

template <class S>
struct Forward : Pass<S> {
  using typename Pass<S>::T;
  using Pass<S>::sizes;
  using Pass<S>::table;
  using Pass<S>::set_numbers;
  const BatchNormForward& forward;

  explicit Forward(const BatchNormForward& c) : Pass<S>(c), forward(c) {}

  const S* x() const { return forward.x.template as<const S>(); }
  double first_element(int64_t channel) const { return static_cast<double>(to_float(x()[channel * sizes.inner])); }
  TileReader<S> reader() const { return {sizes, x()}; }

  // Loops without branches, so that divisions and square roots run several at a time.
  void finish(int64_t begin, int64_t end, const double* shifts, const double* sum, const double* sum_of_squares) const {
    const double count = static_cast<double>(sizes.count()), eps = forward.eps;
    double *means = this->batch_mean + begin, *variances = this->batch_variance + begin;
    double *kept = forward.statistics + begin, *kept_low = kept + sizes.channels, *inv_std = kept_low + sizes.channels;
#pragma GCC ivdep
    for (int64_t i = 0; i < end - begin; ++i) {
      const Moments m = moments(shifts[i], sum[i], sum_of_squares[i], count);
      means[i] = kept[i] = m.mean;
      kept_low[i] = m.mean_low;
      variances[i] = m.variance;
      inv_std[i] = inverse_deviation(m.variance, eps);
    }
    uint64_t bad = 0;
    for (int64_t i = 0; i < end - begin; ++i) bad |= nonfinite(means[i]) | nonfinite(variances[i]);
    for (int64_t channel = begin; bad && channel < end; ++channel)
      if (!is_finite(this->batch_mean[channel]) || !is_finite(this->batch_variance[channel])) finish_again(channel);
    set_numbers(begin, end);
  }

  // A channel whose sums are not finite: in float64 they may only have overflowed.
  void finish_again(int64_t channel) const {
    Moments m{this->batch_mean[channel], this->statistics(channel).mean_low, this->batch_variance[channel]};
    double inv_std = std::numeric_limits<double>::quiet_NaN();
    if constexpr (std::is_same_v<T, double>) {
      const Moments scaled = scaled_moments(channel);
      if (scaled.finite()) inv_std = inverse_deviation_scaled(scaled.variance, forward.eps);
      m = {scaled.mean * kOverflowUnscale, scaled.mean_low * kOverflowUnscale,
           scaled.variance * kOverflowUnscale * kOverflowUnscale};
    }
    this->batch_mean[channel] = m.mean;
    this->batch_variance[channel] = m.variance;
    this->set_statistics(channel, {m.mean, m.mean_low, inv_std});
  }

  Moments scaled_moments(int64_t channel) const {
    const double shift = first_element(channel) * kOverflowScale;
    double numbers[kLanes] = {shift}, sum[kLanes], sum_of_squares[kLanes];
    auto read = reader();
    cpu::sum_channels<ScaledDeviationTerms, T>(sizes, channel, channel + 1, numbers, read, sum, sum_of_squares);
    return moments(shift, sum[0], sum_of_squares[0], static_cast<double>(sizes.count()));
  }

  void map(const Box& box, bool backwards) const {
    with_activation(forward.activation, [&](auto activation) { map_as<activation()>(box, backwards); });
  }

  template <Activation activation>
  void map_as(const Box& box, bool backwards) const {
    const S* residual = forward.residual ? forward.residual.template as<const S>() : nullptr;
    S* const out = forward.out.template as<S>();
    const Writing writing = this->writing(out, backwards && cpu::ask_ahead(sizes, cpu::kLongRow), x(), residual);
    const bool asking = writing == Writing::asked;
    TileBuffer<S> x_buffer, residual_buffer;
    const bool in_place = cpu::kInPlace<S> && (cpu::kInPairs<S> || !asking) && !forward.mask;
    this->for_each_part(box, in_place, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const NormalizeTable<T> local = locally(table);
      if constexpr (cpu::kInPlace<S>) {
        if (in_place && cpu::maps_in_place<S>(view, part, writing)) {
          const ActivatedTable<activation, T> numbers{local, this->slope};
          if (!residual) return cpu::map_in_place(view, part, backwards, writing, out, numbers, x());
          return cpu::map_in_place(view, part, backwards, writing, out, numbers, x(), residual);
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        cpu::prefetch_tile(x(), view, next);
        if (residual) cpu::prefetch_tile(residual, view, next);
        const Tile<T> in = cpu::load_tile<T>(x(), view, tile, x_buffer.data);
        Tile<T> added{};
        if (residual) added = cpu::load_tile<T>(residual, view, tile, residual_buffer.data);
        const ActivatedTable<activation, T> numbers{from(local, tile.channel - part.first_channel), this->slope};
        const Ahead ahead = asking ? cpu::find_ahead(out, view, tile, next) : Ahead{};
        cpu::store_tile<T>(out, view, tile, [&](T* to, int64_t stride) {
          if (!residual) return cpu::map_tile(view, tile, to, stride, ahead, numbers, in);
          if (!forward.mask) return cpu::map_tile(view, tile, to, stride, ahead, numbers, in, added);
          const ActivatedTable<Activation::none, T> linear{numbers.table, this->slope};
          cpu::map_tile(view, tile, to, stride, ahead, linear, in, added);
          const T slope = this->slope;
          for (int64_t row = 0; row < tile.rows; ++row, to += stride) {
            cpu::pack_positive(this->mask_row(tile, row), to, tile.columns);
#pragma GCC ivdep
            for (int64_t i = 0; i < tile.columns; ++i) to[i] = activate<activation>(to[i], slope);
          }
        });
      });
    });
  }

  // From the running statistics; the first channel that is not finite, or -1.
  int64_t use_running_statistics() const {
    read_vector(forward.running_mean, 0, this->batch_mean, sizes.channels);
    read_vector(forward.running_var, 1, this->batch_variance, sizes.channels);
    const double *means = this->batch_mean, *variances = this->batch_variance, eps = forward.eps;
    double *kept = forward.statistics, *kept_low = kept + sizes.channels, *inv_std = kept_low + sizes.channels;
    uint64_t bad = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < sizes.channels; ++i) {
      kept[i] = means[i];
      kept_low[i] = 0;
      inv_std[i] = inverse_deviation(variances[i], eps);
      bad |= nonfinite(means[i]) | nonfinite(variances[i]) | nonfinite(inv_std[i]);
    }
    set_numbers(0, sizes.channels);
    for (int64_t i = 0; bad && i < sizes.channels; ++i)
      if (!is_finite(means[i]) || !is_finite(variances[i]) || !is_finite(inv_std[i])) return i;
    return -1;
  }

  int64_t first_nonfinite() const {
    for (int64_t channel = 0; channel < sizes.channels; ++channel)
      if (!is_finite(this->statistics(channel).inv_std) || !is_finite(this->batch_mean[channel])) return channel;
    return -1;
  }

  void update_running_statistics() const {
    const int64_t channels = sizes.channels;
    const double decay = forward.running_decay;
    const double correction = variance_correction(static_cast<double>(sizes.count()), forward.unbiased);
    double* old = cpu::scratch<double>(Scratch::partial_sums, channels);
    const auto update = [&](const Array& buffer, const double* batch, double factor) {
      read_vector(buffer, 0, old, channels);
      for (int64_t i = 0; i < channels; ++i) old[i] = running_value(old[i], decay, batch[i] * factor);
      write_vector(buffer, old);
    };
    update(forward.running_mean, this->batch_mean, 1);
    update(forward.running_var, this->batch_variance, correction);
  }

  int64_t run() const {
    const auto apply = [&](const Box& box, bool backwards) { map(box, backwards); };
    const bool strict = forward.nonfinite == Nonfinite::raise || forward.nonfinite == Nonfinite::zero;
    if (!forward.training) {
      const int64_t bad = use_running_statistics();
      if (bad >= 0 && forward.nonfinite == Nonfinite::raise) return bad;
      cpu::map_channels(sizes, apply);
      return bad;
    }
    int64_t bad = -1;
    cpu::reduce_and_map<DeviationTerms, T, TileReader<S>>(
        sizes, sizeof(S), !strict || forward.fresh,
        [&](int64_t begin, int64_t end, double* numbers) { cpu::find_shifts(sizes, x(), begin, end, numbers); },
        [&] { return reader(); },
        [&](int64_t begin, int64_t end, const double* numbers, const double* first, const double* second) {
          finish(begin, end, numbers, first, second);
        },
        [&] { return first_nonfinite() < 0; }, apply);
    bad = first_nonfinite();
    if (forward.running_mean && (bad < 0 || forward.nonfinite == Nonfinite::propagate)) update_running_statistics();
    return bad;
  }
};

}  // namespace

int64_t batch_norm_forward(const BatchNormForward& call) {
  return visit_dtype(call.x.dtype, [&](auto zero) -> int64_t {
    const Forward<decltype(zero)> forward(call);
    if (call.sizes.size() > 0) return forward.run();
    if (!call.training) return forward.use_running_statistics();
    const double inv_std = inverse_deviation(0, call.eps);  // of nothing: mean and variance 0
    for (int64_t channel = 0; channel < call.sizes.channels; ++channel)
      forward.set_statistics(channel, {0, 0, inv_std});
    return -1;
  });
}

}  // namespace kitae
