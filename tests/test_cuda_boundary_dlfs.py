"""kitae.dlfs on CuPy arrays at kitae._cuda's boundary: kernels that run on the host, and an imitation of CuPy. Every
layer, optimizer and script has to give what it gives for NumPy's arrays."""

import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import imitation_cupy
import kitae.dlfs
import simulated
from dlfs_books import BOOKS, book, run_script
from imitation_cupy import CUPY, ndarray
from kitae.dlfs import _install, layers, optimizer, time_layers, util
from kitae.dlfs.dezero import optimizers as dezero


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = simulated.require(simulated.ON_HOST)
    with imitation_cupy.backend(monkeypatch, module):
        yield module


def there(value: Any) -> Any:
    """A copy on the device; lists and dicts of arrays too."""
    if isinstance(value, np.ndarray):
        return ndarray(value.copy(order="K"))
    if isinstance(value, (list, tuple)):
        return type(value)(map(there, value))
    return {key: there(item) for key, item in value.items()} if isinstance(value, dict) else value


def here(value: Any) -> Any:
    """Back on the host. What should be on the device and is a NumPy array fails."""
    assert not isinstance(value, np.ndarray), "a NumPy array where CuPy's belongs"
    if isinstance(value, ndarray):
        return value.get()
    if isinstance(value, (list, tuple)):
        return type(value)(map(here, value))
    return {key: here(item) for key, item in value.items()} if isinstance(value, dict) else value


def numbers(*shape: int, kind: str = "f") -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(kind)


def seed() -> None:
    """The generators that the books draw from."""
    np.random.seed(3)  # noqa: NPY002
    CUPY.random.seed(3)


BOOK_1 = {
    "Affine": (lambda move: layers.Affine(*move([numbers(12, 4, kind="d"), numbers(4, kind="d")])), (5, 3, 2, 2)),
    "BatchNormalization": (
        lambda move: layers.BatchNormalization(*move([numbers(70, kind="d"), numbers(70, kind="d")])),
        (6, 70),
    ),
    "BatchNormalization of images": (lambda move: layers.BatchNormalization(1.5, 0.5), (4, 3, 6, 6)),
    "Convolution": (
        lambda move: layers.Convolution(*move([numbers(3, 2, 3, 3, kind="d"), numbers(3, kind="d")]), 2, 1),
        (2, 2, 6, 5),
    ),
    "Dropout": (lambda move: layers.Dropout(0.3), (60, 50)),
    "Dropout of few": (lambda move: layers.Dropout(0.3), (6, 5)),
    "Pooling": (lambda move: layers.Pooling(2, 3, 2, 1), (2, 3, 7, 6)),
    "Relu": (lambda move: layers.Relu(), (60, 50)),
    "Relu of few": (lambda move: layers.Relu(), (6, 5)),
    "Sigmoid": (lambda move: layers.Sigmoid(), (6, 5)),
}
PUBLIC = ("dW", "db", "dgamma", "dbeta", "running_mean", "running_var", "mask", "xc", "xn", "std", "arg_max", "grads")


def passes(layer: Any, x: np.ndarray, move: Callable[[Any], Any], *, training: bool) -> list[Any]:
    """Two training passes, the attributes, and a pass of inference where the layer knows one."""
    seed()
    results = []
    for scale in (1.0, 2.0):
        y = layer.forward(move(x * scale))
        results += [y, layer.backward(move(numbers(*y.shape, kind="d")))]
    results += [getattr(layer, name) for name in PUBLIC if hasattr(layer, name)]
    return [*results, layer.forward(move(x), False)] if training else results


@pytest.mark.parametrize("kind", "fd")
@pytest.mark.parametrize("name", BOOK_1)
def test_layers_of_book_1(cuda: ModuleType, name: str, kind: str) -> None:
    make, shape = BOOK_1[name]
    training = name.startswith(("Batch", "Dropout"))
    x = numbers(*shape, kind=kind)
    expected = passes(make(lambda value: value), x, lambda value: value, training=training)
    results = here(passes(make(there), x, there, training=training))
    for mine, wanted in zip(results, expected, strict=True):
        np.testing.assert_equal(mine, wanted)


