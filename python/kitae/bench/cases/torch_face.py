"""The same ops called through PyTorch's modules and optimizers: rows for the benchmark, where PyTorch is installed."""

from dataclasses import replace
from functools import partial

from . import dropout, gradients, normalization, optimizers
from .row import Case, Expected, Inputs, Size, Traffic

FAMILY = "torch_face"


def _named(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


def _expected_of_both(inputs: Inputs, *, forward: Case, backward: Case) -> dict[str, Expected]:
    return forward.expected(inputs) | backward.expected(inputs)


def _traffic_of_both(inputs: Inputs, level2: int, *, forward: Case, backward: Case) -> Traffic:
    assert forward.traffic is not None
    assert backward.traffic is not None
    first, second = forward.traffic(inputs, level2), backward.traffic(inputs, level2)
    return Traffic(first.read + second.read, first.written + second.written)


def _forward_and_backward(forward: Case, backward: Case, sizes: tuple[Size, ...]) -> Case:
    return replace(
        forward,
        name=f"torch_{forward.name}",
        family=FAMILY,
        bench_sizes=sizes,
        expected=partial(_expected_of_both, forward=forward, backward=backward),
        traffic=partial(_traffic_of_both, forward=forward, backward=backward),
    )


def _over_a_list(case: Case) -> Case:
    names = ("MLP", "ResNet-18")
    sizes = tuple(size for size in optimizers.BENCH_SIZES if size.label.startswith(names))
    return replace(case, name=f"torch_{case.name}", family=FAMILY, bench_sizes=sizes)


_ADADELTA = replace(optimizers.optimizer_named("adadelta"), states=2)
_BATCH_NORM, _DROPOUT = _named(normalization.CASES, "batch_norm"), _named(dropout.CASES, "dropout")

CASES: tuple[Case, ...] = (
    _forward_and_backward(
        _BATCH_NORM,
        _named(normalization.CASES, "batch_norm_backward"),
        tuple(size for size in _BATCH_NORM.bench_sizes if len(size.shape) == 4),
    ),
    _forward_and_backward(_DROPOUT, _named(dropout.CASES, "dropout_backward"), _DROPOUT.bench_sizes),
    *(
        _over_a_list(_named(optimizers.CASES, name))
        for name in ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
    ),
    replace(
        _over_a_list(_named(optimizers.CASES, "adadelta")), traffic=partial(optimizers._traffic, optimizer=_ADADELTA)
    ),
    _over_a_list(_named(gradients.CASES, "clip_grad_norm")),
)
