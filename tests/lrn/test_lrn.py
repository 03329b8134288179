"""Local response normalisation against the definition and the built-in, its derivatives of every order and mode."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from suite import examples, slow
from torch.autograd import gradcheck, gradgradcheck

import torchconv
from torchconv import functional as ours
from torchconv import nn

ops = torch.ops.torchconv
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# Relative L2: the sum of a window, a power and a product. bfloat16 is summed in float32 and rounded once.
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 4e-3}

SHAPES = {
    "1d": (2, 7, 5),
    "2d": (2, 6, 5, 7),
    "3d": (2, 5, 3, 4, 2),
    "4d": (1, 3, 2, 2, 2, 2),
    "multiple": (1, 4, 16, 32),  # 2 blocks of 256 positions
    "tail": (2, 5, 257),
    "more_pixels_than_a_unit": (3, 5, 9, 5),
    "window_beyond_channels": (2, 2, 3, 3),
    "one_channel": (2, 1, 3, 3),
    "many_channels": (1, 70, 2, 3),
}
OPTIONS = [(5, 1e-4, 0.75, 1.0), (4, 0.7, 0.75, 1.3), (1, 0.5, 0.5, 2.0), (2, 0.3, 1.0, 0.5), (3, 0.9, 0.31, 1.0)]


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    return [x] + ([x.contiguous(memory_format=CHANNELS_LAST[x.dim()])] if x.dim() in CHANNELS_LAST else [])


def error(a: torch.Tensor, exact: torch.Tensor) -> float:
    return ((a.double() - exact).norm() / exact.norm()).item()


def check(x: torch.Tensor, options: tuple) -> None:
    """The result and the gradient against the built-in's in float64, in x's strides."""
    x = x.detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, exact = ours.local_response_norm(x, *options), F.local_response_norm(wide, *options)
    grad = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, grad)
    (exact_dx,) = torch.autograd.grad(exact, wide, grad.double())
    assert y.dtype == dx.dtype == x.dtype
    if x.dtype != torch.bfloat16:  # the built-in has no bfloat16 in two dimensions and more
        assert y.stride() == F.local_response_norm(x, *options).stride()
    assert error(y.detach(), exact.detach()) <= BOUNDS[x.dtype]
    assert error(dx, exact_dx) <= 2 * BOUNDS[x.dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_against_the_built_in(name: str, dtype: torch.dtype) -> None:
    for options in OPTIONS:
        for x in layouts((2 * torch.randn(SHAPES[name])).to(dtype)):
            check(x, options)


@examples(40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    size=st.integers(1, 11),
    beta=st.sampled_from([0.5, 0.75, 1.0, 0.1, 2.5]),
    alpha=st.floats(0, 2),
    last=st.booleans(),
)
def test_property(shape: tuple, size: int, beta: float, alpha: float, last: bool) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    check(x.contiguous(memory_format=torch.channels_last) if last else x, (size, alpha, beta, 1.5))


def test_worked_example() -> None:
    """Windows of 3 of 1, 2, 3, zeros around: sums of squares 5, 14, 13."""
    x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    y = ours.local_response_norm(x, 3, alpha=3.0, beta=1.0, k=1.0)
    assert torch.allclose(y.flatten(), torch.tensor([1 / 6, 2 / 15, 3 / 14]))


def test_special_values_stay_in_their_windows() -> None:
    for value in float("nan"), float("inf"), 1e30:
        for x in layouts(torch.randn(2, 9, 4, 5)):
            x[1, 4, 2, 3] = value
            for beta in 0.75, 0.3:
                y, expected = (f.local_response_norm(x, 3, 0.5, beta) for f in (ours, F))
                torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
    zeros = torch.zeros(1, 3, 2)
    assert ours.local_response_norm(zeros, 3, k=0.0).isnan().all()  # as the built-in: 0 / 0


@pytest.mark.parametrize("layout", [0, 1])
def test_bitwise_the_same_for_any_threads_and_batch(layout: int, threads) -> None:
    x = layouts(torch.randn(9, 33, 17, 19))[layout].requires_grad_()
    grad = torch.randn_like(x)

    def both(x, grad):
        y = ours.local_response_norm(x, 5)
        return [y, *torch.autograd.grad(y, x, grad)]

    threads(1)
    alone = both(x, grad)
    threads(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, both(x, grad), strict=True))
    one = x.detach()[4:5].clone(memory_format=torch.preserve_format).requires_grad_()
    assert all(torch.equal(a[4:5], b) for a, b in zip(alone, both(one, grad[4:5]), strict=True))


# ---- derivatives and transforms ----


@pytest.mark.parametrize("options", [(3, 0.7, 0.75, 1.3), (4, 0.7, 0.6, 1.3)], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 5, 2, 2)], ids=str)
def test_gradcheck(shape: tuple, options: tuple) -> None:
    for x in layouts(torch.randn(shape, dtype=torch.float64)):
        x.requires_grad_()
        function = lambda x: ours.local_response_norm(x, *options)  # noqa: E731
        every = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
        assert gradcheck(function, x, **every)
        assert gradgradcheck(function, x, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


def test_third_derivative() -> None:
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    orders = []
    for f in ours, F:
        y = f.local_response_norm(x, 4, 0.7, 0.75, 1.3)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        orders.append(y)
    torch.testing.assert_close(*orders, rtol=1e-11, atol=1e-13)


def test_torch_func() -> None:
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    function = lambda x: ours.local_response_norm(x, 3, 0.7, 0.75, 1.3)  # noqa: E731
    expected = torch.stack([function(one) for one in x])
    for at in 0, 1:
        assert torch.equal(torch.func.vmap(function, at)(x.movedim(0, at)), expected)
    gradient = torch.func.grad(lambda x: function(x).pow(2).sum())
    assert torch.equal(torch.func.vmap(gradient)(x), torch.stack([gradient(one) for one in x]))
    expected = torch.autograd.functional.jacobian(lambda x: F.local_response_norm(x, 3, 0.7, 0.75, 1.3), x[0])
    for jacobian in torch.func.jacrev, torch.func.jacfwd:
        torch.testing.assert_close(jacobian(function)(x[0]), expected, rtol=1e-12, atol=1e-13)


@slow
def test_opcheck() -> None:
    for x in layouts(torch.randn(2, 4, 3, 3, dtype=torch.float64)):
        grad = torch.randn_like(x).requires_grad_()
        x = x.detach().requires_grad_()
        torch.library.opcheck(ops.local_response_norm.default, (x, 3, 0.7, 0.75, 1.3))
        torch.library.opcheck(ops.local_response_norm_grad.default, (grad, x, 3, 0.7, 0.75, 1.3))


def test_compile_and_export() -> None:
    layer, x = nn.LocalResponseNorm(3, 0.7), torch.randn(2, 4, 5, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))
    grads = [torch.autograd.grad(f(x).pow(2).sum(), x)[0] for f in (compiled, layer)]
    assert torch.equal(*grads)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


# ---- the layer and the model around it ----


def test_bad_inputs() -> None:
    with pytest.raises(ValueError, match=r"3 axes or more, got 2: shape \[4, 5\]"):
        ours.local_response_norm(torch.randn(4, 5), 3)
    with pytest.raises(RuntimeError, match="size must be at least 1, got 0"):
        ours.local_response_norm(torch.randn(2, 4, 5), 0)
    with pytest.raises(RuntimeError, match=r"shape \[2, 4, 5\] but the output gradient is .* \[2, 4, 4\]"):
        ops.local_response_norm_grad(torch.randn(2, 4, 4), torch.randn(2, 4, 5), 3, 1.0, 0.75, 1.0)
    empty = torch.randn(0, 4, 5)
    assert ours.local_response_norm(empty, 3).shape == empty.shape


def test_convert_revert_explain_enabled(monkeypatch) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.LocalResponseNorm(5, 0.1, 0.75, 2.0))
    x = torch.randn(2, 3, 8, 8)
    expected, text = model(x), repr(model)
    torchconv.convert(model)
    assert type(model[1]) is nn.LocalResponseNorm
    assert repr(model) == text
    torch.testing.assert_close(model(x), expected)
    rows = [row for row in torchconv.explain(model, x) if row.layer == "LocalResponseNorm"]
    assert [(row.direction, row.algorithm) for row in rows] == [("forward", "direct"), ("input_grad", "direct")]
    assert rows[0].kept_bytes == expected.nbytes  # its input, which is of the same size
    torchconv.revert(model)
    assert type(model[1]) is torch.nn.LocalResponseNorm
    called = []
    monkeypatch.setattr("torchconv.functional.lrn._operator", lambda x, *rest: called.append(rest) or x)
    with torchconv.enabled():
        model(x)
    assert called == [(5, 0.1, 0.75, 2.0)]