BOOK_2: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "Embedding": (lambda move: layers.Embedding(move(numbers(9, 4))), np.array([1, 4, 1, 0, 8])),
    "MatMul": (lambda move: layers.MatMul(move(numbers(5, 4))), numbers(6, 5)),
    "TimeAffine": (lambda move: time_layers.TimeAffine(*move([numbers(5, 4), numbers(4)])), numbers(6, 3, 5)),
    "TimeDropout": (lambda move: time_layers.TimeDropout(0.3), numbers(6, 3, 5)),
    "TimeEmbedding": (lambda move: time_layers.TimeEmbedding(move(numbers(9, 4))), np.array([[1, 4], [1, 0], [2, 1]])),
    "TimeLSTM": (
        lambda move: time_layers.TimeLSTM(*move([numbers(5, 12), numbers(3, 12), numbers(12)]), stateful=True),
        numbers(4, 6, 5),
    ),
    "TimeRNN": (lambda move: time_layers.TimeRNN(*move([numbers(5, 3), numbers(3, 3), numbers(3)])), numbers(4, 6, 5)),
}


@pytest.mark.parametrize("name", BOOK_2)
def test_layers_of_book_2(cuda: ModuleType, name: str) -> None:
    make, x = BOOK_2[name]
    outcomes = []
    for move in (lambda value: value, there):
        layer = make(move)
        seed()
        results = []
        for _ in range(2):
            y = layer.forward(move(x))
            results += [y, layer.backward(move(numbers(*y.shape))), *layer.grads]
        outcomes.append([*results, *(getattr(layer, state, None) for state in ("h", "c", "dh"))])
    for mine, wanted in zip(here(outcomes[1]), outcomes[0], strict=True):
        if name == "TimeEmbedding":  # rows are added in another order, as by the book's scatter_add
            wanted = None if wanted is None else wanted.astype("d")
            np.testing.assert_allclose(mine, wanted, rtol=1e-6) if wanted is not None else None
        else:
            np.testing.assert_equal(mine, wanted)


@pytest.mark.parametrize("name", ["RNN", "LSTM"])
def test_steps_of_book_2(cuda: ModuleType, name: str) -> None:
    gates, states = {"RNN": (1, 1), "LSTM": (4, 2)}[name]
    outcomes = []
    for move in (lambda value: value, there):
        layer = getattr(time_layers, name)(*move([numbers(5, gates * 3), numbers(3, gates * 3), numbers(gates * 3)]))
        before = move([numbers(4, 3 + place)[:, :3] for place in range(states)])
        outcomes.append([layer.forward(move(numbers(4, 5)), *before), layer.backward(*before), layer.grads])
    np.testing.assert_equal(here(outcomes[1]), outcomes[0])


@pytest.mark.parametrize("one_hot", [False, True])
def test_losses(cuda: ModuleType, one_hot: bool) -> None:
    t = np.array([[1, 3, -1], [0, -1, 2]])
    flat = np.array([1, 0, 2, 1])
    outcomes = []
    for move in (lambda value: value, there):
        time, plain = time_layers.TimeSoftmaxWithLoss(), layers.SoftmaxWithLoss()
        results = [time.forward(move(numbers(2, 3, 4)), move(np.eye(4)[t] if one_hot else t))]
        results += [time.backward(), plain.forward(move(numbers(4, 3)), move(np.eye(3)[flat] if one_hot else flat))]
        outcomes.append([*results, plain.backward(), plain.y])
    for mine, wanted in zip(here(outcomes[1]), outcomes[0], strict=True):
        if mine.ndim == 0:  # a float32 array in CuPy, where NumPy makes a float64 number of it
            np.testing.assert_allclose(mine, wanted, rtol=1e-7)
        else:
            np.testing.assert_equal(mine, wanted)


