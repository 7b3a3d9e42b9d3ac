"""What a class or function of each name does with a few small arrays, the reader's own and kitae's alike: each probe
takes one of them and the array library, and returns arrays, and instances whose public attributes count too."""

from collections.abc import Callable
from typing import Any

import numpy as np


def _numbers(xp: Any, *shape: int, kind: str = "d") -> Any:
    """A fixed pattern without repetition, of both signs."""
    count = int(np.prod(shape))
    return xp.asarray((np.sin(np.arange(1, count + 1) * 1.7) * 1.5).reshape(shape).astype(kind))


def _layer(*shapes: tuple[int, ...], x: tuple[int, ...], kind: str = "d") -> Callable[[Any, Any], list[Any]]:
    """A layer made with weights of these shapes: forward and backward, twice."""

    def probe(cls: Any, xp: Any) -> list[Any]:
        layer = cls(*(_numbers(xp, *shape, kind=kind) for shape in shapes))
        results = []
        for _ in range(2):
            y = layer.forward(_numbers(xp, *x, kind=kind))
            results += [y.copy(), layer.backward(_numbers(xp, *y.shape, kind=kind))]
        return [*results, layer]

    return probe


def _batch_norm(cls: Any, xp: Any) -> list[Any]:
    results: list[Any] = []
    for shape, features in (((6, 3), 3), ((5, 2, 2, 2), 8)):
        layer = cls(_numbers(xp, features) + 2, _numbers(xp, features))
        for scale in (1.0, 3.0):
            y = layer.forward(_numbers(xp, *shape) * scale, True)
            results += [y, layer.backward(_numbers(xp, *shape))]
        results += [layer.forward(_numbers(xp, *shape), False), layer]
    return results


def _dropout(cls: Any, xp: Any) -> list[Any]:
    layer = cls(0.3)
    x = _numbers(xp, 6, 5)
    return [layer.forward(x, True), layer.backward(x), layer, layer.forward(x, False), cls()]


def _time_dropout(cls: Any, xp: Any) -> list[Any]:
    layer = cls(0.3)
    x = _numbers(xp, 3, 4, 5, kind="f")
    results = [layer.forward(x), layer.backward(x), layer, cls()]
    layer.train_flg = False
    return [*results, layer.forward(x)]


def _softmax_with_loss(cls: Any, xp: Any) -> list[Any]:
    labels, results = xp.asarray([1, 0, 2, 1]), []
    for t in (labels, xp.eye(3)[labels]):
        layer = cls()
        results += [layer.forward(_numbers(xp, 4, 3), t), layer.backward(), layer]
    return results


def _time_softmax_with_loss(cls: Any, xp: Any) -> list[Any]:
    layer = cls()
    loss = layer.forward(_numbers(xp, 2, 3, 4, kind="f"), xp.asarray([[1, 3, -1], [0, -1, 2]]))
    return [loss, layer.backward().copy(), layer]


def _convolution(cls: Any, xp: Any) -> list[Any]:
    results: list[Any] = []
    for stride, pad in ((1, 0), (2, 1)):
        layer = cls(_numbers(xp, 3, 2, 3, 3), _numbers(xp, 3), stride, pad)
        y = layer.forward(_numbers(xp, 2, 2, 6, 5))
        results += [y, layer.backward(_numbers(xp, *y.shape)), layer]
    return results


def _pooling(cls: Any, xp: Any) -> list[Any]:
    results: list[Any] = []
    for size, stride in ((2, 2), (3, 2), (2, 1)):
        layer = cls(size, size, stride)
        y = layer.forward(_numbers(xp, 2, 3, 7, 6))
        results += [y, layer.backward(_numbers(xp, *y.shape)), layer]
    return results


def _embedding(idx: Any, dout: tuple[int, ...]) -> Callable[[Any, Any], list[Any]]:
    def probe(cls: Any, xp: Any) -> list[Any]:
        layer = cls(_numbers(xp, 5, 3, kind="f"))
        y = layer.forward(xp.asarray(idx))
        layer.backward(_numbers(xp, *dout, kind="f"))
        return [y, layer]

    return probe


def _recurrent(gates: int, states: int) -> Callable[[Any, Any], list[Any]]:
    """A time layer, or with ``states`` the step of one that has as many."""

    def probe(cls: Any, xp: Any) -> list[Any]:
        weights = (_numbers(xp, n, gates * 4, kind="f") for n in (3, 4))
        layer = cls(*weights, _numbers(xp, gates * 4, kind="f"))
        if states:
            before = [_numbers(xp, 2, 4, kind="f") for _ in range(states)]
            return [layer.forward(_numbers(xp, 2, 3, kind="f"), *before), layer.backward(*before), layer]
        results = []
        for layer.stateful in (False, True, True):
            results += [layer.forward(_numbers(xp, 2, 5, 3, kind="f")), layer.backward(_numbers(xp, 2, 5, 4, kind="f"))]
        return [*results, layer]

    return probe


def _optimizer(cls: Any, xp: Any) -> list[Any]:
    """With dicts (book 1) and with lists (book 2): what the reader's own can't do is no difference."""
    results: list[Any] = []
    for keys in (("a", "b"), None):
        params, grads = [_numbers(xp, 3, 2), _numbers(xp, 4)], [_numbers(xp, 3, 2), xp.ones(4)]
        try:
            if keys is None:
                results += _updates(cls, params, grads)
            else:
                results += _updates(cls, dict(zip(keys, params, strict=True)), dict(zip(keys, grads, strict=True)))
        except Exception:
            results += [None, None]
    if results == [None] * 4:
        raise TypeError("update takes neither dicts nor lists")
    return results


