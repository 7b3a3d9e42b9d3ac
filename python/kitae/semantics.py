"""Presets: whose conventions a class follows where its keywords say nothing. An explicit keyword wins over the preset.

One table: {preset: {class: values}}. "paper" is the method's own paper, or the most usual value where the paper gives
none. A class that a system does not have is missing from its preset, and asking for it is an error that names the
presets that have it. A number that a system leaves to its caller (optax's learning rate, the attributes of ONNX's
Momentum) is the paper's. docs/semantics.md has the table for readers, with what no preset covers.

Beside keywords of the class, values are
- decay, where weight_decay acts: "coupled" is in the gradient; "decoupled" is w *= 1 - lr weight_decay before the
  update; "decoupled_from_lr" is w *= 1 - weight_decay before it; "after" is w *= 1 - weight_decay after it.
- clip_eps, what max_norm adds to the norm: factor = max_norm / (norm + clip_eps).
- form, of a velocity: "lr_inside" is v = mu v - lr g, w += v; "lr_outside" is v = mu v + g, w -= lr v.
- eps_after_correction, of Adam: eps is added to the root of the corrected second moment, or to that of the raw one.
- correct_before_maximum, of AMSGrad where given: the maximum is of corrected second moments.
- moments, of Adam where given: "differences" is m += (1 - beta1) (g - m), which rounds otherwise than
  m = beta1 m + (1 - beta1) g. float64_step with it: the step is computed in float64 also for float32 parameters.
- order, of RMSProp and AdaDelta where given: "book" is the order in which "Deep Learning from Scratch" computes them.
- eps_outside, of AdaMax where given: eps is added to the maximum instead of in it.
- counts_from_zero, of Adam: the first update is number 0 and has no bias correction.
- initial, of accumulated squares: where they start; "eps" is the value of eps.
- initial_variance, one_value, flatten, of batch norm: the running variance at first; whether one value a channel is an
  error in training; whether every element of a sample is a channel of its own.
- keeps_equal, of dropout with rng="numpy": whether a random number equal to the rate keeps its element.
"""

from typing import Any

Values = dict[str, Any]


def _system(*, clip_eps: float, decay: str = "coupled", **classes: Values) -> dict[str, Values]:
    """The optimizers of a system: what they share, and each one's values, which win."""
    shared = {"weight_decay": 0.0, "decay": decay, "clip_eps": clip_eps}
    return {name: {**shared, **values} for name, values in classes.items()}


def _velocity(lr: float, form: str) -> Values:
    return {"lr": lr, "momentum": 0.9, "dampening": 0.0, "form": form}


def _adagrad(lr: float, eps: float, *, inside: bool = False, initial: float = 0.0) -> Values:
    return {"lr": lr, "eps": eps, "eps_inside": inside, "initial": initial, "lr_decay": 0.0}


def _adadelta(lr: float, rho: float, eps: float) -> Values:
    return {"lr": lr, "rho": rho, "eps": eps}


def _rmsprop(
    lr: float,
    rho: float,
    eps: float,
    *,
    inside: bool = False,
    form: str = "lr_inside",
    initial: float | str = 0.0,
    **others: Any,
) -> Values:
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside": inside,
        "centered": False,
        "momentum": 0.0,
        "form": form,
        "initial": initial,
        **others,
    }


def _adam(eps: float, *, after_correction: bool, lr: float = 1e-3, **others: Any) -> Values:
    return {
        "lr": lr,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": eps,
        "eps_after_correction": after_correction,
        "counts_from_zero": False,
        **others,
    }


def _batch_norm(
    eps: float,
    running_decay: float = 0.9,
    *,
    unbiased: bool,
    one_value: str = "beta",
    nonfinite: str = "propagate",
    initial_variance: float = 1.0,
    flatten: bool = False,
) -> Values:
    return {
        "eps": eps,
        "running_decay": running_decay,
        "unbiased": unbiased,
        "one_value": one_value,
        "nonfinite": nonfinite,
        "initial_variance": initial_variance,
        "flatten": flatten,
    }


def _dropout(scale: str, *, keeps_equal: bool) -> Values:
    return {"scale": scale, "keeps_equal": keeps_equal}


_BOOK = _system(
    clip_eps=1e-6,
    SGD={"lr": 0.01},
    Momentum=_velocity(0.01, "lr_inside"),
    AdaGrad=_adagrad(0.01, 1e-7),
    RMSProp=_rmsprop(0.01, 0.99, 1e-7, order="book"),
    # Its learning rate is a numpy.float64, with which NumPy computes in float64.
    Adam=_adam(1e-7, after_correction=False, moments="differences", float64_step=True),
)

