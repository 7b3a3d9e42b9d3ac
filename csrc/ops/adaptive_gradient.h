// Rules that divide by a root of squared gradients:
//   AdaGrad  (Duchi, Hazan and Singer 2011)  h += g^2,                      w -= lr g / R(h)
//   RMSProp  (Tieleman and Hinton 2012)      h = rho h + (1 - rho) g^2,     w -= lr g / R(h)
//   centered (Graves 2013)                   a = rho a + (1 - rho) g,       R(max(h - a^2, 0))
//   with a velocity                          u = velocity_keep u + velocity_gain g / R,  w += parameter_gain u
//   AdaDelta (Zeiler 2012)                   h = rho h + (1 - rho) g^2,     d = g sqrt(s + eps) / sqrt(h + eps),
//                                            w -= lr d,                     s = rho s + (1 - rho) d^2
// As "Deep Learning from Scratch" 1 to 3 write two of them, the same on paper with other roundings:
//   RMSProp, scaled first                    h = rho h + ((1 - rho) g) g
//   AdaDelta of a quotient                   d = sqrt((s + eps) / (h + eps)) g, squares scaled first
// with R(h) = sqrt(h + eps_inside) + eps_outside: systems put eps in one of the two places.
// Traffic in float32: 20 bytes an element, 8 more for each slot beyond the first.
#pragma once

#include "ops/host_device.h"

namespace kitae {

struct AdaptiveHyperparameters {
  double learning_rate = 0, rho = 0, eps_inside = 0, eps_outside = 0, velocity_keep = 0, velocity_gain = 0,
         parameter_gain = 0;

  template <class Visit>
  static void fields(Visit visit) {
    using H = AdaptiveHyperparameters;
    visit("learning_rate", &H::learning_rate);
    visit("rho", &H::rho);
    visit("eps_inside", &H::eps_inside);
    visit("eps_outside", &H::eps_outside);
    visit("velocity_keep", &H::velocity_keep);
    visit("velocity_gain", &H::velocity_gain);
    visit("parameter_gain", &H::parameter_gain);
  }
};

template <class T>
struct AdaptiveScalars {
  T learning_rate, rho, gain, eps_inside, eps_outside, velocity_keep, velocity_gain, parameter_gain;

  KITAE_HD AdaptiveScalars(const AdaptiveHyperparameters& h, int64_t /*step*/)
      : learning_rate(static_cast<T>(h.learning_rate)),
        rho(static_cast<T>(h.rho)),
        gain(static_cast<T>(1.0 - h.rho)),
        eps_inside(static_cast<T>(h.eps_inside)),
        eps_outside(static_cast<T>(h.eps_outside)),
        velocity_keep(static_cast<T>(h.velocity_keep)),
        velocity_gain(static_cast<T>(h.velocity_gain)),
        parameter_gain(static_cast<T>(h.parameter_gain)) {}

  KITAE_HD T root(T squares) const { return square_root(squares + eps_inside) + eps_outside; }
};

struct AdaGrad {
  static constexpr int kSlots = 1;
  using Hyperparameters = AdaptiveHyperparameters;
  template <class T>
  using Scalars = AdaptiveScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T squares = slots[0] + g * g;
    weight -= s.learning_rate * g / s.root(squares);
    slots[0] = squares;
  }
};

struct AdaDelta {
  static constexpr int kSlots = 2;
  using Hyperparameters = AdaptiveHyperparameters;
  template <class T>
  using Scalars = AdaptiveScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T squares = s.rho * slots[0] + s.gain * (g * g);
    const T delta = g * s.root(slots[1]) / s.root(squares);
    weight -= s.learning_rate * delta;
    slots[0] = squares;
    slots[1] = s.rho * slots[1] + s.gain * (delta * delta);
  }
};

struct AdaDeltaOfQuotient {
  static constexpr int kSlots = 2;
  using Hyperparameters = AdaptiveHyperparameters;
  template <class T>
  using Scalars = AdaptiveScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T squares = s.rho * slots[0] + s.gain * g * g;
    const T delta = square_root((slots[1] + s.eps_inside) / (squares + s.eps_inside)) * g;
    weight -= s.learning_rate * delta;
    slots[0] = squares;
    slots[1] = s.rho * slots[1] + s.gain * delta * delta;
  }
};

template <bool centered, bool with_velocity>
struct RMSPropRule {
  static constexpr int kSlots = 1 + (centered ? 1 : 0) + (with_velocity ? 1 : 0);
  using Hyperparameters = AdaptiveHyperparameters;
  template <class T>
  using Scalars = AdaptiveScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T squares = s.rho * slots[0] + s.gain * (g * g);
    slots[0] = squares;
    T variance = squares;
    if constexpr (centered) {
      const T average = s.rho * slots[1] + s.gain * g;
      slots[1] = average;
      variance = squares - average * average;
      variance = variance < T(0) ? T(0) : variance;  // rounding alone makes it negative
    }
    if constexpr (with_velocity) {
      const T velocity = s.velocity_keep * slots[kSlots - 1] + s.velocity_gain * g / s.root(variance);
      slots[kSlots - 1] = velocity;
      weight += s.parameter_gain * velocity;
    } else {
      weight -= s.learning_rate * g / s.root(variance);
    }
  }
};

struct RMSPropScaledFirst {
  static constexpr int kSlots = 1;
  using Hyperparameters = AdaptiveHyperparameters;
  template <class T>
  using Scalars = AdaptiveScalars<T>;

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T squares = s.rho * slots[0] + s.gain * g * g;
    weight -= s.learning_rate * g / s.root(squares);
    slots[0] = squares;
  }
};

}  // namespace kitae