@pytest.mark.parametrize("inverted", [False, True])
def test_masks_of_kitaes_generator(cuda: ModuleType, inverted: bool) -> None:
    outcomes = []
    kitae.dlfs.set_rng("philox")
    try:
        for move in (lambda value: value, there):
            kitae.seed(5)
            layer = time_layers.TimeDropout(0.3) if inverted else layers.Dropout(0.3)
            x = move(numbers(6, 3, 5))
            outcomes.append([layer.forward(x), layer.backward(x), layer.forward(x)])
    finally:
        kitae.dlfs.set_rng("numpy")
    np.testing.assert_equal(here(outcomes[1]), outcomes[0])
    assert np.count_nonzero(outcomes[0][0]) < outcomes[0][0].size


OPTIMIZERS = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")


@pytest.mark.parametrize("kind", "fd")
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(cuda: ModuleType, name: str, as_dict: bool, kind: str) -> None:
    """Strided and shared parameters, a changed rate, gradients that are numbers or of another dtype."""
    outcomes = []
    for move in (lambda value: value, there):
        W = move(numbers(40, 30, kind=kind))
        params = [W, W.T, move(numbers(7, kind=kind)), W[1:3], move(np.asarray(2.0, kind))]
        arrays = list(params)
        grads = [move(numbers(*p.shape, kind=kind)) for p in params[:4]]
        grads[2] = move(np.arange(7))
        grads.append(0.5)
        if as_dict:
            params, grads = (dict(zip("abcde", values, strict=True)) for values in (params, grads))
        rule = getattr(optimizer, name)()
        for lr in (rule.lr, 0.1, 0.1):
            rule.lr = lr
            rule.update(params, grads)
        assert all(
            after is before for after, before in zip(params.values() if as_dict else params, arrays, strict=True)
        )
        states = [getattr(rule, state) for state in ("v", "h", "m") if hasattr(rule, state)]
        outcomes.append([params, *states])
    np.testing.assert_equal(here(outcomes[1]), outcomes[0])


