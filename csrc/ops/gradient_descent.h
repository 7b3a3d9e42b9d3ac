// Gradient descent, with a velocity (Polyak 1964) and looking ahead (Nesterov 1983):
//   w += gradient_gain g
//   v = velocity_keep v + velocity_gain g,   w += parameter_gain v + gradient_gain g
// Systems differ in these neutral numbers only; the Python layer computes them from (lr, the decay of the velocity):
//   velocity form            keep   velocity_gain   parameter_gain   gradient_gain
//   v = mu v - lr g; w += v    mu         -lr             1               -
//   v = mu v + g; w -= lr v    mu          1             -lr              -     (the two differ once lr changes)
//   Nesterov A (Keras)         mu         -lr             mu             -lr
//   Nesterov B (PyTorch)       mu          1           -lr mu            -lr
//   Nesterov C (Chainer)       mu         -lr            mu^2          -(1+mu) lr
// Traffic: 12 bytes an element in float32 without a velocity, 20 with one.
#pragma once

#include "ops/host_device.h"

namespace kitae {

struct GradientDescentHyperparameters {
  double velocity_keep = 0, velocity_gain = 0, parameter_gain = 0, gradient_gain = 0;

  template <class Visit>
  static void fields(Visit visit) {
    using H = GradientDescentHyperparameters;
    visit("velocity_keep", &H::velocity_keep);
    visit("velocity_gain", &H::velocity_gain);
    visit("parameter_gain", &H::parameter_gain);
    visit("gradient_gain", &H::gradient_gain);
  }
};

template <class T>
struct GradientDescentScalars {
  T velocity_keep, velocity_gain, parameter_gain, gradient_gain;

  KITAE_HD GradientDescentScalars(const GradientDescentHyperparameters& h, int64_t /*step*/)
      : velocity_keep(static_cast<T>(h.velocity_keep)),
        velocity_gain(static_cast<T>(h.velocity_gain)),
        parameter_gain(static_cast<T>(h.parameter_gain)),
        gradient_gain(static_cast<T>(h.gradient_gain)) {}
};

struct GradientDescent {
  static constexpr int kSlots = 0;
  using Hyperparameters = GradientDescentHyperparameters;
  template <class T>
  using Scalars = GradientDescentScalars<T>;

  template <class T, class Slots>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, Slots& /*none*/) {
    weight += s.gradient_gain * g;
  }
};

template <bool look_ahead>
struct VelocityRule {
  static constexpr int kSlots = 1;
  using Hyperparameters = GradientDescentHyperparameters;
  template <class T>
  using Scalars = GradientDescentScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T velocity = s.velocity_keep * slots[0] + s.velocity_gain * g;
    weight += s.parameter_gain * velocity;
    if constexpr (look_ahead) weight += s.gradient_gain * g;
    slots[0] = velocity;
  }
};

using Velocity = VelocityRule<false>;
using Nesterov = VelocityRule<true>;

}  // namespace kitae
