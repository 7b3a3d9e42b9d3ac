"""The public names are those of the design, with exactly these signatures; the backends are each other's twins."""

import inspect
import re

import numpy as np
import pytest

import kitae
from kitae import _dispatch
from kitae.nn import Dense

_COMMON = "weight_decay=None, l1=0.0, max_norm=None, nonfinite=None, master=None, no_decay=(), semantics='paper'"

PUBLIC = {
    "batch_norm": "(x, gamma, beta, running_mean, running_var, *, training, axis=1, eps=1e-05, running_decay=0.9, "
    "unbiased=True, activation=None, slope=0.01, residual=None, nonfinite='raise', out=None)",
    "batch_norm_backward": "(dout, saved, *, out=None)",
    "BatchNorm": "(channels=None, *, axis=1, eps=None, running_decay=None, unbiased=None, activation=None, slope=0.01, "
    "trainable=True, nonfinite=None, dtype=None, semantics='paper')",
    "layer_norm": "(x, gamma, beta, *, axis=-1, eps=1e-05, nonfinite='raise', out=None)",
    "layer_norm_backward": "(dout, saved, *, out=None)",
    "LayerNorm": "(shape=None, *, axis=-1, eps=1e-05, trainable=True, nonfinite='raise', dtype=None)",
    "weight_norm": "(v, g, *, axis=None, out=None)",
    "weight_norm_backward": "(dw, saved, *, out=None)",
    "WeightNorm": "(layer, *, axis=None)",
    "dropout": "(x, drop, *, seed, offset=0, scale='inverted', store='bits', out=None)",
    "dropout_backward": "(dout, mask, *, out=None)",
    "dropout_mask": "(shape, drop, *, seed, offset=0)",
    "Dropout": "(drop=None, *, retain=None, seed=None, scale=None, rng='philox', semantics='paper')",
    "DropConnect": "(layer, drop=None, *, retain=None, seed=None, names=('W',), keep_dropped=False)",
    "im2col": "(x, kernel_size, *, stride=1, padding=0, dilation=1, out=None)",
    "col2im": "(columns, shape, kernel_size, *, stride=1, padding=0, dilation=1, out=None)",
    "max_pool": "(x, kernel_size, *, stride=None, padding=0, out=None)",
    "max_pool_backward": "(dout, saved, *, out=None)",
    "avg_pool": "(x, kernel_size, *, stride=None, padding=0, count_include_pad=True, out=None)",
    "avg_pool_backward": "(dout, saved, *, out=None)",
    "SGD": f"(params=None, lr=None, *, {_COMMON})",
    "Momentum": f"(params=None, lr=None, *, momentum=None, dampening=None, {_COMMON})",
    "Nesterov": f"(params=None, lr=None, *, momentum=None, form=None, dampening=None, {_COMMON})",
    "AdaGrad": f"(params=None, lr=None, *, eps=None, eps_inside=None, initial=None, lr_decay=None, {_COMMON})",
    "AdaDelta": f"(params=None, lr=None, *, rho=None, eps=None, {_COMMON})",
    "RMSProp": "(params=None, lr=None, *, rho=None, eps=None, eps_inside=None, centered=None, momentum=None, "
    f"{_COMMON})",
    "Adam": f"(params=None, lr=None, *, beta1=None, beta2=None, eps=None, {_COMMON})",
    "AdamW": f"(params=None, lr=None, *, beta1=None, beta2=None, eps=None, {_COMMON})",
    "AdaMax": f"(params=None, lr=None, *, beta1=None, beta2=None, eps=None, {_COMMON})",
    "AMSGrad": f"(params=None, lr=None, *, beta1=None, beta2=None, eps=None, {_COMMON})",
    "NormalizedGD": f"(params=None, lr=None, *, per=None, {_COMMON})",
    "global_norm": "(grads)",
    "clip_grad_norm": "(grads, max_norm, *, eps=1e-06, nonfinite='raise', per='all')",
    "clip_grad_value": "(grads, limit)",
    "normalize_gradients": "(layers, mode, threshold=1.0, *, nonfinite='raise')",
    "clip_grad_adaptive": "(params, grads, clipping=0.01, *, eps=0.001, axis=None, nonfinite='raise')",
    "EMA": "(params, decay=0.999, *, debias=False, warmup=False)",
    "SWA": "(params)",
    "seed": "(n)",
    "set_num_threads": "(n)",
    "get_num_threads": "()",
    "show_config": "()",
    "check": "()",
    "use_backend": "(name)",
}
OPTIMIZERS = [name for name, signature in PUBLIC.items() if "params=None" in signature]


def plain(signature: inspect.Signature) -> str:
    """Without annotations."""
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", PUBLIC)
def test_signature(name):
    assert plain(inspect.signature(getattr(kitae, name))) == PUBLIC[name]


