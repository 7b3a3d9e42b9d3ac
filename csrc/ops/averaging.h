// Averages of parameters over the steps of training, a rule whose "gradient" is the parameter p itself:
//   a += gain (p - a)                 gain = 1 - decay: exponential moving average, a = decay a + (1 - decay) p
//                                     gain = 1 / (n + 1) after n updates: the mean of all (Izmailov et al. 2018)
// In this form an average of a parameter that stands still stands still; with decay and 1 - decay rounded to float32
// one by one it would settle 3e-4 beside it at decay = 0.9999. A gain of 1 gives p, exactly.
// Traffic: reads a and p, writes a: 12 bytes an element in float32.
#pragma once

#include "ops/host_device.h"

namespace kitae {

struct AverageHyperparameters {
  double gain = 0;

  template <class Visit>
  static void fields(Visit visit) {
    visit("gain", &AverageHyperparameters::gain);
  }
};

struct Average {
  static constexpr int kSlots = 0;
  using Hyperparameters = AverageHyperparameters;

  template <class T>
  struct Scalars {
    T gain;
    KITAE_HD Scalars(const Hyperparameters& h, int64_t /*step*/) : gain(static_cast<T>(h.gain)) {}
  };

  template <class T, class Slots>
  static KITAE_HD void update(const Scalars<T>& s, T& average, T parameter, Slots& /*none*/) {
    const T moved = average + s.gain * (parameter - average);
    average = s.gain == T(1) ? parameter : moved;
  }
};

}  // namespace kitae
