"""The layers Dropout and DropConnect: state, inference, NumPy's generator, forked workers, weights that come back."""

# ruff: noqa: NPY002  the books draw from NumPy's global generator

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = ("reference", "cpu")


@pytest.fixture(autouse=True, params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    kitae.use_backend(request.param)
    return str(request.param)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


X = np.linspace(-3, 3, 500, dtype=np.float32).reshape(20, 25)


# Dropout


def test_offset_counts_training_passes() -> None:
    layer = kitae.Dropout(0.3, seed=5)
    assert (layer.params, layer.grads) == ({}, {})
    for step in range(3):
        assert layer.buffers["offset"] == step
        y = layer.forward(X)
        expected, mask = kitae.dropout(X, 0.3, seed=5, offset=step)
        assert same_bits(y, expected)
        assert same_bits(layer.backward(X), kitae.dropout_backward(X, mask))
        layer.forward(X, training=False)
    assert layer.buffers["offset"] == 3


def test_restored_buffers_replay_the_masks() -> None:
    layer = kitae.Dropout(0.5)
    layer.forward(X)
    saved = {name: array.copy() for name, array in layer.buffers.items()}
    expected = [layer.forward(X) for _ in range(3)]
    other = kitae.Dropout(0.5)
    for restored in (layer, other):
        for name, array in saved.items():
            restored.buffers[name][...] = array
        assert all(same_bits(restored.forward(X), y) for y in expected)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same_bits(twin.forward(X), kitae.dropout(X, 0.5, seed=saved["seed"].item(), offset=4)[0])
    assert layer.buffers["offset"] == 4


def test_seeds_come_from_kitae_seed_and_differ_by_layer() -> None:
    def draw() -> list[bytes]:
        return [kitae.Dropout(0.5).forward(np.ones(200)).tobytes() for _ in range(4)]

    kitae.seed(12)
    first = draw()
    assert len(set(first)) == 4
    assert len(set(draw()) | set(first)) == 8
    kitae.seed(12)
    assert draw() == first
    kitae.seed(13)
    assert not set(draw()) & set(first)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_inference(dtype: Any) -> None:
    x = X.astype(dtype)
    layer = kitae.Dropout(0.3, seed=1)
    assert layer.forward(x, training=False) is x
    assert layer.backward(x) is x
    classic = kitae.Dropout(0.3, seed=1, scale="classic")
    compute = np.float64 if dtype is np.float64 else np.float32
    expected = (x.astype(compute) * compute(0.7)).astype(dtype)
    for result in (classic.forward(x, training=False), classic.backward(x)):
        assert same_bits(result, expected)
    assert same_bits(classic.forward(x), kitae.dropout(x, 0.3, seed=1, scale="classic")[0])
    nothing = kitae.Dropout(1.0, scale="classic").forward(np.full(3, np.inf, dtype), training=False)
    assert same_bits(nothing, np.zeros(3, dtype))


def test_drop_and_retain() -> None:
    assert kitae.Dropout().drop == 0.5
    assert kitae.Dropout(0.2).drop == 0.2
    assert kitae.Dropout(retain=0.75).drop == 0.25
    assert kitae.DropConnect(Affine(), retain=0.75).drop == 0.25
    for kind, arguments in ((kitae.Dropout, ()), (kitae.DropConnect, (Affine(),))):
        with pytest.raises(ValueError, match=f"^kitae.{kind.__name__}: retain: expected drop or retain, not both"):
            kind(*arguments, 0.2, retain=0.8)
        with pytest.raises(ValueError, match=r"drop: expected a number in \[0, 1\], got 1.5"):
            kind(*arguments, 1.5)
        with pytest.raises(ValueError, match=r"retain: expected a number in \[0, 1\], got -1"):
            kind(*arguments, retain=-1)
        with pytest.raises(ValueError, match="seed: expected an integer"):
            kind(*arguments, seed=-1)


@pytest.mark.parametrize("keywords", [{"scale": "x"}, {"rng": "torch"}, {"semantics": "keras9"}])
def test_refused_choices(keywords: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"^kitae.Dropout: {next(iter(keywords))}: expected one of "):
        kitae.Dropout(**keywords)


@pytest.mark.parametrize("semantics", ["paper", "torch"])
def test_an_explicit_scale_wins_over_the_preset(semantics: str) -> None:
    assert kitae.Dropout(semantics=semantics).scale == "inverted"
    assert kitae.Dropout(semantics=semantics, scale="classic").scale == "classic"


def test_backward_needs_forward_and_its_shape() -> None:
    for rng in ("philox", "numpy"):
        layer = kitae.Dropout(0.5, rng=rng)
        with pytest.raises(RuntimeError, match=r"^kitae.Dropout.backward: dout: expected a forward pass before"):
            layer.backward(X)
        layer.forward(X)
        with pytest.raises(ValueError, match=r"dout: expected shape \(20, 25\), got shape \(25, 20\)"):
            layer.backward(X.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_generator_gives_the_numbers_of_the_books(dtype: Any) -> None:
    x = X.astype(dtype)
    classic = kitae.Dropout(0.4, rng="numpy", scale="classic")
    np.random.seed(3)
    y, dx = classic.forward(x), classic.backward(x)
    np.random.seed(3)
    mask = np.random.rand(*x.shape) > 0.4  # book 1, common/layers.py: the product with the mask, and no scale
    assert same_bits(y, x * mask)
    assert same_bits(dx, x * mask)
    assert same_bits(classic.forward(x, training=False), x * dtype(1.0 - 0.4))
    inverted = kitae.Dropout(0.4, rng="numpy")
    np.random.seed(4)
    y, dx = inverted.forward(x), inverted.backward(x)
    np.random.seed(4)
    factors = (np.random.rand(*x.shape) > 0.4).astype(dtype) * dtype(1 / (1 - 0.4))  # book 2, TimeDropout
    assert same_bits(y, x * factors)
    assert same_bits(dx, x * factors)
    scalar = kitae.Dropout(0.0, rng="numpy").forward(np.array(2.0))
    assert (type(scalar), scalar.shape, float(scalar)) == (np.ndarray, (), 2.0)


def test_forked_workers_draw_masks_of_their_own(run_python: Any, backend_name: str) -> None:
    script = f"""
import copy, os, numpy as np, kitae
kitae.set_num_threads(1)
kitae.use_backend({backend_name!r})
kitae.seed(1)
x = np.ones(4096, np.float32)
own, fixed = kitae.Dropout(0.5), kitae.Dropout(0.5, seed=9)
own_copy = copy.deepcopy(own)
def draw():
    masks = [layer.forward(x).tobytes() for layer in (own, own_copy, fixed)]
    return b"".join(masks)
def in_child():
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        with os.fdopen(send, "wb") as file:
            file.write(draw())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    return data
children = [in_child() for _ in range(3)]
everyone = [*children, draw()]
size = x.nbytes
assert all(len(data) == 3 * size for data in everyone)
seeded = {{data[:size] for data in everyone}}
copies = {{data[size:2 * size] for data in everyone}}
assert len(seeded) == 4, len(seeded)
assert len(copies | seeded) == 7, "a copy made before the fork draws the original's masks in the parent, only there"
assert len({{data[2 * size:] for data in everyone}}) == 1, "an explicit seed is the same everywhere"
print("ok")
"""
    assert run_python(script).strip() == "ok"


# DropConnect


class Affine:
    """y = x W + b, the smallest layer there is."""

    def __init__(self, inputs: int = 6, outputs: int = 4, dtype: Any = np.float64) -> None:
        rng = np.random.default_rng(0)
        self.W, self.b = rng.standard_normal((inputs, outputs)).astype(dtype), np.ones(outputs, dtype)
        self.params = {"W": self.W, "b": self.b}
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}
        self.buffers: dict[str, np.ndarray] = {"count": np.zeros(())}
        self.seen: list[np.ndarray] = []
        self.fail = False

    def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        self.seen.append(self.W.copy())
        if self.fail:
            raise ArithmeticError("from the layer")
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout: np.ndarray) -> np.ndarray:
        if self.fail:
            raise ArithmeticError("from the layer")
        self.grads["W"][...] = self.x.T @ dout
        self.grads["b"][...] = dout.sum(axis=0)
        return dout @ self.W.T


