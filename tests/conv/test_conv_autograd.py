"""Convolution's derivatives: of every order, in every mode, and under every transform PyTorch has."""

import gc
import weakref

import pytest
import torch
from conv_autograd_cases import EVERY_MODE, SMALL, doubles, window
from shapes import CASES, ConvCase
from suite import first_quick
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from traced import check_exported, check_sizes, check_vmap

import torchconv.autograd.conv as autograd
import torchconv.functional as TF

F = torch.nn.functional
CONV = {1: TF.conv1d, 2: TF.conv2d, 3: TF.conv3d}
CONV_TRANSPOSE = {1: TF.conv_transpose1d, 2: TF.conv_transpose2d, 3: TF.conv_transpose3d}


def three_corners(case: ConvCase) -> dict:
    """Each operator as a function of its differentiable operands, and those operands."""
    x, w, b, g = doubles(case.input, case.weight, case.weight[:1], case.output)
    rest = window(case)
    return {
        "convolution": (lambda x, w, b: autograd.convolution(x, w, b, *rest), (x, w, b)),
        "input_grad": (lambda g, w: autograd.convolution_input_grad(g, w, case.input, *rest), (g, w)),
        "weight_grad": (
            lambda g, x: autograd.convolution_weight_grad(g, x, case.weight, *rest, torch.contiguous_format),
            (g, x),
        ),
        "bias_grad": (autograd.convolution_bias_grad, (g,)),
    }


