"""The functionals of convolution: what is legal agrees with the built-in, the rest is refused and says why."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import VECTOR_LENGTHS
from suite import examples

import torchconv.functional as TF

F = torch.nn.functional
CONV = [(TF.conv1d, F.conv1d), (TF.conv2d, F.conv2d), (TF.conv3d, F.conv3d)]
CONV_TRANSPOSE = [
    (TF.conv_transpose1d, F.conv_transpose1d),
    (TF.conv_transpose2d, F.conv_transpose2d),
    (TF.conv_transpose3d, F.conv_transpose3d),
]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """float64 sums of the same products in another order."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@st.composite
def configurations(draw, transposed: bool):
    dims = draw(st.integers(1, 3))
    every = lambda side: st.lists(side, min_size=dims, max_size=dims).map(tuple)  # noqa: E731
    axis = lambda low, high: every(st.integers(low, high))  # noqa: E731
    groups = draw(st.integers(1, 4))
    inside, outside = groups * draw(st.sampled_from((1, 1, 2, 3, 5))), groups * draw(st.integers(1, 9))
    most = (66, 9, 5)[dims - 1]
    sides = st.one_of(st.integers(1, most), st.sampled_from([n for n in VECTOR_LENGTHS if n <= most]))
    size, kernel = draw(every(sides)), draw(axis(1, 4))
    options = dict(stride=draw(axis(1, 5)), padding=draw(axis(0, 3)), dilation=draw(axis(1, 3)), groups=groups)
    batch = draw(st.sampled_from([(), (1,), (2,), (5,)]))
    if transposed:
        options["output_padding"] = draw(axis(0, 2))
        weight = (inside, outside // groups, *kernel)
    else:
        weight = (outside, inside // groups, *kernel)
    layouts = draw(st.tuples(st.booleans(), st.booleans())) if dims > 1 and batch else (False, False)
    return (*batch, inside, *size), weight, outside, options, layouts, draw(st.booleans())


def agree(ours, theirs, configuration) -> None:
    input, weight, outside, options, layouts, with_bias = configuration
    dims = len(weight) - 2
    channels_last = (torch.channels_last, torch.channels_last_3d)[dims == 3]
    operands = []
    for size, reordered in ((input, layouts[0]), (weight, layouts[1]), ((outside,), False)):
        t = torch.randn(size, dtype=torch.float64)
        operands.append((t.contiguous(memory_format=channels_last) if reordered else t).requires_grad_())
    if not with_bias:
        operands.pop()
    try:
        expected = theirs(*operands, **options)
    except (RuntimeError, ValueError):
        with pytest.raises((RuntimeError, ValueError)):
            ours(*operands, **options)
        return
    result = ours(*operands, **options)
    close(result, expected)
    grad = torch.randn_like(expected)
    for mine, other in zip(
        torch.autograd.grad(result, operands, grad), torch.autograd.grad(expected, operands, grad), strict=True
    ):
        close(mine, other)


@examples(250)
@given(configurations(transposed=False))
def test_any_configuration(configuration) -> None:
    dims = len(configuration[1]) - 2
    agree(*CONV[dims - 1], configuration)


@examples(150)
@given(configurations(transposed=True))
def test_any_transposed_configuration(configuration) -> None:
    dims = len(configuration[1]) - 2
    agree(*CONV_TRANSPOSE[dims - 1], configuration)


@examples(100)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_same_padding(size: int, kernel: int, stride: int, dilation: int) -> None:
    x, w = torch.randn(1, 2, size).double(), torch.randn(3, 2, kernel).double()
    y = TF.conv1d(x, w, stride=stride, padding="same", dilation=dilation)
    assert y.shape[-1] == -(-size // stride)
    total = max((y.shape[-1] - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    close(y, F.conv1d(F.pad(x, (total // 2, total - total // 2)), w, stride=stride, dilation=dilation))
    if stride == 1 and total % 2 == 0:  # else the built-in warns of the copy it makes
        close(y, F.conv1d(x, w, padding="same", dilation=dilation))


@examples(100)
@given(st.tuples(*[st.integers(0, 4)] * 4), st.integers(1, 3))
def test_padding_by_side(sides: tuple, stride: int) -> None:
    x, w = torch.randn(2, 2, 6, 5).double(), torch.randn(3, 2, 3, 2).double()
    top, bottom, left, right = sides
    y = TF.conv2d(x, w, stride=stride, padding=((top, bottom), (left, right)))
    close(y, F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=stride))


def test_scalars_tuples_and_defaults() -> None:
    x, w = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3)
    expected = F.conv2d(x, w, None, 2, 1, 2, 2)
    for args in [(2, 1, 2, 2), ((2, 2), (1, 1), (2, 2), 2), ([2], [1], (2,), 2), (2, ((1, 1), (1, 1)), 2, 2)]:
        torch.testing.assert_close(TF.conv2d(x, w, None, *args), expected, rtol=1e-5, atol=1e-5)
    assert TF.conv2d(x, w, groups=2, padding="valid").shape == (2, 6, 7, 6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_to_an_empty_output(dims: int) -> None:
    x, w = torch.randn(2, 3, *[1] * (dims - 1), 1), torch.randn(3, 4, *[2] * dims)
    x.requires_grad_(), w.requires_grad_()
    results = []
    for functions in (TF, F):
        y = getattr(functions, f"conv_transpose{dims}d")(x, w, stride=3, padding=1)
        results.append((y, *torch.autograd.grad(y.sum(), (x, w))))
    assert results[0][0].shape == (2, 4, *[0] * dims)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_empty_batch_and_zero_channels() -> None:
    x, w, b = torch.randn(0, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True), torch.ones(4)
    y = TF.conv2d(x, w, b)
    assert y.shape == F.conv2d(x, w, b).shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not w.grad.any()
    # No input map: the built-in answers with no output map either.
    for ours, theirs in CONV:
        dims = CONV.index((ours, theirs)) + 1
        x, w, b = torch.randn(2, 0, *[6] * dims), torch.randn(4, 0, *[3] * dims), torch.ones(4)
        operands = [t.requires_grad_() for t in (x, w, b)]
        y, expected = ours(*operands), theirs(*operands)
        assert y.shape == expected.shape == (2, 0, *[4] * dims)
        assert ours(*operands, activation="relu").shape == y.shape
        for mine, other in zip(
            torch.autograd.grad(y.sum(), operands), torch.autograd.grad(expected.sum(), operands), strict=True
        ):
            assert torch.equal(mine, other)


def operands():
    return torch.randn(2, 4, 5, 6), torch.randn(6, 2, 3, 3)


REFUSED = {
    "channels": (
        lambda x, w: TF.conv2d(x, w),
        r"\[6, 2, 3, 3\] with groups=1 expects 2 input channels.*\[2, 4, 5, 6\]",
    ),
    "groups do not divide": (lambda x, w: TF.conv2d(x.repeat(1, 2, 1, 1), w, groups=4), r"6 output channels.*groups=4"),
    "groups": (lambda x, w: TF.conv2d(x, w, groups=0), r"groups must be at least 1, got 0"),
    "kernel larger": (
        lambda x, w: TF.conv2d(x, w.repeat(1, 1, 3, 1), groups=2),
        r"kernel of shape \[9, 3\].*larger than the padded input.*\[2, 4, 5, 6\]",
    ),
    "dilated kernel larger": (lambda x, w: TF.conv2d(x, w, dilation=3, groups=2), r"dilation \[3, 3\] is larger"),
    "stride": (lambda x, w: TF.conv2d(x, w, stride=0, groups=2), r"stride must be at least 1, got 0"),
    "dilation": (
        lambda x, w: TF.conv2d(x, w, dilation=(1, -1), groups=2),
        r"dilation must be at least 1, got \(1, -1\)",
    ),
    "negative padding": (lambda x, w: TF.conv2d(x, w, padding=-1, groups=2), r"negative padding.*-1"),
    "negative side": (lambda x, w: TF.conv2d(x, w, padding=((0, -1), (0, 0)), groups=2), r"negative padding.*-1"),
    "padding word": (
        lambda x, w: TF.conv2d(x, w, padding="full", groups=2),
        r"'same', 'valid' or integers, got 'full'",
    ),
    "padding pairs": (lambda x, w: TF.conv2d(x, w, padding=((0, 1),), groups=2), r"2 pairs.*\(\(0, 1\),\)"),
    "stride length": (lambda x, w: TF.conv2d(x, w, stride=(1, 2, 3), groups=2), r"stride.*2 of them, got \(1, 2, 3\)"),
    "axes": (lambda x, w: TF.conv2d(x[0, 0], w), r"3 \(unbatched\) or 4 \(batched\) axes, got shape \[5, 6\]"),
    "weight axes": (lambda x, w: TF.conv2d(x, w[0]), r"weight of 4 axes, got shape \[2, 3, 3\]"),
    "no output channel": (lambda x, w: TF.conv2d(x, w[:0], groups=2), r"\[0, 2, 3, 3\] has no output channel"),
    "empty axis": (
        lambda x, w: TF.conv2d(x[:, :, :0], w, padding=3, groups=2),
        r"\[2, 4, 0, 6\] has an empty spatial axis",
    ),
    "bias": (lambda x, w: TF.conv2d(x, w, torch.randn(5), groups=2), r"bias of shape \[6\], got \[5\]"),
    "weight dtype": (
        lambda x, w: TF.conv2d(x, w.double(), groups=2),
        r"input is torch.float32 but weight is torch.float64",
    ),
    "bias dtype": (lambda x, w: TF.conv2d(x, w, torch.randn(6).double(), groups=2), r"but bias is torch.float64"),
    "unknown algorithm": (
        lambda x, w: TF.conv2d(x, w, groups=2, algorithm="magic"),
        r"'magic' is none of auto, depthwise",
    ),
    "algorithm that cannot": (
        lambda x, w: TF.conv2d(x, w, groups=2, algorithm="depthwise"),
        r"'depthwise' cannot run this convolution: needs one input channel a group, got 4 channels in 2 groups",
    ),
    "transposed channels": (
        lambda x, w: TF.conv_transpose2d(x, w),
        r"conv_transpose2d: weight of shape \[6, 2, 3, 3\].*expects 6 input channels.*\[2, 4, 5, 6\]",
    ),
    "no transposed channel": (lambda x, w: TF.conv_transpose2d(x, w[:4, :0]), r"\[4, 0, 3, 3\] has no output channels"),
    "nor sample": (lambda x, w: TF.conv_transpose2d(x[:0], w[:4, :0]), r"\[4, 0, 3, 3\] has no output channels"),
    "output_padding": (
        lambda x, w: TF.conv_transpose2d(x, w[:4], output_padding=1),
        r"output_padding must be smaller than either stride or dilation.*\[1, 1\]",
    ),
    "empty output": (lambda x, w: TF.conv_transpose2d(x, w[:4], padding=9), r"output of spatial size \[-11, -10\]"),
    "gradient of another shape": (
        lambda x, w: torch.ops.torchconv.convolution_input_grad(
            x, w[:4], [2, 2, 9, 9], [1, 1], [0, 0, 0, 0], [1, 1], 1, "auto"
        ),
        r"output gradient of shape \[2, 4, 7, 7\], got \[2, 4, 5, 6\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, message = REFUSED[name]
    x, w = operands()
    before = x.clone(), w.clone()
    with pytest.raises((RuntimeError, ValueError), match=message):
        call(x, w)
    assert torch.equal(x, before[0])
    assert torch.equal(w, before[1])


@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
def test_numbers_that_are_no_integers(option: str) -> None:
    x, w = operands()
    with pytest.raises(TypeError, match=rf"{option} must be an integer, got 1\.5"):
        TF.conv2d(x, w, groups=2, **{option: 1.5})


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float16, torch.int64])
def test_other_dtypes_go_to_the_built_in(dtype: torch.dtype) -> None:
    x, w = torch.ones(2, 2, 5, 5).to(dtype), torch.ones(4, 2, 3, 3).to(dtype)
    assert torch.equal(TF.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1))
    assert torch.equal(TF.conv2d(x, w, padding=((1, 0), (0, 2))), F.conv2d(F.pad(x, (0, 2, 1, 0)), w))
    with pytest.raises(RuntimeError, match="'gemm' cannot run this convolution: no kernel for"):
        TF.conv2d(x, w, algorithm="gemm")


def test_other_devices_go_to_the_built_in() -> None:
    x, w = torch.empty(2, 4, 9, 9, device="meta"), torch.empty(4, 6, 3, 3, device="meta")
    y = TF.conv_transpose2d(x, w, stride=2)
    assert y.device.type == "meta"
    assert y.shape == (2, 6, 19, 19)


def test_precision_setting() -> None:
    import torchconv

    assert torchconv.get_conv_precision() == "high"
    torchconv.set_conv_precision("highest")
    assert torchconv.get_conv_precision() == "highest"
    torchconv.set_conv_precision("high")
    with pytest.raises(ValueError, match="'high' or 'highest', got 'low'"):
        torchconv.set_conv_precision("low")
