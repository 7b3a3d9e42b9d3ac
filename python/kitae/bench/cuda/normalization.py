"""Batch norm on the GPU: ResNet-50's shapes in both layouts and a perceptron's, forward, backward, fused, inference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import kitae

from .row import Contender, Inputs, Maker, Row, Traffic

EPS = 1e-5
RUNNING_DECAY = 0.9

_ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
_RESNET50 = (
    (256, 64, 112, 112),
    (256, 256, 56, 56),
    (256, 64, 56, 56),
    (256, 512, 28, 28),
    (256, 128, 28, 28),
    (256, 1024, 14, 14),
    (256, 256, 14, 14),
    (256, 2048, 7, 7),
    (256, 512, 7, 7),
)
_SMALL_BATCH = ((32, 64, 112, 112), (32, 512, 28, 28))
_BLOCK_ENDS = ((256, 256, 56, 56), (256, 512, 28, 28), (256, 1024, 14, 14), (256, 2048, 7, 7))
_QUICK = {(256, 64, 56, 56), (256, 512, 28, 28), (256, 64, 112, 112)}
_COMPILED = (256, 512, 28, 28)  # the only one for torch.compile: it takes seconds a row
_PERCEPTRON = ((128, 1024), (1024, 100), (1024, 1024), (8192, 1024), (8192, 4096))

OPS = {
    "batch_norm": "forward",
    "batch_norm_backward": "backward",
    "batch_norm_residual_relu": "forward",
    "batch_norm_residual_relu_backward": "backward",
    "batch_norm_inference_relu": "forward",
}


def rows() -> list[Row]:
    made = []
    for op in OPS:
        fused = op not in ("batch_norm", "batch_norm_backward")
        shapes = _BLOCK_ENDS if fused else (*_RESNET50, *_SMALL_BATCH)
        for shape in shapes:
            for layout in ("NCHW", "NHWC"):
                for dtype in ("float32", "float16", "bfloat16"):
                    made.append(_row(op, shape, layout, dtype, _tier(op, shape, layout, dtype, fused)))
        if not fused:
            for sizes in _PERCEPTRON:
                for dtype in ("float32", "bfloat16"):
                    quick = sizes in ((1024, 1024), (8192, 4096)) and dtype == "float32"
                    made.append(_row(op, sizes, "NC", dtype, 0 if quick else 1 if dtype == "float32" else 2))
    return made


def _tier(op: str, shape: tuple[int, ...], layout: str, dtype: str, fused: bool) -> int:
    usual = dtype == ("float32" if layout == "NCHW" else "float16")
    if fused:
        return (0 if shape == (256, 512, 28, 28) and layout == "NCHW" else 1) if usual else 2
    if shape in _QUICK and usual:
        return 0
    return 1 if usual or (dtype == "bfloat16" and shape in _QUICK) else 2


def _row(op: str, shape: tuple[int, ...], layout: str, dtype: str, tier: int) -> Row:
    laid = shape if layout != "NHWC" else (shape[0], *shape[2:], shape[1])
    axis = -1 if layout == "NHWC" else 1
    elements, item = int(np.prod(shape)), _ITEM[dtype]
    reads = 1 if op in ("batch_norm", "batch_norm_inference_relu") else 2
    if op == "batch_norm_residual_relu_backward":
        reads = 2
    return Row(
        family="batch_norm",
        op=op,
        size=f"{'x'.join(map(str, laid))} {layout}",
        dtype=dtype,
        tier=tier,
        inputs=partial(_inputs, shape=laid, axis=axis, dtype=dtype),
        traffic=partial(_traffic, op=op, shape=shape, layout=layout, item=item),
        makers=partial(_makers, op=op, axis=axis, dtype=dtype, compiled=shape == _COMPILED and tier < 2),
        reference=partial(_reference, op=op, axis=axis),
        set_bytes=reads * elements * item,
    )


def fits_on_chip(device: Any, shape: tuple[int, ...], layout: str, item: int, inputs: int) -> bool:
    """Whether a slice stays in shared memory: a channel, or 64 bytes of channels that lie side by side.

    Of a block or a cluster of 16; side by side, also of half of all blocks, while the other half moves another slice.
    """
    elements = int(np.prod(shape)) // shape[1]
    in_cluster = device.shared_bytes * (16 if device.clusters else 1)
    if layout == "NCHW":
        return elements * item * inputs <= in_cluster
    return elements * 64 * inputs <= max(in_cluster, device.sm_count * device.shared_bytes // 2)


def _traffic(device: Any, op: str, shape: tuple[int, ...], layout: str, item: int) -> Traffic:
    """1 read where the slice stays on chip, else 2; backward has two inputs; ReLU's bits beside a residual 1/8 byte."""
    elements = int(np.prod(shape))
    one = elements * item
    bits = elements // 8 if "residual" in op else 0
    if op == "batch_norm_inference_relu":
        return Traffic(one, one)
    if op in ("batch_norm", "batch_norm_residual_relu"):
        passes = 1 if fits_on_chip(device, shape, layout, item, 1) else 2
        residual = one if bits else 0
        return Traffic(passes * one + residual, one + bits)
    passes = 1 if fits_on_chip(device, shape, layout, item, 2) else 2
    dresidual = one if bits else 0
    return Traffic(passes * (2 * one + bits), one + dresidual)


