"""What was seen during a training run: plain numbers and small samples, from which the checks draw conclusions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Evidence = TypeVar("Evidence")

KEPT_LOOKS = 400  # beyond this many, every other of the later ones is forgotten
LASTING = 3  # looks in a row that must agree before something is called a state and not an accident


@dataclass
class ParameterLook:
    """A parameter in one step: root mean squares, and update over parameter in the L2 and the mean-absolute form."""

    name: str
    ndim: int
    shape: tuple[int, ...]
    value: Any  # samples, on the array's device
    gradient: Any = None
    ratio_l2: float | None = None
    ratio_mean: float | None = None
    lost: float = 0.0  # share of the elements with a gradient that the update left as they were


@dataclass
class LayerLook:
    """A layer in one step: samples of its output and of the gradient that reached it."""

    name: str
    kind: str
    activation: str | None
    traits: frozenset[str]  # of "recurrent", "embedding", "normalizes", "running"
    output: Any = None
    width: int | None = None  # units, where outputs are (batch, units)
    dead: Any = None  # of each unit of a ReLU: no sample of the batch woke it
    dout: Any = None
    over_time: Any = None  # root mean square of the input's gradient at each time, for recurrent layers
    stale: float | None = None  # running against batch mean, in standard deviations, median over the channels
    values_a_channel: int | None = None
    parameters: dict[str, ParameterLook] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} {self.kind}".strip()

    def weights(self) -> list[ParameterLook]:
        return [p for p in self.parameters.values() if p.ndim >= 2 and "normalizes" not in self.traits]


@dataclass
class Look:
    """One looked-at step. ``step`` updates were made before it."""

    step: int
    layers: list[LayerLook]
    lr: float | None = None


@dataclass(frozen=True)
class InputLook:
    """The batch that was seen first."""

    shape: tuple[int, ...]
    floating: bool
    rms: float = 0.0
    low: float = 0.0
    high: float = 0.0
    constant: tuple[int, ...] = ()
    constant_nonzero: tuple[int, ...] = ()
    spread: float = 1.0
    widest: int = 0
    reconstructs: bool = False  # the targets are the inputs


@dataclass(frozen=True)
class OutputLook:
    """What the loss was given first: its name, the last activation, and numbers of outputs and targets."""

    loss: str
    activation: str | None
    probabilities: bool  # the outputs' rows are at least 0 and sum to 1
    one_hot: bool
    classes: int | None
    target_low: float
    target_high: float
    outside: float  # share of the targets that the last activation can't reach


@dataclass(frozen=True)
class LabelLook:
    """A batch of a classifier: samples, the share predicted right, and the share whose label was ruled out."""

    step: int
    samples: int
    right: float
    against: float


@dataclass
class Journal:
    batch: int = 0
    parameters: int = 0
    samples: int | None = None  # in an epoch
    inputs: InputLook | None = None
    outputs: OutputLook | None = None
    equal: list[tuple[str, str, bool]] = field(default_factory=list)  # layer, parameter, whether all are 0
    looks: list[Look] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    labels: list[LabelLook] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    epoch_ends: list[int] = field(default_factory=list)  # in steps
    seen: list[Any] = field(default_factory=list)  # findings of which there is nothing more to conclude
    finished: bool = False

    @property
    def steps(self) -> int:
        return len(self.losses)

    def add(self, look: Look) -> None:
        self.looks.append(look)
        if len(self.looks) > KEPT_LOOKS:
            early = KEPT_LOOKS // 8
            self.looks = self.looks[:early] + self.looks[early::2]


def lasting(looks: list[Look], test: Callable[[Look], Evidence | None]) -> tuple[Look, Evidence] | None:
    """The first look, and what ``test`` says of it, from which on ``test`` says something three times in a row."""
    count = min(LASTING, len(looks))
    run: list[tuple[Look, Evidence]] = []
    for look in looks:
        said = test(look)
        run = [*run, (look, said)] if said is not None else []
        if len(run) == count:
            return run[0]
    return None
