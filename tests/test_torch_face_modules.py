"""kitae.torch's modules and clipping against PyTorch's own in float64: values, gradients, state, refusals."""

import copy
import inspect
import math
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.requires_torch

ROOT = Path(__file__).resolve().parents[1]

SHAPES = {"BatchNorm1d": ((6, 3), (4, 3, 5)), "BatchNorm2d": ((3, 4, 2, 3),), "BatchNorm3d": ((2, 3, 2, 2, 2),)}
NORMS = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-2},
)


@pytest.fixture
def torch() -> ModuleType:
    import torch

    return torch


@pytest.fixture
def face(torch: ModuleType) -> ModuleType:
    import kitae.torch

    return kitae.torch


def _twins(torch: ModuleType, face: ModuleType, rng: np.random.Generator, name: str, channels: int, **options: Any):
    """Ours, and PyTorch's in double with the same values."""
    ours, theirs = getattr(face, name)(channels, **options), getattr(torch.nn, name)(channels, **options).double()
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.tensor(rng.standard_normal(p.shape)))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


# --- batch norm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "shape"), NORMS)
def test_batch_norm_is_pytorchs_in_double(torch, face, rng, name, shape, options):
    """Two training passes and one in eval: y, every gradient, every number of the state dict; then loads back."""
    ours, theirs = _twins(torch, face, rng, name, shape[1], **options)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x = torch.tensor(rng.standard_normal(shape) + 3, dtype=torch.float32, requires_grad=True)
        x64 = x.detach().double().requires_grad_()
        y, y64 = ours(x), theirs(x64)
        gradient = torch.tensor(rng.standard_normal(shape), dtype=torch.float32)
        ours.zero_grad()
        theirs.zero_grad()
        y.backward(gradient)
        y64.backward(gradient.double())
        # float32 results of sums in double: an ulp or two of the largest term.
        torch.testing.assert_close(y.double(), y64, rtol=3e-7, atol=1e-6)
        torch.testing.assert_close(x.grad.double(), x64.grad, rtol=3e-7, atol=2e-6)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad.double(), q.grad, rtol=3e-7, atol=2e-6)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, yours in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine.double(), yours.double(), rtol=3e-7, atol=1e-7)
    for source, target in ((ours, getattr(torch.nn, name)), (theirs, getattr(face, name))):
        loaded = target(shape[1], **options)
        loaded.load_state_dict(source.state_dict())
        for mine, yours in zip(loaded.state_dict().values(), source.state_dict().values(), strict=True):
            assert torch.equal(mine, yours.to(mine.dtype))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "shape"), NORMS)
def test_batch_norm_passes_gradcheck(torch, face, rng, name, shape, training, options):
    layer = getattr(face, name)(shape[1], dtype=torch.float64, **options).train(training)
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Any, *values: Any) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [torch.tensor(rng.standard_normal(p.shape), requires_grad=True) for p in layer.parameters()]
    x = torch.tensor(rng.standard_normal(shape), requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *values))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("parameters", ["float32", "the input's"])
def test_batch_norm_of_16_bit_inputs(torch, face, rng, dtype, parameters):
    kind = getattr(torch, dtype)
    layer = face.BatchNorm2d(3, dtype=torch.float32 if parameters == "float32" else kind)
    x = torch.tensor(rng.standard_normal((8, 3, 4, 4)) + 2).to(kind).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    y, y64 = layer(x), torch.nn.BatchNorm2d(3).double()(x64)
    gradient = torch.tensor(rng.standard_normal(x.shape)).to(kind)
    y.backward(gradient)
    y64.backward(gradient.double())
    eps = torch.finfo(kind).eps  # one rounding, half an ulp; float32 arithmetic may turn a tie
    torch.testing.assert_close(y.double(), y64, rtol=0.51 * eps, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=0.51 * eps, atol=2e-6)
    assert (y.dtype, x.grad.dtype, layer.weight.grad.dtype) == (kind, kind, layer.weight.dtype)


def test_batch_norm_keeps_channels_last_and_takes_gaps(torch, face, rng):
    layer = face.BatchNorm2d(3)
    reference = torch.nn.BatchNorm2d(3).double()
    dense = torch.tensor(rng.standard_normal((4, 3, 6, 6)), dtype=torch.float32)
    kept = []
    for x in (
        dense.to(memory_format=torch.channels_last),
        dense[:, :, ::2, ::2],
        dense[:1, :, :, :1].expand(4, 3, 6, 6),
    ):
        x = x.detach().requires_grad_()
        x64 = x.detach().double().requires_grad_()
        y, y64 = layer(x), reference(x64)
        y.sum().backward()  # an expanded gradient
        y64.sum().backward()
        torch.testing.assert_close(y.double(), y64, rtol=3e-7, atol=1e-6)
        torch.testing.assert_close(x.grad.double(), x64.grad, rtol=0, atol=2e-6)
        kept.append(y.is_contiguous(memory_format=torch.channels_last))
    assert kept[0]


