#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/activation_bits.h"
#include "drivers/normalization_pass.h"

namespace kitae {
namespace {

using namespace normalization;
using cpu::Ahead;
using cpu::Tile;
using cpu::TileBuffer;

template <class T>
struct GainTable {
  const T* gain;
  ConstantStatisticsGradient<T> operator()(int64_t channel) const { return {gain[channel]}; }
};

// g = dout act'(z)
template <Activation activation, class T>
struct Masked {
  Passes<T> passes;
  T slope;
  T operator()(T dout, T x) const { return activation_gradient<activation>(dout, passes(x), slope); }
};
template <Activation activation, class T>
struct MaskedTable {
  PassesTable<T> table;
  T slope;
  Masked<activation, T> operator()(int64_t channel) const { return {table(channel), slope}; }
};

// dx from dout, by way of g.
template <Activation activation, class Gradient, class T>
struct MaskedGradient {
  Masked<activation, T> masked;
  Gradient gradient;
  T operator()(T dout, T x) const {
    const T g = masked(dout, x);
    if constexpr (std::is_same_v<Gradient, InputGradient<T>>)
      return gradient(g, x);
    else
      return gradient(g);
  }
};
template <Activation activation, class Gradients, class T>
struct MaskedGradientTable {
  MaskedTable<activation, T> masked;
  Gradients gradients;
  auto operator()(int64_t channel) const {
    return MaskedGradient<activation, decltype(gradients(0)), T>{masked(channel), gradients(channel)};
  }
};

// Tiles of g = dout act'(z) and of x.
template <class S>
struct GradientReader {
  using T = Compute<S>;
  using Stored = S;
  const Pass<S>& pass;
  const bool columns, ahead;
  const ChannelSizes view;
  const S* x;
  const S* dout;
  PassesTable<T> passes;  // from the view's channel `first` on
  int64_t first = 0;
  Columns<T> room;
  TileBuffer<S> x_buffer, dout_buffer;
  alignas(64) T g_buffer[cpu::kTileElements];

  GradientReader(const Pass<S>& p, bool as_columns, const S* from_x, const S* from_dout)
      : pass(p),
        columns(as_columns),
        ahead(cpu::ask_ahead(p.sizes, cpu::kLongRowOfPair)),
        view(as_columns ? cpu::as_columns(p.sizes) : p.sizes),
        x(from_x),
        dout(from_dout),
        passes(p.passes) {}

  bool in_place(const S* (&rows)[2]) const {
    rows[0] = dout;
    rows[1] = x;
    return cpu::kInPlace<S> && (pass.call.activation == Activation::none || (!columns && !pass.call.mask));
  }
  template <class Sum>
  void through_gate(Sum&& sum) const {
    with_activation(pass.call.activation, [&](auto activation) {
      if constexpr (activation() == Activation::none)
        sum(cpu::OpenGate{});
      else
        sum(cpu::Gate<activation(), T>{pass.passes.bound, pass.passes.sign, pass.slope});
    });
  }
  void prepare(int64_t channel, int64_t count) {
    if (pass.call.activation == Activation::none) return;
    room.used = 0;
    passes = room.spread(pass.passes, channel, count, pass.sizes.inner, false);
    first = channel * pass.sizes.inner;
  }
  void operator()(const Region& tile, const Region& next, Tile<T> (&tiles)[2]) {
    if (!ahead) {
      cpu::prefetch_tile(dout, view, next);
      cpu::prefetch_tile(x, view, next);
    }
    tiles[0] = cpu::load_tile<T>(dout, view, tile, dout_buffer.data);
    tiles[1] = cpu::load_tile<T>(x, view, tile, x_buffer.data);
    if (pass.call.activation != Activation::none)
      with_some_activation(pass.call.activation,
                           [&](auto activation) { through_activation<activation()>(tile, tiles); });
    if (!ahead) return;
    tiles[0].ahead = cpu::find_ahead(dout, view, tile, next);
    tiles[1].ahead = cpu::find_ahead(x, view, tile, next);
  }

