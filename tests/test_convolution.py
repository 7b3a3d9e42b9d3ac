"""Columns of windows and pooling beyond the rows of the cases: PyTorch, worked numbers, rules, bad geometry."""

import numpy as np
import pytest

import kitae
from kitae import nn

GEOMETRIES = [  # shape, kernel, stride, padding, dilation
    ((2, 3, 7, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 1, 8, 6), (2, 2), (3, 3), (0, 0), (1, 1)),
    ((2, 2, 9, 9), (3, 2), (2, 1), (1, 3), (2, 3)),
    ((1, 2, 5, 5), (5, 5), (1, 1), (0, 0), (1, 1)),
    ((2, 4, 6, 5), (1, 1), (1, 2), (0, 0), (1, 1)),
]


@pytest.mark.requires_torch
@pytest.mark.parametrize("layout", ["images", "channels first in memory"])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), GEOMETRIES)
def test_columns_against_pytorch(rng, shape, kernel, stride, padding, dilation, layout):
    import torch
    from torch.nn import functional

    keywords = {"stride": stride, "padding": padding, "dilation": dilation}
    x = rng.standard_normal(shape)
    theirs = functional.unfold(torch.from_numpy(x), kernel, **keywords)
    if layout != "images":
        x = x.swapaxes(0, 1).copy().swapaxes(0, 1)
    columns = kitae.im2col(x, kernel, **keywords)
    by_sample = columns.reshape(theirs.shape[1], shape[0], -1).swapaxes(0, 1)
    np.testing.assert_array_equal(by_sample, theirs.numpy())

    values = rng.standard_normal(columns.shape)
    folded = functional.fold(
        torch.from_numpy(values.reshape(theirs.shape[1], shape[0], -1).swapaxes(0, 1).copy()),
        shape[2:],
        kernel,
        **keywords,
    )
    # Nine sums of normal numbers in another order.
    np.testing.assert_allclose(kitae.col2im(values, shape, kernel, **keywords), folded.numpy(), rtol=0, atol=1e-14)