def test_a_constant_channel_gives_exactly_its_bias(torch, face):
    layer = face.BatchNorm2d(1)
    with torch.no_grad():
        layer.bias.fill_(0.25)
    assert (layer(torch.full((8, 1, 5, 5), 1e7)) == 0.25).all()


def test_batch_norm_without_autograd_and_frozen(torch, face, rng):
    x = torch.tensor(rng.standard_normal((5, 3)), dtype=torch.float32)
    layer = face.BatchNorm1d(3)
    expected = layer(x).detach()
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    for p in layer.parameters():
        p.requires_grad_(False)
    assert not layer(x).requires_grad
    moving = x.clone().requires_grad_()
    layer(moving).sum().backward()
    assert layer.weight.grad is None
    assert moving.grad is not None
    x.mul_(2)
    assert layer.num_batches_tracked == 5


@pytest.mark.parametrize("training", [True, False])
def test_statistics_that_are_no_longer_tracked(torch, face, rng, training):
    """As in PyTorch: not updated by training, still used by eval."""
    x = torch.tensor(rng.standard_normal((5, 3)), dtype=torch.float32)
    layer, theirs = _twins(torch, face, rng, "BatchNorm1d", 3)
    for each, value in ((layer, x), (theirs, x.double())):
        each(value)
        each.track_running_stats = False
        each.train(training)
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(x).double(), theirs(x.double()), rtol=3e-7, atol=1e-6)
    assert str(layer.state_dict()) == str(before)


def test_batch_norm_notices_an_input_that_changed(torch, face):
    layer, x = face.BatchNorm1d(3), torch.randn(5, 3)
    loss = layer(x).sum()
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused(torch, face):
    x = torch.randn(5, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(face.BatchNorm1d(3)(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"kitae\.torch\.BatchNorm1d: gradient: expected to be differentiated once"):
        dx.sum().backward()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("BatchNorm1d", (1, 3), "input: expected more than 1 value per channel when training"),
        ("BatchNorm2d", (1, 3, 1, 1), "input: expected more than 1 value per channel when training"),
        ("BatchNorm2d", (4, 5, 2, 2), r"input: expected 3 channels, got shape \(4, 5, 2, 2\)"),
        ("BatchNorm2d", (4, 3), "expected 4D input"),
        ("BatchNorm1d", (4, 3, 2, 2), "expected 2D or 3D input"),
    ],
)
def test_batch_norm_refuses_shapes(torch, face, name, shape, words):
    layer = getattr(face, name)(3)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=words):
        layer(torch.ones(shape))
    assert str(layer.state_dict()) == str(before)
    if "more than 1" in words:
        layer.eval()(torch.ones(shape))


@pytest.mark.parametrize("name", ["BatchNorm2d", "Dropout"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda torch, x: x.to_sparse(), "expected a strided tensor"),
        (lambda torch, x: x.to("meta"), "expected a strided tensor in memory, got .* on meta"),
        (lambda torch, x: x.to(torch.complex64), "expected dtype float32, .*got .*complex64"),
        (lambda torch, x: x.to(torch.int32), "expected dtype float32, .*got .*int32"),
        (lambda torch, x: torch._neg_view(x), "pending minus sign .*resolve_neg"),
    ],
    ids=["sparse", "meta", "complex", "int", "negated"],
)
def test_tensors_that_are_refused(torch, face, name, make, words):
    layer = face.BatchNorm2d(3) if name == "BatchNorm2d" else face.Dropout()
    with pytest.raises((ValueError, TypeError), match=rf"kitae\.torch\.{name}: input: .*{words}"):
        layer(make(torch, torch.ones(4, 3, 2, 2)))


def test_words_for_a_tensor_on_a_gpu(torch):
    """No GPU here: the reason is what the native code gives for another device (tests/test_exchange.py)."""
    from kitae import _checks

    error = _checks.tensor_refused("torch.Adam.step", "gradients[0]", "device", torch.ones(3, device="meta"))
    assert str(error).startswith(
        "kitae.torch.Adam.step: gradients[0]: expected a tensor on the CPU or a CUDA device (tensors are never moved), "
        "got shape (3,)"
    )


