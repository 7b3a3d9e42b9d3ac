"""Convolutional and pooling layers: finite differences, PyTorch, memory, building, refusals."""

import numpy as np
import pytest

import kitae
from kitae import nn

LAYERS = {  # name -> (layer, shape of x)
    "3x3": (lambda: nn.Conv2D(3, 3, padding=1), (2, 2, 5, 4)),
    "1x1": (lambda: nn.Conv2D(2, 1), (3, 3, 2, 2)),
    "stride above the kernel": (lambda: nn.Conv2D(2, 2, stride=3), (2, 1, 6, 7)),
    "as large as the input": (lambda: nn.Conv2D(2, (3, 4), bias=False), (2, 2, 3, 4)),
    "dilation and padding": (
        lambda: nn.Conv2D(2, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(2, 2)),
        (2, 2, 5, 4),
    ),
    "same, stride 2": (lambda: nn.Conv2D(2, 3, stride=2, padding="same"), (1, 2, 4, 5)),
    "signals": (lambda: nn.Conv1D(3, 3, stride=2, padding=1), (2, 2, 6)),
    "signals, same": (lambda: nn.Conv1D(2, 4, padding="same", dilation=2), (2, 1, 7)),
    "max": (lambda: nn.MaxPool2D(2), (2, 2, 4, 5)),
    "max, overlapping": (lambda: nn.MaxPool2D(3, stride=1, padding=1), (1, 2, 4, 3)),
    "max of signals": (lambda: nn.MaxPool1D(3, stride=2, padding=1), (2, 2, 7)),
    "average": (lambda: nn.AvgPool2D((2, 3), stride=1, padding=(1, 0)), (2, 1, 4, 5)),
    "average inside": (lambda: nn.AvgPool2D(3, stride=2, padding="same", count_include_pad=False), (1, 2, 4, 5)),
    "average of signals": (lambda: nn.AvgPool1D(2), (2, 2, 5)),
    "global average": (nn.GlobalAvgPool2D, (2, 3, 4, 2)),
    "flatten": (nn.Flatten, (2, 3, 2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_finite_differences(rng, name):
    """Central differences of a sum of products: error about 1e-10 at a step of 1e-5, as the functions are linear in
    pieces and maxima of normal numbers lie further apart."""
    make, shape = LAYERS[name]
    layer, x = make(), rng.standard_normal(shape)
    dout = rng.standard_normal(layer.forward(x).shape)
    dx = layer.backward(dout)

    def loss():
        return float(np.sum(dout * layer.forward(x)))

    grads = {key: grad.copy() for key, grad in layer.grads.items()}
    for values, grad in [(x, dx), *((layer.params[key], grads[key]) for key in layer.params)]:
        assert grad.shape == values.shape
        for index in np.ndindex(values.shape):
            centre = values[index]
            values[index] = centre + 1e-5
            above = loss()
            values[index] = centre - 1e-5
            below = loss()
            values[index] = centre
            assert grad[index] == pytest.approx((above - below) / 2e-5, abs=1e-8)


@pytest.mark.requires_torch
@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize(
    ("shape", "kernel", "keywords"),
    [
        ((3, 9, 8), (3, 3), {"padding": 1}),
        ((2, 7, 9), (2, 3), {"stride": (3, 4), "padding": (1, 2), "dilation": (2, 1)}),
        ((2, 40, 41), (5, 5), {"padding": "same"}),
        ((4, 3, 3), (1, 1), {}),
        ((2, 6), (3,), {"stride": 2, "padding": 1}),
    ],
)
def test_convolution_against_pytorch(rng, batch, shape, kernel, keywords):
    import torch
    from torch.nn import functional

    x = rng.standard_normal((batch, *shape))
    layer = (nn.Conv2D if len(kernel) == 2 else nn.Conv1D)(5, kernel, **keywords)
    y = layer.forward(x)
    weights, bias = layer.params["W"], layer.params["b"]
    bias[...] = rng.standard_normal(5)
    y = layer.forward(x)
    inputs = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, weights, bias)]
    convolve = functional.conv2d if len(kernel) == 2 else functional.conv1d
    expected = convolve(*inputs, **keywords)
    # Sums of up to 50 * 41 * 40 products of normal numbers, in another order.
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=1e-12)
    dout = rng.standard_normal(y.shape)
    expected.backward(torch.from_numpy(dout))
    dx = layer.backward(dout)
    for ours, theirs in zip((dx, layer.grads["W"], layer.grads["b"]), inputs, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=0, atol=1e-10)


def test_channels_lie_side_by_side_and_nothing_is_kept_but_x(rng):
    x = rng.standard_normal((7, 2, 30, 30)).astype(np.float32)
    network = nn.Sequential(
        nn.Conv2D(4, 3, padding=1), kitae.BatchNorm(activation="relu"), nn.Conv2D(4, 3), nn.MaxPool2D(2)
    )
    y = network.forward(x)
    assert y.swapaxes(0, 1).flags.c_contiguous
    dx = network.backward(y)
    assert dx.flags.c_contiguous  # as x is
    sizes = [value.nbytes for value in vars(network.layers[2]).values() if isinstance(value, np.ndarray)]
    assert sum(sizes) == 7 * 4 * 30 * 30 * 4  # the input, no columns