@pytest.mark.requires_torch
@pytest.mark.parametrize("kind", ["normal", "ties", "nan", "infinite"])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 3, 7, 9), (3, 3), (1, 1), (1, 1)),
        ((3, 1, 8, 6), (2, 2), (3, 3), (0, 0)),
        ((2, 2, 9, 8), (4, 3), (1, 2), (2, 1)),
        ((1, 2, 20, 20), (17, 18), (1, 2), (8, 9)),
    ],
)
def test_pooling_against_pytorch(rng, shape, kernel, stride, padding, kind):
    import torch
    from torch.nn import functional

    x = rng.standard_normal(shape)
    if kind == "ties":
        x = np.round(x)
    elif kind == "nan":
        x[rng.random(shape) < 0.2] = np.nan
    elif kind == "infinite":
        x = np.where(rng.random(shape) < 0.9, -np.inf, x)
    pools = [(kitae.max_pool, kitae.max_pool_backward, functional.max_pool2d, {}, {})]
    if kind == "normal":
        for include in (True, False):
            options = {"count_include_pad": include}
            pools.append((kitae.avg_pool, kitae.avg_pool_backward, functional.avg_pool2d, options, options))
    for pool, backward, theirs, ours_options, their_options in pools:
        y, saved = pool(x, kernel, stride=stride, padding=padding, **ours_options)
        of_torch = torch.from_numpy(x).requires_grad_()
        expected = theirs(of_torch, kernel, stride, padding, **their_options)
        # Averages are made in another order; gradients are sums of up to 306 terms below 5.
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-13, atol=1e-14)
        dout = rng.standard_normal(y.shape)
        expected.backward(torch.from_numpy(dout))
        np.testing.assert_allclose(backward(dout, saved), of_torch.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_a_worked_example():
    """By hand: windows of 2 x 2 over 1..9 in rows of three."""
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    columns = kitae.im2col(x, 2)
    np.testing.assert_array_equal(columns, [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]])
    # Each element as often as windows lie over it.
    np.testing.assert_array_equal(kitae.col2im(columns, x.shape, 2), x * [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    y, saved = kitae.max_pool(x, 2, stride=1)
    np.testing.assert_array_equal(y, [[[[5, 6], [8, 9]]]])
    np.testing.assert_array_equal(saved.positions, np.full((1, 1, 2, 2), 3))
    np.testing.assert_array_equal(kitae.avg_pool(x, 2, stride=1)[0], [[[[3, 4], [6, 7]]]])


def test_same_padding_has_the_odd_zero_behind():
    """TensorFlow's SAME: 5 elements by steps of 2 have 3 places, a zero before and one behind; 4 have 2."""
    x = np.arange(1.0, 6).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(
        kitae.im2col(x, (1, 3), stride=(1, 2), padding="same"), [[0, 2, 4], [1, 3, 5], [2, 4, 0]]
    )
    np.testing.assert_array_equal(
        kitae.im2col(x[..., :4], (1, 3), stride=(1, 2), padding="same"), [[1, 3], [2, 4], [3, 0]]
    )
    assert kitae.im2col(x, (1, 3), padding="valid").shape == (3, 3)


def test_positions_take_a_byte_where_they_fit():
    x = np.zeros((1, 1, 17, 17), np.float32)
    x[0, 0, 15, 15] = 1
    _, small = kitae.max_pool(x, 16)
    _, large = kitae.max_pool(x, 17)
    assert (small.positions.dtype, large.positions.dtype) == (np.uint8, np.uint32)
    assert (small.positions.item(), large.positions.item()) == (255, 15 * 17 + 15)
    assert not small.positions.flags.writeable
    for saved in (small, large):
        np.testing.assert_array_equal(kitae.max_pool_backward(np.ones((1, 1, 1, 1), np.float32), saved), x)


def test_padding_is_no_maximum():
    y, _ = kitae.max_pool(np.full((1, 1, 2, 2), -3.0), 3, stride=1, padding=1)
    np.testing.assert_array_equal(y, np.full((1, 1, 2, 2), -3.0))


def test_results_have_the_memory_order_of_the_input(rng):
    x = rng.standard_normal((2, 3, 4, 6)).swapaxes(0, 1).copy().swapaxes(0, 1)
    y, saved = kitae.max_pool(x, 2)
    assert y.swapaxes(0, 1).flags.c_contiguous
    assert kitae.max_pool_backward(y.copy(order="C"), saved).swapaxes(0, 1).flags.c_contiguous


def test_positions_that_are_none_write_nowhere(rng):
    _, saved = kitae.max_pool(rng.standard_normal((1, 1, 4, 4)), 2, stride=1)
    saved.positions = np.full_like(saved.positions, 255)
    np.testing.assert_array_equal(kitae.max_pool_backward(np.ones((1, 1, 3, 3)), saved), np.zeros((1, 1, 4, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kitae.im2col(x, 6), r"im2col: x: expected images of at least the window's 6 x 6, .* got 4 x 5"),
        (lambda x: kitae.im2col(x, 3, dilation=2), "im2col: x: expected images of at least the window's 5 x 5"),
        (lambda x: kitae.im2col(x, (1, 2, 3)), "im2col: kernel_size: expected an integer, or a pair .* got 3 entries"),
        (lambda x: kitae.im2col(x, 2, stride=(1, 0)), r"im2col: stride\[1\]: expected an integer in \[1, "),
        (lambda x: kitae.im2col(x, 2, padding="full"), "im2col: padding: expected one of 'same', 'valid', got 'full'"),
        (lambda x: kitae.im2col(x[0], 2), r"im2col: x: expected 4 dimensions \(samples, channels, height, width\)"),
        (lambda x: kitae.col2im(x[0, 0], x.shape, 2), r"col2im: columns: expected shape \(12, 24\), got"),
        (lambda x: kitae.col2im(x[0, 0], x.shape[1:], 2), "col2im: shape: expected .*, got 3 entries"),
        (lambda x: kitae.max_pool(x, 2, padding=2), r"max_pool: padding: expected at most half of the window \(2, 2\)"),
        (lambda x: kitae.avg_pool(x, 5), "avg_pool: x: expected images of at least the window's 5 x 5"),
        (
            lambda x: kitae.max_pool_backward(x, kitae.max_pool(x, 2)[1]),
            r"max_pool_backward: dout: expected shape \(2, 3, 2, 2\)",
        ),
    ],
)
def test_bad_geometry(rng, call, message):
    with pytest.raises(ValueError, match=r"kitae\." + message):
        call(rng.standard_normal((2, 3, 4, 5)))


def test_saved_of_another_call(rng):
    x = rng.standard_normal((1, 1, 4, 4))
    _, of_average = kitae.avg_pool(x, 2)
    with pytest.raises(TypeError, match=r"kitae\.max_pool_backward: saved: expected the PoolSaved that max_pool"):
        kitae.max_pool_backward(np.ones((1, 1, 2, 2)), of_average)
    with pytest.raises(TypeError, match=r"kitae\.avg_pool_backward: saved: expected the PoolSaved that avg_pool"):
        kitae.avg_pool_backward(np.ones((1, 1, 2, 2)), None)


def test_a_convolution_without_its_input_gradient(rng: np.random.Generator) -> None:
    layer, x = nn.Conv2D(3, 3, padding=1), rng.standard_normal((2, 2, 5, 4))
    dout = rng.standard_normal(layer.forward(x).shape)
    assert layer.backward(dout).shape == x.shape
    expected = {name: grad.copy() for name, grad in layer.grads.items()}
    assert layer.backward(dout, input_gradient=False) is None
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, expected[name])
