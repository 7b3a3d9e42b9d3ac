"""kitae.dlfs.dezero: optimizers against formulas in NumPy; functions and layers against DeZero itself (PyPI)."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import kitae
import kitae.dlfs
from kitae.dlfs.dezero import optimizers

EPS = 1e-8


def parameters(rng, *shapes):
    return [
        SimpleNamespace(data=rng.normal(size=s), grad=SimpleNamespace(data=rng.normal(size=s)), name=None)
        for s in shapes
    ]


def formula(name, w, gs):
    """The rule over a sequence of gradients, in float64."""
    a = np.zeros_like(w)
    b = np.zeros_like(w)
    for t, g in enumerate(gs, 1):
        if name == "SGD":
            w = w - 0.01 * g
        elif name == "MomentumSGD":
            a = 0.9 * a - 0.01 * g
            w = w + a
        elif name == "AdaGrad":
            a = a + g * g
            w = w - 0.001 * g / (np.sqrt(a) + EPS)
        elif name == "AdaDelta":
            a = 0.95 * a + 0.05 * g * g
            d = np.sqrt((b + 1e-6) / (a + 1e-6)) * g
            b = 0.95 * b + 0.05 * d * d
            w = w - d
        else:
            a = 0.9 * a + 0.1 * g
            b = 0.999 * b + 0.001 * g * g
            w = w - 0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * a / (np.sqrt(b) + EPS)
    return w


@pytest.mark.parametrize("name", ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"])
def test_optimizers(name, rng) -> None:
    made = parameters(rng, (4, 3), (3,), ())
    frozen = SimpleNamespace(data=np.ones(2), grad=None, name="frozen")
    expected = []
    steps = [[rng.normal(size=p.data.shape) for p in made] for _ in range(15)]
    for number, p in enumerate(made):
        expected.append(formula(name, p.data.copy(), [step[number] for step in steps]))
    arrays = [p.data for p in made]
    optimizer = getattr(optimizers, name)().setup(SimpleNamespace(params=lambda: [*made, frozen]))
    for step in steps:
        for p, grad in zip(made, step, strict=True):
            p.grad.data = grad
        optimizer.update()
    for p, array, wanted in zip(made, arrays, expected, strict=True):
        assert p.data is array
        np.testing.assert_allclose(array, wanted, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(frozen.data, 1)


def in_turn(name, w, gs):
    """The rule as DeZero computes it, operation by operation, in the dtype of w."""
    a, b = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gs, 1):
        if name == "SGD":
            w -= 0.01 * g
        elif name == "MomentumSGD":
            a *= 0.9
            a -= 0.01 * g
            w += a
        elif name == "AdaGrad":
            a += g * g
            w -= 0.001 * g / (np.sqrt(a) + 1e-8)
        elif name == "AdaDelta":
            a *= 0.95
            a += (1 - 0.95) * g * g
            d = np.sqrt((b + 1e-6) / (a + 1e-6)) * g
            b *= 0.95
            b += (1 - 0.95) * d * d
            w -= d
        else:
            a += (1 - 0.9) * (g - a)
            b += (1 - 0.999) * (g * g - b)
            rate = 0.001 * math.sqrt(1 - math.pow(0.999, t)) / (1 - math.pow(0.9, t))
            w -= rate * a / (np.sqrt(b) + 1e-8)
    return w


@pytest.mark.parametrize("kind", ["f", "d"])
@pytest.mark.parametrize("name", ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"])
def test_optimizers_have_dezeros_bits(name, kind, rng) -> None:
    (parameter,) = parameters(rng, (40, 30))
    parameter.data = parameter.data.astype(kind)
    grads = [(rng.normal(size=(40, 30)) * 10.0 ** rng.integers(-6, 2, (40, 30))).astype(kind) for _ in range(50)]
    expected = in_turn(name, parameter.data.copy(), grads)
    preset = {"MomentumSGD": kitae.Momentum}.get(name) or getattr(kitae, name)
    of_preset = parameter.data.copy()
    optimizer = getattr(optimizers, name)().setup(SimpleNamespace(params=lambda: [parameter]))
    ours = preset([of_preset], semantics="dezero")
    for grad in grads:
        parameter.grad.data = grad
        optimizer.update()
        ours.step([grad])
    np.testing.assert_array_equal(parameter.data, expected)
    # The preset's own bias correction is more exact: in float32 it rounds to the same, but for one rate in millions.
    np.testing.assert_allclose(of_preset, expected, rtol=0 if kind == "f" else 1e-12, atol=0 if kind == "f" else 1e-15)


@pytest.mark.parametrize("name", ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"])
def test_float64_gradients_of_float32_parameters(name, rng) -> None:
    """As DeZero's losses make them of integer labels: not rounded before the update. A second parameter has float32."""
    made = parameters(rng, (40, 30), (7,))
    for p in made:
        p.data = p.data.astype("f")
    grads = [
        [rng.normal(size=p.data.shape).astype(kind) for p, kind in zip(made, "df", strict=True)] for _ in range(20)
    ]
    expected = [in_turn(name, p.data.copy(), [g[i] for g in grads]) for i, p in enumerate(made)]
    optimizer = getattr(optimizers, name)().setup(SimpleNamespace(params=lambda: made))
    for step in grads:
        for p, grad in zip(made, step, strict=True):
            p.grad.data = grad
        optimizer.update()
    for p, wanted in zip(made, expected, strict=True):
        np.testing.assert_array_equal(p.data, wanted)