_ADAM_OF_ONNX = _adam(
    9.999999974752427e-07,
    after_correction=False,
    beta1=0.8999999761581421,
    beta2=0.9990000128746033,
    counts_from_zero=True,
)

PRESETS: dict[str, dict[str, Values]] = {
    "paper": {
        **_system(
            clip_eps=1e-6,
            SGD={"lr": 0.01},
            Momentum=_velocity(0.01, "lr_inside"),
            Nesterov=_velocity(0.01, "keras"),
            AdaGrad=_adagrad(0.01, 1e-8),
            AdaDelta=_adadelta(1.0, 0.95, 1e-6),
            RMSProp=_rmsprop(1e-3, 0.9, 1e-8),
            Adam=_adam(1e-8, after_correction=True),
            AdamW=_adam(1e-8, after_correction=True, weight_decay=0.01, decay="decoupled"),
            AMSGrad=_adam(1e-8, after_correction=True),
            AdaMax=_adam(1e-8, after_correction=True, lr=2e-3),
            NormalizedGD={"lr": 0.01, "per": "all"},
        ),
        "BatchNorm": _batch_norm(1e-5, unbiased=True, nonfinite="raise"),
        "Dropout": _dropout("inverted", keeps_equal=False),
    },
    # "Deep Learning from Scratch" 1. Its networks add weight decay to the gradient; its images have a channel a pixel.
    "dlfs": {
        **_BOOK,
        **_system(clip_eps=1e-6, Nesterov=_velocity(0.01, "keras")),
        "BatchNorm": _batch_norm(1e-6, unbiased=False, initial_variance=0.0, flatten=True),
        "Dropout": _dropout("classic", keeps_equal=False),
    },
    # "Deep Learning from Scratch" 2: no batch norm, and the other Nesterov.
    "dlfs2": {
        **_BOOK,
        **_system(clip_eps=1e-6, Nesterov=_velocity(0.01, "chainer")),
        "Dropout": _dropout("classic", keeps_equal=False),
    },
    # "Deep Learning from Scratch" 3. AdaDelta has no learning rate.
    "dezero": {
        **_system(
            clip_eps=1e-6,
            SGD={"lr": 0.01},
            Momentum=_velocity(0.01, "lr_inside"),
            AdaGrad=_adagrad(1e-3, 1e-8),
            AdaDelta={**_adadelta(1.0, 0.95, 1e-6), "order": "book"},
            Adam=_adam(1e-8, after_correction=False, moments="differences"),
        ),
        "BatchNorm": _batch_norm(2e-5, unbiased=True),
        "Dropout": _dropout("inverted", keeps_equal=False),
    },
    # Version 7. weight_decay is the hook WeightDecay; AdamW's is Adam's weight_decay_rate, which eta and not the
    # learning rate multiplies (eta is 1).
    "chainer": {
        **_system(
            clip_eps=0.0,
            SGD={"lr": 0.01},
            Momentum=_velocity(0.01, "lr_inside"),
            Nesterov=_velocity(0.01, "chainer"),
            AdaGrad=_adagrad(1e-3, 1e-8),
            AdaDelta=_adadelta(1.0, 0.95, 1e-6),
            RMSProp=_rmsprop(0.01, 0.99, 1e-8),
            Adam=_adam(1e-8, after_correction=False),
            AdamW=_adam(1e-8, after_correction=False, decay="decoupled_from_lr"),
            AMSGrad=_adam(1e-8, after_correction=False),
        ),
        "BatchNorm": _batch_norm(2e-5, unbiased=True),
        "Dropout": _dropout("inverted", keeps_equal=True),
    },
    # Version 3. Every optimizer decouples its weight decay.
    "keras": {
        **_system(
            clip_eps=0.0,
            decay="decoupled",
            SGD={"lr": 0.01},
            Momentum=_velocity(0.01, "lr_inside"),
            Nesterov=_velocity(0.01, "keras"),
            AdaGrad=_adagrad(1e-3, 1e-7, inside=True, initial=0.1),
            AdaDelta=_adadelta(1e-3, 0.95, 1e-7),
            RMSProp=_rmsprop(1e-3, 0.9, 1e-7, inside=True),
            Adam=_adam(1e-7, after_correction=False),
            AdamW=_adam(1e-7, after_correction=False, weight_decay=0.004),
            AMSGrad=_adam(1e-7, after_correction=False),
            AdaMax=_adam(1e-7, after_correction=False, eps_outside=True),
        ),
        "BatchNorm": _batch_norm(1e-3, 0.99, unbiased=False),
        "Dropout": _dropout("inverted", keeps_equal=False),
    },
    "torch": {
        **_system(
            clip_eps=1e-6,
            SGD={"lr": 1e-3},
            Momentum=_velocity(1e-3, "lr_outside"),
            Nesterov=_velocity(1e-3, "torch"),
            AdaGrad=_adagrad(0.01, 1e-10),
            AdaDelta=_adadelta(1.0, 0.9, 1e-6),
            RMSProp=_rmsprop(0.01, 0.99, 1e-8, form="lr_outside"),
            Adam=_adam(1e-8, after_correction=True),
            AdamW=_adam(1e-8, after_correction=True, weight_decay=0.01, decay="decoupled"),
            AMSGrad=_adam(1e-8, after_correction=True),
            AdaMax=_adam(1e-8, after_correction=True, lr=2e-3),
        ),
        "BatchNorm": _batch_norm(1e-5, unbiased=True, one_value="error"),
        "Dropout": _dropout("inverted", keeps_equal=False),
    },
    # ai.onnx.preview.training 1 and ai.onnx, whose attributes are float32: 0.9 is 0.8999999761581421.
    # weight_decay is norm_coefficient; AdamW's is Adam's norm_coefficient_post.
    # dampening is 1 - beta of Momentum, lr_decay the decay_factor of Adagrad.
    "onnx": {
        **_system(
            clip_eps=0.0,
            Momentum=_velocity(0.01, "lr_outside"),
            Nesterov=_velocity(0.01, "torch"),
            AdaGrad=_adagrad(0.01, 9.999999974752427e-07),
            Adam=_ADAM_OF_ONNX,
            AdamW={**_ADAM_OF_ONNX, "decay": "after"},
        ),
        "BatchNorm": _batch_norm(9.999999747378752e-06, 0.8999999761581421, unbiased=False),
        "Dropout": _dropout("inverted", keeps_equal=True),
    },
    # weight_decay is its WeightDecay, applied with the learning rate. AdaMax adds 1e-32 and ignores its own epsilon.
    "dl4j": {
        **_system(
            clip_eps=0.0,
            decay="decoupled",
            SGD={"lr": 1e-3},
            Nesterov=_velocity(0.1, "keras"),
            AdaGrad=_adagrad(0.1, 1e-6, initial=1e-6),
            AdaDelta=_adadelta(1.0, 0.95, 1e-6),
            RMSProp=_rmsprop(0.1, 0.95, 1e-8, initial="eps"),
            Adam=_adam(1e-8, after_correction=False),
            AMSGrad=_adam(1e-8, after_correction=False),
            AdaMax=_adam(1e-32, after_correction=False),
        ),
        "BatchNorm": _batch_norm(1e-5, unbiased=False),
        "Dropout": _dropout("inverted", keeps_equal=False),
    },
    # weight_decay is add_decayed_weights in front of the rule, as adadelta has it; adamw's is its own.
    "optax": _system(
        clip_eps=0.0,
        SGD={"lr": 0.01},
        Momentum=_velocity(0.01, "lr_outside"),
        Nesterov=_velocity(0.01, "torch"),
        AdaGrad=_adagrad(0.01, 1e-7, inside=True, initial=0.1),
        AdaDelta=_adadelta(1.0, 0.9, 1e-6),
        RMSProp=_rmsprop(1e-3, 0.9, 1e-8, inside=True),
        Adam=_adam(1e-8, after_correction=True),
        AdamW=_adam(1e-8, after_correction=True, weight_decay=1e-4, decay="decoupled"),
        AMSGrad=_adam(1e-8, after_correction=True, correct_before_maximum=True),
        AdaMax=_adam(1e-8, after_correction=True, lr=2e-3),
    ),
}


def preset(semantics: str, kind: str, **explicit: Any) -> Values:
    """The values of a class: the preset's, overridden by those of ``explicit`` that are not None."""
    from kitae import _checks

    _checks.one_of(kind, "semantics", semantics, tuple(PRESETS))
    if kind not in PRESETS[semantics]:
        raise _checks.not_in_preset(kind, semantics, [name for name in PRESETS if kind in PRESETS[name]])
    values = dict(PRESETS[semantics][kind])
    values.update({name: value for name, value in explicit.items() if value is not None})
    return values
