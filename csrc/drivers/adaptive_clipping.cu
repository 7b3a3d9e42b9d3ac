// Adaptive clipping on a GPU. Nothing waits: what `raise` and `skip` look for is a word in device memory.
//
// Traffic, counted: bytes an element of float32 (16-bit types half of it) where a unit is clipped 16, its floor, where
// none is 8, and 16 bytes a chunk of sums. Kernels of a pair: sums of chunks and their folding, of the parameter and of
// the gradient, then, after those of all pairs, the step. float64 adds four, which sum again, scaled, what has
// overflowed or come near underflow.
#include <algorithm>

#include "cuda/channel_norms.h"
#include "cuda/flags.h"
#include "cuda/memory.h"
#include "drivers/adaptive_clipping.h"
#include "ops/adaptive_clipping.h"

namespace kitae {
namespace {

using cuda::Layout;

struct KeepLimit {
  double clipping, eps;
  double* limits;

  KITAE_DEVICE void operator()(int64_t unit, const ScaledNorm& norm) const {
    limits[unit] = unit_limit(norm, clipping, eps);
  }
};

// Limits become factors.
struct KeepFactor {
  double* factors;
  cuda::Flags* flags;  // nullptr: nothing is reported
  uint32_t* stop;      // nullptr: nothing stops the step
  int64_t place;

  KITAE_DEVICE void operator()(int64_t unit, const ScaledNorm& norm) const {
    factors[unit] = unit_factor(norm, factors[unit]);
    if (!stop || !nonfinite(norm.root)) return;
    cuda::atomic_or(stop, 1u);
    if (flags) cuda::raise_flag(flags, cuda::Finding::nonfinite_gradient, place);
  }
};

template <class S>
struct ScaleStep {
  using T = Compute<S>;
  S* grad;
  const double* factors;
  const uint32_t* stop;

  KITAE_DEVICE bool begin() const { return !stop || *stop == 0; }
  KITAE_DEVICE T at(int64_t unit) const { return static_cast<T>(factors[unit]); }
  KITAE_DEVICE void apply(const T& factor, int64_t index) const {
    if (factor == T(1)) return;
    grad[index] = cuda::narrow<S>(ScaleUnit<T>{factor}(cuda::widen(grad[index])));
  }
};

template <class Use>
void measure(const ChannelSizes& sizes, const Array& array, const Use& use, double* squares, double* partial,
             cudaStream_t stream) {
  visit_dtype(array.dtype, [&](auto zero) {
    using S = decltype(zero);
    cuda::measure_channels(sizes, array.as<const S>(), use, squares, partial, stream);
  });
}

}  // namespace

int64_t clip_units(const std::vector<UnitPair>& pairs, const AdaptiveClipping& how) {
  if (pairs.empty()) return -1;
  int64_t units = 0, most_units = 0, most_sums = 0;
  for (const UnitPair& pair : pairs) {
    units += pair.grad_sizes.channels;
    most_units = std::max(most_units, pair.grad_sizes.channels);
    most_sums = std::max({most_sums, cuda::partial_count(pair.param_sizes), cuda::partial_count(pair.grad_sizes)});
  }
  const cudaStream_t stream = cuda::current_stream();
  Layout layout;
  const int64_t at_stop = layout.add<uint32_t>(1), at_factors = layout.add<double>(units),
                at_squares = layout.add<double>(most_units), at_partial = layout.add<double>(most_sums);
  char* const scratch = static_cast<char*>(cuda::workspace(stream, static_cast<size_t>(layout.bytes())));
  uint32_t* const stop = how.rule == Nonfinite::propagate ? nullptr : reinterpret_cast<uint32_t*>(scratch + at_stop);
  cuda::Flags* const flags = how.rule == Nonfinite::raise ? cuda::device_flags() : nullptr;
  double *const factors = reinterpret_cast<double*>(scratch + at_factors),
                *const squares = reinterpret_cast<double*>(scratch + at_squares),
                *const partial = reinterpret_cast<double*>(scratch + at_partial);
  if (stop) KITAE_CUDA_CHECK(cudaMemsetAsync(stop, 0, sizeof(*stop), stream));

  double* of_pair = factors;
  for (const UnitPair& pair : pairs) {
    measure(pair.param_sizes, pair.param, KeepLimit{how.clipping, how.eps, of_pair}, squares, partial, stream);
    measure(pair.grad_sizes, pair.grad, KeepFactor{of_pair, flags, stop, pair.place}, squares, partial, stream);
    of_pair += pair.grad_sizes.channels;
  }
  of_pair = factors;
  for (const UnitPair& pair : pairs) {
    visit_dtype(pair.grad.dtype, [&](auto zero) {
      using S = decltype(zero);
      cuda::map_channels(pair.grad_sizes, ScaleStep<S>{pair.grad.as<S>(), of_pair, stop}, stream);
    });
    of_pair += pair.grad_sizes.channels;
  }
  return -1;
}

}  // namespace kitae