def _updates(cls: Any, params: Any, grads: Any) -> list[Any]:
    optimizer = cls()
    for lr in (optimizer.lr, optimizer.lr, 0.1):
        optimizer.lr = lr
        optimizer.update(params, grads)
    return [params, optimizer]


def _clip_grads(function: Any, xp: Any) -> list[Any]:
    grads = [_numbers(xp, 3, 2), _numbers(xp, 4)]
    function(grads, 100.0)
    unchanged = [grad.copy() for grad in grads]
    function(grads, 0.5)
    return [unchanged, grads]


def _im2col(function: Any, xp: Any) -> list[Any]:
    return [function(_numbers(xp, 2, 3, 5, 6), 3, 2, stride, pad) for stride, pad in ((1, 0), (2, 1))]


def _col2im(function: Any, xp: Any) -> list[Any]:
    return [
        function(_numbers(xp, 2 * 4 * 5, 9), (2, 1, 6, 7), 3, 3),
        function(_numbers(xp, 18, 4), (2, 1, 4, 4), 2, 2, 2, 1),
    ]


class _Parameter:
    """What DeZero's optimizers see of a Parameter."""

    def __init__(self, xp: Any, *shape: int) -> None:
        self.data, self.name = _numbers(xp, *shape), None
        self.grad: Any = None

    def set_grad(self, data: Any) -> "_Parameter":
        from dezero import Variable

        self.grad = Variable(data)
        return self


def _dezero_optimizer(cls: Any, xp: Any) -> list[Any]:
    from types import SimpleNamespace

    made = [_Parameter(np, 3, 2), _Parameter(np, 4)]
    optimizer = cls().setup(SimpleNamespace(params=lambda: made))
    for _ in range(3):
        for parameter in made:
            parameter.set_grad(_numbers(np, *parameter.data.shape))
        optimizer.update()
    states = [
        list(state.values()) for name, state in vars(optimizer).items() if isinstance(state, dict) and name[0] != "_"
    ]
    return [[p.data for p in made], states, *(getattr(optimizer, name) for name in ("lr",) if hasattr(optimizer, name))]


def _dezero_base(cls: Any, xp: Any) -> list[Any]:
    return [cls()]


def _dezero_hook(argument: float) -> Callable[[Any, Any], list[Any]]:
    def probe(cls: Any, xp: Any) -> list[Any]:
        made = [_Parameter(np, 3, 2).set_grad(_numbers(np, 3, 2)), _Parameter(np, 4).set_grad(_numbers(np, 4))]
        cls(argument)(made)
        return [[p.grad.data for p in made]]

    return probe


def _dezero_freeze(cls: Any, xp: Any) -> list[Any]:
    from dezero import Parameter

    parameter = Parameter(_numbers(np, 2))
    cls(parameter)([])
    return [parameter.grad is None]


def _dezero_function(call: Callable[[Any, Any], Any], *shapes: tuple[int, ...]) -> Callable[[Any, Any], list[Any]]:
    """A function of Variables: its result, its gradients, and its result in test mode."""

    def probe(function: Any, xp: Any) -> list[Any]:
        import dezero

        inputs = [dezero.Variable(_numbers(np, *shape)) for shape in shapes]
        averages = [np.zeros(3), np.ones(3)]
        y = call(function, [*inputs, *averages])
        (y * y).backward()
        with dezero.test_mode():
            tested = call(function, [*inputs, *averages])
        return [y.data, tested.data, averages, [variable.grad.data for variable in inputs]]

    return probe


_dezero_batch_norm = ((6, 3), (3,), (3,))

PROBES: dict[str, Callable[[Any, Any], list[Any]]] = {
    "Affine": _layer((4, 3), (3,), x=(5, 4)),
    "BatchNormalization": _batch_norm,
    "Convolution": _convolution,
    "Dropout": _dropout,
    "Embedding": _embedding([1, 4, 1, 0], (4, 3)),
    "MatMul": _layer((4, 3), x=(5, 4)),
    "Pooling": _pooling,
    "Relu": _layer(x=(5, 4)),
    "Sigmoid": _layer(x=(5, 4)),
    "SoftmaxWithLoss": _softmax_with_loss,
    "LSTM": _recurrent(4, 2),
    "RNN": _recurrent(1, 1),
    "TimeAffine": _layer((4, 3), (3,), x=(5, 2, 4), kind="f"),
    "TimeDropout": _time_dropout,
    "TimeEmbedding": _embedding([[1, 4], [1, 0], [2, 1]], (3, 2, 3)),
    "TimeLSTM": _recurrent(4, 0),
    "TimeRNN": _recurrent(1, 0),
    "TimeSoftmaxWithLoss": _time_softmax_with_loss,
    "clip_grads": _clip_grads,
    "col2im": _col2im,
    "im2col": _im2col,
    "BatchNorm": _dezero_function(lambda f, v: f(v[3], v[4], 0.9, 2e-5)(*v[:3]), *_dezero_batch_norm),
    "batch_nrom": _dezero_function(lambda f, v: f(*v), *_dezero_batch_norm),
    "batch_norm": _dezero_function(lambda f, v: f(*v), *_dezero_batch_norm),
    "dropout": _dezero_function(lambda f, v: f(v[0], 0.3), (6, 3)),
    "AdaDelta": _dezero_optimizer,
    "MomentumSGD": _dezero_optimizer,
    "Optimizer": _dezero_base,
    "ClipGrad": _dezero_hook(0.5),
    "WeightDecay": _dezero_hook(0.1),
    "FreezeParam": _dezero_freeze,
}
for _name in ("Momentum", "Nesterov", "RMSprop"):
    PROBES[_name] = _optimizer
for _name in ("AdaGrad", "Adam", "SGD"):  # of both
    PROBES[_name] = lambda cls, xp: (_dezero_optimizer if hasattr(cls, "setup") else _optimizer)(cls, xp)