def test_nothing_else_is_public():
    assert set(kitae.__all__) - set(PUBLIC) == {
        "Mask",
        "PoolSaved",
        "Saved",
        "SavedLayerNorm",
        "SavedWeightNorm",
    }  # what functions return, for annotations
    assert len(kitae.__all__) == len(set(kitae.__all__))


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    assert inspect.getdoc(getattr(kitae, name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_interface(name):
    optimizer = getattr(kitae, name)([np.ones(3, np.float32)])
    methods = {
        "attach": "(params)",
        "step": "(grads=None)",
        "bind": "(grads)",
        "state_dict": "()",
        "load_state_dict": "(d)",
    }
    for method, signature in methods.items():
        assert plain(inspect.signature(getattr(optimizer, method))) == signature
    assert optimizer.step([np.ones(3, np.float32)]) is None
    assert optimizer.steps == 1
    assert isinstance(optimizer.lr, float)
    assert isinstance(optimizer.groups, list)
    assert set(optimizer.stats._fields) >= {"norm", "nonfinite", "written"}
    state = optimizer.state_dict()
    assert set(state) == {"version", "kind", "semantics", "steps", "groups", "names", "slots"}
    assert state["version"] == 1
    assert state["kind"] == name


@pytest.mark.parametrize(
    "make",
    [
        lambda: kitae.BatchNorm(4),
        lambda: kitae.LayerNorm(4),
        lambda: kitae.WeightNorm(Dense(4)),
        kitae.Dropout,
        lambda: kitae.DropConnect(kitae.BatchNorm(4), names=("gamma",)),
    ],
)
def test_layer_interface(make):
    layer = make()
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = layer.forward(x, training=True)
    assert layer.backward(y).shape == x.shape
    assert layer.forward(x, training=False).shape == x.shape
    for name in ("params", "grads", "buffers"):
        assert isinstance(getattr(layer, name), dict)
    assert set(layer.grads) == set(layer.params)


def test_results_are_of_the_promised_kinds():
    grads = [np.ones(4, np.float32)]
    assert type(kitae.global_norm(grads)) is float
    assert type(kitae.clip_grad_norm(grads, 1.0)) is float
    assert kitae.clip_grad_value(grads, 1.0) is None
    mask = kitae.dropout_mask((2, 3), 0.5, seed=1)
    for name in ("bits", "shape", "drop", "scale", "seed", "offset"):
        assert hasattr(mask, name)
    assert mask.unpack().dtype == bool
    _, saved = kitae.batch_norm(np.ones((3, 4)), None, None, None, None, training=True)
    for statistic in (saved.mean, saved.inv_std):
        assert statistic.dtype == np.float64
        assert not statistic.flags.writeable
    assert saved.training is True


# Of the compiled module alone: what belongs to threads, to the benchmark, and to tensors of other libraries.
_NATIVE_ONLY = {"variant", "num_threads", "set_num_threads", "copy_split", "copy_streaming", "Exchange"}
_SIGNATURE = re.compile(r"\((?:self: [^,)]+(?:, )?)?(.*)\) -> ")


def native_parameters(function: object) -> list[str]:
    """Parameter names from the first line of the docstring, where pybind11 writes the signature."""
    line = (function.__doc__ or "").splitlines()[0]
    inside = _SIGNATURE.search(line)
    assert inside, line
    return [name for name in re.findall(r"(\w+): ", inside[1]) if name != "self"]


def python_parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def backend_names(module: object) -> set[str]:
    listed = getattr(module, "__all__", None) or dir(module)
    return {name for name in listed if not name.startswith("_") and (callable(getattr(module, name)))}


def test_backends_have_the_same_functions():
    native = {name for name in dir(_dispatch.cpu()) if not name.startswith("_")} - _NATIVE_ONLY - {"importlib", "os"}
    assert native
    assert native == backend_names(_dispatch.reference())


def test_backends_have_the_same_parameters():
    native, reference = _dispatch.cpu(), _dispatch.reference()
    for name in backend_names(reference):
        ours, theirs = getattr(native, name), getattr(reference, name)
        if not inspect.isclass(theirs):
            assert native_parameters(ours) == python_parameters(theirs), name
            continue
        methods = [method for method in vars(theirs) if not method.startswith("_") or method == "__init__"]
        for method in methods:
            assert native_parameters(getattr(ours, method)) == python_parameters(getattr(theirs, method)), (
                f"{name}.{method}"
            )
        public = {method for method in vars(ours) if not method.startswith("_")}
        assert public == {method for method in methods if method != "__init__"}, name


def test_native_functions_have_no_defaults():
    for name in dir(_dispatch.cpu()):
        doc = getattr(getattr(_dispatch.cpu(), name), "__doc__", None) or ""
        first = doc.splitlines()[0] if doc else ""
        if first.startswith(f"{name}("):
            assert " = " not in first, first
