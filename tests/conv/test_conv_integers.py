"""Convolution whatever the integers and operands: each operator, called directly, answers or refuses with the values.

A kernel that is reached by what no check refused crashes, or reads memory that is not an operand's: so the cases here
are such as divide by zero, wrap round or index an empty list where a check is missing.
"""

import math
import re

import pytest
import torch
from conv_cases import BOUNDS, DIRECTIONS, LAYOUTS, bound, chosen, exact, layout_of, operands, run
from shapes import ConvCase, case

import torchconv.functional as TF

F = torch.nn.functional
ops = torch.ops.torchconv
CONTIGUOUS = torch.contiguous_format
CONV = {1: (TF.conv1d, F.conv1d), 2: (TF.conv2d, F.conv2d), 3: (TF.conv3d, F.conv3d)}

# ---- no tap meets an output ----

# Of some residue of the stride, or of the only one there is; along one axis, while another has taps, or along all.
NO_TAP = [
    case("1d", (1, 8, 1), (16, 8, 1), 3, 1),
    case("1d_transposed", (1, 4, 1), (3, 4, 1), 4, 2),
    case("1d_some_residues", (2, 3, 10), (4, 3, 2), 5, 1),
    case("1d_grouped", (2, 8, 2), (12, 2, 1), 4, 2, 1, 4),
    case("1d_depthwise", (2, 8, 1), (16, 1, 1), 3, 1, 1, 8),
    case("2d_last_axis", (1, 3, 8, 1), (4, 3, 1, 1), (1, 3), (0, 1)),
    case("2d_last_axis_beside_taps", (2, 3, 8, 1), (4, 3, 3, 1), (1, 3), (1, 1)),
    case("2d_first_axis", (2, 3, 1, 18), (4, 3, 1, 3), (3, 1), (1, 1)),
    case("2d_grouped", (2, 8, 1, 18), (8, 4, 1, 3), (3, 2), (1, 1), 1, 2),
    case("2d_depthwise", (2, 17, 1, 18), (17, 1, 1, 3), (3, 1), (1, 1), 1, 17),
    case("2d_depthwise_last_axis", (2, 17, 9, 1), (17, 1, 3, 1), (2, 3), (1, 1), 1, 17),
    case("2d_both", (1, 3, 1, 1), (4, 3, 1, 1), 3, 1),
    case("3d_last_axis", (1, 3, 4, 5, 1), (4, 3, 1, 3, 1), (1, 1, 3), (0, 1, 1)),
    case("3d_first_axis", (1, 3, 1, 5, 6), (4, 3, 1, 3, 3), (4, 1, 1), (2, 1, 1)),
    case("3d_depthwise", (1, 5, 1, 5, 6), (5, 1, 1, 3, 3), (3, 1, 2), 1, 1, 5),
    case("dilated_past_the_map", (1, 3, 4, 4), (4, 3, 2, 2), 1, 6, 9),
]


@pytest.mark.parametrize("c", NO_TAP, ids=str)
@pytest.mark.parametrize("algorithm", ["auto", *ops._algorithms()])
def test_no_tap_meets_an_output(c: ConvCase, algorithm: str) -> None:
    for dtype in BOUNDS:
        for layout in LAYOUTS if c.dims > 1 else ["contiguous"]:
            x, w, b, g = operands(c, dtype, layout)
            norms = {"forward": (x, w), "input_grad": (g, w), "weight_grad": (x, g)}
            for direction in DIRECTIONS:
                name, _ = chosen(c, direction, x, w, g, algorithm)
                if name:  # where nothing is summed, what is right has no norm: the operands' have
                    expected = exact(c, direction, x, w, b, g)
                    allowed = expected.norm() + math.prod(t.double().norm() for t in norms[direction])
                    error = (run(c, direction, x, w, b, g, algorithm).double() - expected).norm()
                    assert error <= bound(name, dtype, direction) * allowed, (dtype, layout, direction)


def test_no_tap_through_the_functionals() -> None:
    x, w = torch.randn(1, 3, 2), torch.randn(3, 4, 1)
    assert torch.equal(TF.conv_transpose1d(x, w, stride=4, padding=2), torch.zeros(1, 4, 1))
    x = torch.randn(1, 3, 8, 1, requires_grad=True)
    y = TF.conv2d(x, torch.randn(4, 3, 1, 1), torch.ones(4), stride=(1, 3), padding=(0, 1))
    assert torch.equal(y, torch.ones(1, 4, 8, 1))
    assert not torch.autograd.grad(y.sum(), x)[0].any()


# ---- any integers ----

WILD = [2**21, 2**31, 2**40, 2**61, 2**62 + 1, 2**63 - 1]


