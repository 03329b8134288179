"""Convolution with a ReLU as one operator: bit by bit the two in a row, and with all their derivatives."""

import math

import pytest
import torch
from conv_autograd_cases import EVERY_MODE, SMALL, doubles, window
from conv_cases import LAYOUTS, chosen, operands
from shapes import CASES, ConvCase
from suite import first_quick
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from traced import check_exported, check_sizes, check_vmap

import torchconv.autograd.conv as autograd
import torchconv.functional as TF
from torchconv import nn

F = torch.nn.functional
ops = torch.ops.torchconv
ALGORITHMS = ["auto", *ops._algorithms()]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit by bit, but for which NaN."""
    number = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}[one.dtype]
    return torch.equal(one.nan_to_num(7).view(number), other.nan_to_num(7).view(number))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_is_the_two_in_a_row(case: ConvCase, algorithm: str) -> None:
    for dtype in DTYPES:
        for layout in LAYOUTS if case.dims > 1 else ["contiguous"]:
            x, w, b, g = operands(case, dtype, layout)
            if chosen(case, "forward", x, w, g, algorithm)[1]:
                continue
            for bias in (b, None):
                args = (x, w, bias, case.stride, case.flat_padding, case.dilation, case.groups, algorithm)
                y, linear = ops.convolution_relu(*args), ops.convolution(*args)
                assert same(y, linear.relu()), (dtype, layout, bias is None)
                assert y.stride() == linear.stride()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_infinity_and_negative_zero(algorithm: str, layout: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 7, 7).contiguous(memory_format=LAYOUTS[layout]).to(dtype)
    x[0, 0, 2, 2], x[0, 1, 5, 5], x[1, 2, 0, 3] = math.nan, math.inf, -math.inf
    zeros, bias = torch.full_like(x, -0.0), torch.full((4,), -0.0, dtype=dtype)
    for groups in (1, 4):
        w = torch.randn(4, 4 // groups, 3, 3, dtype=dtype)
        window = ([1, 1], [1] * 4, [1, 1], groups, algorithm)
        try:
            expected = ops.convolution(x, w, None, *window).relu()
        except RuntimeError as error:
            assert f"'{algorithm}' cannot run" in str(error)  # noqa: PT017
            continue
        y = ops.convolution_relu(x, w, None, *window)
        assert y.isnan().any()
        assert same(y, expected)
        linear = ops.convolution(zeros, w.abs(), bias, *window)
        assert same(ops.convolution_relu(zeros, w.abs(), bias, *window), linear.relu())
        assert linear.signbit().any() or algorithm != "reference"


@pytest.mark.parametrize(
    "shape", [(2, 3, 5), (3, 16, 9, 9), (2, 70, 40, 41), (2, 600, 5, 3), (4, 6, 3, 8, 9), (0, 3, 4)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_mask_and_bias_gradient(shape: tuple, dtype: torch.dtype, channels_last: bool) -> None:
    format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(
        len(shape) * channels_last, torch.contiguous_format
    )
    g, y = (torch.randn(shape).to(dtype) for _ in range(2))
    y.view(-1)[::97] = math.nan
    y = y.relu().contiguous(memory_format=format)
    masked, bias = ops.relu_bias_grad(g, y)
    assert same(masked, torch.ops.aten.threshold_backward(g, y, 0))
    if masked.numel():
        assert masked.stride() == y.stride()
    exact = masked.double().sum([0, *range(2, g.dim())])
    bound = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2**-8}[dtype]
    assert (bias.double() - exact).norm() <= bound * exact.norm()
    assert torch.equal(ops.convolution_bias_grad(masked), bias)


def test_bad_gradient_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"\[1, 2, 3\] but the output is Float of shape \[1, 2, 4\]"):
        ops.relu_bias_grad(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(RuntimeError, match=r"3 to 5 axes, got shape \[2, 3\]"):
        ops.relu_bias_grad(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="conv2d: activation must be None or 'relu', got 'gelu'"):
        TF.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), activation="gelu")


@pytest.mark.parametrize("shape", [(3, 70, 40, 41), (8, 16, 64, 64), (2, 600, 25, 30)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_number_of_threads(shape: tuple, layout: str, threads) -> None:
    g, y = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    threads(1)
    masked, bias = ops.relu_bias_grad(g, y)
    for count in (2, 3, 16):
        threads(count)
        for mine, expected in zip(ops.relu_bias_grad(g, y), (masked, bias), strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
def test_gradcheck(case: ConvCase) -> None:
    x, w, b, g = doubles(case.input, case.weight, case.weight[:1], case.output)
    output = torch.randn_like(g).relu()
    for function, inputs in (
        (lambda x, w, b: autograd.convolution_relu(x, w, b, *window(case)), (x, w, b)),
        (lambda x, w: autograd.convolution_relu(x, w, None, *window(case)), (x, w)),
        (lambda g: autograd.relu_bias_grad(g, output), (g,)),
    ):
        assert gradcheck(function, inputs, **EVERY_MODE)
        assert gradgradcheck(
            function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
        )


@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
def test_opcheck(case: ConvCase) -> None:
    x, w, b, g = doubles(case.input, case.weight, case.weight[:1], case.output)
    torch.library.opcheck(ops.convolution_relu.default, (x, w, b, *window(case)))
    torch.library.opcheck(ops.convolution_relu.default, (x, w, None, *window(case)))
    torch.library.opcheck(ops.relu_bias_grad.default, (g, torch.randn_like(g).relu()))


def test_opcheck_strides() -> None:
    x, g = (torch.randn(size).to(memory_format=torch.channels_last) for size in ((2, 4, 6, 6), (2, 6, 6, 6)))
    rest = ([1, 1], [1, 1, 1, 1], [1, 1], 2, "auto")
    torch.library.opcheck(ops.convolution_relu.default, (x, torch.randn(6, 2, 3, 3), None, *rest))
    for grad_output in (g, g.contiguous()):
        torch.library.opcheck(ops.relu_bias_grad.default, (grad_output, torch.randn_like(g)))


@pytest.mark.parametrize("case", [c for c in CASES if c.input[0] > 0 and min(c.flat_padding) >= 0], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_the_two_in_a_row_s(case: ConvCase, layout: str) -> None:
    conv = (TF.conv1d, TF.conv2d, TF.conv3d)[case.dims - 1]
    x, w, b, g = operands(case, torch.float32, layout)
    results = []
    for activation in ("relu", None):
        leaves = [t.clone().requires_grad_() for t in (x, w, b)]
        y = conv(*leaves, case.stride, case.padding, case.dilation, case.groups, activation=activation)
        results.append(torch.autograd.grad(y if activation else y.relu(), leaves, g))
    for mine, theirs in zip(*results, strict=True):
        if y.relu().stride() == y.stride():
            assert torch.equal(mine, theirs)
            assert mine.stride() == theirs.stride()
        else:  # torch's ReLU has made the strides of a single map ambiguous: the sums run in another order
            torch.testing.assert_close(mine, theirs)


def test_only_what_is_asked_for_is_computed(monkeypatch) -> None:
    called = []
    names = ("convolution_input_grad", "convolution_weight_grad", "convolution_bias_grad", "relu_bias_grad")
    for name in names:
        original = getattr(autograd, name)
        monkeypatch.setattr(
            autograd, name, lambda *args, name=name, original=original: (called.append(name), original(*args))[1]
        )
    for needs, expected in {
        (True, False, False): ["convolution_input_grad"],
        (False, True, False): ["convolution_weight_grad"],
        (False, False, True): ["relu_bias_grad"],
        (True, False, True): ["relu_bias_grad", "convolution_input_grad"],
    }.items():
        called.clear()
        sizes = [(1, 2, 4, 4), (3, 2, 3, 3), (3,)]
        leaves = [torch.randn(size).requires_grad_(need) for size, need in zip(sizes, needs, strict=True)]
        TF.conv2d(*leaves, activation="relu").sum().backward()
        assert called == expected
        assert [t.grad is not None for t in leaves] == list(needs)


def test_modified_output_is_noticed() -> None:
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = TF.conv2d(x, w, activation="relu")
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_func_transforms_agree_with_the_built_in() -> None:
    x, w, b = (t.detach() for t in doubles((2, 2, 4, 4), (4, 1, 3, 3), (4,)))
    results = []
    ours = lambda *args, **keywords: TF.conv2d(*args, **keywords, activation="relu")  # noqa: E731
    for conv in (ours, lambda *args, **keywords: F.conv2d(*args, **keywords).relu()):
        of_weight = lambda w, conv=conv: conv(x, w, b, padding=1, groups=2).pow(3).sum()  # noqa: E731
        of_bias = lambda b, conv=conv: conv(x, w, b, padding=1, groups=2).pow(3).sum()  # noqa: E731
        of_input = lambda x, conv=conv: conv(x, w, b, padding=1, groups=2)  # noqa: E731
        loss = lambda w, b, x, conv=conv: conv(x, w, b, padding=1, groups=2).sin().sum()  # noqa: E731
        results.append(
            [
                grad(of_weight)(w),
                hessian(of_weight)(w),
                hessian(of_bias)(b),
                jacrev(of_input)(x),
                jacfwd(of_input)(x),
                *jvp(of_input, (x,), (torch.ones_like(x),)),
                *vmap(grad(loss, (0, 1)), in_dims=(None, None, 0))(w, b, x),  # gradients sample by sample
                vmap(of_input)(x.expand(3, 2, 2, 4, 4)),
                vmap(lambda b, conv=conv: conv(x, w, b, padding=1, groups=2))(b.expand(3, 4) * 2),
            ]
        )
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_vmap_over_any_operands() -> None:
    operands = doubles((2, 4, 5, 5), (6, 2, 3, 3), (6,))
    check_vmap(lambda x, w, b: TF.conv2d(x, w, b, stride=2, padding=1, groups=2, activation="relu"), operands)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ConvReLU2d(3, 8, 3, stride=2, padding="same")
        self.second = nn.ConvReLU2d(8, 6, 3, padding=1, groups=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("backend", "dynamic"), first_quick([("aot_eager", False), ("aot_eager", True), ("inductor", False)])
)
def test_compile(backend: str, dynamic: bool) -> None:
    check_sizes(Net(), backend, dynamic)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    check_exported(Net(), strict, convolution_relu=2)


def test_autocast_and_other_dtypes() -> None:
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = TF.conv2d(x, w, activation="relu")
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert w.grad.dtype == torch.float32
    # No kernel for float16 here: PyTorch's own convolution, then its ReLU.
    half = TF.conv2d(x.half(), w.half(), activation="relu")
    assert torch.equal(half, F.conv2d(x.half(), w.half()).relu())


def test_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    x, w = doubles((2, 2, 5, 5), (2, 2, 3, 3))
    expected = torch.autograd.grad(TF.conv2d(x, w, activation="relu").sin().sum(), w)[0]
    y = checkpoint(lambda x: TF.conv2d(x, w, activation="relu").sin(), x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y.sum(), w)[0], expected)