 private:
  template <Activation activation>
  void through_activation(const Region& tile, Tile<T> (&tiles)[2]) {
    const int64_t stride = cpu::buffer_stride(tile);
    if (pass.call.mask) {
      for (int64_t row = 0; row < tile.rows; ++row)
        cpu::select_by_bits<activation>(g_buffer + row * stride, tiles[0].row(row), pass.mask_row(tile, row),
                                        pass.slope, tile.columns);
    } else {
      const MaskedTable<activation, T> numbers{from(passes, tile.channel - first), pass.slope};
      cpu::map_tile(view, tile, g_buffer, stride, Ahead{}, numbers, tiles[0], tiles[1]);
    }
    tiles[0] = {g_buffer, stride, g_buffer + cpu::kTileElements, {}};
  }
};

template <class S>
struct Backward : Pass<S> {
  using typename Pass<S>::T;
  using Pass<S>::sizes;
  using Pass<S>::table;
  const BatchNormBackward& backward;

  explicit Backward(const BatchNormBackward& c) : Pass<S>(c), backward(c) {
    if (backward.activation == Activation::none || backward.mask) return;
    this->set_numbers(0, sizes.channels);
    cpu::find_bounds(table, sizes.channels, this->passes.bound, this->passes.sign);
  }

  GradientReader<S> reader(bool as_columns) const {
    return GradientReader<S>(*this, as_columns, backward.x.template as<const S>(),
                             backward.dout.template as<const S>());
  }

  // The room of the batch's mean and variance.
  double* dbeta() const { return this->batch_mean; }
  double* dgamma() const { return this->batch_variance; }

  void finish(int64_t begin, int64_t end, const double* sum, const double* sum_of_products) const {
    const double count = static_cast<double>(sizes.count());
    double *dbeta_sums = dbeta(), *dgamma_sums = dgamma();
#pragma GCC ivdep
    for (int64_t channel = begin; channel < end; ++channel) {
      const ChannelStatistics s = this->statistics(channel);
      const double total = sum[channel - begin];
      const double slope = gamma_gradient<T>(s, total, sum_of_products[channel - begin]);
      dbeta_sums[channel] = total;
      dgamma_sums[channel] = slope;
      this->gradient_table.set(channel, InputGradient<T>::from(s, this->gamma[channel], slope, total, count));
    }
  }

  void map(const Box& box, bool backwards) const {
    if (backward.activation != Activation::none && !backward.mask)
      return with_some_activation(backward.activation,
                                  [&](auto activation) { map_masked<activation()>(box, backwards); });
    GradientReader<S> read = reader(this->as_columns(box));
    S* const dx = backward.dx.template as<S>();
    const Writing writing = this->writing(dx, backwards && read.ahead, read.dout, read.x);
    const bool asking = writing == Writing::asked;
    Tile<T> tiles[2];
    const bool in_place = cpu::kInPlace<S> && !backward.mask && !backward.dresidual;
    this->for_each_part(box, in_place, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const GradientTable<T> local = locally(this->gradient_table);
      if constexpr (cpu::kInPlace<S>) {
        if (in_place && cpu::maps_in_place<S>(view, part, writing)) {
          if (backward.training) return cpu::map_in_place(view, part, backwards, writing, dx, local, read.dout, read.x);
          return cpu::map_in_place(view, part, backwards, writing, dx, GainTable<T>{local.gain}, read.dout);
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        read(tile, next, tiles);
        if (backward.dresidual)
          cpu::store_tile<T>(backward.dresidual.template as<S>(), view, tile, [&](T* to, int64_t stride) {
            for (int64_t row = 0; row < tile.rows; ++row)
              std::memcpy(to + row * stride, tiles[0].row(row), static_cast<size_t>(tile.columns) * sizeof(T));
          });
        const GradientTable<T> numbers = from(local, tile.channel - part.first_channel);
        const GainTable<T> constant{numbers.gain};
        const Ahead ahead = asking ? cpu::find_ahead(dx, view, tile, next) : Ahead{};
        cpu::store_tile<T>(dx, view, tile, [&](T* to, int64_t stride) {
          if (backward.training) return cpu::map_tile(view, tile, to, stride, ahead, numbers, tiles[0], tiles[1]);
          cpu::map_tile(view, tile, to, stride, ahead, constant, tiles[0]);
        });
      });
    });
  }

