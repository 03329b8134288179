"""Convolution through the Fourier transform: large kernels, tiles, and when it is picked.

test_conv.py runs it over the shapes that all algorithms share.
"""

import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import conv_cases
import pytest
import torch
from conv_cases import DIRECTIONS, LAYOUTS, exact, operands, run
from hypothesis import assume, given
from hypothesis import strategies as st
from shapes import ConvCase, case
from suite import examples, first_quick
from torch.autograd import gradcheck, gradgradcheck
from traced import check_compiled, check_vmap

import torchconv
import torchconv.autograd.conv as autograd
import torchconv.functional as TF

F = torch.nn.functional
ops = torch.ops.torchconv

CASES = [
    case("31x31", (2, 3, 20, 24), (4, 3, 31, 31), padding=15),
    case("depthwise_31", (2, 6, 33, 20), (6, 1, 31, 31), padding=15, groups=6),
    case("multiplier_11", (2, 3, 20, 21), (6, 1, 11, 11), padding=5, groups=3),
    case("many_tiles", (1, 2, 150, 133), (3, 2, 9, 9), padding=4),
    case("many_patches", (3, 16, 70, 70), (16, 16, 7, 7), padding=3),
    case("grouped", (2, 6, 30, 30), (4, 3, 9, 9), padding=4, groups=2),
    case("strided", (2, 3, 40, 37), (4, 3, 11, 11), stride=4, padding=2),
    case("dilated", (2, 3, 40, 37), (4, 3, 5, 5), dilation=4, padding=8),
    case("strided_dilated", (1, 2, 41, 44), (2, 2, 4, 3), stride=(3, 2), dilation=(2, 3), padding=3),
    case("wide_padding", (1, 2, 6, 6), (2, 2, 5, 5), padding=9),
    case("uneven_padding", (1, 2, 16, 12), (2, 2, 7, 5), padding=((5, 0), (1, 4))),
    case("crops", (1, 2, 30, 30), (2, 2, 9, 9), padding=((-2, 3), (1, -4))),
    case("kernel_of_the_map", (3, 4, 13, 13), (5, 4, 13, 13)),
    case("long_1d", (1, 2, 6000), (3, 2, 251), padding=125),
    case("mixed_1d", (1, 2, 999), (2, 2, 64), stride=3, dilation=5),
    case("3d", (1, 2, 12, 14, 10), (3, 2, 7, 5, 9), padding=(3, 2, 4)),
    case("one_tap", (2, 3, 9, 9), (4, 3, 1, 1)),
]


def directions(case: ConvCase, x, w, b, g, algorithm):
    window = (case.stride, case.flat_padding, case.dilation, case.groups, algorithm)
    return (
        ops.convolution(x, w, b, *window),
        ops.convolution_input_grad(g, w, x.shape, *window),
        ops.convolution_weight_grad(g, x, w.shape, *window, torch.contiguous_format),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: ConvCase, layout: str) -> None:
    """The bounds of direct summation, against the built-in's in float64."""
    if case.dims == 1 and layout != "contiguous":
        return
    for dtype, bounds in (
        (torch.float32, (2e-6, 2e-6, 1e-5)), (torch.float64, (4e-15, 4e-15, 2e-14)),
        (torch.bfloat16, (2**-8 + 1.5e-5,) * 3),
    ):  # fmt: skip
        values = operands(case, dtype, layout)
        for y, direction, bound in zip(directions(case, *values, "fft"), DIRECTIONS, bounds, strict=True):
            y64 = exact(case, direction, *values)
            assert y.dtype == dtype
            assert float((y.double() - y64).norm() / y64.norm()) < bound, (dtype, direction)


CONV = {1: (TF.conv1d, F.conv1d), 2: (TF.conv2d, F.conv2d), 3: (TF.conv3d, F.conv3d)}


@st.composite
def configurations(draw) -> ConvCase:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    ins = 1 if draw(st.booleans()) else draw(st.integers(1, 3))  # depth-wise, with a multiplier or without
    size, kernel = axis(1, (120, 40, 8)[dims - 1]), axis(1, (40, 12, 4)[dims - 1])
    window = dict(stride=axis(1, 4), padding=axis(0, 6), dilation=axis(1, 3), groups=groups)
    return case(
        "drawn",
        (draw(st.integers(1, 3)), ins * groups, *size),
        (draw(st.integers(1, 3)) * groups, ins, *kernel),
        **window,
    )


