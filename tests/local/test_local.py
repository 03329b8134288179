"""Locally connected layers against the definition, their derivatives of every order and mode, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from shapes import case
from suite import examples, first_quick
from torch.autograd import gradcheck, gradgradcheck
from traced import check_vmap

import torchconv
from torchconv import functional as ours
from torchconv import nn
from torchconv.autograd import local as autograd

ops = torch.ops.torchconv
# Relative L2 of forward and input gradient, and of the weight gradient: direct summation's.
BOUNDS = {torch.float32: (2e-6, 1e-5), torch.float64: (1e-14, 2e-14), torch.bfloat16: (4e-3, 4e-3)}
EVERY_MODE = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)

# Relative to the kernels' blocks: chunks of 64 positions of float32, 16 samples, 128 and 32 terms, 64 output channels,
# 64 rows and 4 channels of the input gradient, 32 samples of the weight gradient.
CASES = [
    case("plain", (2, 3, 7, 9), (5, 3, 3, 3), padding=1),
    case("equal", (16, 2, 8, 8), (64, 2, 3, 3), padding=1),
    case("multiple", (4, 16, 8, 16), (4, 16, 3, 3), padding=1),  # 2 chunks, 144 terms
    case("tail", (17, 3, 5, 13), (3, 3, 3, 3), padding=1),  # 65 positions, a sample more than a block
    case("samples_beyond_a_gradient_block", (35, 2, 3, 4), (3, 2, 3, 3), padding=1),
    case("many_terms", (2, 40, 4, 5), (3, 40, 3, 3), padding=1),
    case("many_outputs", (3, 2, 3, 3), (131, 2, 3, 3), padding=1),
    case("one_position", (5, 3, 3, 3), (4, 3, 3, 3)),
    case("single", (1, 1, 1, 1), (1, 1, 1, 1)),
    case("large_kernel", (1, 1, 9, 9), (2, 1, 9, 9), padding=4),
    case("strided", (2, 4, 11, 14), (6, 4, 3, 3), stride=(2, 3), padding=1),
    case("stride_beyond_kernel", (2, 2, 9, 8), (3, 2, 2, 2), stride=3, padding=(0, 1)),
    case("even_kernel_unequal_padding", (2, 3, 6, 7), (4, 3, 2, 4), padding=((3, 0), (1, 2))),
    case("dilated_and_strided", (3, 4, 14, 13), (5, 4, 3, 2), stride=(2, 3), padding=3, dilation=(3, 2)),
    case("padding_beyond_kernel", (1, 2, 3, 3), (3, 2, 2, 2), padding=4),
    case("grouped", (2, 12, 7, 7), (18, 4, 3, 3), padding=1, groups=3),
    case("depthwise", (2, 5, 6, 6), (10, 1, 3, 3), padding=1, groups=5),
    case("1d", (2, 3, 11), (5, 3, 3), padding=1),
    case("1d_long", (1, 2, 450), (3, 2, 25), stride=3, padding=12, dilation=2),
    case("1d_grouped", (3, 8, 10), (6, 4, 4), stride=2, padding=((1, 2),), groups=2),
    case("empty_batch", (0, 3, 5, 5), (4, 3, 3, 3)),
]
SMALL = [
    case("plain", (2, 2, 3, 4), (3, 2, 3, 3), padding=1),
    case("strided", (1, 2, 5, 4), (2, 2, 3, 2), stride=(2, 3), padding=((1, 2), (0, 1))),
    case("grouped", (2, 4, 3, 3), (4, 2, 2, 2), stride=2, padding=1, groups=2),
    case("1d_dilated", (2, 2, 6), (3, 2, 2), padding=1, dilation=2),
]


def weight_size(c) -> tuple[int, ...]:
    return (*c.weight, *c.output[2:])


def window(c) -> tuple:
    return (list(c.stride), c.flat_padding, list(c.dilation), c.groups)


def definition(c, x, w, b=None):
    """By PyTorch's unfold, which pads nothing here and dilates and strides as a convolution does."""
    padded = F.pad(x, [side for pair in reversed(c.padding) for side in pair])
    lift = lambda values: (1,) * (2 - c.dims) + tuple(values)  # noqa: E731
    columns = F.unfold(
        padded.reshape(*x.shape[:2], *lift(padded.shape[2:])), lift(c.weight[2:]), lift(c.dilation), 0, lift(c.stride)
    )
    filters = w.reshape(c.groups, c.weight[0] // c.groups, -1, columns.shape[-1])
    y = torch.einsum("ngqt,goqt->ngot", columns.unflatten(1, (c.groups, -1)), filters).reshape(c.output)
    return y if b is None else y + b


def operands(c, dtype, **options):
    sizes = (c.input, weight_size(c), (c.weight[0], *c.output[2:]))
    return [torch.randn(size).to(dtype).requires_grad_(**options) for size in sizes]


def error(a, exact):
    return ((a.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def check(c, dtype) -> None:
    x, w, b = operands(c, dtype)
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    y, exact = autograd.local_convolution(x, w, b, *window(c)), definition(c, *wide)
    grad = torch.randn_like(y)
    mine, expected = torch.autograd.grad(y, (x, w, b), grad), torch.autograd.grad(exact, wide, grad.double())
    assert y.shape == exact.shape
    forward, to_weight = BOUNDS[dtype]
    assert error(y.detach(), exact.detach()) <= forward
    assert error(mine[0], expected[0]) <= forward
    assert error(mine[1], expected[1]) <= to_weight
    assert error(mine[2], expected[2]) <= to_weight


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("c", CASES, ids=str)
def test_against_the_definition(c, dtype) -> None:
    if c.input[0] > 0:
        check(c, dtype)
    else:
        x, w, b = operands(c, dtype)
        y = autograd.local_convolution(x, w, b, *window(c))
        y.sum().backward()
        assert y.shape == c.output
        assert not w.grad.any()


sides = st.integers(1, 3)


@examples(60)
@given(
    batch=st.sampled_from([1, 2, 3, 5, 9]),
    channels=st.tuples(sides, sides, st.integers(1, 2)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(sides, sides),
    stride=st.tuples(sides, sides),
    dilation=st.tuples(sides, sides),
    padding=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
)
def test_property(batch, channels, size, kernel, stride, dilation, padding) -> None:
    ins, outs, groups = channels
    c = case("drawn", (batch, ins * groups, *size), (outs * groups, ins, *kernel), stride, padding, dilation, groups)
    if min(c.output[2:]) >= 1:
        check(c, torch.float64)


@examples(60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(sides, sides, st.integers(1, 2)),
    size=st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
    axes=st.lists(st.tuples(sides, sides, sides, st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=2),
)
def test_transpose_property(batch, channels, size, axes) -> None:
    """It is the gradient of the layer that it transposes, by the definition; and its own gradients are that one's."""
    ins, outs, groups = channels
    kernel, stride, dilation, padding, extra = (tuple(axis[i] for axis in axes[: len(size)]) for i in range(5))
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    large = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    )
    transposed = (ours.local_conv_transpose1d, ours.local_conv_transpose2d)[len(size) - 1]
    options = (stride, padding, extra, groups, dilation)
    x = torch.randn(batch, ins * groups, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(ins * groups, outs, *kernel, *size, dtype=torch.float64, requires_grad=True)
    if min(large) < 1:
        with pytest.raises(RuntimeError, match="gives an output of spatial size"):
            transposed(x, w, None, *options)
        return
    b = torch.randn(outs * groups, *large, dtype=torch.float64, requires_grad=True)
    pairs = tuple((p, p - e) for p, e in zip(padding, extra, strict=True))
    c = case("drawn", (batch, outs * groups, *large), (ins * groups, outs, *kernel), stride, pairs, dilation, groups)
    z = torch.zeros(c.input, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(definition(c, z, w), z, x, create_graph=True)
    y, expected = transposed(x, w, b, *options), expected + b
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(y)
    for mine, theirs in zip(*(torch.autograd.grad(t, (x, w, b), g) for t in (y, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_with_the_same_filters_everywhere_it_is_a_convolution() -> None:
    x, w = torch.randn(2, 4, 8, 9, dtype=torch.float64), torch.randn(6, 2, 3, 3, dtype=torch.float64)
    options = dict(stride=(2, 1), padding=((1, 2), (0, 1)), dilation=(1, 2), groups=2)
    expected = ours.conv2d(x, w, **options)
    y = ours.local_conv2d(x, w[..., None, None].expand(*w.shape, *expected.shape[2:]), **options)
    torch.testing.assert_close(y, expected)


def test_bitwise_the_same_for_any_threads_and_batch(threads) -> None:
    c = case("", (21, 5, 12, 13), (7, 5, 3, 3), padding=1)
    x, w, _ = operands(c, torch.float32)
    grad = torch.randn(c.output)

    def three(x, grad):
        return [
            ops.local_convolution(x, w, None, *window(c)),
            ops.local_convolution_input_grad(grad, w, x.shape, *window(c)),
            ops.local_convolution_weight_grad(grad, x, weight_size(c), *window(c)),
        ]

    threads(1)
    alone = three(x, grad)
    threads(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, three(x, grad), strict=True))
    for part in slice(20, 21), slice(3, 6), slice(9, 18):
        mine = three(x[part], grad[part])
        assert torch.equal(mine[0], alone[0][part])
        assert torch.equal(mine[1], alone[1][part])


def test_memory_is_that_of_the_result() -> None:
    """Unfolded, the input would take 52 MB, 25 times its own; of that less than 2 MB a thread is made at a time."""
    x, w = torch.randn(8, 16, 64, 64), torch.randn(2, 16, 5, 5, 64, 64)
    c = case("", tuple(x.shape), (2, 16, 5, 5), padding=2)
    grad = torch.randn(c.output)
    for function, result in (
        (lambda: ops.local_convolution(x, w, None, *window(c)), grad),
        (lambda: ops.local_convolution_input_grad(grad, w, x.shape, *window(c)), x),
        (lambda: ops.local_convolution_weight_grad(grad, x, w.shape, *window(c)), w),
    ):
        with torch.profiler.profile(profile_memory=True) as profile:
            function()
        allocated = sum(event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0)
        assert result.nbytes <= allocated <= result.nbytes + torch.get_num_threads() * (2 << 20)


def test_nan_reaches_only_what_sees_it() -> None:
    c = case("", (3, 2, 5, 9), (2, 2, 3, 3), padding=1)
    x, w, _ = operands(c, torch.float32, requires_grad=False)
    x[1, 0, 2, 3], w[1, 1, 0, 0, 4, 8] = math.nan, math.inf
    y, expected = ops.local_convolution(x, w, None, *window(c)), definition(c, x, w)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())


# ---- derivatives and transforms ----


def three_corners(c) -> dict:
    x, w, b = operands(c, torch.float64)
    g = torch.randn(c.output, dtype=torch.float64, requires_grad=True)
    rest = window(c)
    return {
        "forward": (lambda x, w, b: autograd.local_convolution(x, w, b, *rest), (x, w, b)),
        "input_grad": (lambda g, w: autograd.local_convolution_input_grad(g, w, c.input, *rest), (g, w)),
        "weight_grad": (lambda g, x: autograd.local_convolution_weight_grad(g, x, weight_size(c), *rest), (g, x)),
    }


@pytest.mark.parametrize("operator", first_quick(["forward", "input_grad", "weight_grad"]))
@pytest.mark.parametrize("c", first_quick(SMALL), ids=str)
def test_gradcheck(c, operator) -> None:
    function, inputs = three_corners(c)[operator]
    assert gradcheck(function, inputs, **EVERY_MODE)
    if c is SMALL[-1] or operator != "forward":
        assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("operator", ["forward", "input_grad", "weight_grad"])
def test_vmap(operator) -> None:
    check_vmap(*three_corners(case("", (2, 4, 3, 4), (4, 2, 2, 3), padding=1, groups=2))[operator])


def test_jacobians() -> None:
    c = SMALL[1]
    function, (x, w, b) = three_corners(c)["forward"]
    expected = torch.autograd.functional.jacobian(lambda x: definition(c, x, w, b), x)
    for jacobian in torch.func.jacrev, torch.func.jacfwd:
        torch.testing.assert_close(jacobian(lambda x: function(x, w, b))(x), expected)


@pytest.mark.parametrize("c", first_quick(SMALL[1:]), ids=str)
def test_opcheck(c) -> None:
    x, w, b = operands(c, torch.float64)
    g = torch.randn(c.output, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(ops.local_convolution.default, (x, w, b, *window(c)))
    torch.library.opcheck(ops.local_convolution_input_grad.default, (g, w, c.input, *window(c)))
    torch.library.opcheck(ops.local_convolution_weight_grad.default, (g, x, weight_size(c), *window(c)))


# ---- layers ----


LAYERS = {
    "1d": (lambda: nn.LocallyConnected1d(4, 6, 11, 3, 2, ((2, 0),), groups=2), (2, 4, 11)),
    "2d": (lambda: nn.LocallyConnected2d(3, 5, (6, 7), 3, padding="same", bias=False), (2, 3, 6, 7)),
    "transpose1d": (lambda: nn.LocallyConnectedTranspose1d(4, 6, 5, 3, 2, 1, 1, 2), (2, 4, 5)),
    "transpose2d": (lambda: nn.LocallyConnectedTranspose2d(3, 5, (3, 4), 2, 2), (2, 3, 3, 4)),
}
by_layer = pytest.mark.parametrize(("make", "size"), LAYERS.values(), ids=LAYERS)


@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
@by_layer
def test_layers(make, size) -> None:
    layer, x = make(), torch.randn(size)
    y = layer(x)
    assert y.shape == (2, layer.out_channels, *layer.output_size)
    torch.testing.assert_close(layer(x[1]), y[1])
    wide = layer.double()(x.double())
    torch.testing.assert_close(wide.float(), y, rtol=1e-5, atol=1e-5)
    complex_layer = make().to(torch.complex128)  # no kernel for it here: by way of PyTorch's own operators
    complex_layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(complex_layer(x.to(torch.complex128)).real, wide)


@by_layer
def test_autocast(make, size) -> None:
    layer, x = make(), torch.randn(size)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


@by_layer
def test_a_layer_is_compiled_and_exported(make, size) -> None:
    layer, x = make(), torch.randn(size, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))
    compiled(x).pow(2).sum().backward()
    mine, x.grad = x.grad, None
    layer(x).pow(2).sum().backward()
    assert torch.equal(mine, x.grad)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_a_transposed_layer_is_the_transpose() -> None:
    down = nn.LocallyConnected2d(3, 4, (8, 7), 3, 2, 1, bias=False, dtype=torch.float64)
    up = nn.LocallyConnectedTranspose2d(4, 3, down.output_size, 3, 2, 1, (1, 0), bias=False, dtype=torch.float64)
    up.weight = down.weight
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    y = torch.randn(2, 4, *down.output_size, dtype=torch.float64)
    torch.testing.assert_close((down(x) * y).sum(), (up(y) * x).sum())


def test_counts() -> None:
    """1-D, width 3, padded by 1: 3n weights, of which 3n − 2 meet no padding; a bias for each output."""
    layer = nn.LocallyConnected1d(1, 1, 20, 3, padding=1)
    assert layer.weight.numel() == 60
    assert layer.bias.shape == (1, 20)
    assert repr(layer) == "LocallyConnected1d(1, 1, input_size=(20,), kernel_size=(3,), stride=(1,), padding=(1,))"


def test_bad_inputs() -> None:
    layer = nn.LocallyConnected2d(3, 4, (6, 7), 3)
    with pytest.raises(RuntimeError, match=r"made for inputs of size \(6, 7\), got input of shape \[2, 3, 7, 6\]"):
        layer(torch.randn(2, 3, 7, 6))
    with pytest.raises(RuntimeError, match=r"expects 3 input channels, got input of shape \[2, 4, 6, 7\]"):
        layer(torch.randn(2, 4, 6, 7))
    with pytest.raises(RuntimeError, match=r"input is torch.float64 but weight is torch.float32"):
        layer(torch.randn(2, 3, 6, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"kernel_size=\(5,\) .* is larger than input_size=\(4,\)"):
        nn.LocallyConnected1d(1, 1, 4, 5)
    with pytest.raises(ValueError, match="groups=2 must divide in_channels=3 and out_channels=4"):
        nn.LocallyConnected1d(3, 4, 4, 2, groups=2)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        nn.LocallyConnected1d(3, 4, 4, 2, stride=0)
    with pytest.raises(RuntimeError, match=r"is for \[5\] positions, but input of shape \[1, 1, 6\] has \[6\]"):
        ours.local_conv1d(torch.randn(1, 1, 6), torch.randn(1, 1, 3, 5), padding=1)
    with pytest.raises(RuntimeError, match=r"is for outputs of side 5 along axis 0, but input of shape \[1, 1, 6\]"):
        ops.local_convolution(torch.randn(1, 1, 6), torch.randn(1, 1, 3, 5), None, [1], [1, 1], [1], 1)
    with pytest.raises(RuntimeError, match=r"expected an output gradient of shape \[1, 1, 6\], got \[1, 1, 5\]"):
        ops.local_convolution_input_grad(torch.randn(1, 1, 5), torch.randn(1, 1, 3, 6), [1, 1, 6], [1], [1, 1], [1], 1)
    with pytest.raises(RuntimeError, match=r"is for inputs of size \[5\], got input of shape \[1, 1, 6\]"):
        ours.local_conv_transpose1d(torch.randn(1, 1, 6), torch.randn(1, 1, 3, 5))
    with pytest.raises(RuntimeError, match="output_padding must be smaller than either stride or dilation"):
        ours.local_conv_transpose1d(torch.randn(1, 1, 5), torch.randn(1, 1, 3, 5), output_padding=1)


def test_explain() -> None:
    """Each weight meets each sample once."""
    model = torch.nn.Sequential(nn.LocallyConnected2d(2, 4, (5, 6), 3), nn.LocallyConnectedTranspose2d(4, 1, (3, 4), 2))
    rows = torchconv.explain(model, torch.randn(3, 2, 5, 6))
    assert [row.direction for row in rows] == ["forward", "input_grad", "weight_grad"] * 2
    assert {row.algorithm for row in rows} == {"direct"}
    assert rows[0].multiply_adds == 3 * model[0].weight.numel()
    assert rows[3].multiply_adds == 3 * model[1].weight.numel()
    assert rows[0].kept_bytes == 3 * 2 * 5 * 6 * 4
    assert str(rows)