def test_parts_of_the_batch_give_the_whole(rng, monkeypatch):
    """A part at a time or all at once, dW by samples or by parts: equal but for the order in which it is added up."""
    from kitae.nn import convolution

    x, results = rng.standard_normal((5, 2, 6, 6)), []
    for at_once, small in ((1, 0), (2**13, 0), (2**30, 0), (2**13, 10**6), (2**30, 10**6)):
        monkeypatch.setattr(convolution, "_BYTES_AT_ONCE", at_once)
        monkeypatch.setattr(convolution, "_SMALL_PRODUCT", small)
        kitae.seed(3)
        layer = nn.Conv2D(3, 3)
        y = layer.forward(x)
        results.append((y, layer.backward(np.cos(y)), layer.grads["W"].copy(), layer.grads["b"].copy()))
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            np.testing.assert_allclose(ours, first, rtol=0, atol=1e-13)


def test_gradients_are_written_in_place(rng):
    layer = nn.Conv2D(3, 3)
    for _ in range(2):
        y = layer.forward(rng.standard_normal((2, 1, 5, 5)))
        before = dict(layer.grads)
        layer.backward(y)
        assert all(layer.grads[name] is before[name] for name in before)


def test_empty_batch():
    network = nn.Sequential(nn.Conv2D(3, 3), nn.MaxPool2D(2), nn.AvgPool2D(1), nn.Flatten(), nn.Dense(2))
    network.build((1, 2, 6, 6), np.float32)
    y = network.forward(np.zeros((0, 2, 6, 6), np.float32))
    assert y.shape == (0, 2)
    assert network.backward(y).shape == (0, 2, 6, 6)
    assert all((grad == 0).all() for grad in network.grads.values())
    assert nn.GlobalAvgPool2D().forward(np.zeros((0, 2, 6, 6))).shape == (0, 2)


def test_building():
    kitae.seed(1)
    at_once = nn.Conv2D(64, 3, in_channels=16)
    assert at_once.params["W"].shape == (64, 16, 3, 3)
    assert at_once.params["W"].dtype == np.float32
    # 9,216 draws: the standard deviation of N(0, 2 / 144) within five of its own, 1 / sqrt(2 n).
    assert at_once.params["W"].std() == pytest.approx((2 / 144) ** 0.5, rel=5 / (2 * 9216) ** 0.5)
    assert not at_once.params["b"].any()
    kitae.seed(1)
    later = nn.Conv2D(64, 3)
    later.build((1, 16, 9, 9), np.float16)
    np.testing.assert_array_equal(later.params["W"], at_once.params["W"])
    assert nn.Conv1D(4, 3, in_channels=2, dtype=np.float64).params["W"].shape == (4, 2, 3)
    assert set(nn.Conv2D(1, 1, bias=False, in_channels=1).params) == {"W"}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Conv2D(0, 3), ValueError, r"nn\.Conv2D: channels: expected an integer in \[1, "),
        (lambda: nn.Conv2D(1, (3,)), ValueError, r"nn\.Conv2D: kernel_size: expected an integer, or 2 of them, got 1"),
        (lambda: nn.Conv1D(1, 3, padding="full"), ValueError, r"nn\.Conv1D: padding: expected one of 'same', 'valid'"),
        (lambda: nn.Conv2D(1, 3, init="hee"), ValueError, r"nn\.Conv2D: init: expected one of"),
        (lambda: nn.Conv2D(1, 3, bias=1), TypeError, r"nn\.Conv2D: bias: expected True or False"),
        (lambda: nn.Conv2D(1, 3, dtype=np.int32), TypeError, r"nn\.Conv2D: dtype: expected float32 or float64"),
        (lambda: nn.MaxPool2D(1.5), TypeError, r"nn\.MaxPool2D: kernel_size: expected an integer"),
        (lambda: nn.AvgPool1D(2, count_include_pad=None), TypeError, r"nn\.AvgPool1D: count_include_pad"),
        (lambda: nn.Conv2D(1, 3).forward(np.ones((2, 5, 5))), ValueError, r"nn\.Conv2D\.forward: x: expected 4 dim"),
        (lambda: nn.Conv2D(1, 3).forward([1.0]), TypeError, r"nn\.Conv2D\.forward: x: expected a numpy\.ndarray"),
        (
            lambda: nn.Conv2D(1, 3, in_channels=2).forward(np.ones((2, 3, 5, 5), np.float32)),
            ValueError,
            r"nn\.Conv2D\.forward: x: expected shape \(batch, 2, height, width\)",
        ),
        (
            lambda: nn.Conv2D(1, 3, in_channels=2).forward(np.ones((2, 2, 5, 5))),
            TypeError,
            r"nn\.Conv2D\.forward: x: expected dtype float32",
        ),
        (
            lambda: nn.Conv2D(1, 3).forward(np.ones((2, 2, 2, 5))),
            ValueError,
            r"nn\.Conv2D\.forward: x: expected images",
        ),
        (lambda: nn.GlobalAvgPool2D().forward(np.ones((2, 2, 0, 5))), ValueError, "expected at least one pixel"),
        (lambda: nn.Flatten().forward(np.ones(3)), ValueError, r"nn\.Flatten\.forward: x: expected at least 2 dim"),
    ],
)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("name", LAYERS)
def test_backward_wants_the_latest_outputs_shape(rng, name):
    make, shape = LAYERS[name]
    layer = make()
    with pytest.raises(RuntimeError, match="expected a forward pass before each backward pass"):
        layer.backward(np.ones(shape))
    y = layer.forward(rng.standard_normal(shape))
    before = {key: grad.copy() for key, grad in layer.grads.items()}
    with pytest.raises(ValueError, match=r"backward: dout: expected shape .*, that of the latest output"):
        layer.backward(np.ones((y.shape[0] + 1, *y.shape[1:])))
    for key, grad in before.items():
        np.testing.assert_array_equal(layer.grads[key], grad)
