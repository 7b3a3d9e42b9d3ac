"""Every public function, argument by argument: how it is called, and the outcomes of each kind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kitae
from bad_input_kinds import (
    ANY_FINITE,
    AXIS_OF_TWO,
    BELOW_ONE,
    CHOICE,
    CHOOSES_BACKEND,
    COUNT,
    FLOATS,
    LAYOUTS,
    LENGTH,
    NOT_NEGATIVE,
    OFFSET,
    POSITIVE_OR_INFINITE,
    READ,
    READ_LIKE,
    READ_SHAPED,
    READ_VECTOR,
    SEED,
    SHAPES,
    TRUTH,
    UP_TO_ONE,
    WORKS,
    WRITE,
    WRITE_LIKE,
    WRITE_SHAPED,
    WRITE_VECTOR,
    Outcomes,
    optional,
)

Arguments = dict[str, Any]


def numbers(seed: int, shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(np.float32)


@dataclass(frozen=True)
class Target:
    """One public function with one argument under test; the others are good."""

    op: str  # as messages name it
    argument: str  # as messages name it
    outcomes: Outcomes
    call: Callable[[Arguments], Any]  # gives everything that the call computed or changed beside its arguments
    good: Callable[[], Arguments]
    key: str = ""  # of the argument in `good()`, where messages name it differently
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # by kind: op and argument of the message
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.op}{self.variant}-{self.argument}"


def undisturbed(state: Callable[[], Any], call: Callable[[], Any]) -> Any:
    """call(); where it raises, what ``state`` gives must be as before."""
    from test_bad_input import assert_same

    before = state()
    try:
        return call()
    except Exception:
        assert_same(state(), before, "state ")
        raise


def copies(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if array is None else array.copy() for name, array in arrays.items()}


OPTIMIZERS: dict[str, dict[str, Outcomes]] = {
    "SGD": {},
    "Momentum": {"momentum": UP_TO_ONE, "dampening": ANY_FINITE},
    "Nesterov": {"momentum": UP_TO_ONE, "form": CHOICE, "dampening": ANY_FINITE},
    "AdaGrad": {"eps": NOT_NEGATIVE, "initial": NOT_NEGATIVE, "eps_inside": TRUTH, "lr_decay": NOT_NEGATIVE},
    "AdaDelta": {"rho": BELOW_ONE, "eps": NOT_NEGATIVE},
    "RMSProp": {
        "rho": BELOW_ONE,
        "eps": NOT_NEGATIVE,
        "momentum": UP_TO_ONE,
        "eps_inside": TRUTH,
        "centered": TRUTH,
    },
    "Adam": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
    "AdamW": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
    "AdaMax": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
    "AMSGrad": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
    "NormalizedGD": {"per": CHOICE},
}
WORDS = {"form": "torch", "per": "tensor", "nonfinite": "zero", "semantics": "torch"}


def good_keyword(keyword: str, outcomes: Outcomes) -> Any:
    if keyword in WORDS:
        return WORDS[keyword]
    return True if "numpy" in outcomes else 0.5


def optimizer_targets() -> Iterator[Target]:
    for name, own in OPTIMIZERS.items():
        cls = getattr(kitae, name)

        def good() -> Arguments:
            return {"param": numbers(1), "grad": numbers(2), "other": numbers(3, (5,)), "other_grad": numbers(4, (5,))}

        def step(arguments: Arguments, cls: Any = cls) -> Any:
            optimizer = cls([arguments["other"], arguments["param"]])
            undisturbed(optimizer.state_dict, lambda: optimizer.step([arguments["other_grad"], arguments["grad"]]))
            return optimizer.state_dict()

        # A parameter of another shape is fine; its gradient then is not.
        shaped = dict.fromkeys(SHAPES, (f"{name}.step", "grads[1]"))
        yield Target(f"{name}.attach", "params[1]", WRITE_SHAPED, step, good, "param", shaped)
        yield Target(f"{name}.step", "grads[1]", optional(READ_LIKE), step, good, "grad")  # None: leave it alone

        def construct(arguments: Arguments, cls: Any = cls) -> Any:
            keywords = {key: value for key, value in arguments.items() if key not in ("param", "grad")}
            optimizer = cls([arguments["param"]], **keywords)
            optimizer.step([arguments["grad"]])
            return optimizer.state_dict()

        keywords = {
            "lr": optional(NOT_NEGATIVE),
            "weight_decay": optional(NOT_NEGATIVE),
            "l1": NOT_NEGATIVE,
            "master": optional(TRUTH),
            "nonfinite": optional(CHOICE),
            "semantics": CHOICE,
            **{keyword: optional(outcomes) for keyword, outcomes in own.items()},
        }
        if name != "NormalizedGD":
            keywords["max_norm"] = optional(POSITIVE_OR_INFINITE)
        for keyword, outcomes in keywords.items():

            def with_keyword(keyword: str = keyword, outcomes: Outcomes = outcomes) -> Arguments:
                return {"param": numbers(1), "grad": numbers(2), keyword: good_keyword(keyword, outcomes)}

            yield Target(name, keyword, outcomes, construct, with_keyword)

        def assign_lr(arguments: Arguments, cls: Any = cls) -> Any:
            optimizer = cls([arguments["param"]])

            def assign() -> None:
                optimizer.lr = arguments["lr"]

            undisturbed(optimizer.state_dict, assign)
            return optimizer.state_dict()

        yield Target(
            name, "lr", NOT_NEGATIVE, assign_lr, lambda: {"param": numbers(1), "lr": 0.5}, variant="(assigned)"
        )


def gradient_targets() -> Iterator[Target]:
    def good() -> Arguments:
        return {"first": numbers(1), "second": numbers(2, (5,)), "max_norm": 1.0, "eps": 1e-6, "limit": 0.75}

    def pair(arguments: Arguments) -> list[Any]:
        return [arguments["second"], arguments["first"]]

    def clip(arguments: Arguments, **keywords: Any) -> Any:
        return kitae.clip_grad_norm(pair(arguments), arguments["max_norm"], eps=arguments["eps"], **keywords)

    def clip_value(arguments: Arguments) -> Any:
        return kitae.clip_grad_value(pair(arguments), arguments["limit"])

    yield Target("global_norm", "grads[1]", optional(READ), lambda a: kitae.global_norm(pair(a)), good, "first")
    yield Target("clip_grad_norm", "grads[1]", optional(WRITE), clip, good, "first")
    per_tensor = "(per tensor)"
    yield Target(
        "clip_grad_norm",
        "grads[1]",
        optional(WRITE),
        lambda a: clip(a, per="tensor"),
        good,
        "first",
        variant=per_tensor,
    )
    yield Target("clip_grad_value", "grads[1]", optional(WRITE), clip_value, good, "first")
    yield Target("clip_grad_norm", "max_norm", POSITIVE_OR_INFINITE, clip, good)
    yield Target("clip_grad_norm", "eps", NOT_NEGATIVE, clip, good)
    for keyword, word in (("nonfinite", "raise"), ("per", "all")):
        yield Target(
            "clip_grad_norm",
            keyword,
            CHOICE,
            lambda a, k=keyword: clip(a, **{k: a[k]}),
            lambda k=keyword, w=word: {**good(), k: w},
        )
    yield Target("clip_grad_value", "limit", POSITIVE_OR_INFINITE, clip_value, good)
    yield from normalization_of_gradients_targets()


def normalization_of_gradients_targets() -> Iterator[Target]:
    def good() -> Arguments:
        arrays = {"first": numbers(1), "second": numbers(2, (5,)), "param": numbers(3)}
        return {**arrays, "threshold": 0.5, "clipping": 0.25, "eps": 0.5, "axis": 1}

    op = "normalize_gradients"

    def normalize(arguments: Arguments, mode: str = "clip_l2_per_layer", **keywords: Any) -> Any:
        layers = [[arguments["second"]], [arguments["first"]]]
        return kitae.normalize_gradients(layers, mode, arguments["threshold"], **keywords)

    for mode in ("clip_l2_per_layer", "renormalize_l2_per_param_type", "clip_elementwise_absolute_value"):
        yield Target(
            op,
            "grads[1]",
            optional(WRITE),
            lambda a, m=mode: normalize(a, m),
            good,
            "first",
            variant=f"({mode})",
        )
    yield Target(op, "threshold", POSITIVE_OR_INFINITE, normalize, good)
    for keyword, word in (("nonfinite", "raise"), ("mode", "clip_l2_per_layer")):
        yield Target(
            op,
            keyword,
            CHOICE,
            lambda a, k=keyword: normalize(a, **{k: a[k]}),
            lambda k=keyword, w=word: {**good(), k: w},
        )

    op = "clip_grad_adaptive"

    def adaptive(arguments: Arguments, **keywords: Any) -> Any:
        params, grads = [numbers(4, (5,)), arguments["param"]], [arguments["second"], arguments["first"]]
        return kitae.clip_grad_adaptive(
            params, grads, arguments["clipping"], eps=arguments["eps"], axis=arguments["axis"], **keywords
        )

    # A parameter of another shape is fine; its gradient then is not.
    shaped = dict.fromkeys(SHAPES, (op, "grads[1]"))
    yield Target(op, "params[1]", READ_SHAPED, adaptive, good, "param", shaped)
    yield Target(op, "grads[1]", optional(WRITE_SHAPED), adaptive, good, "first")
    positive = {**POSITIVE_OR_INFINITE, "plus_infinity": ValueError}
    yield Target(op, "clipping", positive, adaptive, good)
    yield Target(op, "eps", positive, adaptive, good)
    axis = {**AXIS_OF_TWO, "two": WORKS, "minus_three": WORKS, "none": WORKS}
    yield Target(op, "axis", axis, adaptive, good)
    yield Target(
        op,
        "nonfinite",
        CHOICE,
        lambda a: adaptive(a, nonfinite=a["nonfinite"]),
        lambda: {**good(), "nonfinite": "raise"},
    )


def averaging_targets() -> Iterator[Target]:
    def update(average: Any) -> Any:
        average.update()
        return average.state_dict()

    for name in ("EMA", "SWA"):
        cls = getattr(kitae, name)
        arrays = lambda: {"param": numbers(1)}  # noqa: E731
        yield Target(name, "params[1]", WRITE, lambda a, c=cls: update(c([numbers(2), a["param"]])), arrays, "param")

        def copy_to(arguments: Arguments, cls: Any = cls) -> Any:
            return cls([numbers(2, (5,)), numbers(3)]).copy_to([numbers(2, (5,)), arguments["param"]])

        yield Target(f"{name}.copy_to", "params[1]", WRITE_LIKE, copy_to, arrays, "param")
    for keyword, value, outcomes in (("decay", 0.5, BELOW_ONE), ("debias", True, TRUTH), ("warmup", True, TRUTH)):
        yield Target(
            "EMA",
            keyword,
            outcomes,
            lambda a: update(kitae.EMA([numbers(1)], **a)),
            lambda k=keyword, v=value: {k: v},
        )


VECTORS = ("gamma", "beta", "running_mean", "running_var")


def normalization_arguments() -> Arguments:
    vectors = {name: numbers(10 + i, (4,)) for i, name in enumerate(VECTORS)}
    arrays = {"x": numbers(1), **vectors, "residual": numbers(2), "out": numbers(3)}
    return {**arrays, "axis": 1, "eps": 1e-5, "running_decay": 0.9, "slope": 0.01, "unbiased": True, "training": True}


def normalization_targets() -> Iterator[Target]:
    op, good = "batch_norm", normalization_arguments

    def forward(arguments: Arguments, **more: Any) -> Any:
        keywords = {"activation": "leaky_relu", **arguments, **more}
        positional = [keywords.pop(name) for name in ("x", *VECTORS)]
        y, saved = kitae.batch_norm(*positional, **keywords)
        assert arguments["out"] is None or y is arguments["out"]
        return y, saved.mean, saved.inv_std

    def fresh() -> Arguments:
        return {**good(), "residual": None, "out": None}

    def inference(arguments: Arguments) -> Any:
        return forward(arguments, training=False, activation=None)

    # Another number of channels is what gamma has not; fewer than two dimensions are x's trouble.
    x = {**READ_SHAPED, **CHOOSES_BACKEND, "longer": WORKS, "empty": WORKS}
    channels = dict.fromkeys(("one_axis_more", "transposed"), (op, "gamma"))
    yield Target(op, "x", x, forward, fresh, names=channels)
    yield Target(op, "x", x, inference, fresh, names=channels, variant="(inference)")
    for name in VECTORS:
        outcomes, none = (WRITE_VECTOR, TypeError) if name.startswith("running") else (READ_VECTOR, WORKS)
        yield Target(op, name, {**outcomes, "none": none}, forward, good)
        yield Target(op, name, {**READ_VECTOR, "none": none}, inference, good, variant="(inference)")
    yield Target(op, "residual", optional(READ_LIKE), forward, good)
    # Another memory order than x's would need a copy, and `out` would not be where y is computed.
    out = optional({**WRITE_LIKE, **dict.fromkeys(LAYOUTS, ValueError)})
    yield Target(op, "out", out, forward, good)
    for keyword, outcomes in (
        ("axis", {**AXIS_OF_TWO, "zero": ValueError, "minus_three": ValueError}),
        ("eps", NOT_NEGATIVE),
        ("running_decay", UP_TO_ONE),
        ("slope", ANY_FINITE),
        ("unbiased", TRUTH),
        ("training", TRUTH),
    ):
        names = {"zero": (op, "gamma")} if keyword == "axis" else {}
        yield Target(op, keyword, outcomes, forward, fresh, names=names)
    for keyword, word, outcomes in (("activation", "relu", optional(CHOICE)), ("nonfinite", "raise", CHOICE)):
        yield Target(op, keyword, outcomes, forward, lambda k=keyword, w=word: {**fresh(), k: w})

    def backward(arguments: Arguments) -> Any:
        start = good()
        positional = [start[name] for name in ("x", *VECTORS)]
        _, saved = kitae.batch_norm(*positional, training=True, activation="relu", residual=start["residual"])
        return kitae.batch_norm_backward(arguments["dout"], saved, out=arguments["out"])

    op = "batch_norm_backward"
    outcomes = {**READ_LIKE, **CHOOSES_BACKEND}
    yield Target(op, "dout", outcomes, backward, lambda: {"dout": numbers(4), "out": None})
    yield Target(op, "out", out, backward, lambda: {"dout": numbers(4), "out": numbers(5)})

    def layer_forward(arguments: Arguments) -> Any:
        layer = kitae.BatchNorm(arguments["channels"])

        def state() -> Any:
            return copies(layer.params), copies(layer.buffers)

        y = undisturbed(state, lambda: layer.forward(arguments["x"], residual=arguments["residual"]))
        return y, state()

    op = "BatchNorm.forward"
    channels = dict.fromkeys(("one_axis_more", "transposed"), (op, "gamma"))
    yield Target(op, "x", x, layer_forward, lambda: {"x": numbers(1), "residual": None, "channels": 4}, names=channels)
    unbuilt = {**x, "one_axis_more": WORKS, "transposed": WORKS}
    lazily = "(without sizes)"
    yield Target(
        op, "x", unbuilt, layer_forward, lambda: {"x": numbers(1), "residual": None, "channels": None}, variant=lazily
    )
    yield Target(
        op,
        "residual",
        optional(READ_LIKE),
        layer_forward,
        lambda: {"x": numbers(1), "residual": numbers(2), "channels": 4},
    )

    def layer_backward(arguments: Arguments) -> Any:
        layer = kitae.BatchNorm(4)
        layer.forward(numbers(1))
        return undisturbed(lambda: copies(layer.grads), lambda: layer.backward(arguments["dout"])), layer.grads

    outcomes = {**READ_LIKE, **CHOOSES_BACKEND}
    yield Target("BatchNorm.backward", "dout", outcomes, layer_backward, lambda: {"dout": numbers(4)})
    for keyword, outcomes in (
        ("eps", optional(NOT_NEGATIVE)),
        ("running_decay", optional(UP_TO_ONE)),
        ("slope", ANY_FINITE),
        ("unbiased", optional(TRUTH)),
        ("trainable", TRUTH),
    ):

        def construct(arguments: Arguments) -> Any:
            layer = kitae.BatchNorm(4, activation="leaky_relu", **arguments)
            return layer.forward(numbers(1)), layer.buffers, layer.trainable

        yield Target("BatchNorm", keyword, outcomes, construct, lambda k=keyword, o=outcomes: {k: good_keyword(k, o)})
    for keyword, value, outcomes in (
        ("channels", 4, optional(LENGTH)),
        ("activation", "relu", optional(CHOICE)),
        ("nonfinite", "raise", optional(CHOICE)),
        ("semantics", "paper", CHOICE),
    ):
        yield Target(
            "BatchNorm", keyword, outcomes, lambda a: kitae.BatchNorm(**a).params, lambda k=keyword, v=value: {k: v}
        )


def layer_normalization_targets() -> Iterator[Target]:
    op = "layer_norm"
    # Of C order with the normalized axes last, as y is without `out`.
    out = optional({**WRITE_LIKE, **dict.fromkeys(LAYOUTS, ValueError)})

    def good() -> Arguments:
        parameters = {"gamma": numbers(2, (4,)), "beta": numbers(3, (4,))}
        return {"x": numbers(1), **parameters, "axis": -1, "eps": 1e-5, "nonfinite": "raise", "out": None}

    def forward(arguments: Arguments) -> Any:
        keywords = dict(arguments)
        positional = [keywords.pop(name) for name in ("x", "gamma", "beta")]
        y, saved = kitae.layer_norm(*positional, **keywords)
        assert arguments["out"] is None or y is arguments["out"]
        return y, saved.mean, saved.inv_std

    # Another length of its last axis is what gamma has not; without axes there is nothing to normalize.
    x = {**READ_SHAPED, **CHOOSES_BACKEND, "longer": WORKS, "empty": WORKS, "one_axis_more": WORKS}
    x["one_axis_less"] = WORKS
    yield Target(op, "x", x, forward, good, names={"transposed": (op, "gamma")})
    for name in ("gamma", "beta"):
        yield Target(op, name, {**READ_VECTOR, "none": WORKS}, forward, good)
    yield Target(op, "out", out, forward, lambda: {**good(), "out": numbers(4)})
    names = {"zero": (op, "gamma")}
    axis = {**AXIS_OF_TWO, "zero": ValueError, "minus_three": ValueError}
    yield Target(op, "axis", axis, forward, good, names=names)
    yield Target(op, "eps", NOT_NEGATIVE, forward, good)
    yield Target(op, "nonfinite", CHOICE, forward, good)

    def backward(arguments: Arguments) -> Any:
        start = good()
        _, saved = kitae.layer_norm(start["x"], start["gamma"], start["beta"])
        return kitae.layer_norm_backward(arguments["dout"], saved, out=arguments["out"])

    op, dout = "layer_norm_backward", {**READ_LIKE, **CHOOSES_BACKEND}
    yield Target(op, "dout", dout, backward, lambda: {"dout": numbers(4), "out": None})
    yield Target(op, "out", out, backward, lambda: {"dout": numbers(4), "out": numbers(5)})

    def layer_forward(arguments: Arguments) -> Any:
        layer = kitae.LayerNorm(arguments["shape"])
        return undisturbed(lambda: copies(layer.params), lambda: layer.forward(arguments["x"])), layer.params

    op = "LayerNorm.forward"
    transposed = {"transposed": (op, "gamma")}
    yield Target(op, "x", x, layer_forward, lambda: {"x": numbers(1), "shape": 4}, names=transposed)
    lazily = {**x, "transposed": WORKS}
    yield Target(op, "x", lazily, layer_forward, lambda: {"x": numbers(1), "shape": None}, variant="(without sizes)")

    def layer_backward(arguments: Arguments) -> Any:
        layer = kitae.LayerNorm(4)
        layer.forward(numbers(1))
        return undisturbed(lambda: copies(layer.grads), lambda: layer.backward(arguments["dout"])), layer.grads

    yield Target("LayerNorm.backward", "dout", dout, layer_backward, lambda: {"dout": numbers(4)})
    for keyword, value, outcomes in (
        ("shape", 4, optional(LENGTH)),
        ("eps", 0.5, NOT_NEGATIVE),
        ("trainable", True, TRUTH),
        ("nonfinite", "raise", CHOICE),
    ):
        yield Target(
            "LayerNorm", keyword, outcomes, lambda a: kitae.LayerNorm(**a).params, lambda k=keyword, v=value: {k: v}
        )


def weight_normalization_targets() -> Iterator[Target]:
    op = "weight_norm"
    out = optional({**WRITE_LIKE, **dict.fromkeys(LAYOUTS, ValueError)})

    def good() -> Arguments:
        return {"v": numbers(1), "g": numbers(2, (4,)), "axis": 1, "out": None}

    def forward(arguments: Arguments) -> Any:
        keywords = dict(arguments)
        w, saved = kitae.weight_norm(keywords.pop("v"), keywords.pop("g"), **keywords)
        assert arguments["out"] is None or w is arguments["out"]
        return w, saved.norms

    v = {**READ_SHAPED, **CHOOSES_BACKEND, "longer": WORKS, "empty": WORKS}
    yield Target(op, "v", v, forward, good, names=dict.fromkeys(("one_axis_more", "transposed"), (op, "g")))
    yield Target(op, "g", READ_VECTOR, forward, good)
    yield Target(op, "out", out, forward, lambda: {**good(), "out": numbers(4)})
    axis = optional({**AXIS_OF_TWO, "zero": ValueError, "minus_three": ValueError})
    yield Target(op, "axis", axis, forward, good, names={"zero": (op, "g")})

    def backward(arguments: Arguments) -> Any:
        _, saved = kitae.weight_norm(numbers(1), numbers(2, (4,)))
        return kitae.weight_norm_backward(arguments["dw"], saved, out=arguments["out"])

    op, dw = "weight_norm_backward", {**READ_LIKE, **CHOOSES_BACKEND}
    yield Target(op, "dw", dw, backward, lambda: {"dw": numbers(4), "out": None})
    yield Target(op, "out", out, backward, lambda: {"dw": numbers(4), "out": numbers(5)})


def dropout_targets() -> Iterator[Target]:
    def described(mask: Any) -> Any:
        return mask.unpack(), mask.shape, mask.drop, mask.scale, mask.seed, mask.offset

    def good() -> Arguments:
        keywords = {"drop": 0.5, "seed": 7, "offset": 0, "scale": "inverted", "store": "bits"}
        return {"x": numbers(1), "out": numbers(2), **keywords}

    def forward(arguments: Arguments) -> Any:
        y, mask = kitae.dropout(**arguments)
        assert arguments["out"] is None or y is arguments["out"]
        return y, described(mask)

    x = {**READ, **CHOOSES_BACKEND}
    dout = {**READ_SHAPED, **CHOOSES_BACKEND}
    for store in ("bits", "replay"):
        variant = f"({store})"
        yield Target("dropout", "x", x, forward, lambda s=store: {**good(), "out": None, "store": s}, variant=variant)

        def backward(arguments: Arguments, store: str = store) -> Any:
            _, mask = kitae.dropout(numbers(1), 0.5, seed=7, store=store)
            return kitae.dropout_backward(arguments["dout"], mask, out=arguments["out"])

        op = "dropout_backward"
        yield Target(op, "dout", dout, backward, lambda: {"dout": numbers(3), "out": None}, variant=variant)
        both = {"dout": numbers(3), "out": numbers(4)}
        yield Target(op, "out", optional(WRITE_LIKE), backward, lambda b=both: dict(b), variant=variant)
    yield Target("dropout", "out", optional(WRITE_LIKE), forward, good)
    draws = {"drop": UP_TO_ONE, "seed": SEED, "offset": OFFSET}
    for keyword, outcomes in {**draws, "scale": CHOICE, "store": CHOICE}.items():
        yield Target("dropout", keyword, outcomes, forward, good)
    for keyword, outcomes in {**draws, "shape": {**LENGTH, "list": WORKS}}.items():
        yield Target(
            "dropout_mask",
            keyword,
            outcomes,
            lambda a: described(kitae.dropout_mask(**a)),
            lambda: {"shape": 5, "drop": 0.5, "seed": 7, "offset": 0},
        )

    for training in (True, False):
        for scale in ("inverted", "classic"):

            def layer_forward(arguments: Arguments, training: bool = training, scale: str = scale) -> Any:
                layer = kitae.Dropout(0.5, seed=7, scale=scale)
                y = undisturbed(lambda: copies(layer.buffers), lambda: layer.forward(arguments["x"], training))
                return y, layer.buffers

            def layer_backward(arguments: Arguments, training: bool = training, scale: str = scale) -> Any:
                layer = kitae.Dropout(0.5, seed=7, scale=scale)
                layer.forward(numbers(1), training)
                return layer.backward(arguments["dout"])

            variant = f"({'training' if training else 'inference'}, {scale})"
            yield Target("Dropout.forward", "x", x, layer_forward, lambda: {"x": numbers(1)}, variant=variant)
            outcomes = dout if training else x
            yield Target(
                "Dropout.backward", "dout", outcomes, layer_backward, lambda: {"dout": numbers(3)}, variant=variant
            )

    def make(name: str, arguments: Arguments) -> Any:
        if name == "Dropout":
            return kitae.Dropout(**arguments)
        return kitae.DropConnect(kitae.BatchNorm(4), names=("gamma",), **arguments)

    for name in ("Dropout", "DropConnect"):

        def construct(arguments: Arguments, name: str = name) -> Any:
            layer = make(name, {"seed": 7, **arguments})
            return layer.forward(numbers(1)), layer.buffers

        for keyword in ("drop", "retain"):
            yield Target(name, keyword, optional(UP_TO_ONE), construct, lambda k=keyword: {k: 0.5})
        seed = {kind: outcome for kind, outcome in SEED.items() if kind != "none"}  # None: any seed will do
        yield Target(name, "seed", seed, construct, lambda: {"drop": 0.5, "seed": 7})
    yield Target("DropConnect", "keep_dropped", TRUTH, construct, lambda: {"keep_dropped": True})
    for keyword, word, outcomes in (
        ("scale", "classic", optional(CHOICE)),
        ("rng", "philox", CHOICE),
        ("semantics", "paper", CHOICE),
    ):
        yield Target("Dropout", keyword, outcomes, lambda a: kitae.Dropout(**a).scale, lambda k=keyword, w=word: {k: w})

    def connected(arguments: Arguments) -> Any:
        layer = kitae.DropConnect(kitae.BatchNorm(4), 0.5, seed=7, names=("gamma",))

        def state() -> Any:
            return copies(layer.params), copies(layer.layer.buffers)

        return undisturbed(state, lambda: layer.forward(arguments["x"])), copies(layer.buffers)

    # What is wrong with x is the wrapped layer's to say; the true weights are back either way.
    shaped = {**READ_SHAPED, **CHOOSES_BACKEND, "longer": WORKS, "empty": WORKS}
    names = dict.fromkeys(shaped, ("BatchNorm.forward", "x"))
    names |= dict.fromkeys(("one_axis_more", "transposed"), ("BatchNorm.forward", "gamma"))
    yield Target("DropConnect.forward", "x", shaped, connected, lambda: {"x": numbers(1)}, names=names)


def convolution_targets() -> Iterator[Target]:
    def without_matrix(outcomes: Outcomes) -> dict[str, Any]:
        """Of an array of four dimensions no numpy.matrix can be made."""
        return {kind: outcome for kind, outcome in outcomes.items() if kind != "matrix"}

    images, matrix, small = (2, 3, 4, 5), (12, 24), (2, 3, 2, 2)  # windows of 2 x 2: 12 of them, or 4 side by side
    # A pair is a list, too; this one has a single entry.
    count, padding = {**COUNT, "list": ValueError}, {**OFFSET, "list": ValueError, "text": ValueError}
    other_axes = dict.fromkeys(("one_axis_more", "one_axis_less", "zero_dimensional"), ValueError)
    x, images_out = without_matrix({**READ, **CHOOSES_BACKEND, **other_axes}), without_matrix(optional(WRITE_LIKE))
    # Columns are a matrix as the product wants it.
    gaps = (*LAYOUTS, "repeated", "broadcast")
    columns = {**READ_SHAPED, **CHOOSES_BACKEND, **dict.fromkeys(gaps, ValueError)}
    columns_out = optional({**WRITE_LIKE, **dict.fromkeys(LAYOUTS, ValueError)})
    geometry = {"stride": 1, "padding": 0, "dilation": 1}

    def to_columns(arguments: Arguments) -> Any:
        return kitae.im2col(**arguments)

    def to_images(arguments: Arguments) -> Any:
        return kitae.col2im(shape=images, **arguments)

    for op, call, source, shape, outcomes, target, target_shape, target_outcomes in (
        ("im2col", to_columns, "x", images, x, "out", matrix, columns_out),
        ("col2im", to_images, "columns", matrix, columns, "out", images, images_out),
    ):

        def good(source: str = source, shape: tuple[int, ...] = shape) -> Arguments:
            return {source: numbers(1, shape), "kernel_size": 2, **geometry, "out": None}

        def with_out(good: Any = good, shape: tuple[int, ...] = target_shape) -> Arguments:
            return {**good(), "out": numbers(2, shape)}

        yield Target(op, source, outcomes, call, good)
        yield Target(op, target, target_outcomes, call, with_out)
    for keyword, outcomes in (("kernel_size", count), ("stride", count), ("dilation", count), ("padding", padding)):
        fitting = {**outcomes, "two": ValueError} if keyword == "dilation" else outcomes  # 3 x 3 windows
        shape = (2, 3, 2, 5) if keyword == "dilation" else images
        names = {"two": ("im2col", "x")} if keyword == "dilation" else {}
        yield Target(
            "im2col",
            keyword,
            fitting,
            to_columns,
            lambda s=shape: {"x": numbers(1, s), "kernel_size": 2, **geometry},
            names=names,
        )

    for op, pool in (("max_pool", kitae.max_pool), ("avg_pool", kitae.avg_pool)):

        def forward(arguments: Arguments, pool: Any = pool) -> Any:
            y, saved = pool(**arguments)
            assert arguments["out"] is None or y is arguments["out"]
            return y, saved.positions, saved.output

        def fresh() -> Arguments:
            return {"x": numbers(1, images), "kernel_size": 2, "stride": None, "padding": 0, "out": None}

        yield Target(op, "x", x, forward, fresh)
        yield Target(op, "out", images_out, forward, lambda: {**fresh(), "out": numbers(2, small)})
        yield Target(op, "kernel_size", count, forward, fresh)
        yield Target(op, "stride", optional(count), forward, lambda: {**fresh(), "stride": 2})
        half = {**padding, "two": ValueError}  # of the window are zeros at most
        yield Target(op, "padding", half, forward, fresh)

        def backward(arguments: Arguments, pool: Any = pool) -> Any:
            _, saved = pool(numbers(1, images), 2)
            of = kitae.max_pool_backward if pool is kitae.max_pool else kitae.avg_pool_backward
            return of(arguments["dout"], saved, out=arguments["out"])

        dout = without_matrix({**READ_SHAPED, **CHOOSES_BACKEND})
        yield Target(f"{op}_backward", "dout", dout, backward, lambda: {"dout": numbers(3, small), "out": None})
        both = {"dout": numbers(3, small), "out": numbers(4, images)}
        yield Target(f"{op}_backward", "out", images_out, backward, lambda b=both: dict(b))
    yield Target(
        "avg_pool",
        "count_include_pad",
        TRUTH,
        lambda a: kitae.avg_pool(numbers(1, images), 2, padding=1, **a)[0],
        lambda: {"count_include_pad": True},
    )


def process_targets() -> Iterator[Target]:
    def set_threads(arguments: Arguments) -> int:
        before = kitae.get_num_threads()
        try:
            undisturbed(kitae.get_num_threads, lambda: kitae.set_num_threads(arguments["n"]))
            return kitae.get_num_threads()
        finally:
            kitae.set_num_threads(before)

    def seed(arguments: Arguments) -> Any:
        kitae.seed(3)
        undisturbed(lambda: kitae.Dropout().buffers["seed"].dtype.name, lambda: kitae.seed(arguments["n"]))
        return kitae.Dropout().buffers

    def backend(arguments: Arguments) -> str:
        with kitae.use_backend(arguments["name"]):
            return "entered"

    yield Target("set_num_threads", "n", COUNT, set_threads, lambda: {"n": 2})
    yield Target("seed", "n", SEED, seed, lambda: {"n": 2})
    yield Target("use_backend", "name", CHOICE, backend, lambda: {"name": "cpu"})


TARGETS = [
    *optimizer_targets(),
    *gradient_targets(),
    *averaging_targets(),
    *normalization_targets(),
    *layer_normalization_targets(),
    *weight_normalization_targets(),
    *dropout_targets(),
    *convolution_targets(),
    *process_targets(),
]
assert set(FLOATS) < set(READ)
