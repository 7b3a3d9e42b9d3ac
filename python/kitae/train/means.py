"""Means over the samples of an epoch."""

from typing import Any

from kitae import _dispatch
from kitae.train.metrics import Metric, is_of_whole_set


class Means:
    """Loss and metrics of the batches so far, each batch weighted by its number of samples, summed in float64."""

    def __init__(self, metrics: list[tuple[str, Metric]]) -> None:
        metrics = [(name, metric) for name, metric in metrics if not is_of_whole_set(metric)]
        self.names = ["loss", *(name for name, _ in metrics)]
        self.metrics = [metric for _, metric in metrics]
        self.reset()

    def reset(self) -> None:
        self.samples = 0
        self.loss = 0.0
        self.sums = [0.0] * len(self.metrics)

    def add(self, loss: float, outputs: Any, targets: Any, samples: int) -> None:
        self.samples += samples
        self.loss += loss * samples
        for i, metric in enumerate(self.metrics):
            self.sums[i] += metric(outputs, targets) * samples

    def logs(self) -> dict[str, float]:
        samples = max(self.samples, 1)
        return {name: total / samples for name, total in zip(self.names, (self.loss, *self.sums), strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "loss": self.loss, "sums": list(self.sums)}

    def load_state_dict(self, d: dict[str, Any]) -> None:
        self.samples, self.loss, self.sums = d["samples"], d["loss"], list(d["sums"])


class WholeSet:
    """Outputs and targets of an evaluation, for metrics that are no means over samples."""

    def __init__(self, metrics: list[tuple[str, Metric]]) -> None:
        self.metrics = [(name, metric) for name, metric in metrics if is_of_whole_set(metric)]
        self.outputs: list[Any] = []
        self.targets: list[Any] = []

    def add(self, outputs: Any, targets: Any) -> None:
        if self.metrics:
            self.outputs.append(outputs)
            self.targets.append(targets)

    def results(self) -> dict[str, float]:
        if not self.metrics:
            return {}
        concatenate = _dispatch.array_module(self.outputs[0]).concatenate
        outputs, targets = concatenate(self.outputs), concatenate(self.targets)
        return {name: metric(outputs, targets) for name, metric in self.metrics}
