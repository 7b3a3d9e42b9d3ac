"""What a training run left in numbers."""

import os
from collections.abc import Mapping
from typing import Any

from kitae.train.callback import Callback, Logs


class History(Callback):
    """``history``: {"loss": [...], "accuracy": [...], "val_loss": [...], "lr": [...]}, one value an epoch.

    ``epoch``: the epochs' numbers, from 0.

    Keys are those of the epochs' logs. A key that an epoch lacks (validation in a later ``fit`` only, say) holds None
    there, so all lists are as long as ``epoch``. One history covers all calls of ``fit`` of its trainer; Keras starts a
    new one at each call.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for key in logs:
            self.history.setdefault(key, [None] * (len(self.epoch) - 1))
        for key, values in self.history.items():
            values.append(logs.get(key))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw loss, metrics and learning rate over the epochs; see ``kitae.train.plot_history``."""
        from kitae.train.curves import plot_history

        return plot_history(self, path)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": list(self.epoch), "history": {key: list(values) for key, values in self.history.items()}}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        self.epoch = list(d["epoch"])
        self.history = {key: list(values) for key, values in d["history"].items()}
