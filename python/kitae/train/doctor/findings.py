"""What the doctor can find: one table of names, severities and remedies in causal order, one table of thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kitae import _checks


@dataclass(frozen=True)
class Finding:
    """One trouble: its name, the layer (None: the whole run), the numbers that show it, and a sentence that helps.

    ``severity``: "error" (training can't work), "warning" (it works badly) or "note". ``step``: the update before
    which it was first seen, 0 being the untrained network.
    """

    name: str
    layer: str | None
    evidence: Mapping[str, Any]
    severity: str
    step: int
    remedy: str

    def __str__(self) -> str:
        place = "" if self.layer is None else f" in layer {self.layer}"
        return f"{self.severity}: {self.name}{place}, step {self.step} ({numbers(self.evidence)}). {self.remedy}"


def numbers(evidence: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in evidence.items())


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Kind(NamedTuple):
    severity: str
    remedy: str


# In causal order: what stands earlier brings about what stands later.
KINDS: dict[str, Kind] = {
    "nan_in_inputs": Kind("error", "Remove or replace the non-finite values of the data before training."),
    "output_mismatch": Kind(
        "error",
        "Give the loss what it expects: logits without an activation for a fused loss, cross entropy for classes.",
    ),
    "targets_out_of_range": Kind(
        "error", "Scale the targets into the range of the output activation, or leave that activation out."
    ),
    "zero_weights": Kind("error", "Draw the hidden weights at random (He for ReLU, Xavier for tanh and sigmoid)."),
    "equal_weights": Kind("error", "Draw the weights at random: units that start equal stay equal."),
    "unscaled_inputs": Kind("warning", "Scale the inputs to mean 0 and standard deviation 1, or into [0, 1]."),
    "leaked_batch_norm_statistics": Kind(
        "error", "Evaluate with training=False: test data must not enter batch norm's statistics."
    ),
    "learning_rate_too_high": Kind(
        "error", "Divide the learning rate by 10, or find it by a learning rate range test."
    ),
    "exploding_gradients": Kind(
        "error", "Clip the gradient norm, or start from smaller (orthogonal) recurrent weights."
    ),
    "non_finite": Kind("error", "Look at the tensor named here: it is the first one that is not finite."),
    "dead_relu": Kind(
        "error", "Start from He's weights and zero biases, lower the learning rate, or use a leaky ReLU."
    ),
    "saturated_activations": Kind(
        "error", "Start from smaller weights (Xavier), normalize before the activation, or use ReLU."
    ),
    "weights_too_large": Kind("warning", "Draw weights of variance 2 / inputs (ReLU) or 1 / inputs."),
    "weights_too_small": Kind(
        "warning", "Draw weights of variance 2 / inputs (ReLU) or 1 / inputs, or use batch norm."
    ),
    "exploding_activations": Kind("warning", "Use He's or Xavier's initialization, or batch norm between the layers."),
    "vanishing_activations": Kind("warning", "Use He's or Xavier's initialization, or batch norm between the layers."),
    "vanishing_gradients": Kind(
        "warning", "Use ReLU instead of sigmoid, batch norm or residual connections; for sequences an LSTM."
    ),
    "batch_too_small": Kind("warning", "Use batches of 16 or more with batch norm, or layer norm instead."),
    "stale_running_statistics": Kind(
        "warning", "Lower running_decay, or recompute the statistics (kitae.train.precise_batch_norm) before testing."
    ),
    "learning_rate_too_low": Kind("warning", "Multiply the learning rate by 10, or find it by a range test."),
    "underflow": Kind("warning", "Retune first (learning rate, initialization, loss scale); use float64 second."),
    "update_ratio": Kind("warning", "Give this layer a learning rate of its own, so that its updates are near 1e-3."),
    "label_noise": Kind(
        "warning", "Look at the samples of highest loss for wrong labels; stop early, before they are memorized."
    ),
    "overfitting": Kind(
        "warning", "Stop at the best validation loss; more data, augmentation, dropout or weight decay."
    ),
    "underfitting": Kind("warning", "Train longer, use a larger network, or less regularization."),
    "more_parameters_than_samples": Kind("note", "Use a smaller network, more data, or regularization."),
    "constant_features": Kind("note", "Drop these features: they say nothing, or act as a second bias."),
    "autoencoder_width": Kind(
        "note", "Make the narrowest layer between a quarter of the inputs and nine tenths of them."
    ),
}
ORDER = {name: place for place, name in enumerate(KINDS)}


class Threshold(NamedTuple):
    value: float
    reason: str


THRESHOLDS: dict[str, Threshold] = {
    "input_rms": Threshold(4.0, "1 is ideal (LeCun et al. 1998, section 4.3); pixels 0..16 have 7.7, 0..255 about 120"),
    "input_rms_low": Threshold(0.02, "a fiftieth of the ideal; pixels divided by 255 twice have 0.002"),
    "feature_spread": Threshold(100.0, "the loss's curvature goes with the square of a feature's scale (LeCun 1998)"),
    "constant_share": Threshold(0.5, "borders of images are constant, half of the features are not"),
    "weight_gain": Threshold(5.0, "std(W) sqrt(inputs) is 1.41 by He, 1 by LeCun; N(0, 1) on 64 inputs has 8"),
    "weight_gain_product": Threshold(1e-3, "the share of the input's scale that is left at the output, as ReLU halves"),
    "dead_units": Threshold(
        0.6, "40 % is called a trouble of a high learning rate (cs231n); deep healthy ReLUs reach it"
    ),
    "saturated_share": Threshold(0.5, "half of the outputs have a derivative below 4 % of the largest"),
    "scale_over_depth": Threshold(1e3, "10 layers that halve or double reach it"),
    "gradient_over_depth": Threshold(1e4, "7 sigmoid layers reach it, whose derivative is at most 1/4"),
    "gradient_over_time": Threshold(1e3, "25 steps that each multiply it by 1.32 reach it"),
    "ratio_high": Threshold(0.1, "100 times the healthy 1e-3 (cs231n)"),
    "ratio_erasing": Threshold(1.0, "an update as large as the parameter erases the initialization"),
    "ratio_low": Threshold(3e-5, "30 times below the healthy 1e-3 (cs231n)"),
    "ratio_far": Threshold(1e3, "a layer's ratio this far from 1e-3 while the others' are near"),
    "loss_rise": Threshold(1.5, "a random start is near the loss of guessing; half more is worse than that"),
    "loss_stall": Threshold(0.1, "share by which the loss must have fallen to count as learning"),
    "lost_updates": Threshold(0.5, "half of the parameters with a gradient did not change in their last bit"),
    "small_batch": Threshold(
        8, "a variance of 8 values is off by 50 % (sqrt(2 / (n - 1))); Wu and He 2018 see errors rise there"
    ),
    "stale_statistics": Threshold(1.0, "running and batch mean a standard deviation apart; 32 samples explain 0.2"),
    "memorized_against": Threshold(0.1, "samples whose label has a tenth of the prediction's probability; healthy 1 %"),
    "overfit_rise": Threshold(1.2, "latest validation loss over its minimum; Prechelt 1998 stops at 1.01 to 1.05"),
    "overfit_size": Threshold(
        0.05, "the rise over the first training loss; less is the noise of a small validation loss"
    ),
    "overfit_gap": Threshold(2.0, "validation loss over training loss"),
    "underfit_loss": Threshold(0.9, "training loss at the end over its start, though nothing else was found"),
    "autoencoder_narrow": Threshold(0.25, "below a quarter of the inputs most codes lose more than they compress"),
    "autoencoder_wide": Threshold(0.9, "near the input's width copying is the easiest code"),
}


@dataclass
class Limits:
    """The thresholds in force: the table's, or a user's own by name."""

    own: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.own.items():
            if name not in THRESHOLDS:
                expected = "names of " + ", ".join(THRESHOLDS)
                raise _checks.error(ValueError, "train.Doctor", "thresholds", expected, _checks.Words(repr(name)))
            self.own[name] = _checks.number("train.Doctor", f"thresholds[{name!r}]", value, low=0, open_low=True)

    def __getitem__(self, name: str) -> float:
        return self.own.get(name, THRESHOLDS[name].value)


def found(name: str, layer: str | None, step: int, **evidence: Any) -> Finding:
    kind = KINDS[name]
    return Finding(name, layer, evidence, kind.severity, step, kind.remedy)


def in_causal_order(findings: list[Finding]) -> list[Finding]:
    """The cause first: before the first update, then during training, each by the table; notes last."""

    def place(finding: Finding) -> tuple[bool, bool, int, int]:
        return finding.severity == "note", finding.step > 0, ORDER[finding.name], finding.step

    return sorted(findings, key=place)