class Lazy(Affine):
    """Built at the first forward pass, as kitae.nn.Dense is."""

    def __init__(self) -> None:
        super().__init__()
        self.params = {}

    def build(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.__init__()  # type: ignore[misc]
        Affine.__init__(self, shape[1], 4, dtype)

    def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        if not self.params:
            self.build(x.shape, x.dtype)
        return super().forward(x, training)


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((5, 6))


def masked(array: np.ndarray, drop: float, seed: int, offset: int) -> np.ndarray:
    kept = kitae.dropout_mask(array.shape, drop, seed=seed, offset=offset).unpack()
    return np.where(kept, array * (1 / (1 - drop)), 0)


def test_drop_connect_is_the_layer_with_masked_weights(x: np.ndarray) -> None:
    plain, inner = Affine(), Affine()
    weights = inner.W.copy()
    layer = kitae.DropConnect(inner, 0.3, seed=4)
    for step in range(3):
        dropped = masked(weights, 0.3, 4, step)
        assert 0 < (dropped == 0).sum() < dropped.size
        plain.W[...] = dropped
        assert same_bits(layer.forward(x), plain.forward(x))
        assert same_bits(inner.W, weights), "the true weights are back"
        dout = np.cos(np.arange(20.0)).reshape(5, 4)
        assert same_bits(layer.backward(dout), plain.backward(dout))
        assert same_bits(inner.W, weights)
        assert same_bits(layer.grads["W"], masked(plain.grads["W"], 0.3, 4, step))
        assert same_bits(layer.grads["b"], plain.grads["b"])
        plain.W[...] = weights
        assert same_bits(layer.forward(x, training=False), plain.forward(x))
        assert same_bits(layer.backward(dout), plain.backward(dout))
        assert same_bits(layer.grads["W"], plain.grads["W"])
    assert layer.params is inner.params
    assert layer.params["W"] is inner.W
    assert layer.buffers["drop_connect.offset"] == 3
    assert "count" in layer.buffers


def test_drop_connect_gradient_by_finite_differences(x: np.ndarray) -> None:
    inner = Affine()
    layer = kitae.DropConnect(inner, 0.4, seed=6)
    dout = np.sin(np.arange(20.0)).reshape(5, 4)

    def loss() -> float:
        layer.buffers["drop_connect.offset"][...] = 0  # the same mask each time
        return float((layer.forward(x) * dout).sum())

    loss()
    dx = layer.backward(dout)
    step = 1e-4
    for array, gradient in ((inner.W, layer.grads["W"].copy()), (x, dx)):
        for at in np.ndindex(array.shape):
            value = array[at]
            array[at] = value + step
            up = loss()
            array[at] = value - step
            down = loss()
            array[at] = value
            assert abs((up - down) / (2 * step) - gradient[at]) < 1e-9  # linear: rounding alone


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_weights_come_back_when_the_layer_raises(where: str, x: np.ndarray) -> None:
    inner = Affine()
    inner.W.reshape(-1).view(np.uint64)[0] = 0x7FF8DEADBEEF0001  # a NaN with a payload
    weights = inner.W.copy()
    layer = kitae.DropConnect(inner, 0.5, seed=1)
    layer.forward(x)
    inner.fail = True
    with pytest.raises(ArithmeticError, match="from the layer"):
        layer.forward(x) if where == "forward" else layer.backward(np.ones((5, 4)))
    assert same_bits(inner.W, weights)
    assert layer.buffers["drop_connect.offset"] == 1, "a pass that failed is not counted"


def test_an_optimizer_updates_the_true_weights(x: np.ndarray) -> None:
    inner = Affine()
    layer = kitae.DropConnect(inner, 0.5, seed=1)
    weights = inner.W.copy()
    optimizer = kitae.SGD(layer.params, 0.1)
    layer.forward(x)
    layer.backward(np.ones((5, 4)))
    optimizer.step(layer.grads)
    assert same_bits(inner.W, weights - 0.1 * layer.grads["W"])
    untouched = layer.grads["W"] == 0
    assert untouched.any()
    assert same_bits(inner.W[untouched], weights[untouched]), "a dropped weight is not updated"


def test_weights_of_any_layout_and_dtype() -> None:
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        inner = Affine(6, 4, dtype)
        inner.W = inner.params["W"] = np.asfortranarray(inner.W)[:, ::2]
        weights = inner.W.copy()
        layer = kitae.DropConnect(inner, 0.5, seed=2)
        inner.b = inner.b[::2]
        layer.forward(np.ones((3, 6), dtype))
        assert same_bits(inner.seen[0], kitae.dropout(weights, 0.5, seed=2)[0])
        assert same_bits(inner.W.copy(), weights)


def test_each_weight_draws_a_mask_of_its_own() -> None:
    class Two(Affine):
        def __init__(self) -> None:
            super().__init__(30, 30)
            self.second = np.ones((30, 30))
            self.params = {"0.W": self.W, "1.W": self.second, "1.W2": np.ones(3), "1.b": self.b}
            self.W[...] = 1

        def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
            self.seen.append(self.second.copy())
            return super().forward(x, training)

    inner = Two()
    layer = kitae.DropConnect(inner, 0.5, seed=3)
    for _ in range(2):
        layer.forward(np.ones((2, 30)))
    masks = {array.tobytes() for array in inner.seen}
    assert len(masks) == 4, "two weights, two passes"
    assert (inner.W == 1).all()
    assert (inner.second == 1).all()
    assert (inner.params["1.W2"] == 1).all()
    inner.seen.clear()
    kitae.DropConnect(inner, 1.0, names=("b",)).forward(np.ones((2, 30)))
    assert (inner.seen[0] == 1).all()


def test_a_weight_listed_twice_comes_back() -> None:
    inner = Affine()
    inner.params["copy.W"] = inner.W
    inner.grads["copy.W"] = np.zeros_like(inner.W)
    weights = inner.W.copy()
    kitae.DropConnect(inner, 0.5, seed=3).forward(np.ones((2, 6)))
    assert same_bits(inner.W, weights)


def test_dropped_weights_can_stay_out_at_inference(x: np.ndarray) -> None:
    inner = Affine()
    layer = kitae.DropConnect(inner, 0.5, seed=7, keep_dropped=True)
    weights = inner.W.copy()
    assert same_bits(layer.forward(x, training=False), x @ weights + inner.b), "no training pass yet: all weights"
    layer.forward(x)
    trained = layer.forward(x)
    assert same_bits(layer.forward(x, training=False), trained)
    assert same_bits(layer.forward(x, training=False), x @ masked(weights, 0.5, 7, 1) + inner.b)
    assert same_bits(inner.W, weights)


def test_a_layer_without_weights_yet_is_built(x: np.ndarray) -> None:
    layer = kitae.DropConnect(Lazy(), 0.5, seed=1)
    assert layer.params == {}
    y = layer.forward(x)
    weights = layer.params["W"].copy()
    assert same_bits(y, x @ masked(weights, 0.5, 1, 0) + 1)
    assert same_bits(layer.params["W"], weights)


def test_restored_drop_connect_replays(x: np.ndarray) -> None:
    layer = kitae.DropConnect(Affine(), 0.5)
    layer.forward(x)
    saved = {name: array.copy() for name, array in layer.buffers.items()}
    expected = layer.forward(x)
    other = kitae.DropConnect(Affine(), 0.5)
    for name, array in saved.items():
        other.buffers[name][...] = array
    assert same_bits(other.forward(x), expected)


def test_refused_layers(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"^kitae.DropConnect: layer: expected a layer"):
        kitae.DropConnect(np.ones(3), 0.5)
    with pytest.raises(TypeError, match=r"^kitae.DropConnect: names: expected a tuple"):
        kitae.DropConnect(Affine(), 0.5, names="W")
    with pytest.raises(TypeError, match=r"^kitae.DropConnect: keep_dropped: expected True or False"):
        kitae.DropConnect(Affine(), 0.5, keep_dropped=1)
    inner = Affine()
    with pytest.raises(
        ValueError, match=r"layer: expected a layer with parameters called 'V', got parameters \['W', 'b'\]"
    ):
        kitae.DropConnect(inner, 0.5, names=("V",)).forward(x)
    inner.W.setflags(write=False)
    with pytest.raises(ValueError, match=r"layer.params\['W'\]: expected a writeable array"):
        kitae.DropConnect(inner, 0.5).forward(x)
    inner.params["W"] = [1.0]
    with pytest.raises(TypeError, match=r"layer.params\['W'\]: expected a numpy.ndarray"):
        kitae.DropConnect(inner, 0.5).forward(x)
