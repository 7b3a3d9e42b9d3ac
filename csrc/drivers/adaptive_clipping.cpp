#include "drivers/adaptive_clipping.h"

#include <algorithm>

#include "cpu/channel_norms.h"
#include "cpu/channel_plan.h"
#include "cpu/tiles.h"
#include "ops/adaptive_clipping.h"

namespace kitae {
namespace {

using cpu::Box;
using cpu::TileReader;

constexpr int64_t kOfThread = 1 << 17;  // elements of an array that one thread takes

template <class T>
struct FactorTable {
  const double* factors;
  ScaleUnit<T> operator()(int64_t channel) const { return {static_cast<T>(factors[channel])}; }
};

// The elements of an array that one thread takes as a whole; 0: the threads share it.
int64_t elements_of_share(const ChannelSizes& sizes, const Array& array) {
  const bool whole = array.dtype == DType::float32 && cpu::rows_or_columns(sizes) && sizes.size() <= kOfThread;
  return whole ? sizes.size() : 0;
}

// use(unit, its norm), from any thread.
template <class Use>
void measure(const ChannelSizes& sizes, const Array& array, const Use& use) {
  if (elements_of_share(sizes, array) > 0) {
    const auto* data = array.as<const float>();
    double* squares = cpu::scratch<double>(cpu::Scratch::partial_sums, cpu::round_up(sizes.channels, kLanes));
    cpu::sum_squares(sizes, data, squares);
    for (int64_t unit = 0; unit < sizes.channels; ++unit)
      use(unit, cpu::channel_norm(sizes, data, unit, squares[unit]));
    return;
  }
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

// do_one(i) for all i below `count`. What one thread takes is shared among the threads, if there is enough of it; the
// rest comes one by one, shared in itself.
template <class ElementsOfShare, class Do>
void share(size_t count, const ElementsOfShare& elements_of_share, const Do& do_one) {
  std::vector<size_t> shares;
  int64_t elements = 0;
  for (size_t i = 0; i < count; ++i) {
    if (const int64_t found = elements_of_share(i)) {
      elements += found;
      shares.push_back(i);
    } else {
      do_one(i);
    }
  }
  if (elements < cpu::kAloneBelow)
    std::for_each(shares.begin(), shares.end(), do_one);
  else
    cpu::parallel_for(static_cast<int64_t>(shares.size()), [&](int64_t i) { do_one(shares[static_cast<size_t>(i)]); });
}

}  // namespace

int64_t clip_units(const std::vector<UnitPair>& pairs, const AdaptiveClipping& how) {
  std::vector<size_t> first;  // unit of each pair
  size_t units = 0;
  for (const UnitPair& pair : pairs) {
    first.push_back(units);
    units += static_cast<size_t>(pair.grad_sizes.channels);
  }
  std::vector<ScaledNorm> norms[2] = {std::vector<ScaledNorm>(units), std::vector<ScaledNorm>(units)};
  // Every gradient before its parameter: the thread that measures the first is likely to scale it, too, and its cache
  // has it then.
  const auto sizes_of = [&](size_t i) { return i % 2 ? pairs[i / 2].param_sizes : pairs[i / 2].grad_sizes; };
  const auto array_of = [&](size_t i) -> const Array& { return i % 2 ? pairs[i / 2].param : pairs[i / 2].grad; };
  share(
      2 * pairs.size(), [&](size_t i) { return elements_of_share(sizes_of(i), array_of(i)); },
      [&](size_t i) {
        ScaledNorm* const to = norms[i % 2].data() + first[i / 2];
        measure(sizes_of(i), array_of(i), [to](int64_t unit, const ScaledNorm& norm) { to[unit] = norm; });
      });

  std::vector<double> factors(units + kLanes);  // steps read whole lanes of them
  std::vector<size_t> clipped;
  for (size_t i = 0; i < pairs.size(); ++i) {
    bool finite = true, clips = false;
    const size_t last = first[i] + static_cast<size_t>(pairs[i].grad_sizes.channels);
    for (size_t unit = first[i]; unit < last; ++unit) {
      const ScaledNorm &grad = norms[0][unit], &param = norms[1][unit];
      factors[unit] = unit_factor(grad, unit_limit(param, how.clipping, how.eps));
      finite = finite && !nonfinite(grad.root);
      clips = clips || factors[unit] != 1.0;
    }
    if (!finite && how.rule != Nonfinite::propagate) return static_cast<int64_t>(i);
    if (clips) clipped.push_back(i);
  }
  share(
      clipped.size(), [&](size_t i) { return elements_of_share(pairs[clipped[i]].grad_sizes, pairs[clipped[i]].grad); },
      [&](size_t i) { scale(pairs[clipped[i]], factors.data() + first[clipped[i]]); });
  return -1;
}

}  // namespace kitae
