"""Sequences that are played in one call: as their layers are when they are called, whatever was done to them."""

import copy
import gc
import weakref

import pytest
import torch
from prepared_cases import CHANGES, X, check
from torch import nn

import torchconv


def pools() -> nn.Sequential:
    """Convolutions, norms, ReLUs and max poolings, and then something else."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
    ]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Identity(), nn.Conv2d(8, 4, 1), nn.Tanh()]
    return torchconv.convert(nn.Sequential(*layers).eval())


def head() -> nn.Sequential:
    """What networks end with: means, one axis of all others, linear layers and what is nothing in evaluation."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(), nn.AvgPool2d(3, 2, 1, ceil_mode=True)]
    layers += [nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(), nn.Linear(96, 16), nn.ReLU(inplace=True), nn.Dropout()]
    layers += [nn.Linear(16, 7, bias=False), nn.Tanh()]
    return torchconv.convert(nn.Sequential(*layers).eval())


def taped(model: nn.Sequential) -> int:
    """How many layers are played in one call."""
    kept = vars(model[0]).get("_kept")
    return 0 if kept is None or kept.tape is None else len(kept.tape.layers)


SEQUENCE_CHANGES = {
    **{name: CHANGES[name] for name in ("in place", "SGD", "load_state_dict", "statistics", "no norm", "a hook")},
    "a pool's window": lambda m: setattr(m[3], "kernel_size", 3),
    "a pool's indices": lambda m: setattr(m[6], "ceil_mode", False),
    "a pool before": lambda m: m[3].register_forward_pre_hook(lambda layer, args: (-args[0],)),
    "another pool": lambda m: m.__setitem__(3, nn.AvgPool2d(2)),
    "a later weight": lambda m: m[8].weight.detach().mul_(3),
    "a later layer in training": lambda m: m[8].train(),
    "a later layer replaced": lambda m: m.__setitem__(8, nn.Conv2d(8, 4, 1).eval()),
    "a layer's class": lambda m: setattr(m[5], "__class__", nn.Sigmoid),
    "a forward replaced": lambda m: setattr(m[5], "forward", lambda x: x * 2),
    "a layer removed": lambda m: m.__delitem__(5),
    "a global hook": lambda m: HANDLES.append(
        nn.modules.module.register_module_forward_hook(lambda layer, args, y: y + 1 if type(y) is torch.Tensor else y)
    ),
}  # fmt: skip
HEAD_CHANGES = {
    "a mean's window": lambda m: setattr(m[3], "count_include_pad", False),
    "a mean's size": lambda m: setattr(m[4], "output_size", (3, 4)),
    "a list of sizes": lambda m: (setattr(m[4], "output_size", [3, 4]), m(X_LARGE), m[4].output_size.reverse()),
    "a weight in place": lambda m: m[6].weight.detach().mul_(3),
    "a weight's data": lambda m: setattr(m[6].weight, "data", m[6].weight.data.flip(0)),
    "a weight's view": lambda m: setattr(m[9].weight, "data", m[9].weight.data.t().contiguous().t()),
    "a weight replaced": lambda m: setattr(m[6], "weight", nn.Parameter(torch.ones(16, 96))),
    "another linear layer": lambda m: m.__setitem__(9, nn.Linear(16, 3)),
    "no bias": lambda m: setattr(m[6], "bias", None),
    "a bias": lambda m: setattr(m[9], "bias", nn.Parameter(torch.ones(7))),
    "axes": lambda m: setattr(m[5], "start_dim", 2) or m.__setitem__(6, nn.Linear(12, 16)),
    "a hook": lambda m: m[9].register_forward_hook(lambda layer, args, y: -y),
    "a parametrization": lambda m: nn.utils.parametrize.register_parametrization(m[9], "weight", nn.Tanh()),
    "another activation": lambda m: m.__setitem__(7, nn.GELU()),
    "one layer less": lambda m: m.__delitem__(7),
}  # fmt: skip
HANDLES: list = []
X_LARGE = torch.linspace(-1, 1, 2 * 3 * 17 * 17).view(2, 3, 17, 17)


@pytest.mark.parametrize("change", HEAD_CHANGES)
def test_a_sequence_s_end_sees_every_change(change: str) -> None:
    model = head()
    check(model, X_LARGE)
    assert taped(model) == 10
    with torch.no_grad():
        HEAD_CHANGES[change](model)
    check(model, X_LARGE)


