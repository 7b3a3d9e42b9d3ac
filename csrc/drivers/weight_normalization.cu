// Weight normalization on a GPU. Nothing waits.
//
// Traffic, counted: bytes an element of float32 (16-bit types half of it): forward 12 (floor 8), backward 20 (floor
// 12), the second reading being the level-2 cache's as far as that holds the weights, and 16 bytes a chunk of sums.
// Kernels: sums of chunks, their folding, the element-wise step. float64's forward adds two, which sum again, scaled,
// what has overflowed or come near underflow.
#include "cuda/channel_norms.h"
#include "cuda/channel_vector.h"
#include "cuda/memory.h"
#include "drivers/weight_normalization.h"
#include "ops/weight_norm.h"

namespace kitae {
namespace {

using cuda::ChannelVector;
using cuda::Layout;
using cuda::Sums;

// ---- forward

struct ForwardNumbers {
  double inverse, g;
};

struct KeepNorm {
  ChannelVector g;
  double* norms;
  ForwardNumbers* table;

  KITAE_DEVICE void operator()(int64_t channel, const ScaledNorm& found) const {
    const double norm = found.norm();
    norms[channel] = norm;
    table[channel] = {inverse_norm(norm), g.read(channel, 1)};
  }
};

template <class S>
struct ScaleStep {
  const S* v;
  S* w;
  const ForwardNumbers* table;

  KITAE_DEVICE bool begin() const { return true; }
  KITAE_DEVICE ForwardNumbers at(int64_t channel) const { return table[channel]; }
  KITAE_DEVICE void apply(const ForwardNumbers& numbers, int64_t index) const {
    const ScaleDirection<Compute<S>> scale{numbers.inverse, numbers.g};
    w[index] = cuda::narrow<S>(scale(cuda::widen(v[index])));
  }
};

template <class S>
void forward(const WeightNormForward& call) {
  const ChannelSizes& sizes = call.sizes;
  if (sizes.channels == 0) return;
  const cudaStream_t stream = cuda::current_stream();
  Layout layout;
  const int64_t squares = layout.add<double>(sizes.channels), table = layout.add<ForwardNumbers>(sizes.channels),
                partial = layout.add<double>(sizes.size() > 0 ? cuda::partial_count(sizes) : 0);
  char* const scratch = static_cast<char*>(cuda::workspace(stream, static_cast<size_t>(layout.bytes())));
  double *const of_channel = reinterpret_cast<double*>(scratch + squares), *const sums = reinterpret_cast<double*>(
                                                                               scratch + partial);
  ForwardNumbers* const numbers = reinterpret_cast<ForwardNumbers*>(scratch + table);
  const S* const v = call.v.as<const S>();
  cuda::measure_channels(sizes, v, KeepNorm{ChannelVector(call.g), call.norms, numbers}, of_channel, sums, stream);
  if (sizes.size() == 0) return;
  cuda::map_channels(sizes, ScaleStep<S>{v, call.out.as<S>(), numbers}, stream);
}

// ---- backward

template <class S>
struct DirectionSource {
  using Op = DirectionTerms;
  struct Raw {
    S dw, v;
  };
  struct Channel {
    double parameter;
  };
  const S *dw, *v;
  const double* norms;

  KITAE_DEVICE void begin() const {}
  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE Channel channel(int64_t index) const { return {inverse_norm(norms[index])}; }
  KITAE_DEVICE Raw load(const cuda::Place& place) const { return {dw[place.index], v[place.index]}; }
  KITAE_DEVICE void value(const Raw& raw, const Channel&, double (&inputs)[2]) const {
    inputs[0] = static_cast<double>(cuda::widen(raw.dw));
    inputs[1] = static_cast<double>(cuda::widen(raw.v));
  }
};

struct BackwardNumbers {
  double inverse, dg, gain;
};

struct FinishGradient {
  ChannelVector g, dg;
  const double* norms;
  BackwardNumbers* table;

  KITAE_DEVICE bool wanted(int64_t) const { return true; }
  KITAE_DEVICE void operator()(int64_t channel, const Sums& sums) const {
    const double inverse = inverse_norm(norms[channel]);
    dg.write(channel, sums.first);
    table[channel] = {inverse, sums.first, g.read(channel, 1) * inverse};
  }
};

template <class S>
struct DirectionStep {
  const S *dw, *v;
  S* dv;
  const BackwardNumbers* table;

  KITAE_DEVICE bool begin() const { return true; }
  KITAE_DEVICE BackwardNumbers at(int64_t channel) const { return table[channel]; }
  KITAE_DEVICE void apply(const BackwardNumbers& numbers, int64_t index) const {
    const DirectionGradient<Compute<S>> gradient{numbers.inverse, numbers.dg, numbers.gain};
    dv[index] = cuda::narrow<S>(gradient(cuda::widen(dw[index]), cuda::widen(v[index])));
  }
};

template <class S>
void backward(const WeightNormBackward& call) {
  const ChannelSizes& sizes = call.sizes;
  if (sizes.channels == 0) return;
  const cudaStream_t stream = cuda::current_stream();
  Layout layout;
  const int64_t table = layout.add<BackwardNumbers>(sizes.channels),
                partial = layout.add<double>(sizes.size() > 0 ? cuda::partial_count(sizes) : 0);
  char* const scratch = static_cast<char*>(cuda::workspace(stream, static_cast<size_t>(layout.bytes())));
  BackwardNumbers* const numbers = reinterpret_cast<BackwardNumbers*>(scratch + table);
  const S *const dw = call.dw.as<const S>(), *const v = call.v.as<const S>();
  cuda::reduce_channels(sizes, DirectionSource<S>{dw, v, call.norms},
                        FinishGradient{ChannelVector(call.g), ChannelVector(call.dg), call.norms, numbers},
                        reinterpret_cast<double*>(scratch + partial), stream);
  if (sizes.size() > 0) cuda::map_channels(sizes, DirectionStep<S>{dw, v, call.dv.as<S>(), numbers}, stream);
}

}  // namespace

void weight_norm_forward(const WeightNormForward& call) {
  visit_dtype(call.v.dtype, [&](auto zero) { forward<decltype(zero)>(call); });
}

void weight_norm_backward(const WeightNormBackward& call) {
  visit_dtype(call.v.dtype, [&](auto zero) { backward<decltype(zero)>(call); });
}

}  // namespace kitae
