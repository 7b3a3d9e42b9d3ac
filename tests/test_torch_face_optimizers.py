"""kitae.torch's optimizers against PyTorch's own in float64; state dicts in both directions; what is refused."""

import copy
import inspect
import io
import itertools
import pickle
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kitae

pytestmark = pytest.mark.requires_torch

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "maximize": True, "weight_decay": 0.05, "foreach": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "fused": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True, "foreach": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "maximize": True}),
    ("RMSprop", {"eps": 1e-2, "centered": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.25, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}),
]
NAMES = sorted({name for name, _ in CASES})
SHAPES = ((7, 5), (5,), (), (0, 3), (4, 3, 3, 3))
STEPS = 12


@pytest.fixture
def torch() -> ModuleType:
    import torch

    return torch


@pytest.fixture
def face(torch: ModuleType) -> ModuleType:
    import kitae.torch

    return kitae.torch


def _parameters(torch: ModuleType, rng: np.random.Generator, dtype: str, shapes: Any = SHAPES) -> list[Any]:
    values = [torch.tensor(rng.standard_normal(shape)).to(getattr(torch, dtype)) for shape in shapes]
    return [torch.nn.Parameter(value) for value in values]


def _doubles(torch: ModuleType, parameters: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(parameter.detach().double().clone()) for parameter in parameters]