def _inputs(device: Any, shape: tuple[int, ...], axis: int, dtype: str) -> Inputs:
    channels = shape[axis]
    return {
        "x": device.normal(shape, dtype),
        "dout": device.normal(shape, dtype),
        "gamma": device.full((channels,), 1.25),
        "beta": device.full((channels,), 0.1),
        "running_mean": device.full((channels,), 0.0),
        "running_var": device.full((channels,), 1.0),
    }


def _reference(device: Any, inputs: Inputs, op: str, axis: int) -> Any:
    """The first result in float64: y or dx."""
    xp = device.xp
    x, other = device.wide(inputs["x"]), device.wide(inputs["dout"])
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    if op == "batch_norm_inference_relu":
        mean, var = 0.0, 1.0
    else:
        mean = x.mean(axis=axes, keepdims=True)
        var = xp.square(x - mean).mean(axis=axes, keepdims=True)
    inv_std = 1 / (var + EPS) ** 0.5
    x -= mean
    x *= inv_std  # xhat
    if OPS[op] == "forward":
        y = x * 1.25 + 0.1
        if "residual" in op:
            y += other
        return xp.maximum(y, 0) if "relu" in op else y
    if "residual" in op:  # as _kitae and _torch: x's own values are the residual
        other = xp.where(x * 1.25 + 0.1 + device.wide(inputs["x"]) > 0, other, 0)
    count = x.size // x.shape[axis]
    sums = other.sum(axis=axes, keepdims=True), (other * x).sum(axis=axes, keepdims=True)
    return 1.25 * inv_std * (other - (sums[0] + x * sums[1]) / count)


def _makers(device: Any, sets: list[Inputs], op: str, axis: int, dtype: str, compiled: bool = False) -> list[Maker]:
    made: list[Maker] = [partial(_kitae, device, sets, op, axis)]
    if OPS[op] == "forward":
        made.append(partial(_kitae, device, sets, op, axis, given=True))
    if device.torch is not None:
        images = sets[0]["x"].ndim > 2
        layout = " channels-last" if images and axis == -1 else ""
        ways = (True, False) if images else (False,)
        made += [partial(_torch, device, sets, op, axis, cudnn, layout) for cudnn in ways]
        if compiled and OPS[op] == "forward":
            made.append(partial(_torch, device, sets, op, axis, False, layout, compiled=True))
    if dtype != "bfloat16" and op in ("batch_norm", "batch_norm_inference_relu"):
        made.append(partial(_plain, device, sets, op, axis))
    if device.jax is not None and op in ("batch_norm", "batch_norm_backward"):
        made.append(partial(_jax, device, sets, op, axis))
    return made


def _kitae(device: Any, sets: list[Inputs], op: str, axis: int, given: bool = False) -> Contender:
    training, activation = "inference" not in op, "relu" if "relu" in op else None

    def forward(inputs: Inputs, residual: Any, out: Any = None) -> Any:
        return kitae.batch_norm(
            inputs["x"],
            inputs["gamma"],
            inputs["beta"],
            inputs["running_mean"],
            inputs["running_var"],
            training=training,
            axis=axis,
            eps=EPS,
            running_decay=RUNNING_DECAY if OPS[op] == "forward" else 1.0,
            activation=activation,
            residual=residual,
            out=out,
        )

    if OPS[op] == "forward":
        outs = [device.copy(inputs["x"]) if given else None for inputs in sets]
        calls = [
            partial(forward, inputs, inputs["dout"] if "residual" in op else None, out)
            for inputs, out in zip(sets, outs, strict=True)
        ]
    else:
        saved = [forward(inputs, inputs["x"] if "residual" in op else None)[1] for inputs in sets]
        calls = [
            partial(kitae.batch_norm_backward, inputs["dout"], one) for inputs, one in zip(sets, saved, strict=True)
        ]
    return Contender("kitae", "out=" if given else "", calls, result=lambda result: result[0])