@pytest.mark.parametrize("dims", CONV)
@pytest.mark.parametrize("stride", WILD)
def test_any_stride(dims: int, stride: int) -> None:
    """There is one output: the step to the next is never taken, and the built-in's answer is that of stride 1."""
    ours, theirs = CONV[dims]
    x = torch.randn(2, 8, *[3] * dims, dtype=torch.float64, requires_grad=True)
    for w, groups in ((torch.randn(4, 8, *[3] * dims), 1), (torch.randn(8, 1, *[2] * dims), 8)):
        w = w.double().requires_grad_()
        y = ours(x, w, stride=stride, groups=groups)
        expected = theirs(x[(..., *[slice(w.shape[2])] * dims)], w, groups=groups)
        torch.testing.assert_close(y, expected)
        grads = torch.autograd.grad(y.sum(), (x, w))
        torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), (x, w)))


@pytest.mark.parametrize("name", ops._algorithms())
def test_any_stride_by_name(name: str) -> None:
    c = case("", (2, 8, 9), (8, 1, 3), 2**62 + 1, 0, 1, 8)
    x, w, b, g = operands(c, torch.float32)
    for direction in DIRECTIONS:
        if chosen(c, direction, x, w, g, name)[0]:
            expected = exact(case("", c.input, c.weight, 7, 0, 1, 8), direction, x, w, b, g)
            torch.testing.assert_close(run(c, direction, x, w, b, g, name).double(), expected, rtol=0, atol=1e-5)


# What (padding, dilation, stride, input, weight) make a window whose numbers leave 64 bits, or a kernel past its map.
BEYOND = {
    "padding": dict(padding=[2**63 - 1, 2**63 - 1]),
    "padding_before": dict(padding=[2**63 - 1, 0]),
    "padding_back_and_forth": dict(padding=[2**63 - 1, -(2**63)]),
    "padding_negative": dict(padding=[-(2**63), 0]),
    "padding_negative_behind": dict(padding=[0, -(2**63)]),
    "dilation": dict(dilation=[2**63 - 1]),
    "dilation_of_half": dict(dilation=[2**62]),
    "dilation_and_padding": dict(dilation=[2**62], padding=[2**62, 2**62]),
    "groups": dict(groups=2**62),
    "groups_negative": dict(groups=-(2**63)),
    "stride_none": dict(stride=[0]),
    "stride_negative": dict(stride=[-(2**63)]),
    "output": dict(padding=[2**59, 2**59]),
}
PLAIN = dict(stride=[1], padding=[0, 0], dilation=[1], groups=1)


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("operator", ["convolution", "convolution_relu", "input_grad", "weight_grad", "explain"])
def test_beyond_is_refused_with_the_values(name: str, operator: str) -> None:
    window = PLAIN | BEYOND[name]
    x, w, g = torch.randn(1, 8, 9), torch.randn(4, 8, 3), torch.randn(1, 4, 7)
    values = [v for key in BEYOND[name] for v in (window[key] if isinstance(window[key], list) else [window[key]])]
    with pytest.raises(RuntimeError, match=re.escape(str(max(values, key=abs)))):
        _call(operator, x, w, g, *window.values())


def _call(operator: str, x, w, g, stride, padding, dilation, groups, algorithm: str = "auto"):
    window = (stride, padding, dilation, groups, algorithm)
    if operator == "input_grad":
        return ops.convolution_input_grad(g, w, x.shape, *window)
    if operator == "weight_grad":
        return ops.convolution_weight_grad(g, x, w.shape, *window, CONTIGUOUS)
    if operator == "explain":
        return ops._explain("forward", x.shape, w.shape, *window[:4], x.dtype, False, algorithm)
    return getattr(ops, operator)(x, w, None, *window)


@pytest.mark.parametrize("empty", [(0, 3, 2**40, 2**40), (0, 3, 2**62, 3)])
def test_sizes_of_an_empty_batch(empty: tuple) -> None:
    """No element, and yet offsets that no integer holds."""
    x, w = torch.empty(1, 1, 1, 1).expand(empty), torch.randn(4, 3, 3, 3)
    with pytest.raises(RuntimeError, match=rf"{empty[2]}.*has more elements than can be addressed"):
        TF.conv2d(x, w)


@pytest.mark.parametrize(
    "size", [[1, 3, -5], [1, 3, 2**40 + 2], [2**62, 3, 9], [-1, 3, 9], [1, 2**62, 9], [1, 3], [], [0] * 6], ids=str
)
def test_sizes_of_gradients(size: list[int]) -> None:
    g, w = torch.randn(1, 4, 7), torch.randn(4, 3, 3)
    shape = [1, 4, 2**40] if 2**40 + 2 in size else size  # what an input of that size gives, or the size
    with pytest.raises(RuntimeError, match=re.escape(f"{shape}")):
        ops.convolution_input_grad(g, w, size, *PLAIN.values(), "auto")
    with pytest.raises(RuntimeError):
        ops.convolution_weight_grad(g, torch.randn(1, 3, 9), size, *PLAIN.values(), "auto", CONTIGUOUS)


