#include "drivers/adaptive_clipping.h"

#include <algorithm>
#include <atomic>

#include "cpu/channel_norms.h"
#include "cpu/channel_plan.h"
#include "ops/adaptive_clipping.h"

namespace kitae {
namespace {

using cpu::Box;
using cpu::TileReader;

template <class T>
struct FactorTable {
  const double* factors;
  ScaleUnit<T> operator()(int64_t channel) const { return {static_cast<T>(factors[channel])}; }
};

// use(unit, its norm), from any thread.
template <class Use>
void measure(const ChannelSizes& sizes, const Array& array, const Use& use) {
  visit_dtype(array.dtype, [&](auto zero) {
    using S = decltype(zero);
    const S* data = array.as<const S>();
    cpu::reduce_and_map<SquareTerms, Compute<S>, TileReader<S>>(
        sizes, sizeof(S), false,
        [](int64_t begin, int64_t end, double* scales) { std::fill(scales, scales + (end - begin), 1.0); },
        [&] { return TileReader<S>(sizes, data); },
        [&](int64_t begin, int64_t end, const double*, const double* squares, const double*) {
          for (int64_t unit = begin; unit < end; ++unit)
            use(unit, cpu::channel_norm(sizes, data, unit, squares[unit - begin]));
        },
        [] { return false; }, [](const Box&, bool) {});
  });
}

void scale(const UnitPair& pair, const double* factors) {
  visit_dtype(pair.grad.dtype, [&](auto zero) {
    using S = decltype(zero);
    S* const grad = pair.grad.as<S>();
    cpu::map_channels(pair.grad_sizes, [&](const Box& box, bool backwards) {
      cpu::map_channel_tiles<S>(pair.grad_sizes, box, backwards, grad, grad,
                                [&](int64_t unit) { return FactorTable<Compute<S>>{factors + unit}; });
    });
  });
}

// Factors of all units; false where an element of the gradient is not finite.
bool measure(const UnitPair& pair, const AdaptiveClipping& how, double* factors) {
  std::atomic<bool> finite{true};
  measure(pair.param_sizes, pair.param,
          [&](int64_t unit, const ScaledNorm& norm) { factors[unit] = unit_limit(norm, how.clipping, how.eps); });
  measure(pair.grad_sizes, pair.grad, [&](int64_t unit, const ScaledNorm& norm) {
    factors[unit] = unit_factor(norm, factors[unit]);
    if (nonfinite(norm.root)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load(std::memory_order_relaxed);
}

}  // namespace

int64_t clip_units(const std::vector<UnitPair>& pairs, const AdaptiveClipping& how) {
  int64_t units = 0;
  for (const UnitPair& pair : pairs) units += pair.grad_sizes.channels;
  // Steps read whole lanes of factors.
  std::vector<double> factors(static_cast<size_t>(units + kLanes));
  double* of_pair = factors.data();
  for (size_t i = 0; i < pairs.size(); of_pair += pairs[i++].grad_sizes.channels)
    if (!measure(pairs[i], how, of_pair) && how.rule != Nonfinite::propagate) return static_cast<int64_t>(i);
  of_pair = factors.data();
  for (const UnitPair& pair : pairs) {
    const double* const end = of_pair + pair.grad_sizes.channels;
    if (std::any_of<const double*>(of_pair, end, [](double factor) { return factor != 1.0; })) scale(pair, of_pair);
    of_pair += pair.grad_sizes.channels;
  }
  return -1;
}

}  // namespace kitae
