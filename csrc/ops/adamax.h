// AdaMax (Kingma and Ba 2015, section 7.1): Adam with the infinity norm of past gradients.
//   m = beta1 m + (1 - beta1) g          u = max(beta2 u, |g| + eps)
//   w -= step_size * m / (u + eps_outside)               step_size = lr / (1 - beta1^t)
// eps (PyTorch has it too, the paper has not) keeps 0/0 away where every gradient so far was 0; some put it outside. A
// maximum needs no correction for its start at 0.
// Traffic: reads w g m u, writes w m u: 28 bytes an element in float32.
#pragma once

#include "ops/adam.h"

namespace kitae {

struct AdaMax {
  static constexpr int kSlots = 2;
  using Hyperparameters = AdamHyperparameters;  // eps_after_correction has no meaning here

  template <class T>
  struct Scalars {
    T beta1, gain1, beta2, step_size, eps, eps_outside;

    KITAE_HD Scalars(const Hyperparameters& h, int64_t step)
        : beta1(static_cast<T>(h.beta1)),
          gain1(static_cast<T>(1.0 - h.beta1)),
          beta2(static_cast<T>(h.beta2)),
          step_size(static_cast<T>(h.learning_rate / bias_correction(h.beta1, step))),
          eps(static_cast<T>(h.eps)),
          eps_outside(static_cast<T>(h.eps_outside)) {}
  };

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T m = s.beta1 * slots[0] + s.gain1 * g;
    const T decayed = s.beta2 * slots[1], now = absolute(g) + s.eps;
    const T u = decayed >= now ? decayed : now;  // a NaN gradient is kept
    weight -= s.step_size * m / (u + s.eps_outside);
    slots[0] = m;
    slots[1] = u;
  }
};

}  // namespace kitae
