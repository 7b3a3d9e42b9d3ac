"""Moving averages of parameters by the formula, in NumPy without temporaries, by PyTorch and by kitae."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..cases import Inputs, Results
from ..cases.averaging import DECAY, average
from .blocks import BLOCK, blocks
from .contender import Contender, Contenders, array_over, in_numpys_arithmetic, tensor_over, torch_if_installed


def contenders(case: str, inputs: Inputs) -> Contenders:
    averages, values = inputs["averages"], inputs["values"]
    ema = average(inputs)
    scratch = np.empty(BLOCK, averages[0].dtype)

    def results(arrays: list[Any]) -> Callable[[Any], Results]:
        return lambda _: {f"averages.{i}": np.asarray(array) for i, array in enumerate(arrays)}

    def textbook() -> None:
        for i, value in enumerate(values):
            averages[i] = DECAY * averages[i] + (1 - DECAY) * value

    pieces = [(a, p, scratch[: a.size]) for a, p in blocks(averages, values)]

    def numpy() -> None:
        for a, p, difference in pieces:
            np.subtract(p, a, out=difference)
            np.multiply(difference, difference.dtype.type(1 - DECAY), out=difference)
            np.add(a, difference, out=a)

    plain = [
        Contender("textbook", "", "in place", textbook, results(averages)),
        Contender("NumPy", "out=", "in place", numpy, results(averages)),
    ]
    made = [
        *(plain if in_numpys_arithmetic(averages[0]) else []),
        Contender("kitae", "", "in place", ema.update, results(ema.averages)),
    ]
    torch = torch_if_installed()
    return made if torch is None else [*made, *_torch(torch, inputs, results)]


def _torch(torch: ModuleType, inputs: Inputs, results: Callable[[list[Any]], Callable[[Any], Results]]) -> Contenders:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    values = [tensor_over(torch, value) for value in inputs["values"]]
    averages = [tensor_over(torch, array) for array in inputs["averages"]]
    multiple = get_ema_multi_avg_fn(DECAY)
    model = torch.nn.ParameterList(values)
    averaged = AveragedModel(model, multi_avg_fn=multiple)
    averaged.n_averaged.fill_(1)  # the first update copies
    with torch.no_grad():
        for own, start in zip(averaged.module.parameters(), averages, strict=True):
            own.copy_(start)
    held = [own.detach() for own in averaged.module.parameters()]
    of_averages, of_held = (results([array_over(torch, own) for own in owns]) for owns in (averages, held))
    return [
        Contender("PyTorch", "multi_avg_fn", "in place", lambda: multiple(averages, values, None), of_averages),
        Contender("PyTorch", "AveragedModel", "in place", lambda: averaged.update_parameters(model), of_held),
    ]
