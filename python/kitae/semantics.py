"""Presets: whose conventions a class follows where its keywords say nothing. An explicit keyword wins over the preset.

One table: {preset: {class: keyword values}}. "paper" is the method's own paper, or the most usual value where the paper
gives none; "torch" is PyTorch. How systems differ, number by number, is each class's docstring.
"""

from typing import Any

_ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_after_correction": True, "weight_decay": 0.0}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "SGD": {"lr": 0.01, "weight_decay": 0.0},
        "Momentum": {"lr": 0.01, "momentum": 0.9, "form": "lr_inside", "weight_decay": 0.0},
        "Nesterov": {"lr": 0.01, "momentum": 0.9, "form": "keras", "weight_decay": 0.0},
        "AdaGrad": {"lr": 0.01, "eps": 1e-8, "eps_inside": False, "initial": 0.0, "weight_decay": 0.0},
        "AdaDelta": {"lr": 1.0, "rho": 0.95, "eps": 1e-6, "weight_decay": 0.0},
        "RMSProp": {
            "lr": 1e-3,
            "rho": 0.9,
            "eps": 1e-8,
            "eps_inside": False,
            "centered": False,
            "momentum": 0.0,
            "form": "lr_inside",
            "weight_decay": 0.0,
        },
        "Adam": _ADAM,
        "AdamW": {**_ADAM, "weight_decay": 0.01},
        "AMSGrad": _ADAM,
        "AdaMax": {**_ADAM, "lr": 2e-3},
        "NormalizedGD": {"lr": 0.01, "per": "all", "weight_decay": 0.0},
        "BatchNorm": {"eps": 1e-5, "running_decay": 0.9, "unbiased": True, "one_value": "beta", "nonfinite": "raise"},
        "Dropout": {"scale": "inverted"},
    },
    "torch": {
        "SGD": {"lr": 1e-3, "weight_decay": 0.0},
        "Momentum": {"lr": 1e-3, "momentum": 0.9, "form": "lr_outside", "weight_decay": 0.0},
        "Nesterov": {"lr": 1e-3, "momentum": 0.9, "form": "torch", "weight_decay": 0.0},
        "AdaGrad": {"lr": 0.01, "eps": 1e-10, "eps_inside": False, "initial": 0.0, "weight_decay": 0.0},
        "AdaDelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
        "RMSProp": {
            "lr": 0.01,
            "rho": 0.99,
            "eps": 1e-8,
            "eps_inside": False,
            "centered": False,
            "momentum": 0.0,
            "form": "lr_outside",
            "weight_decay": 0.0,
        },
        "Adam": _ADAM,
        "AdamW": {**_ADAM, "weight_decay": 0.01},
        "AMSGrad": _ADAM,
        "AdaMax": {**_ADAM, "lr": 2e-3},
        "NormalizedGD": {"lr": 1e-3, "per": "all", "weight_decay": 0.0},
        "BatchNorm": {
            "eps": 1e-5,
            "running_decay": 0.9,
            "unbiased": True,
            "one_value": "error",
            "nonfinite": "propagate",
        },
        "Dropout": {"scale": "inverted"},
    },
}


def preset(semantics: str, kind: str, **explicit: Any) -> dict[str, Any]:
    """The keyword values of a class: the preset's, overridden by those of ``explicit`` that are not None."""
    from kitae import _checks

    _checks.one_of(kind, "semantics", semantics, tuple(PRESETS))
    values = dict(PRESETS[semantics][kind])
    values.update({name: value for name, value in explicit.items() if value is not None})
    return values