@pytest.mark.parametrize("kind", ["f", "d"])
def test_clip_grad_has_dezeros_bits(kind, rng) -> None:
    """Sums in the dtype of the gradients, root and quotient in float64."""
    for max_norm in (0.1, 3, 1e9):
        made = parameters(rng, (300, 41), (7,))
        for p in made:
            p.grad.data = p.grad.data.astype(kind)
        expected = [p.grad.data.copy() for p in made]
        norm = math.sqrt(float(sum((g**2).sum() for g in expected)))
        rate = max_norm / (norm + 1e-6)
        optimizers.ClipGrad(max_norm)(made)
        for p, g in zip(made, expected, strict=True):
            if rate < 1:
                g *= rate
            # float64 sums are kitae's, in another order
            np.testing.assert_allclose(p.grad.data, g, rtol=0 if kind == "f" else 1e-14)


def test_hooks_by_hand() -> None:
    made = [
        SimpleNamespace(data=np.full(1, 10.0), grad=SimpleNamespace(data=np.full(1, 2.0)), name=None) for _ in range(2)
    ]
    made[1].grad.data[0] = 3.0
    optimizer = optimizers.SGD(lr=1.0).setup(SimpleNamespace(params=lambda: made))
    optimizer.add_hook(optimizers.WeightDecay(0.1))  # gradients 3, 4
    optimizer.add_hook(optimizers.ClipGrad(2.5))
    optimizer.add_hook(optimizers.FreezeParam(made[1]))
    optimizer.update()
    np.testing.assert_allclose(made[0].data, 10 - 3 * 2.5 / (5 + 1e-6), rtol=1e-14)
    np.testing.assert_array_equal(made[1].data, 10)


def test_a_subclass_with_its_own_update_one() -> None:
    class Sign(optimizers.SGD):
        def update_one(self, param):
            param.data -= self.lr * np.sign(param.grad.data)

    made = [SimpleNamespace(data=np.zeros(2), grad=SimpleNamespace(data=np.array([5.0, -7.0])), name=None)]
    Sign(lr=1.0).setup(SimpleNamespace(params=lambda: made)).update()
    np.testing.assert_array_equal(made[0].data, [-1, 1])


@pytest.fixture
def dezero():
    """DeZero as its author publishes it; every test begins and ends without kitae in it."""
    kitae.dlfs.uninstall()
    # The published version is older than NumPy 1.24 and Python 3.8, which warns of `is` with a literal.
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(np, "int", int, raising=False)
        import dezero

    yield dezero
    kitae.dlfs.uninstall()


