"""thinc on kitae's kernels: `KitaeOps`, and the optimizers `Adam` and `SGD`. For thinc 8.3 and later versions 8.

::

    from thinc.api import get_ops, set_current_ops  # KitaeOps is registered under the name "kitae"
    set_current_ops(get_ops("kitae"))
    optimizer = kitae.thinc.Adam(0.001)  # in a config: @optimizers = "kitae.Adam.v1"

Two parts, as thinc's own optimizers never ask the ops that are set: they take NumpyOps for every NumPy array.
"""

from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae.dropout import dropout
from kitae.gradients import NONFINITE_CODES, SCOPE_CODES, clip_grad_norm

try:
    from thinc import optimizers as _theirs
    from thinc.backends import NumpyOps
except ImportError as missing:
    raise _checks.missing_package("kitae.thinc", "thinc", "thinc>=8.3,<9") from missing

__all__ = ["SGD", "Adam", "KitaeOps", "Optimizer"]

# After so many steps a power of any beta is 0 in a double: no bias correction.
_UNCORRECTED = 2**62
_PROPAGATE = NONFINITE_CODES["propagate"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise _checks.not_covered("thinc", name, __all__, f"thinc.api may have {name}; it works beside these.")


class KitaeOps(NumpyOps):
    """thinc's NumpyOps with our kernels for ``adam``, ``clip_gradient``, ``update_averages`` and
    ``get_dropout_mask``; everything else is NumpyOps'.

    rng: "philox", masks by kitae's generator, with a seed from ``numpy.random`` each, so that thinc's fix_random_seed
    fixes them; or "numpy", masks that are NumpyOps', bit for bit, and no faster.

    Differs from NumpyOps: results round differently in the last places; a gradient with a NaN is clipped to NaN
    everywhere; thresholds must be positive.
    """

    name = "kitae"

    def __init__(self, device_type: str = "cpu", device_id: int = -1, *, rng: str = "philox", **kwargs: Any) -> None:
        self.rng = _checks.one_of("thinc.KitaeOps", "rng", rng, ("philox", "numpy"))
        super().__init__(device_type, device_id, **kwargs)

    def adam(
        self,
        weights: Any,
        gradient: Any,
        mom1: Any,
        mom2: Any,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> tuple[Any, Any, Any, Any]:
        """``m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= learn_rate m / (sqrt(v) + eps)``, in
        place; the gradient is 0 afterwards. learn_rate has the bias correction in it; mod_rate is ignored, as NumpyOps
        ignores it."""
        numbers = {"learning_rate": learn_rate, "beta1": beta1, "beta2": beta2, "eps": eps, "eps_after_correction": 0.0}
        _call("thinc.adam", "adam", weights, gradient, [mom1, mom2], numbers, step=_UNCORRECTED)
        gradient.fill(0)
        return weights, gradient, mom1, mom2

    def clip_gradient(self, gradient: Any, threshold: float) -> Any:
        """Scale in place to a norm of ``threshold`` where it is larger."""
        clip_grad_norm([gradient], threshold, eps=0.0, nonfinite="propagate")
        return gradient

    def update_averages(self, ema: Any, weights: Any, t: int, max_decay: float = 0.9999) -> None:
        """``ema = d ema + (1 - d) weights`` with ``d = min((1 + t) / (10 + t), max_decay)``, in place."""
        _call("thinc.update_averages", "gradient_descent", ema, weights, [], _average_numbers(t, max_decay))

    def get_dropout_mask(self, shape: Any, drop: float | None) -> Any:
        """0 where dropped, with probability ``drop``, else 1 / (1 - drop): float32."""
        if self.rng == "numpy" or drop is None or not 0.0 < drop < 1.0:
            return super().get_dropout_mask(shape, drop)
        mask = np.ones(shape, np.float32)
        seed = int(np.random.randint(2**63))  # noqa: NPY002  what thinc's fix_random_seed seeds
        dropout(mask, float(drop), seed=seed, out=mask)
        return mask


class Optimizer(_theirs.Optimizer):
    """thinc's Optimizer in one native call a parameter: clipping, Adam or SGD, and weight decay.

    The same arguments, attributes and state (``mom1``, ``mom2``, ``averages``, ``nr_update``), the same numbers but for
    rounding. Each call updates ``weights`` in place and leaves 0 in ``gradient``. use_radam=True is refused:
    thinc.api.RAdam is not covered.
    """

    __slots__ = ("_plans",)

    def __init__(self, learn_rate: Any, *, use_radam: bool = False, **keywords: Any) -> None:
        if use_radam:
            raise _checks.error(ValueError, "thinc.Optimizer", "use_radam", "False (thinc.api.RAdam has it)", use_radam)
        super().__init__(learn_rate, use_radam=False, **keywords)
        self._plans: dict[Any, Any] = {}

    def __getstate__(self) -> Any:
        """For copies and pickles: plans belong to the arrays of one process."""
        names = [name for name in _theirs.Optimizer.__slots__ if hasattr(self, name)]
        return None, {**{name: getattr(self, name) for name in names}, "_plans": {}}

    def __call__(self, key: tuple[int, str], weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> Any:
        if len(gradient) < 1:
            return weights, gradient
        if self.b2 > 0.0 and not self.b1 > 0.0:
            raise NotImplementedError("kitae.thinc.Optimizer: beta1: expected a number above 0, as beta2 is, got 0")
        steps = self.nr_update.get(key, 0) + 1
        rate, keep = lr_scale * self.learn_rate, 1.0
        if self.L2 != 0 and self.L2_is_weight_decay:
            keep -= rate * self.L2  # of the updated weights: the update shrinks, too
        elif self.L2 != 0:
            gradient += self.L2 * weights  # it is the sum that is clipped
        with_moments = self.b1 > 0.0 and self.b2 > 0.0
        if with_moments:
            numbers = {"learning_rate": rate * keep, "beta1": self.b1, "beta2": self.b2, "eps": self.eps}
        else:
            numbers = {"gradient_gain": -rate * keep}
        numbers["weight_keep"] = keep
        plan = self._plan(key, "adam" if with_moments else "gradient_descent", weights)
        plan.set_numbers(0, numbers)
        _step("thinc.Optimizer", plan, gradient, weights, steps, float(self.grad_clip or 0.0))
        self.nr_update[key] = steps
        gradient.fill(0)
        averages: Any = self.averages
        if averages is not None:
            if key not in averages:
                averages[key] = np.zeros(weights.shape, weights.dtype)
            plan = self._plan(key, "gradient_descent", averages[key], "average")
            plan.set_numbers(0, _average_numbers(steps))
            _step("thinc.Optimizer", plan, weights, averages[key], steps)
        return weights, gradient

    def _plan(self, key: tuple[int, str], rule: str, weights: Any, what: str = "weights") -> Any:
        """The plan of the last call, where its arrays are still those; it keeps them alive."""
        moments: list[Any] = []
        if rule == "adam":
            states: tuple[dict[Any, Any], ...] = (self.mom1, self.mom2)
            for state in states:
                if key not in state:
                    state[key] = np.zeros(weights.size, weights.dtype)
                moments.append(state[key])
        arrays, plan = self._plans.get((key, what), ([], None))
        now = [weights, *moments]
        if len(arrays) != len(now) or not all(map(_same_memory, arrays, now)):
            plan = _new_plan("thinc.Optimizer", rule, weights, [moment.reshape(weights.shape) for moment in moments])
            self._plans[key, what] = now, plan
        return plan


def Adam(
    learn_rate: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["learn_rate"],
    *,
    L2: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["L2"],
    beta1: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["beta1"],
    beta2: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["beta2"],
    eps: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["eps"],
    grad_clip: _theirs.FloatOrSeq = _theirs.ADAM_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = bool(_theirs.ADAM_DEFAULTS["L2_is_weight_decay"]),
    use_averages: bool = True,
) -> Optimizer:
    """thinc.api.Adam, with its arguments and defaults. eps is added before the bias correction ("eps hat")."""
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def SGD(
    learn_rate: _theirs.FloatOrSeq,
    *,
    L2: _theirs.FloatOrSeq = _theirs.SGD_DEFAULTS["L2"],
    grad_clip: _theirs.FloatOrSeq = _theirs.SGD_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = bool(_theirs.SGD_DEFAULTS["L2_is_weight_decay"]),
    use_averages: bool = True,
) -> Optimizer:
    """thinc.api.SGD, with its arguments and defaults."""
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=0.0,
        beta2=0.0,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


# The kernels


def _average_numbers(t: int, max_decay: float = 0.9999) -> dict[str, float]:
    decay = min((1.0 + t) / (10.0 + t), max_decay)
    return {"gradient_gain": 1.0 - decay, "weight_keep": decay}


def _same_memory(a: Any, b: Any) -> bool:
    if a is b:
        return True
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def _new_plan(op: str, rule: str, weights: Any, slots: list[Any]) -> Any:
    backend = _dispatch.backend_for(weights, op, "weights")
    try:
        return backend.OptimizerPlan(
            rule=rule,
            parameters=[weights],
            masters=[None],
            slots=[slots],
            groups=[0],
            places=[(0, None)],
            group_count=1,
        )
    except Rejected as rejected:
        raise _checks.explain(op, _named(rejected), {"weights": weights, "moments": slots}) from None


def _step(op: str, plan: Any, gradient: Any, weights: Any, number: int, max_norm: float = 0.0) -> None:
    scope = SCOPE_CODES["all" if max_norm else "none"]
    try:
        plan.step([gradient], number, scope, max_norm, 0.0, _PROPAGATE)
    except Rejected as rejected:
        values = {"weights": weights, "gradient": gradient}
        raise _checks.explain(op, _named(rejected), values, {"gradient": weights.shape}) from None


def _named(rejected: Rejected) -> Rejected:
    """By thinc's names, of one parameter."""
    names = {"params": "weights", "grads": "gradient", "slots": "moments"}
    return Rejected(names.get(rejected.argument, rejected.argument), rejected.reason)


def _call(
    op: str, rule: str, weights: Any, gradient: Any, slots: list[Any], numbers: dict[str, float], step: int = 1
) -> None:
    plan = _new_plan(op, rule, weights, slots)
    plan.set_numbers(0, numbers)
    _step(op, plan, gradient, weights, step)