def _set_gradients(rng: np.random.Generator, step: int, *lists: list[Any], missing: bool = True) -> None:
    """The same gradients for each list, in each one's dtype from the first one's; some missing, in turn."""
    for i, parameters in enumerate(zip(*lists, strict=True)):
        first = parameters[0]
        gradient = first.new_tensor(rng.standard_normal(first.shape))
        absent = missing and ((i == 0 and step < 2) or (i == 1 and step % 3 == 2))
        for parameter in parameters:
            parameter.grad = None if absent else gradient.to(parameter.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_numbers_are_pytorchs_in_double(torch, face, rng, name, options, dtype):
    ours = _parameters(torch, rng, dtype)
    theirs = _doubles(torch, ours)
    opt = getattr(face, name)(ours, **options)
    peer = getattr(torch.optim, name)(theirs, **options)
    size = [p.detach().abs() for p in theirs]
    largest = [torch.zeros_like(p) for p in theirs]
    for step in range(STEPS):
        before = [p.detach().clone() for p in theirs]
        _set_gradients(rng, step, ours, theirs)
        opt.step()
        peer.step()
        size = [torch.maximum(s, p.detach().abs()) for s, p in zip(size, theirs, strict=True)]
        moved = [(p.detach() - b).abs() for p, b in zip(theirs, before, strict=True)]
        largest = [torch.maximum(m, new) for m, new in zip(largest, moved, strict=True)]
    # A step rounds the parameter once or twice and its update a few times: an ulp of the one and 8 of the other.
    for p, q, s, m in zip(ours, theirs, size, largest, strict=True):
        allowed = STEPS * torch.finfo(getattr(torch, dtype)).eps * (s + 8 * m)
        assert ((p.detach().double() - q.detach()).abs() <= allowed).all()
    mine, yours = opt.state_dict()["state"], peer.state_dict()["state"]
    assert {i: set(state) for i, state in mine.items()} == {i: set(state) for i, state in yours.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_16_bit_parameters_are_the_double_result_rounded(torch, face, rng, name, options, dtype):
    ours = _parameters(torch, rng, dtype)
    theirs = _doubles(torch, ours)
    opt = getattr(face, name)(ours, **options)
    peer = getattr(torch.optim, name)(theirs, **options)
    for step in range(STEPS):
        _set_gradients(rng, step, ours, theirs)
        opt.step()
        peer.step()
        for p, q in zip(ours, theirs, strict=True):
            # float32 arithmetic decides a tie otherwise now and then: the neighbour, never further, and then goes on
            # from the same value.
            rounded = q.detach().to(p.dtype)
            step_size = torch.finfo(p.dtype).eps * rounded.double().abs() + torch.finfo(p.dtype).tiny
            apart = (p.detach().double() - rounded.double()).abs()
            assert (apart <= step_size).all()
            assert (apart > 0).double().mean().nan_to_num() <= 0.1
            with torch.no_grad():
                q.copy_(p)


@pytest.mark.parametrize("direction", ["theirs to ours", "ours to theirs", "ours to ours", "through a file"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dicts_load_in_both_directions(torch, face, rng, name, options, direction):
    """Half of the steps there, half here: as if one had made all of them."""
    make_ours, make_theirs = getattr(face, name), getattr(torch.optim, name)
    first, second = {
        "theirs to ours": (make_theirs, make_ours),
        "ours to theirs": (make_ours, make_theirs),
        "ours to ours": (make_ours, make_ours),
        "through a file": (make_ours, make_ours),
    }[direction]
    parameters = _parameters(torch, rng, "float64")
    alone = _doubles(torch, parameters)
    peer = make_theirs(alone, **options)
    opt = first(parameters, **options)
    for step in range(2 * STEPS):
        if step == STEPS:
            saved = opt.state_dict()
            if direction == "through a file":
                buffer = io.BytesIO()
                torch.save(saved, buffer)
                buffer.seek(0)
                saved = torch.load(buffer, weights_only=True)
            opt = second(parameters, **options)
            opt.load_state_dict(saved)
        _set_gradients(rng, step, parameters, alone)
        opt.step()
        peer.step()
    for p, q in zip(parameters, alone, strict=True):
        # Rounding errors of 24 steps in double; a lost moment or a step counted wrong is off by 1e-4 and more.
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)
    for mine, yours in zip(opt.state_dict()["state"].values(), peer.state_dict()["state"].values(), strict=True):
        if "step" in yours:
            assert mine["step"] == yours["step"]


def test_float32_state_of_16_bit_parameters_survives_a_checkpoint(torch, face, rng):
    ours = _parameters(torch, rng, "bfloat16")
    opt = face.Adam(ours, lr=0.01)
    for step in range(3):
        _set_gradients(rng, step, ours)
        opt.step()
    other = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    resumed = face.Adam(other, lr=0.01)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert resumed.state[other[1]]["exp_avg"].dtype == torch.float32
    for step in range(3):
        _set_gradients(rng, step, ours, other)
        opt.step()
        resumed.step()
    for p, q in zip(ours, other, strict=True):
        assert torch.equal(p, q)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(opt.state[ours[1]][name], resumed.state[other[1]][name])
    torch.optim.Adam(other, lr=0.01).load_state_dict(opt.state_dict())  # rounded to bfloat16 there


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_pytorchs(torch, face, name):
    ours, theirs = getattr(face, name), getattr(torch.optim, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert issubclass(ours, theirs)
    assert ours.__doc__ != theirs.__doc__


def test_one_native_call_a_step(torch, face, rng):
    """As long as every parameter has made the same number of steps."""
    parameters = _parameters(torch, rng, "float32", ((3, 2),) * 62)
    opt = face.Adam([{"params": parameters[:30]}, {"params": parameters[30:], "lr": 0.5, "betas": (0.5, 0.6)}])
    _set_gradients(rng, 0, parameters, missing=False)
    opt.step()
    (plan,) = opt._plans
    calls = []
    native = plan.plan
    plan.plan = type("Counted", (), {"step": lambda _, *a: calls.append(a) or native.step(*a), "set_numbers": None})()
    before = parameters[0].data_ptr()
    _set_gradients(rng, 1, parameters, missing=False)
    opt.step()
    assert len(calls) == 1
    assert parameters[0].data_ptr() == before


# --- what code does to an optimizer --------------------------------------------------------------------------------


def _twins(torch: ModuleType, face: ModuleType, rng: np.random.Generator, name: str = "Adam", **options: Any) -> Any:
    ours = _parameters(torch, rng, "float64", ((3, 2), (4,)))
    theirs = _doubles(torch, ours)
    return ours, getattr(face, name)(ours, **options), theirs, getattr(torch.optim, name)(theirs, **options)


def _assert_same(torch: ModuleType, ours: list[Any], theirs: list[Any]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("schedule", ["StepLR", "OneCycleLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
def test_pytorchs_schedulers_drive_it(torch, face, rng, schedule):
    ours, opt, theirs, peer = _twins(torch, face, rng, "SGD", lr=0.1, momentum=0.9)
    options = {
        "StepLR": {"step_size": 3, "gamma": 0.5},
        "OneCycleLR": {"max_lr": 0.3, "total_steps": 20},
        "CosineAnnealingLR": {"T_max": 20},
        "ReduceLROnPlateau": {"patience": 1},
    }[schedule]
    schedules = [getattr(torch.optim.lr_scheduler, schedule)(o, **options) for o in (opt, peer)]
    for step in range(15):
        _set_gradients(rng, step, ours, theirs)
        opt.step()
        peer.step()
        for scheduler in schedules:
            scheduler.step(*([1.0] if schedule == "ReduceLROnPlateau" else []))
    assert opt.param_groups[0]["lr"] == peer.param_groups[0]["lr"] != 0.1
    _assert_same(torch, ours, theirs)


def test_groups_that_come_later_and_options_that_change(torch, face, rng):
    ours, opt, theirs, peer = _twins(torch, face, rng)
    more = _parameters(torch, rng, "float64", ((5,),))
    more_theirs = _doubles(torch, more)
    for step in range(12):
        if step == 4:
            opt.add_param_group({"params": more, "lr": 0.05, "weight_decay": 0.2})
            peer.add_param_group({"params": more_theirs, "lr": 0.05, "weight_decay": 0.2})
            ours, theirs = ours + more, theirs + more_theirs
        if step == 8:
            for o in (opt, peer):
                o.param_groups[0].update(lr=torch.tensor(0.02, dtype=torch.float64), betas=(0.5, 0.7), weight_decay=0.1)
        _set_gradients(rng, step, ours, theirs)
        opt.step()
        peer.step()
    _assert_same(torch, ours, theirs)


def test_parameters_and_state_replaced_behind_its_back(torch, face, rng):
    """What a plan points to is looked at before each step."""
    ours, opt, theirs, peer = _twins(torch, face, rng)
    for step in range(12):
        for parameters, o in ((ours, opt), (theirs, peer)):
            if step == 3:
                parameters[0].data = parameters[0].data * 2
            if step == 5:
                o.state[parameters[1]]["exp_avg"] = torch.ones(4, dtype=torch.float64)
                o.state[parameters[1]]["step"] = torch.tensor(17.0)
            if step == 7:
                o.state.clear()
            if step == 9:
                parameters[0].data = parameters[0].data.t().contiguous().t()
        _set_gradients(rng, step, ours, theirs)
        opt.step()
        peer.step()
    _assert_same(torch, ours, theirs)
    assert opt.state[ours[1]]["step"] == peer.state[theirs[1]]["step"]


def test_closure_and_hooks(torch, face, rng):
    ours, opt, *_ = _twins(torch, face, rng)
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))

    def closure() -> Any:
        seen.append("closure")
        opt.zero_grad()
        loss = sum((p**2).sum() for p in ours)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = opt.step(closure)
    assert loss.requires_grad
    assert seen == ["before", "closure", "after"]
    opt.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in ours)
    opt.zero_grad()
    before = [p.detach().clone() for p in ours]
    opt.step()
    _assert_same(torch, before, [p.detach() for p in ours])


def test_hooks_of_all_optimizers_and_the_profiler_see_a_step(torch, face, rng):
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    ours, opt, *_ = _twins(torch, face, rng)
    _set_gradients(rng, 0, ours, missing=False)
    seen = []
    for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        hook = register(lambda *given: seen.append(given))
        opt.step()
        hook.remove()
    assert seen == [(opt, (opt,), {})] * 2
    opt.step()
    assert len(seen) == 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
    assert [event.count for event in profile.key_averages() if event.key == "Optimizer.step#Adam.step"] == [1]


def test_a_subclass_with_a_step_of_its_own_calls_hooks_once(torch, face, rng):
    class Counting(face.SGD):  # type: ignore[misc, name-defined]
        def step(self, closure: Any = None) -> Any:
            seen.append("step")
            return super().step(closure)

    seen: list[str] = []
    ours = _parameters(torch, rng, "float64", ((3,),))
    opt = Counting(ours, lr=1.0)
    _set_gradients(rng, 0, ours, missing=False)
    expected = ours[0].detach() - ours[0].grad
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))
    opt.step()
    assert seen == ["before", "step", "after"]
    torch.testing.assert_close(ours[0].detach(), expected)


def test_state_that_changed_hands_is_used(torch, face, rng):
    """The same dicts, but those of other parameters; and other dicts for the same parameters."""
    ours = _parameters(torch, rng, "float64", ((4,), (4,)))
    theirs = _doubles(torch, ours)
    opt, peer = face.Adam(ours), torch.optim.Adam(theirs)
    for step in range(6):
        for parameters, o in ((ours, opt), (theirs, peer)):
            a, b = parameters
            if step == 2:
                o.state[a], o.state[b] = o.state[b], o.state[a]
            if step == 4:
                o.state[a] = {name: value.clone() for name, value in o.state[a].items()}
                o.state[a]["exp_avg"] *= 2
        _set_gradients(rng, step, ours, theirs, missing=False)
        opt.step()
        peer.step()
        _assert_same(torch, ours, theirs)


def test_copies_and_pickles_go_on_alone(torch, face, rng):
    ours, opt, *_ = _twins(torch, face, rng)
    _set_gradients(rng, 0, ours, missing=False)
    opt.step()
    for clone in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        before = ours[0].detach().clone()
        copied = clone.param_groups[0]["params"]
        _set_gradients(rng, 1, copied, missing=False)
        clone.step()
        assert torch.equal(ours[0], before)
        assert not torch.equal(copied[0], before)
        assert clone.state[copied[0]]["step"] == 2
        assert opt.state[ours[0]]["step"] == 1


def test_channels_last_parameters_stay_and_their_state_too(torch, face, rng):
    ours = _parameters(torch, rng, "float64", ((4, 3, 3, 3), (4,)))
    theirs = _doubles(torch, ours)
    opt, peer = face.Adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01)
    for step in range(6):
        if step == 3:  # the state, made in C order, is laid out anew
            ours[0].data = ours[0].data.to(memory_format=torch.channels_last)
        _set_gradients(rng, step, ours, theirs, missing=False)
        if step == 5:
            ours[0].grad = ours[0].grad.to(memory_format=torch.channels_last)
        opt.step()
        peer.step()
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    _assert_same(torch, ours, theirs)
    fresh = torch.nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    fresh.grad = torch.ones(2, 3, 4, 4)
    opt = face.Adam([fresh])
    opt.step()
    assert opt.state[fresh]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_views_of_one_buffer_and_gradients_with_gaps(torch, face, rng):
    buffer = torch.tensor(rng.standard_normal((6, 4)))
    ours = [torch.nn.Parameter(buffer[:, 0]), torch.nn.Parameter(buffer[:, 2])]
    kept = buffer[:, 1::2].clone()
    theirs = _doubles(torch, ours)
    opt, peer = face.AdamW(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    for _ in range(3):
        gradient = torch.tensor(rng.standard_normal((6, 2)))
        for parameters in (ours, theirs):
            parameters[0].grad = gradient[:, 1]
            parameters[1].grad = torch.ones((), dtype=torch.float64).expand(6)
        opt.step()
        peer.step()
    _assert_same(torch, ours, theirs)
    assert torch.equal(buffer[:, 1::2], kept)


def test_another_default_device_and_dtype(torch, face, rng):
    """New tensors of a step are the CPU's, and its counts have PyTorch's dtype."""
    ours, opt, *_ = _twins(torch, face, rng)
    layer = face.BatchNorm1d(3, dtype=torch.float64)
    x = torch.tensor(rng.standard_normal((4, 3)), requires_grad=True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            face.Dropout(0.5)(layer(x)).sum().backward()
            for step in range(3):
                _set_gradients(rng, step, ours)
                face.clip_grad_norm_(ours, 1e6)
                opt.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert x.grad.device.type == "cpu"
    assert opt.state[ours[1]]["step"].dtype == torch.float64


def test_a_first_step_without_any_gradient(torch, face):
    opt = face.Adam([torch.nn.Parameter(torch.ones(3))])
    opt.step()
    assert opt.state_dict()["state"] == {}


def test_autograd_notices_the_step(torch, face):
    parameter = torch.nn.Parameter(torch.ones(3))
    opt = face.SGD([parameter], lr=0.1)
    loss = (parameter**2).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradscaler_skips_infinite_gradients(torch, face):
    parameter = torch.nn.Parameter(torch.ones(3))
    opt = face.Adam([parameter], fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((parameter * torch.tensor([1.0, float("inf"), 1.0])).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert torch.equal(parameter, torch.ones(3))
    opt.zero_grad()
    scaler.scale(parameter.sum()).backward()
    scaler.step(opt)
    assert torch.allclose(parameter, torch.full((3,), 0.999), atol=1e-6)


def test_the_reference_backend_gives_the_same_bits(torch, face, rng):
    ours = _parameters(torch, rng, "float32")
    other = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    opt, reference = face.Adam(ours, weight_decay=0.1), face.Adam(other, weight_decay=0.1)
    for step in range(3):
        _set_gradients(rng, step, ours, other)
        opt.step()
        with kitae.use_backend("reference"):
            reference.step()
    for p, q in zip(ours, other, strict=True):
        assert torch.equal(p, q)


# --- refusals --------------------------------------------------------------------------------------------------------


_REFUSED = [(name, "differentiable") for name in NAMES]
_REFUSED += [(name, "capturable") for name in ("Adam", "AdamW", "RMSprop", "Adadelta")]  # the others have none


@pytest.mark.parametrize(("name", "option"), _REFUSED)
def test_options_that_are_not_there(torch, face, name, option):
    parameter = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=rf"kitae\.torch\.{name}: {option}: expected False \(torch\.optim\.{name} has"):
        getattr(face, name)([parameter], **{option: True})


def _sparse(torch: ModuleType) -> Any:
    return torch.ones(3).to_sparse()


def _negated(torch: ModuleType) -> Any:
    return torch._neg_view(torch.ones(6)[::2])


@pytest.mark.parametrize(
    ("make", "words"), [(_sparse, "expected a strided tensor"), (_negated, "pending minus sign .*resolve_neg")]
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_are_refused(torch, face, name, make, words):
    good, bad = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    opt = getattr(face, name)([good, bad])
    good.grad, bad.grad = torch.ones(2), make(torch)
    states = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match=rf"kitae\.torch\.{name}\.step: gradients\[1\]: .*{words}"):
        opt.step()
    assert torch.equal(good, torch.ones(2))
    assert str(opt.state_dict()) == str(states)


def test_parameters_that_are_refused(torch, face):
    with pytest.raises(TypeError, match=r"torch\.Adam: params\[0\]: expected dtype float32.*got torch\.complex64"):
        face.Adam([torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))])
    one = torch.nn.Parameter(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own word on it
        with pytest.raises(ValueError, match="expected distinct tensors, got one of them twice"):
            face.SGD([one, one])
    opt = face.SGD([one, torch.nn.Parameter(one.data)])
    for parameter in opt.param_groups[0]["params"]:
        parameter.grad = torch.ones(3)
    opt.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match="expected tensors with memory of their own"):
        opt.step()
    assert not opt.state
    meta = torch.nn.Parameter(torch.ones(3, device="meta"))
    meta.grad = torch.ones(3, device="meta")
    with pytest.raises(ValueError, match=r"gradients\[0\]: expected a strided tensor in memory, got .* on meta"):
        face.SGD([meta]).step()


def test_pytorchs_own_refusals_stay(torch, face):
    one = torch.nn.Parameter(torch.ones(3))
    for name, options in itertools.product(NAMES, ({"lr": -1.0}, {"weight_decay": -1.0})):
        with pytest.raises(ValueError, match="Invalid"):
            getattr(face, name)([one], **options)
    with pytest.raises(ValueError, match="empty parameter list"):
        face.Adam([])


def test_names_that_are_not_there(face):
    with pytest.raises(AttributeError, match=r"got 'Linear'; use torch\.nn\.Linear"):
        face.Linear  # noqa: B018
    with pytest.raises(AttributeError, match=r"got 'LBFGS'; use torch\.optim\.LBFGS"):
        face.LBFGS  # noqa: B018
    with pytest.raises(AttributeError, match=r"expected one of SGD, .*got 'Nothing'$"):
        face.Nothing  # noqa: B018
    assert all(inspect.getdoc(getattr(face, name)) for name in face.__all__)