@pytest.mark.requires_dezero
class TestWithDeZero:
    @pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5), (1, 3)])
    def test_batch_norm(self, dezero, shape, rng) -> None:
        from kitae.dlfs.dezero.functions import batch_norm

        x, gamma, beta = rng.normal(2, 3, shape), rng.normal(size=3), rng.normal(size=3)
        results = []
        for function in (dezero.functions.batch_nrom, batch_norm):
            inputs = [dezero.Variable(array.copy()) for array in (x, gamma, beta)]
            averages = [np.full(3, 0.5), np.full(3, 2.0)]
            for _ in range(2):
                y = function(*inputs, *averages)
            dezero.functions.sum(y * y * y).backward()
            with dezero.test_mode():
                inference = function(*inputs, *averages)
            results.append([y.data, inference.data, *averages, *(v.grad.data for v in inputs)])
        for own, their in zip(results[1], results[0], strict=True):
            np.testing.assert_allclose(own, their, rtol=1e-9, atol=1e-9)

    def test_batch_norm_layer_and_weights(self, dezero, rng) -> None:
        from kitae.dlfs.dezero.layers import BatchNorm

        x = rng.normal(size=(5, 2)).astype("f")
        layer = BatchNorm()
        y = layer(x)
        np.testing.assert_allclose(y.data, dezero.layers.BatchNorm()(x).data, rtol=1e-5, atol=1e-6)
        assert isinstance(layer, dezero.layers.BatchNorm)
        assert y.dtype == np.float32
        assert len(list(layer.params())) == 4

    def test_gradient_of_a_gradient(self, dezero, rng) -> None:
        from kitae.dlfs.dezero.functions import batch_norm, dropout

        results = []
        for own_dropout, own_norm in (
            (dezero.functions.dropout, dezero.functions.batch_nrom),
            (dropout, batch_norm),
        ):
            np.random.seed(1)
            x = dezero.Variable(np.linspace(-1, 2, 12).reshape(4, 3))
            gamma, beta = dezero.Variable(np.ones(3)), dezero.Variable(np.zeros(3))
            y = dezero.functions.sum(own_norm(own_dropout(x * x, 0.3), gamma, beta, np.zeros(3), np.ones(3)) ** 3)
            y.backward(create_graph=True)
            first = x.grad
            x.cleargrad()
            dezero.functions.sum(first * first).backward()
            results.append((first.data, x.grad.data))
        np.testing.assert_allclose(results[1], results[0], rtol=1e-9, atol=1e-9)

    def test_dropout_draws_as_dezero(self, dezero, rng) -> None:
        from kitae.dlfs.dezero.functions import dropout

        x = dezero.Variable(rng.normal(size=(70, 40)).astype("f"))
        results = []
        for function in (dezero.functions.dropout, dropout):
            np.random.seed(2)
            x.cleargrad()
            y = function(x, 0.4)
            y.backward()
            with dezero.test_mode():
                assert function(x) is x
            results.append((y.data, x.grad.data))
        np.testing.assert_array_equal(results[1], results[0])
        assert results[1][0].dtype == np.float32

    @pytest.mark.parametrize("name", ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"])
    def test_same_curve_of_a_network(self, dezero, name) -> None:
        def train() -> list[float]:
            np.random.seed(0)
            x, t = np.random.randn(80, 6), np.random.randint(0, 3, 80)
            dense = dezero.layers.Linear
            layers = [dense(20, dtype=np.float64), dezero.layers.BatchNorm(), dense(3, dtype=np.float64)]
            model = dezero.Model()
            for number, layer in enumerate(layers):
                setattr(model, f"l{number}", layer)
            optimizer = getattr(dezero.optimizers, name)().setup(model)
            optimizer.add_hook(dezero.optimizers.ClipGrad(1.0))
            optimizer.add_hook(dezero.optimizers.WeightDecay(1e-3))
            losses = []
            for _ in range(100):
                y = dezero.Variable(x)
                for layer in layers[:2]:
                    y = layer(y)
                y = layers[2](dezero.functions.dropout(dezero.functions.relu(y), 0.2))
                loss = dezero.functions.softmax_cross_entropy(y, t)
                model.cleargrads()
                loss.backward()
                optimizer.update()
                losses.append(float(loss.data))
            return losses

        before = train()
        kitae.dlfs.install()
        assert issubclass(dezero.optimizers.Adam, optimizers.Adam)
        after = train()
        np.testing.assert_allclose(after, before, rtol=1e-10)
