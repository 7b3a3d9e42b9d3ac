"""The words and tables of the demo."""

from kitae.demo.comparison import Comparison
from kitae.demo.contenders import DROP, HIDDEN_LAYERS, HIDDEN_UNITS, KERNELS, LEARNING_RATE, MAX_NORM
from kitae.demo.training import Run

COLUMN = 20
LABEL = 20


def setup(data: str, sizes: list[int], plan: str, machine: str) -> str:
    return f"""\
One network, trained three times: the same initial weights, the same batches, three implementations.

  data      {data}
  network   {sizes[0]} -> {HIDDEN_LAYERS} hidden layers of {HIDDEN_UNITS} -> {sizes[-1]}; \
each hidden layer: dense, batch norm, ReLU, dropout {DROP:g}
  training  softmax cross entropy; Adam, learning rate {LEARNING_RATE:g}; \
gradient norm clipped to {MAX_NORM:g}; float32;
            {plan}
  machine   {machine}

  textbook NumPy    plain NumPy, written as a book writes it
  kitae reference   kitae's layers computed by kitae.reference, the specification in NumPy
  kitae native      the same layers computed by kitae's C++ kernels
"""


def epoch_header(runs: list[str]) -> str:
    names = "".join(f"{name:>{COLUMN}}" for name in runs)
    columns = f"{'loss':>{COLUMN - 10}}{'accuracy':>10}" * len(runs)
    return f"{'':>{8}}{names}\n{'epoch':>{8}}{columns}"


def epoch_row(epoch: int, runs: list[Run]) -> str:
    cells = "".join(f"{run.epoch_losses[-1]:>{COLUMN - 10}.4f}{run.accuracies[-1]:>10.1%}" for run in runs)
    return f"{epoch:>8}{cells}"


EPOCH_NOTE = """\
  loss: mean over the epoch's batches, with dropout; accuracy: of the test images, without dropout.
  The textbook draws other dropout masks than kitae does, so its curve differs by chance; it learns the same.
"""


def time_table(runs: list[Run]) -> str:
    medians = [run.watch.medians() for run in runs]
    totals = [sum(median.values()) for median in medians]
    lines = [
        "Milliseconds a training step, forward and backward (the median step of each line)",
        "",
        f"{'':<{LABEL}}" + "".join(f"{run.contender.name:>{COLUMN}}" for run in runs) + f"{'textbook / native':>20}",
    ]
    for kernel in KERNELS:
        lines.append(_time_row("  " + kernel, [median[kernel] for median in medians]))
    lines.append(_time_row("  whole step", totals))
    rates = "".join(f"{_times(totals[0] / total):>{COLUMN}}" for total in totals)
    lines.append(f"{'  speed-up':<{LABEL}}{rates}")
    return "\n".join(lines) + "\n"


def _time_row(label: str, seconds: list[float]) -> str:
    cells = "".join(f"{second * 1e3:>{COLUMN}.3f}" for second in seconds)
    return f"{label:<{LABEL}}{cells}{_times(seconds[0] / seconds[-1]):>20}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} x"


TIME_NOTE = """\
  Dense layers and the loss are NumPy in all three; the other lines are what kitae computes.
  The reference is written to be exact and easy to check, not to be fast.
"""


def agreement(comparison: Comparison) -> str:
    checked = (
        f"{comparison.losses} losses and {comparison.numbers:,} values in {comparison.arrays} arrays "
        "(parameters, running statistics, Adam's state)"
    )
    if comparison.agree:
        return f"Reference and native agree bit for bit: yes, in all of {checked}.\n"
    shown = "\n".join(f"  {difference}" for difference in comparison.differences[:8])
    return f"Reference and native agree bit for bit: NO. Compared: {checked}. Differences:\n{shown}\n"