  template <Activation activation>
  void map_masked(const Box& box, bool backwards) const {
    const S *x = backward.x.template as<const S>(), *dout = backward.dout.template as<const S>();
    S* const dx = backward.dx.template as<S>();
    const Writing writing = this->writing(dx, backwards && cpu::ask_ahead(sizes, cpu::kLongRowOfPair), dout, x);
    const bool asking = writing == Writing::asked;
    TileBuffer<S> x_buffer, dout_buffer;
    this->for_each_part(box, cpu::kInPlace<S>, [&](const ChannelSizes& view, const Box& part, auto&& locally) {
      const PassesTable<T> passes = locally(this->passes);
      const GradientTable<T> local = locally(this->gradient_table);
      if constexpr (cpu::kInPlace<S>) {
        if (cpu::maps_in_place<S>(view, part, writing)) {
          const auto map = [&](const auto& gradients) {
            using Gradients = std::decay_t<decltype(gradients)>;
            const MaskedGradientTable<activation, Gradients, T> all{{passes, this->slope}, gradients};
            cpu::map_in_place(view, part, backwards, writing, dx, all, dout, x);
          };
          return backward.training ? map(local) : map(GainTable<T>{local.gain});
        }
      }
      cpu::for_each_channel_tile(view, part, backwards, [&](const Region& tile, const Region& next) {
        cpu::prefetch_tile(dout, view, next);
        cpu::prefetch_tile(x, view, next);
        const Tile<T> douts = cpu::load_tile<T>(dout, view, tile, dout_buffer.data);
        const Tile<T> xs = cpu::load_tile<T>(x, view, tile, x_buffer.data);
        const int64_t place = tile.channel - part.first_channel;
        const MaskedTable<activation, T> masked{from(passes, place), this->slope};
        const GradientTable<T> numbers = from(local, place);
        const GainTable<T> constant{numbers.gain};
        const Ahead ahead = asking ? cpu::find_ahead(dx, view, tile, next) : Ahead{};
        cpu::store_tile<T>(dx, view, tile, [&](T* to, int64_t stride) {
          const auto map = [&](const auto& gradients) {
            using Gradients = std::decay_t<decltype(gradients)>;
            const MaskedGradientTable<activation, Gradients, T> all{masked, gradients};
            cpu::map_tile(view, tile, to, stride, ahead, all, douts, xs);
          };
          backward.training ? map(numbers) : map(constant);
        });
      });
    });
  }

  void run() const {
    if (sizes.size() > 0) {
      cpu::reduce_and_map<GradientTerms, T, GradientReader<S>>(
          sizes, 2 * sizeof(S), backward.dx.data != backward.dout.data,
          [&](int64_t begin, int64_t end, double* numbers) {
            for (int64_t channel = begin; channel < end; ++channel)
              numbers[channel - begin] = gradient_shift<T>(this->statistics(channel));
          },
          [&] { return reader(cpu::columns_are_lanes(sizes) && !backward.mask); },
          [&](int64_t begin, int64_t end, const double*, const double* first, const double* second) {
            finish(begin, end, first, second);
          },
          [] { return true; }, [&](const Box& box, bool backwards) { map(box, backwards); });
    } else {
      std::fill(dbeta(), dbeta() + sizes.channels, 0.0);
      std::fill(dgamma(), dgamma() + sizes.channels, 0.0);
    }
    write_vector(backward.dbeta, dbeta());
    write_vector(backward.dgamma, dgamma());
  }
};

}  // namespace

void batch_norm_backward(const BatchNormBackward& call) {
  visit_dtype(call.x.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
}

}  // namespace kitae