def test_integers_of_the_functionals() -> None:
    x, w = torch.randn(1, 3, 9), torch.randn(4, 3, 3)
    for option in ("stride", "padding", "dilation"):
        with pytest.raises(RuntimeError, match=rf"{option} must be at most 2\^63 - 1, got.*9223372036854775808"):
            TF.conv1d(x, w, **{option: 2**63})
        with pytest.raises(RuntimeError, match=rf"{option} must be at most 2\^63 - 1, got.*9223372036854775808"):
            TF.conv_transpose1d(x, w.transpose(0, 1), **{option: 2**63})
    with pytest.raises(RuntimeError, match=r"padding must be at most 2\^63 - 1, got \[9223372036854775808, 0\]"):
        TF.conv1d(x, w, padding=((2**63, 0),))
    with pytest.raises(RuntimeError, match="padding must be at most"):
        TF.conv1d(x, torch.randn(4, 3, 7), padding="same", dilation=2**62)
    with pytest.raises(RuntimeError, match="the output's side must be at most"):
        TF.conv_transpose1d(x, w.transpose(0, 1), stride=2**62)


@pytest.mark.parametrize(
    ("input", "weight"),
    [
        ([1, 3, 2**40], [4, 3, 3]),
        ([1, 3, 2**20, 2**20], [4, 3, 3, 3]),
        ([1, 3, 2**40, 2**40], [4, 3, 3, 3]),
        ([2**40, 3, 9, 9], [4, 3, 3, 3]),
        ([1, 2**40, 9, 9], [4, 2**40, 3, 3]),
        ([1, 3, 2**40], [4, 3, 2**40]),
        ([1, 3, 9], [2**40, 3, 3]),
        ([1, 3, 9], [4, 3, 2**62]),
        ([1, 3, -(2**63)], [4, 3, 3]),
        ([], []),
        ([1, 3, 9], [4, 3]),
    ],
    ids=str,
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_explain_of_any_sides(input: list[int], weight: list[int], direction: str) -> None:
    """Answers or refuses, and either soon: no tensor has to be as large."""
    dims = max(len(weight) - 2, 0)
    try:
        name, *_ = ops._explain(
            direction, input, weight, [1] * dims, [1] * 2 * dims, [1] * dims, 1, torch.float32, False, "auto"
        )
    except RuntimeError as error:
        assert str(input) in str(error) or str(weight) in str(error)  # noqa: PT017
    else:
        assert name in ops._algorithms()


def test_explain_of_a_depthwise_layer_is_the_same_each_time() -> None:
    """The workspace of the input gradient is that of its gathers' taps, which must be there when they are looked at."""
    call = lambda: ops._explain(  # noqa: E731
        "input_grad", [2, 32, 57, 57], [32, 1, 5, 5], [2, 2], [2] * 4, [1, 1], 32, torch.float32, False, "depthwise"
    )
    workspaces = set()
    for size in range(1, 40):
        workspaces.add(call()[2])
        torch.full((size * 16,), -1, dtype=torch.int64)  # what a freed block may hold next
    assert len(workspaces) == 1


# ---- operators called directly ----

X, W, B, G = (2, 4, 9), (6, 4, 3), (6,), (2, 6, 7)
WINDOW = ([1], [0, 0], [1], 1)


def reduced(operator: str, x, w, g, algorithm: str = "auto", winners: torch.Tensor | None = None):
    """An operator whose 6 maps are 3 transforms of 2 filters; g [N, 2, *]."""
    winners = torch.zeros(g.shape, dtype=torch.uint8) if winners is None else winners
    calls = {
        "max": lambda: ops.convolution_max(x, w, None, 3, *WINDOW, algorithm),
        "norm": lambda: ops.convolution_norm(x, w, None, 3, *WINDOW, algorithm),
        "select": lambda: ops.convolution_select(x, w, winners, *WINDOW, algorithm),
        "select_input_grad": lambda: ops.convolution_select_input_grad(g, winners, w, x.shape, *WINDOW, algorithm),
        "select_weight_grad": lambda: ops.convolution_select_weight_grad(g, winners, x, w.shape, *WINDOW, algorithm),
        "norm_grad": lambda: ops.convolution_norm_grad(g, g, x, w, None, True, True, False, *WINDOW, algorithm),
    }
    return calls[operator]()


REDUCED = ["max", "norm", "select", "select_input_grad", "select_weight_grad", "norm_grad"]
PLAIN_OPERATORS = ["convolution", "convolution_relu", "input_grad", "weight_grad"]


def call(operator: str, x, w, g, algorithm: str = "auto"):
    if operator in REDUCED:
        return reduced(operator, x, w, g[:, :2], algorithm)
    return _call(operator, x, w, g, *WINDOW, algorithm)


@pytest.mark.parametrize("operator", PLAIN_OPERATORS + REDUCED)
def test_an_empty_batch_is_checked_as_any(operator: str) -> None:
    x, w, g = torch.randn(0, *X[1:]), torch.randn(W), torch.randn(0, *G[1:])
    call(operator, x, w, g)
    with pytest.raises(ValueError, match="algorithm 'nothing' is none of auto"):
        call(operator, x, w, g, "nothing")
    with pytest.raises(RuntimeError, match=r"\[0, 5, 9\]"):
        call(operator, torch.randn(0, 5, 9), w, g)
    with pytest.raises(RuntimeError, match=r"float64|Double|double"):
        call(operator, *((x.double(), w) if "weight" in operator else (x, w.double())), g)
    with pytest.raises(RuntimeError, match="no kernel for Half"):
        call(operator, x.half(), w.half(), g.half())


@pytest.mark.parametrize("operator", PLAIN_OPERATORS + REDUCED)
def test_devices_are_not_mixed(operator: str) -> None:
    for which in range(3):
        tensors = [torch.randn(X), torch.randn(W), torch.randn(G)]
        tensors[which] = tensors[which].to("meta")
        if (which == 0 and "input_grad" in operator) or (which == 1 and "weight_grad" in operator):
            continue  # its sizes alone are given
        if which == 2 and not operator.endswith("grad"):
            continue
        with pytest.raises(RuntimeError, match=r"is on (cpu|meta) but .* on (meta|cpu)"):
            call(operator, *tensors)


@pytest.mark.parametrize("operator", ["convolution", "convolution_relu", "input_grad", "weight_grad"])
@pytest.mark.parametrize("axes", [0, 1, 2, 6])
def test_ranks(operator: str, axes: int) -> None:
    odd = torch.randn([1] * axes)
    x, w, g = torch.randn(X), torch.randn(W), torch.randn(G)
    for tensors in ((odd, w, g), (x, odd, g), *([(x, w, odd)] if operator.endswith("grad") else [])):
        with pytest.raises((RuntimeError, IndexError)):
            call(operator, *tensors)


@pytest.mark.parametrize("axes", [0, 1, 2, 6])
def test_ranks_of_bias_gradients(axes: int) -> None:
    odd = torch.randn([1] * axes)
    with pytest.raises(RuntimeError, match="expected 3 to 5 axes"):
        ops.convolution_bias_grad(odd)
    with pytest.raises(RuntimeError, match="expected 3 to 5 axes"):
        ops.relu_bias_grad(odd, odd)


def test_bias_gradients_of_any_channels() -> None:
    """Fewer and more channels than pixels are summed side by side, none, and no pixel."""
    for channels in (0, 1, 7, 64, 65, 200):
        for batch in (0, 3):
            for layout in LAYOUTS.values():
                g, y = (torch.randn(batch, channels, 5, 7).contiguous(memory_format=layout) for _ in range(2))
                torch.testing.assert_close(ops.convolution_bias_grad(g), g.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
                masked, sums = ops.relu_bias_grad(g, y)
                assert torch.equal(masked, g * (y > 0))
                torch.testing.assert_close(sums, masked.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dims", CONV)
@pytest.mark.parametrize("algorithm", ["auto", *ops._algorithms()])
def test_no_input_map(dims: int, algorithm: str) -> None:
    """The sum over none: the bias, zero, and gradients without an element."""
    c = case("", (2, 0, *[9] * dims), (6, 0, *[3] * dims), padding=1)
    for dtype in BOUNDS:
        for layout in LAYOUTS if dims > 1 else ["contiguous"]:
            x, w, b, g = operands(c, dtype)
            x = x.contiguous(memory_format=layout_of(c, layout))
            if chosen(c, "forward", x, w, g, algorithm)[0]:
                assert torch.equal(run(c, "forward", x, w, b, g, algorithm), b.view(-1, *[1] * dims).expand(c.output))
                window = (c.stride, c.flat_padding, c.dilation, 1, algorithm)
                assert not ops.convolution_relu(x, w, None, *window).any()
                assert not ops.convolution_max(x, w, None, 3, *window)[0].any()
                assert not ops.convolution_norm(x, w, None, 3, *window).any()
            for direction, size in (("input_grad", x.shape), ("weight_grad", w.shape)):
                if chosen(c, direction, x, w, g, algorithm)[0]:
                    assert run(c, direction, x, w, b, g, algorithm).shape == size