@pytest.mark.parametrize("kind", "fd")
@pytest.mark.parametrize("name", ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"])
def test_optimizers_of_book_3(cuda: ModuleType, name: str, kind: str) -> None:
    outcomes = []
    for move in (lambda value: value, there):
        params = [
            SimpleNamespace(data=move(numbers(*shape, kind=kind)), grad=SimpleNamespace(data=None), name=None)
            for shape in ((40, 30), (7,))
        ]
        rule = getattr(dezero, name)().setup(SimpleNamespace(params=lambda params=params: params))
        rule.add_hook(dezero.WeightDecay(0.1))
        for _ in range(3):
            for p in params:
                p.grad.data = move(numbers(*p.data.shape, kind=kind))
            rule.update()
        states = [[*state.values()] for state in (getattr(rule, "ms", {}), getattr(rule, "hs", {}))]
        outcomes.append([[p.data for p in params], *states])
    np.testing.assert_equal(here(outcomes[1]), outcomes[0])


@pytest.mark.parametrize("kind", "fd")
def test_clip_grads(cuda: ModuleType, kind: str) -> None:
    """Norms are sums in float64 here; so the factor may be another float32, and the result of a float32 book's too."""
    grads = [numbers(40, 30, kind=kind), numbers(7, kind=kind), numbers(5, 6, kind=kind).T]
    norm = np.sqrt(sum(np.sum(grad.astype("d") ** 2) for grad in grads))
    moved = there(grads)
    util.clip_grads(moved, float(norm) + 1)
    np.testing.assert_equal(here(moved), grads)
    util.clip_grads(moved, 0.5)
    for mine, grad in zip(here(moved), grads, strict=True):
        np.testing.assert_allclose(mine, grad.astype("d") * (0.5 / (norm + 1e-6)), rtol=2e-7 if kind == "f" else 1e-15)
    shared = there(np.array([3.0], kind))
    util.clip_grads([shared, shared], 1.0)
    np.testing.assert_allclose(shared.get(), 3 * (1 / (np.sqrt(18) + 1e-6)) ** 2, rtol=2e-7)
    infinite = there([np.array([np.inf], kind), np.ones(2, kind)])
    with np.errstate(invalid="ignore"):  # of the imitation
        util.clip_grads(infinite, 0.5)
    np.testing.assert_equal(here(infinite), [np.array([np.nan], kind), np.zeros(2, kind)])


@pytest.fixture
def dezero_with_cupy(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """DeZero, imported where there is CuPy, with kitae in it; published before NumPy 1.24."""
    books = ("dezero", "kitae.dlfs.dezero")
    loaded = {name: module for name, module in sys.modules.items() if name.startswith(books)}
    for name in loaded:
        del sys.modules[name]
    monkeypatch.setattr(np, "int", int, raising=False)
    kitae.dlfs.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dezero as installed
    yield installed
    kitae.dlfs.uninstall()
    for name in [name for name in sys.modules if name.startswith(books)]:
        del sys.modules[name]
    sys.modules.update(loaded)


@pytest.mark.requires_dezero
def test_dezeros_to_gpu(cuda: ModuleType, dezero_with_cupy: ModuleType) -> None:
    """A network of book 3, moved as its scripts move it: batch norm, dropout, hooks and Adam."""
    import dezero.functions as F
    import dezero.layers as L

    x, t = numbers(20, 6), np.arange(20) % 3
    outcomes = []
    for on_gpu in (False, True):
        np.random.seed(3)  # noqa: NPY002  DeZero's first weights are NumPy's on the host
        network = dezero_with_cupy.Model()
        network.l1, network.norm, network.l2 = L.Linear(8, in_size=6), L.BatchNorm(), L.Linear(3, in_size=8)
        rule = dezero_with_cupy.optimizers.Adam().setup(network)
        rule.add_hook(dezero_with_cupy.optimizers.ClipGrad(1e6))
        rule.add_hook(dezero_with_cupy.optimizers.WeightDecay(0.01))
        seed()
        given = x, t
        if on_gpu:
            network.to_gpu()
            given = there(x), there(t)
        losses, launched = [], cuda.launch_count()
        for _ in range(5):
            h = F.dropout(F.relu(network.norm(network.l1(given[0]))), 0.3)
            loss = F.softmax_cross_entropy(network.l2(h), given[1])
            network.cleargrads()
            loss.backward()
            rule.update()
            losses.append(float(loss.data))
        outcomes.append([losses, [p.data for p in network.params()]])
    assert type(rule).__mro__[1] is kitae.dlfs.dezero.optimizers.Adam
    assert losses[-1] != losses[0]
    assert cuda.launch_count() >= launched + 5 * 4  # batch norm and its gradient, the norm, the update
    np.testing.assert_allclose(outcomes[1][0], outcomes[0][0], rtol=1e-6)
    for mine, wanted in zip(here(outcomes[1][1]), outcomes[0][1], strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)


def test_devices_do_not_mix(cuda: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"grads\[0\]"):
        optimizer.SGD().update([there(numbers(3))], [numbers(3)])
    with pytest.raises(TypeError, match=r"grads\['W'\]"):
        optimizer.SGD().update({"W": numbers(3)}, {"W": there(numbers(3))})


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_a_script_in_gpu_mode(cuda: ModuleType, rule: str) -> None:
    """Book 2 with config.GPU = True: what the unmodified script prints. Rows of embeddings and the squares of a norm
    are added in another order here: 100 float32 steps stay within 1e-4."""
    lines, launched = [], 0
    for installed in (False, True):
        with book("two"):
            import common.config

            common.config.GPU = True
            if installed:
                kitae.dlfs.install()
                launched = cuda.launch_count()
            lines.append(run_script(BOOKS / "two/ch06/rnnlm.py", rule, "0.05"))
            if installed:
                alone = _install._current.left_alone.items()
                left = {name for module, names in alone if module.startswith("common.") for name in names}
                assert left <= {"to_words", "TimeReverse"}
                assert cuda.launch_count() >= launched + 200  # the norm and the update of every step
    losses = [[float(line.split()[1]) for line in printed] for printed in lines]
    assert len(losses[0]) == 100
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_generators_are_left_as_they_were(cuda: ModuleType) -> None:
    """Comparing with the book's classes draws from CuPy's generator, too."""
    with book("two"):
        import common.config

        common.config.GPU = True
        CUPY.random.seed(3)
        expected = CUPY.random.rand(4).get()
        CUPY.random.seed(3)
        kitae.dlfs.install()
        import common.time_layers

        np.testing.assert_array_equal(CUPY.random.rand(4).get(), expected)
