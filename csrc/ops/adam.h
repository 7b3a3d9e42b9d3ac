// Adam (Kingma and Ba 2015) and AMSGrad (Reddi, Kale and Kumar 2018):
//   m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
//   w -= step_size * m / (sqrt(v) + eps')
// AMSGrad divides by sqrt(max of all v so far), or with correct_before_maximum by sqrt(max of all corrected v so far):
// then step_size = lr / (1 - beta1^t) and eps' = eps. Both places of eps are this one formula (CONVENTIONS):
//   step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t),
//   eps' = eps sqrt(1 - beta2^t) where eps is added after the bias correction (the paper's algorithm, PyTorch),
//   eps' = eps where it is added before ("eps hat" of the paper's section 2; the book, Keras, Chainer).
// By differences, as "Deep Learning from Scratch" 1 to 3 write it: the same on paper, other roundings,
//   m += (1 - beta1) (g - m)             v += (1 - beta2) (g^2 - v)
// and with float64_step the last line in double, as NumPy computes it where step_size is a numpy.float64 (books 1, 2).
// Traffic: reads w g m v, writes w m v: 28 bytes an element in float32 (36 with AMSGrad). AdamW is Adam with
// weight_keep.
#pragma once

#include <type_traits>

#include "ops/bias_correction.h"
#include "ops/host_device.h"

namespace kitae {

struct AdamHyperparameters {
  double learning_rate = 0, beta1 = 0, beta2 = 0, eps = 0;
  double eps_after_correction = 0, correct_before_maximum = 0;  // 1 or 0
  double eps_outside = 0;                                       // of AdaMax
  double corrected_by_caller = 0;  // by differences: 1 where learning_rate is the step_size

  template <class Visit>
  static void fields(Visit visit) {
    using H = AdamHyperparameters;
    visit("learning_rate", &H::learning_rate);
    visit("beta1", &H::beta1);
    visit("beta2", &H::beta2);
    visit("eps", &H::eps);
    visit("eps_after_correction", &H::eps_after_correction);
    visit("correct_before_maximum", &H::correct_before_maximum);
    visit("eps_outside", &H::eps_outside);
    visit("corrected_by_caller", &H::corrected_by_caller);
  }
};

template <bool amsgrad>
struct AdamRule {
  static constexpr int kSlots = amsgrad ? 3 : 2;
  using Hyperparameters = AdamHyperparameters;

  template <class T>
  struct Scalars {
    T beta1, gain1, beta2, gain2, step_size, eps, correction;

    KITAE_HD Scalars(const Hyperparameters& h, int64_t step) {
      const double correction2 = bias_correction(h.beta2, step);
      const bool corrected = amsgrad && h.correct_before_maximum != 0;
      const double root = corrected ? 1.0 : square_root(correction2);
      correction = static_cast<T>(corrected ? 1.0 / correction2 : 1.0);
      beta1 = static_cast<T>(h.beta1);
      gain1 = static_cast<T>(1.0 - h.beta1);
      beta2 = static_cast<T>(h.beta2);
      gain2 = static_cast<T>(1.0 - h.beta2);
      step_size = static_cast<T>(h.learning_rate * root / bias_correction(h.beta1, step));
      eps = static_cast<T>(h.eps_after_correction != 0 ? h.eps * root : h.eps);
    }
  };

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    const T m = s.beta1 * slots[0] + s.gain1 * g;
    const T v = s.beta2 * slots[1] + s.gain2 * (g * g);
    T second_moment = v;
    if constexpr (amsgrad) {
      const T now = v * s.correction;
      second_moment = slots[2] >= now ? slots[2] : now;
      slots[2] = second_moment;
    }
    weight -= s.step_size * m / (square_root(second_moment) + s.eps);
    slots[0] = m;
    slots[1] = v;
  }
};

using Adam = AdamRule<false>;
using AMSGrad = AdamRule<true>;

template <bool float64_step>
struct AdamByDifferences {
  static constexpr int kSlots = 2;
  using Hyperparameters = AdamHyperparameters;

  template <class T>
  struct Scalars {
    using Step = std::conditional_t<float64_step, double, T>;
    T gain1, gain2, eps;
    Step step_size;

    KITAE_HD Scalars(const Hyperparameters& h, int64_t step) {
      const bool corrected = h.corrected_by_caller != 0;
      const double root = corrected ? 1.0 : square_root(bias_correction(h.beta2, step));
      const double divisor = corrected ? 1.0 : bias_correction(h.beta1, step);
      gain1 = static_cast<T>(1.0 - h.beta1);
      gain2 = static_cast<T>(1.0 - h.beta2);
      eps = static_cast<T>(h.eps_after_correction != 0 ? h.eps * root : h.eps);
      step_size = static_cast<Step>(h.learning_rate * root / divisor);
    }
  };

  template <class T>
  static KITAE_HD void update(const Scalars<T>& s, T& weight, T g, T (&slots)[kSlots]) {
    using Step = typename Scalars<T>::Step;
    const T m = slots[0] + s.gain1 * (g - slots[0]);
    const T v = slots[1] + s.gain2 * (g * g - slots[1]);
    weight = static_cast<T>(Step(weight) - s.step_size * Step(m) / Step(square_root(v) + s.eps));
    slots[0] = m;
    slots[1] = v;
  }
};

}  // namespace kitae