@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
@pytest.mark.parametrize("operator", ["convolution", "input_grad", "weight_grad", "bias_grad"])
def test_gradcheck(case: ConvCase, operator: str) -> None:
    function, inputs = three_corners(case)[operator]
    assert gradcheck(function, inputs, **EVERY_MODE)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (((2, 2, 3), (2, 3, 2), (3,)), dict(stride=2, padding=1, output_padding=1)),
        (((1, 4, 2, 2), (4, 1, 3, 2), (2,)), dict(stride=2, padding=(1, 0), groups=2)),
        (((2, 2, 2, 2), (2, 2, 2, 2), (2,)), dict(dilation=2, output_padding=1)),
        (((1, 2, 2, 2, 2), (2, 1, 2, 2, 2), (1,)), dict(stride=(1, 2, 2), output_padding=(0, 1, 1))),
    ],
)
def test_gradcheck_transposed(sizes: tuple, options: dict) -> None:
    function = CONV_TRANSPOSE[len(sizes[0]) - 2]
    inputs = doubles(*sizes)
    assert gradcheck(lambda x, w, b: function(x, w, b, **options), inputs, **EVERY_MODE)
    assert gradgradcheck(lambda x, w, b: function(x, w, b, **options), inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("case", [c for c in CASES if c.input[0] > 0], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_the_built_in_s(case: ConvCase, dtype: torch.dtype) -> None:
    x, w, b = (
        torch.randn(size, dtype=dtype, requires_grad=True) for size in (case.input, case.weight, case.weight[:1])
    )
    crop = min(case.flat_padding) < 0
    pad = [side for pair in reversed(case.padding) for side in pair]
    ours = CONV[case.dims](
        F.pad(x, pad) if crop else x, w, b, case.stride, 0 if crop else case.padding, case.dilation, case.groups
    )
    built_in = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[case.dims]
    theirs = built_in(F.pad(x, pad), w, b, case.stride, 0, case.dilation, case.groups)
    grad_output = torch.randn_like(ours)
    # Two float32 sums of the same products in different orders: each within 1e-5 of the exact one, by the norm.
    bound = 2e-5 if dtype == torch.float32 else 1e-13
    for mine, other in zip(
        torch.autograd.grad(ours, (x, w, b), grad_output),
        torch.autograd.grad(theirs, (x, w, b), grad_output),
        strict=True,
    ):
        assert mine.shape == other.shape
        assert (mine - other).norm() <= bound * other.norm()


@pytest.mark.parametrize("weight_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("input_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_come_in_the_parameters_strides(weight_format, input_format) -> None:
    w = torch.randn(6, 4, 3, 3).contiguous(memory_format=weight_format).requires_grad_()
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=input_format).requires_grad_()
    TF.conv2d(x, w).sum().backward()
    assert w.grad.stride() == w.stride()
    if input_format == torch.channels_last:
        assert x.grad.stride() == x.stride()


def test_only_what_is_asked_for_is_computed(monkeypatch) -> None:
    called = []
    for name in ("convolution_input_grad", "convolution_weight_grad", "convolution_bias_grad"):
        original = getattr(autograd, name)
        monkeypatch.setattr(
            autograd, name, lambda *args, name=name, original=original: (called.append(name), original(*args))[1]
        )
    for needs, expected in {
        (True, False, False): ["convolution_input_grad"],
        (False, True, False): ["convolution_weight_grad"],
        (False, False, True): ["convolution_bias_grad"],
    }.items():
        called.clear()
        sizes = [(1, 2, 4, 4), (3, 2, 3, 3), (3,)]
        operands = [torch.randn(size).requires_grad_(need) for size, need in zip(sizes, needs, strict=True)]
        TF.conv2d(*operands).sum().backward()
        assert called == expected
        assert [t.grad is not None for t in operands] == list(needs)


@pytest.mark.parametrize("leaves", [True, False])
def test_grad_of_some_operands_computes_no_other(leaves: bool, monkeypatch) -> None:
    called = []
    names = ["convolution_input_grad", "convolution_weight_grad", "convolution_bias_grad"]
    for name in names:
        original = getattr(autograd, name)
        monkeypatch.setattr(
            autograd, name, lambda *args, name=name, original=original: (called.append(name), original(*args))[1]
        )
    operands = [torch.randn(size).requires_grad_() for size in [(1, 2, 4, 4), (3, 2, 3, 3), (3,)]]
    if not leaves:
        operands = [operand * 2 for operand in operands]
    y = TF.conv2d(*operands).sum()
    expected = torch.autograd.grad(y, operands, retain_graph=True)
    for asked in ([0], [1], [2], [0, 1], [1, 2], [0, 2]):
        called.clear()
        grads = torch.autograd.grad(y, [operands[i] for i in asked], retain_graph=True)
        assert called == [names[i] for i in asked]
        assert all(torch.equal(grad, expected[i]) for grad, i in zip(grads, asked, strict=True))
    if leaves:
        called.clear()
        y.backward(inputs=operands[1])
        assert called == names[1:2]
        assert [operand.grad is not None for operand in operands] == [False, True, False]


def test_what_no_gradient_needs_is_not_kept() -> None:
    x, w, b = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(3, requires_grad=True)
    kept = weakref.ref(x)
    y = TF.conv2d(x, w, b)
    del x
    gc.collect()
    assert kept() is None
    y.sum().backward()


def test_a_weight_used_twice_sums_its_gradients() -> None:
    x, w = doubles((2, 2, 5, 5), (2, 2, 3, 3))
    once = torch.autograd.grad(TF.conv2d(x, w, padding=1).sin().sum(), w)[0]
    both = TF.conv2d(x, w, padding=1).sin().sum() * 2
    assert torch.allclose(torch.autograd.grad(both, w)[0], 2 * once)
    y = TF.conv2d(TF.conv2d(x, w, padding=1).relu(), w, padding=1)
    z = F.conv2d(F.conv2d(x, w, padding=1).relu(), w, padding=1)
    assert torch.allclose(torch.autograd.grad(y.sum(), w)[0], torch.autograd.grad(z.sum(), w)[0])


def test_modified_operand_is_noticed() -> None:
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = TF.conv2d(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_third_order() -> None:
    x, w = doubles((1, 2, 4, 4), (2, 2, 3, 3))
    for conv in (TF.conv2d, F.conv2d):
        terms = []
        value = conv(x, w, padding=1).pow(4).sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), w, create_graph=True)
            terms.append(value.detach())
        if conv is TF.conv2d:
            ours = terms
    for mine, theirs in zip(ours, terms, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
def test_opcheck(case: ConvCase) -> None:
    x, w, b, g = doubles(case.input, case.weight, case.weight[:1], case.output)
    calls = {
        "convolution": (x, w, b, *window(case)),
        "convolution_input_grad": (g, w, list(case.input), *window(case)),
        "convolution_weight_grad": (g, x, list(case.weight), *window(case), torch.contiguous_format),
        "convolution_bias_grad": (g,),
    }
    for name, args in calls.items():
        torch.library.opcheck(getattr(torch.ops.torchconv, name).default, args)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck_strides(layout) -> None:
    x, g = (torch.randn(size).contiguous(memory_format=layout) for size in ((2, 4, 6, 6), (2, 6, 6, 6)))
    w = torch.randn(6, 2, 3, 3)
    rest = ([1, 1], [1, 1, 1, 1], [1, 1], 2, "auto")
    torch.library.opcheck(torch.ops.torchconv.convolution.default, (x, w, None, *rest))
    torch.library.opcheck(torch.ops.torchconv.convolution_input_grad.default, (g, w, [2, 4, 6, 6], *rest))
    torch.library.opcheck(torch.ops.torchconv.convolution_weight_grad.default, (g, x, [6, 2, 3, 3], *rest, layout))


class Net(torch.nn.Module):
    """Strided, grouped, depth-wise, 'same' and transposed convolutions in a row."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(8, 3, 3, 3), (8, 1, 3, 3), (6, 4, 2, 2), (6, 4, 3, 3)]
        self.weights = torch.nn.ParameterList([torch.randn(size) * 0.3 for size in sizes])
        self.bias = torch.nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, depthwise, grouped, transposed = self.weights
        x = TF.conv2d(x, first, self.bias, stride=2, padding="same").relu()
        x = TF.conv2d(x, depthwise, padding=((1, 1), (2, 0)), groups=8).relu()
        x = TF.conv2d(x, grouped, groups=2).tanh()
        return TF.conv_transpose2d(x, transposed, stride=2, output_padding=1)


@pytest.mark.parametrize(
    ("backend", "dynamic"), first_quick([("aot_eager", False), ("aot_eager", True), ("inductor", False)])
)
def test_compile(backend: str, dynamic: bool) -> None:
    check_sizes(Net(), backend, dynamic)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    check_exported(Net(), strict, convolution=3, convolution_input_grad=1)


def test_func_transforms_agree_with_the_built_in() -> None:
    x, w, b = (t.detach() for t in doubles((2, 2, 4, 4), (4, 1, 3, 3), (4,)))
    results = []
    for conv in (TF.conv2d, F.conv2d):
        of_weight = lambda w, conv=conv: conv(x, w, b, padding=1, groups=2).pow(3).sum()  # noqa: E731
        of_input = lambda x, conv=conv: conv(x, w, b, padding=1, groups=2)  # noqa: E731
        loss = lambda w, x, conv=conv: conv(x, w, b, padding=1, groups=2).sin().sum()  # noqa: E731
        results.append(
            [
                grad(of_weight)(w),
                hessian(of_weight)(w),
                jacrev(of_input)(x),
                jacfwd(of_input)(x),
                *jvp(of_input, (x,), (torch.ones_like(x),)),
                vmap(grad(loss), in_dims=(None, 0))(w, x),  # gradients sample by sample
                vmap(vmap(of_input))(x.expand(3, 2, 2, 4, 4)[:, :, None]),
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_any_operands(groups: int) -> None:
    operands = doubles((2, 4, 5, 5), (6, 4 // groups, 3, 3), (6,))
    check_vmap(lambda x, w, b: TF.conv2d(x, w, b, stride=2, padding=1, groups=groups), operands)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_vmap_over_any_operands_of_a_transposed_one(dims: int) -> None:
    operands = doubles((2, 4, *[3] * dims), (4, 3, *[2] * dims), (6,))
    window = dict(stride=2, padding=1, output_padding=1, groups=2)
    check_vmap(lambda x, w, b: CONV_TRANSPOSE[dims](x, w, b, **window), operands)


def test_ensembles_by_functional_call() -> None:
    net = Net().double()
    stacked = {name: torch.stack([p, 2 * p, -p]).detach() for name, p in net.named_parameters()}
    x = torch.randn(2, 3, 8, 8).double()
    together = vmap(lambda params: functional_call(net, params, (x,)))(stacked)
    for i in range(3):
        alone = functional_call(net, {name: p[i] for name, p in stacked.items()}, (x,))
        torch.testing.assert_close(together[i], alone)


def test_autocast_to_bfloat16() -> None:
    x, w, b = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = TF.conv2d(x, w, b), F.conv2d(x, w, b)
        up, built_in_up = TF.conv_transpose2d(ours, w), F.conv_transpose2d(ours, w)
    assert ours.dtype == theirs.dtype == up.dtype == built_in_up.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7)
    ours.float().sum().backward()
    assert w.grad.dtype == torch.float32


def test_checkpointing_and_anomaly_mode() -> None:
    from torch.utils.checkpoint import checkpoint

    x, w = doubles((2, 2, 5, 5), (2, 2, 3, 3))
    expected = torch.autograd.grad(TF.conv2d(x, w).sin().sum(), w)[0]
    with pytest.warns(UserWarning, match="Anomaly Detection"):
        anomaly = torch.autograd.detect_anomaly(check_nan=True)
    with anomaly:
        y = checkpoint(lambda x: TF.conv2d(x, w).sin(), x, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(y.sum(), w)[0], expected)