def test_momentum_beyond_the_range_is_refused(torch, face):
    with pytest.raises(ValueError, match=r"BatchNorm1d: momentum: expected a number in \[0, 1\], or None, got 1\.5"):
        face.BatchNorm1d(3, momentum=1.5)(torch.randn(4, 3))


@pytest.mark.parametrize("name", [*SHAPES, "Dropout"])
def test_modules_are_pytorchs(torch, face, name):
    ours, theirs = getattr(face, name), getattr(torch.nn, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert issubclass(ours, theirs)
    layer = ours() if name == "Dropout" else ours(3)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(clone) is ours
        assert repr(clone) == repr(layer)
        assert str(clone.state_dict()) == str(layer.state_dict())


def test_a_compiled_network_goes_around_them(torch, face):
    """A compiled training step counts as one made by hand; PyTorch has nothing to say about kitae's native calls."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), face.BatchNorm1d(3), face.Dropout(0.5))
    optimizer = face.Adam(network.parameters())
    assert torch.compile(network, backend="eager")(torch.randn(5, 4)).shape == (5, 3)

    def step(x: Any) -> None:
        optimizer.zero_grad()
        network(x).sum().backward()
        optimizer.step()

    compiled = torch.compile(step, backend="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            compiled(torch.randn(5, 4))
    assert [str(warning.message) for warning in said if "kitae" in str(warning.message)] == []
    assert optimizer.state[network[0].weight]["step"] == 2
    assert network[1].num_batches_tracked == 3


# --- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_dropouts_rate_and_scale(torch, face, dtype):
    torch.manual_seed(1)
    count, p = 200_000, 0.3
    y = face.Dropout(p)(torch.ones(count, dtype=getattr(torch, dtype)))
    scale = torch.tensor(1 / (1 - p), dtype=torch.float64).to(y.dtype)
    assert set(y.unique().tolist()) == {0.0, scale.item()}
    dropped = int((y == 0).sum())
    assert abs(dropped - p * count) < 5 * math.sqrt(count * p * (1 - p))  # five standard deviations


def test_dropout_repeats_with_pytorchs_generator(torch, face):
    layer, x = face.Dropout(0.5), torch.ones(1000)
    torch.manual_seed(7)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(layer(x), first)
    state = torch.get_rng_state()
    third = layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), third)
    torch.manual_seed(7)
    torch.empty((), dtype=torch.int64).random_()  # a pass takes one such number
    assert torch.equal(layer(x), second)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert torch.equal(face.Dropout(0.5)(x), first)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_draws_the_same_mask(torch, face, reentrant):
    from torch.utils.checkpoint import checkpoint

    network = torch.nn.Sequential(torch.nn.Linear(40, 30), face.Dropout(0.5), torch.nn.Linear(30, 2))
    x, gradients = torch.randn(5, 40, requires_grad=True), []
    for through in (False, True):
        network.zero_grad()
        torch.manual_seed(3)
        y = checkpoint(network, x, use_reentrant=reentrant) if through else network(x)
        torch.manual_seed(4)  # what came between must not matter
        y.sum().backward()
        gradients.append(network[0].weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "gaps"])
def test_dropouts_gradient(torch, face, rng, layout):
    layer = face.Dropout(0.4)
    x = torch.tensor(rng.standard_normal((2, 3, 4, 4)))
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "gaps":
        x = x[:, :, ::2]
    x.requires_grad_()

    def call(x: Any) -> Any:
        torch.manual_seed(5)
        return layer(x)

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))
    y = call(x)
    y.backward(torch.ones(y.shape, dtype=torch.float64))  # in C order, whatever x is in
    torch.testing.assert_close(x.grad * x, y, rtol=1e-15, atol=0)
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_dropout_at_the_ends_and_in_eval(torch, face):
    x = torch.tensor([1.0, float("nan"), float("inf")], requires_grad=True)
    assert face.Dropout(0.0)(x) is x
    assert face.Dropout(0.5).eval()(x) is x
    y = face.Dropout(1.0)(x)
    assert torch.equal(y, torch.zeros(3))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(3))
    assert face.Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_dropout_in_place(torch, face):
    layer = face.Dropout(0.5, inplace=True)
    leaf = torch.ones(100, requires_grad=True)
    for refused in (leaf, leaf[::2]):
        with pytest.raises(RuntimeError, match="expected with inplace=True a tensor that may be overwritten"):
            layer(refused)
    assert (leaf == 1).all()
    x = leaf * 1
    y = layer(x)
    assert y is x
    y.sum().backward()
    assert torch.equal(leaf.grad, x.detach())
    plain = torch.ones(100)
    version = plain._version
    assert layer(plain) is plain
    assert plain._version > version
    assert set(plain.tolist()) == {0.0, 2.0}


# --- clipping --------------------------------------------------------------------------------------------------------


def _parameters(torch: ModuleType, rng: np.random.Generator, dtype: str = "float32") -> list[Any]:
    made = [
        torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, dtype))) for shape in ((30, 20), (7,), (2, 3, 4, 4))
    ]
    for p in made:
        p.grad = torch.tensor(rng.standard_normal(p.shape)).to(p.dtype)
    made[2].grad = made[2].grad.to(memory_format=torch.channels_last)
    return [*made, torch.nn.Parameter(torch.zeros(3))]  # the last one without a gradient


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm_is_pytorchs_in_double(torch, face, rng, max_norm, dtype):
    ours = _parameters(torch, rng, dtype)
    theirs = [torch.nn.Parameter(p.detach().double()) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = None if p.grad is None else p.grad.double().clone()
    norm = face.clip_grad_norm_((p for p in ours), max_norm)  # a generator, as model.parameters()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert norm.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    torch.testing.assert_close(norm.double(), expected, rtol=1e-7, atol=0)
    eps = torch.finfo(getattr(torch, dtype)).eps
    for p, q in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=2 * eps, atol=0)  # factor and product round once


def test_clip_grad_norm_refuses_and_warns(torch, face, rng):
    ours = _parameters(torch, rng)
    before = ours[0].grad.clone()
    for arguments, words in (
        ((0.0,), "max_norm"),
        ((-1.0,), "max_norm"),
        ((1.0, 1.0), r"norm_type: expected 2 .*1\.0"),
    ):
        with pytest.raises(ValueError, match=rf"kitae\.torch\.clip_grad_norm_: .*{words}"):
            face.clip_grad_norm_(ours, *arguments)
    ours[1].grad[2] = float("inf")
    with pytest.raises(RuntimeError, match=r"grads\[1\]: expected finite elements"):
        face.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    assert torch.equal(ours[0].grad, before)
    assert face.clip_grad_norm_(ours, 1.0).isinf()
    with pytest.warns(UserWarning, match="an empty generator"):
        assert face.clip_grad_norm_((p for p in ()), 1.0) == 0
    ours[0].grad = torch.ones(30, 20).to_sparse()
    with pytest.raises(ValueError, match=r"gradients\[0\]: expected a strided tensor"):
        face.clip_grad_norm_(ours, 1.0)


def test_norms_that_overflow_in_pytorch(torch, face):
    parameter = torch.nn.Parameter(torch.zeros(128))
    parameter.grad = torch.full((128,), 1e19)
    assert face.clip_grad_norm_(parameter, 1.0).item() == pytest.approx(1e19 * math.sqrt(128))
    assert torch.linalg.vector_norm(parameter.grad).item() == pytest.approx(1.0)


def test_clip_grad_value_is_pytorchs(torch, face, rng):
    ours = _parameters(torch, rng)
    ours[1].grad[3] = float("nan")
    expected = [None if p.grad is None else p.grad.clamp(-0.25, 0.25) for p in ours]
    assert face.clip_grad_value_(ours, 0.25, foreach=True) is None
    for p, grad in zip(ours[:-1], expected, strict=False):
        torch.testing.assert_close(p.grad, grad, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match=r"kitae\.torch\.clip_grad_value_: clip_value"):
        face.clip_grad_value_(ours, -1.0)


@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_"])
def test_clippings_parameters_are_pytorchs(torch, face, name):
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (face, torch.nn.utils))
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in theirs.parameters.values()
    ]


# --- documents -------------------------------------------------------------------------------------------------------


def test_the_page_has_every_name(face):
    page = (ROOT / "docs" / "torch.md").read_text()
    assert [name for name in face.__all__ if f"`{name}`" not in page] == []


def test_the_example_runs(torch):
    """Twenty steps: in double, the two imports give the same losses."""
    command = [sys.executable, str(ROOT / "examples" / "torch_digits.py"), "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KITAE_NUM_THREADS": "1"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert [line.split()[0] for line in printed.splitlines()] == ["before:", "after:", "largest"] * 2
    assert float(printed.splitlines()[-1].rpartition(" ")[2]) < 1e-12  # rounding in double, through 20 steps