def _torch(
    device: Any, sets: list[Inputs], op: str, axis: int, cudnn: bool, layout: str, compiled: bool = False
) -> Contender:
    torch = device.torch
    functional = torch.nn.functional
    calls: list[Callable[[], Any]] = []

    def tensor(array: Any) -> Any:
        view = device.torch_tensor(array)
        return view.movedim(axis, 1) if view.ndim > 2 else view

    def forward(x: Any, other: Any, *small: Any) -> Any:
        with torch.no_grad():
            y = functional.batch_norm(x, *small, "inference" not in op, 1 - RUNNING_DECAY, EPS)
            if "residual" in op:
                y.add_(other)
            return torch.relu_(y) if "relu" in op else y

    if compiled:
        forward = torch.compile(forward, dynamic=False)
    for inputs in sets:
        x, other = tensor(inputs["x"]), tensor(inputs["dout"])
        gamma, beta = (device.torch_tensor(inputs[name]) for name in ("gamma", "beta"))
        mean, var = (device.torch_tensor(device.copy(inputs[name])) for name in ("running_mean", "running_var"))
        if OPS[op] == "forward":
            calls.append(partial(forward, x, other, mean, var, gamma, beta))
            continue
        leaves = [value.detach().clone().requires_grad_() for value in (gamma, beta)]
        leaf = x.detach().requires_grad_()
        with device.torch_settings(cudnn):
            y = functional.batch_norm(leaf, mean, var, *leaves, True, 1 - RUNNING_DECAY, EPS)
            if "residual" in op:
                y = torch.relu(y + x)
        # With a residual its gradient is a result too: PyTorch hands on the masked gradient without a copy.
        calls.append(partial(torch.autograd.grad, y, (leaf, *leaves), other, retain_graph=True))

    def back(value: Any) -> Any:
        first = value[0] if isinstance(value, tuple) else value
        return first.movedim(1, axis) if first.ndim > 2 else first

    return Contender(
        "PyTorch",
        ("compile" if compiled else "cuDNN" if cudnn else "native") + layout,
        calls,
        context=partial(device.torch_settings, cudnn),
        result=back,
    )


def _plain(device: Any, sets: list[Inputs], op: str, axis: int) -> Contender:
    """As it is written on CuPy arrays: float32 statistics, no fusion."""
    xp = device.xp
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        x, gamma, beta, mean, var = (
            device.plain(inputs[name]) for name in ("x", "gamma", "beta", "running_mean", "running_var")
        )
        axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        along = [1] * x.ndim
        along[axis] = -1
        gamma, beta, mean, var = (value.reshape(along) for value in (gamma, beta, mean, var))

        def training(x: Any = x, gamma: Any = gamma, beta: Any = beta, axes: Any = axes) -> Any:
            distance = x - x.mean(axis=axes, dtype=np.float32, keepdims=True)
            square = xp.square(distance).mean(axis=axes, keepdims=True)
            distance *= gamma / xp.sqrt(square + np.float32(EPS))
            distance += beta
            return distance.astype(x.dtype, copy=False)

        def inference(x: Any = x, gamma: Any = gamma, beta: Any = beta, mean: Any = mean, var: Any = var) -> Any:
            y = x - mean
            y *= gamma / xp.sqrt(var + np.float32(EPS))
            y += beta
            return xp.maximum(y, 0, out=y).astype(x.dtype, copy=False)

        calls.append(inference if "inference" in op else training)
    return Contender("CuPy", "", calls, result=lambda result: result)


def _jax(device: Any, sets: list[Inputs], op: str, axis: int) -> Contender:
    jax = device.jax
    jnp = jax.numpy

    def forward(x: Any, gamma: Any, beta: Any) -> Any:
        axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        along = [1] * x.ndim
        along[axis] = -1
        wide = x.astype(jnp.float32)
        mean = wide.mean(axes, keepdims=True)
        var = jnp.square(wide - mean).mean(axes, keepdims=True)
        y = (wide - mean) * (gamma.reshape(along) * jax.lax.rsqrt(var + EPS)) + beta.reshape(along)
        return y.astype(x.dtype)

    def backward(x: Any, gamma: Any, beta: Any, dout: Any) -> Any:
        return jax.vjp(forward, x, gamma, beta)[1](dout)

    names = ("x", "gamma", "beta") if OPS[op] == "forward" else ("x", "gamma", "beta", "dout")
    function = jax.jit(forward if OPS[op] == "forward" else backward)
    arrays = [[device.jax_array(inputs[name]) for name in names] for inputs in sets]
    # The backward pass computes the statistics again: JAX keeps them only inside one compiled step.
    variant = "jit" if OPS[op] == "forward" else "jit vjp, statistics included"
    return Contender("JAX", variant, [partial(function, *given) for given in arrays], finish=jax.block_until_ready)