def test_what_is_nothing_in_evaluation_is_something_in_training() -> None:
    model = head()
    check(model, X_LARGE)
    with torch.no_grad():
        before = model(X_LARGE)
        model[8].train()
        assert not torch.equal(model(X_LARGE), model(X_LARGE))
        model[8].eval()
        assert torch.equal(model(X_LARGE), before)


@pytest.mark.parametrize("change", SEQUENCE_CHANGES)
def test_a_sequence_sees_every_change(change: str) -> None:
    model, x = pools(), X_LARGE
    check(model, x)
    assert taped(model) == 9
    try:
        SEQUENCE_CHANGES[change](model)
        check(model, x)
    finally:
        while HANDLES:
            HANDLES.pop().remove()


def test_a_sequence_is_played_for_what_it_was_made_for() -> None:
    model, x = pools(), X_LARGE
    check(model, x)
    for other in (x[:1], x[..., :12], x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        check(model, other)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model(x.double())
    check(model, x)
    part = model[:5]
    check(part, x)
    check(model[4:], torch.randn(2, 8, 6, 6))
    check(copy.deepcopy(model), x)
    with torch.no_grad():
        y = model(x)
        with torch.autograd.grad_mode.set_grad_enabled(True):
            assert model(x).requires_grad
        assert torch.equal(model(x), y)
    model.train()
    assert taped(model) == 0


def test_a_model_that_nobody_holds_goes_at_once() -> None:
    """What it keeps does not hold it: memory is not left to the garbage collector."""
    model = pools()
    with torch.inference_mode():
        model(X), model(X)
    assert taped(model) == 9
    layers = [weakref.ref(layer) for layer in model.modules()]
    gc.disable()
    try:
        del model
        assert [layer() for layer in layers] == [None] * len(layers)
    finally:
        gc.enable()


def test_what_inference_mode_prepared_serves_other_modes() -> None:
    model = pools().requires_grad_(False)
    with torch.inference_mode():
        y = model(X).clone()
    assert torch.equal(model(X), y)
    with torch.no_grad():
        assert torch.equal(model(X), y)
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None


# ---- dimensions, dtypes, batches, threads ----

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2}  # of three convolutions' rounding


def steps(y: torch.Tensor) -> list[int]:
    """The strides that say something: of axes of more than one element."""
    return [step for side, step in zip(y.shape, y.stride(), strict=True) if side > 1]


@pytest.mark.parametrize("end", ["maxima", "linear"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,)], ids=["unbatched", "empty", "one", "three"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_sequence_answers_as_torch_s(end: str, dims: int, dtype: torch.dtype, batch: tuple[int, ...], mode, threads):
    names = "Conv", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool"
    conv, norm, pool, mean, adaptive = (getattr(nn, f"{name}{dims}d") for name in names)
    layers = [conv(3, 16, 3, padding=1), norm(16), nn.ReLU(), pool(2), conv(16, 16, 3, groups=16), norm(16), nn.ReLU()]
    means = [] if (dims, dtype) == (3, torch.bfloat16) else [mean(2, 1, 1)]  # torch's has no such
    ends = {
        "maxima": [conv(16, 8, 1), nn.ReLU(), pool(3, 2, 1)],
        "linear": [*means, adaptive(2), nn.Flatten(), nn.Linear(16 * 2**dims, 33), nn.ReLU(), nn.Linear(33, 5)],
    }
    stock = nn.Sequential(*layers, *ends[end]).to(dtype).eval()
    ours = torchconv.convert(copy.deepcopy(stock))
    x = torch.randn(*batch, 3, *(9,) * dims).to(dtype)
    if dims > 1 and batch == (3,):
        x = x.contiguous(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dims])

    def answer(model: nn.Module) -> torch.Tensor | type[Exception]:
        try:
            return model(x)
        except (RuntimeError, ValueError) as error:  # batch norms of 2 and 3 dimensions want a batch
            return type(error)

    with mode():
        expected = answer(stock)
        for count in (1, 2, 16):
            threads(count)
            for _ in range(2):
                y = answer(ours)
                if not isinstance(expected, torch.Tensor):
                    assert y is expected
                    continue
                assert (y.shape, steps(y), y.dtype) == (expected.shape, steps(expected), expected.dtype)
                torch.testing.assert_close(y, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