@examples(150)
@given(configurations(), st.sampled_from([torch.float32, torch.float64]), st.sampled_from(list(LAYOUTS)))
def test_any_configuration(case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    """Values and gradients against the built-in's in float64.

    A transform of n points errs by no more than 7·log₂ n roundings of its operand's norm (Higham, theorem 24.2), so a
    product through three of them by 21·log₂ n roundings of ‖a‖·‖b‖, and so, summed over channels and samples, do all
    three directions. The built-in's sums err by as many roundings of that as they have terms. Were the output's norm
    the measure, one whose terms happen to cancel would fail.
    """
    assume(min(case.output[2:]) >= 1)
    ours, built_in = CONV[case.dims]
    x, w, _, g = operands(case, dtype, layout)
    exact = [t.double().requires_grad_() for t in (x, w)]
    window = (None, case.stride, [before for before, _ in case.padding], case.dilation, case.groups)
    y, y64 = ours(x.requires_grad_(), w.requires_grad_(), *window, algorithm="fft"), built_in(*exact, *window)
    mine, theirs = (y, *torch.autograd.grad(y, (x, w), g)), (y64, *torch.autograd.grad(y64, exact, g.double()))
    # Points of a tile: no more than the padded input and the filter take, rounded up to a power of two.
    points = [2 * (n + 2 * p + d * k) for n, (p, _), d, k in zip(
        case.input[2:], case.padding, case.dilation, case.weight[2:], strict=True)]  # fmt: skip
    allowed = (21 * math.log2(math.prod(points)) + 3) * torch.finfo(dtype).eps / 2
    allowed += max(x.numel(), w.numel(), g.numel()) * torch.finfo(torch.float64).eps / 2
    norm_x, norm_w, norm_g = (float(t.detach().double().norm()) for t in (x, w, g))
    for one, other, scale in zip(mine, theirs, (norm_x * norm_w, norm_g * norm_w, norm_g * norm_x), strict=True):
        assert one.dtype == dtype
        assert float((one.double() - other).detach().norm()) <= allowed * scale


@pytest.mark.parametrize("case", CASES[:8], ids=str)
def test_bitwise_for_threads_and_batch(case: ConvCase) -> None:
    x, w, b, g = operands(case, torch.float32, "contiguous")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 16):
            torch.set_num_threads(threads)
            results.append(directions(case, x, w, b, g, "fft"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    alone = directions(case, x[-1:], w, b, g[-1:], "fft")
    assert torch.equal(alone[0], results[0][0][-1:])
    assert torch.equal(alone[1], results[0][1][-1:])
    many = directions(case, torch.cat([x] * 7), w, b, torch.cat([g] * 7), "fft")  # more than one chunk
    assert torch.equal(many[0][-1:], alone[0])
    assert torch.equal(many[1][-1:], alone[1])


@pytest.mark.parametrize("algorithm", ops._algorithms())
def test_without_autograd_on_any_number_of_threads(algorithm: str) -> None:
    """Inference tensors may be written under inference_mode alone, which a parallel loop's threads do not inherit."""
    shapes = [
        case("depthwise", (2, 6, 15, 14), (6, 1, 9, 9), padding=4, groups=6),
        case("grouped", (2, 6, 13, 12), (4, 3, 7, 7), padding=3, groups=2),
        case("winograd", (2, 9, 7, 8), (10, 9, 3, 3), padding=1),
    ]
    before = torch.get_num_threads()
    try:
        for shape in shapes:
            values = operands(shape, torch.float32, "contiguous")
            for direction in DIRECTIONS:
                if not conv_cases.chosen(shape, direction, values[0], values[1], values[3], algorithm)[0]:
                    continue
                torch.set_num_threads(1)
                expected = run(shape, direction, *values, algorithm)
                for threads, mode in itertools.product((1, 2, 16), (torch.inference_mode, torch.no_grad)):
                    torch.set_num_threads(threads)
                    with mode():
                        result = run(shape, direction, *(t.clone() for t in values), algorithm)
                    assert torch.equal(result, expected), (direction, threads, mode)
    finally:
        torch.set_num_threads(before)


def test_a_nan_stays_in_its_sample_and_reaches_all_that_see_it() -> None:
    x, w = torch.randn(3, 2, 40, 40), torch.randn(4, 2, 9, 9)
    x[1, 0, 20, 20] = math.nan
    theirs, ours = F.conv2d(x, w, padding=4).isnan(), TF.conv2d(x, w, padding=4, algorithm="fft").isnan()
    assert not (theirs & ~ours).any()
    assert not ours[[0, 2]].any()


# ---- derivatives and transforms: each direction's are the other two, by the same algorithm ----

SMALL = [
    case("strided", (2, 2, 5, 4), (2, 2, 3, 2), stride=(2, 3), padding=((1, 2), (0, 1))),
    case("grouped_dilated", (1, 4, 4, 4), (4, 2, 2, 2), padding=1, dilation=2, groups=2),
    case("depthwise", (2, 2, 3, 3), (4, 1, 3, 3), padding=1, groups=2),
    case("1d", (2, 2, 6), (3, 2, 4), padding=2),
    case("3d", (1, 1, 3, 2, 3), (2, 1, 2, 2, 2), padding=1, stride=2),
]


def three_corners(case: ConvCase) -> dict:
    x, w, b, g = (t.requires_grad_() for t in operands(case, torch.float64, "contiguous"))
    rest = (case.stride, case.flat_padding, case.dilation, case.groups, "fft")
    last = torch.contiguous_format
    return {
        "forward": (lambda x, w, b: autograd.convolution(x, w, b, *rest), (x, w, b)),
        "input_grad": (lambda g, w: autograd.convolution_input_grad(g, w, case.input, *rest), (g, w)),
        "weight_grad": (lambda g, x: autograd.convolution_weight_grad(g, x, case.weight, *rest, last), (g, x)),
    }


@pytest.mark.parametrize("operator", first_quick(["forward", "input_grad", "weight_grad"]))
@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
def test_gradcheck(case: ConvCase, operator: str) -> None:
    function, inputs = three_corners(case)[operator]
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("case", first_quick(SMALL), ids=str)
def test_opcheck(case: ConvCase) -> None:
    x, w, b, g = (t.requires_grad_() for t in operands(case, torch.float64, "contiguous"))
    rest = (case.stride, case.flat_padding, case.dilation, case.groups, "fft")
    torch.library.opcheck(ops.convolution.default, (x, w, b, *rest))
    torch.library.opcheck(ops.convolution_input_grad.default, (g, w, list(case.input), *rest))
    torch.library.opcheck(
        ops.convolution_weight_grad.default, (g, x, list(case.weight), *rest, torch.contiguous_format)
    )


@pytest.mark.parametrize("operator", ["forward", "input_grad", "weight_grad"])
def test_vmap(operator: str) -> None:
    check_vmap(*three_corners(SMALL[1])[operator])


def test_compile_and_export() -> None:
    layers = [
        torchconv.nn.Conv2d(3, 4, 5, 2, 2, algorithm="fft"),
        torchconv.nn.Conv2d(4, 4, 3, groups=4, algorithm="fft"),
    ]
    net, x = torch.nn.Sequential(*layers), torch.randn(2, 3, 12, 13)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    check_compiled(compiled, net, x)
    batch = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(net, (x,), dynamic_shapes=batch)
    x = torch.randn(5, 3, 12, 13)
    assert torch.equal(program.module()(x), net(x))
    named = [node.args[-1] for node in program.graph.nodes if "torchconv.convolution" in str(node.target)]
    assert named == ["fft", "fft"]


def test_relu_and_no_sample() -> None:
    x, w, b = torch.randn(2, 3, 20, 20), torch.randn(4, 3, 7, 7), torch.randn(4)
    args = (x, w, b, [1, 1], [3] * 4, [1, 1], 1, "fft")
    assert torch.equal(ops.convolution_relu(*args), ops.convolution(*args).relu())
    grad = ops.convolution_weight_grad(
        torch.empty(0, 4, 20, 20), x[:0], w.shape, [1, 1], [3] * 4, [1, 1], 1, "fft", torch.contiguous_format
    )
    assert torch.equal(grad, torch.zeros_like(w))


def chosen(direction: str, input: list[int], weight: list[int], groups: int = 1, algorithm: str = "auto") -> tuple:
    padding = [k // 2 for k in weight[2:] for _ in range(2)]
    ones = [1] * (len(weight) - 2)
    return ops._explain(direction, input, weight, ones, padding, ones, groups, torch.float32, False, algorithm)


@pytest.mark.parametrize("direction", ["forward", "input_grad", "weight_grad"])
def test_picked_for_large_kernels_alone(direction: str) -> None:
    assert chosen(direction, [8, 64, 56, 56], [64, 64, 21, 21])[0] == "fft"
    assert chosen(direction, [8, 96, 112, 112], [96, 1, 63, 63], groups=96)[0] == "fft"
    assert chosen(direction, [8, 64, 56, 56], [64, 64, 3, 3])[0] == "winograd"
    assert chosen(direction, [8, 3, 64, 64], [32, 3, 7, 7])[0] == "direct"
    assert chosen(direction, [8, 96, 56, 56], [96, 1, 21, 21], groups=96)[0] == "depthwise"
    name, refused, *_ = chosen(direction, [8, 64, 56, 56], [64, 64, 11, 11])
    assert name == "direct"  # it would save, but not the half
    assert any(re.match(r"fft: estimated at 0.5\d times the cost, taken only at 0.5: it rounds", r) for r in refused)
    assert chosen(direction, [8, 8, 64], [8, 8, 1])[0] == "direct"


def test_workspace_does_not_grow_with_the_batch() -> None:
    sizes = {
        chosen(direction, [batch, 64, 56, 56], [64, 64, 11, 11], algorithm="fft")[2]
        for direction in ("forward", "input_grad", "weight_grad")
        for batch in (64, 6400)
    }
    assert max(sizes) < 200e6


NEW_THREADS = """
import torch, torchconv.functional as TF
torch.manual_seed(0)
x, w = torch.randn(1, 23, 16, 11, 15, dtype=torch.float64), torch.randn(69, 1, 4, 3, 3, dtype=torch.float64)
results = []
for threads in (1, 2, 3, 4, 6, 8):
    torch.set_num_threads(threads)
    results.append(TF.conv3d(x, w, None, (7, 4, 2), (5, 0, 0), (1, 5, 2), 23, algorithm="fft"))
assert all(torch.equal(results[0], other) for other in results)
"""


def test_the_first_call_on_a_new_thread_is_as_any_other() -> None:
    """In a process of its own, whose threads are new: what torch does once on each of them comes before."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", NEW_THREADS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
