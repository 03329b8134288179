"""Windows that reach far beyond the operands: strides, dilations and paddings up to 2³⁰ on maps of a few elements.

What a convolution computes is bounded by its operands and its result, so time and memory must be too.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conv_cases import (
    ALGORITHMS,
    BOUNDS,
    DIRECTIONS,
    LAYOUTS,
    bound,
    check_bits,
    chosen,
    exact,
    operands,
    relative_error,
    run,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapes import ConvCase, case

ops = torch.ops.torchconv
FAR = 2**30
GEMM_LACKS = ("weight_grad", "gemm")

CASES = [
    case("one_tap_per_stride", (2, 3, 50), (4, 3, 1), stride=49),
    case("stride_beyond_the_map", (2, 3, 5), (4, 3, 2), stride=10**6, padding=((0, 3 * 10**6),)),
    case("padding_and_dilation", (2, 3, 5), (4, 3, 3), padding=FAR, dilation=FAR),
    case("first_tap_alone", (1, 2, 6), (3, 2, 2), dilation=FAR, padding=((0, FAR),)),
    case("all_three", (1, 2, 5), (3, 2, 3), stride=10**9 + 7, padding=10**9 + 7, dilation=10**9 + 7),
    case("stride_of_the_dilation", (1, 2, 40), (3, 2, 5), stride=100, padding=397, dilation=100),
    case("common_factor", (1, 2, 400), (3, 2, 7), stride=128, padding=((190, 701),), dilation=192),
    case("each_output_one_tap", (1, 2, 20), (3, 2, 20), stride=1000, padding=19_000, dilation=1001),
    case("outputs_apart", (1, 2, 3), (3, 2, 3), padding=2000, dilation=1000),
    case("nothing_meets", (2, 3, 3), (4, 3, 1), stride=80, padding=((77, 10),)),
    case("nothing_meets_anywhere", (1, 2, 4), (3, 2, 2), stride=200, padding=100, dilation=100),
    case("wide_padding", (2, 3, 9), (4, 3, 3), padding=500),
    case("grouped", (2, 4, 70), (6, 2, 3), stride=64, padding=((3, 60),), dilation=3, groups=2),
    case("depthwise", (2, 4, 200), (8, 1, 4), stride=70, padding=((60, 9),), dilation=20, groups=4),
    case("patches", (2, 3, 40, 30), (4, 3, 20, 10), stride=(20, 10)),
    case("patches_and_a_rest", (2, 3, 45, 33), (4, 3, 19, 9), stride=(20, 10), padding=((0, 1), (2, 0))),
    case("patches_along_one_axis", (1, 3, 33, 9), (4, 3, 16, 3), stride=(16, 1), padding=(0, 1)),
    case("depthwise_patches", (2, 4, 24, 36), (4, 1, 12, 12), stride=12, groups=4),
    case("gaps_between_patches", (1, 2, 300, 200), (3, 2, 2, 3), stride=(99, 65), padding=(1, 2)),
    case("padding_and_dilation_2d", (1, 2, 5, 4), (3, 2, 3, 3), padding=FAR, dilation=FAR),
    case("one_axis_far", (1, 2, 6, 7), (3, 2, 3, 3), stride=(FAR, 1), padding=((FAR, FAR), (1, 1)), dilation=(FAR, 1)),
    case("dilated_rows", (1, 2, 140, 6), (3, 2, 3, 3), padding=((65, 64), (1, 1)), dilation=(65, 1)),
    case("3d", (1, 2, 5, 4, 6), (3, 2, 2, 3, 2), stride=(FAR, 70, 1), padding=((0, FAR), 70, 65), dilation=(1, 70, 65)),
    case("3d_patches", (1, 2, 16, 9, 8), (3, 2, 8, 9, 8), stride=(8, 9, 8)),
]  # fmt: skip


def defined(case: ConvCase, x, w, b, g) -> dict[str, torch.Tensor]:
    """All three directions in float64, from the pairs of an output and a tap that meet along each axis."""
    x, w, b, g = (t.double() for t in (x, w, b, g))
    y = b.view(-1, *[1] * case.dims).expand(case.output).clone()
    gx, gw = torch.zeros_like(x), torch.zeros_like(w)
    meetings = []
    for axis in range(case.dims):
        pairs = itertools.product(range(w.shape[2 + axis]), range(case.output[2 + axis]))
        at = ((k, t, t * case.stride[axis] + k * case.dilation[axis] - case.padding[axis][0]) for k, t in pairs)
        meetings.append([place for place in at if 0 <= place[2] < x.shape[2 + axis]])
    for places in itertools.product(*meetings):
        k, t, i = zip(*places, strict=True)
        for group in range(case.groups):
            o, c = (slice(group * n, (group + 1) * n) for n in (w.shape[0] // case.groups, w.shape[1]))
            filters, source, grad = w[(o, slice(None), *k)], x[(slice(None), c, *i)], g[(slice(None), o, *t)]
            y[(slice(None), o, *t)] += source @ filters.T
            gx[(slice(None), c, *i)] += grad @ filters
            gw[(o, slice(None), *k)] += grad.T @ source
    return dict(zip(DIRECTIONS, (y, gx, gw), strict=True))


def check(case: ConvCase, dtype: torch.dtype, layout: str, algorithms: list[str]) -> None:
    values = operands(case, dtype, layout)
    expected = defined(case, *values)
    for algorithm, direction in itertools.product(algorithms, DIRECTIONS):
        name, refused = chosen(case, direction, values[0], values[1], values[3], algorithm)
        if refused:
            continue
        result = run(case, direction, *values, algorithm)
        assert result.shape == expected[direction].shape
        if expected[direction].norm() == 0 and name != "fft":
            assert not result.any()
        elif expected[direction].norm() > 0:
            error = relative_error(result, expected[direction])
            assert error <= bound(name, dtype, direction), (algorithm, direction, error)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_against_the_definition(case: ConvCase, dtype: torch.dtype) -> None:
    for layout in LAYOUTS if case.dims > 1 else ["contiguous"]:
        check(case, dtype, layout, ALGORITHMS)


@st.composite
def configurations(draw) -> ConvCase:
    dims = draw(st.integers(1, 3))
    axis = lambda values: tuple(draw(values) for _ in range(dims))  # noqa: E731
    number = st.sampled_from([1, 1, 2, 3, 7, 8, 9, 16, 63, 64, 65, 100, 128, 1000, 1001, 10**9 + 7, 2**30])
    side, kernel = axis(st.integers(1, (30, 12, 6)[dims - 1])), axis(st.integers(1, (9, 5, 3)[dims - 1]))
    stride, dilation, padding = axis(number), axis(number), []
    for d, k in zip(dilation, kernel, strict=True):
        span, near = d * (k - 1), st.integers(-3, 70)
        padding.append((draw(st.one_of(near, st.sampled_from([0, span, span // 2, span + 1]))),
                        draw(st.one_of(near, st.just(span)))))  # fmt: skip
    groups, c, o = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 17])), draw(st.integers(1, 3))
    return case("", (2, groups * c, *side), (groups * o, c, *kernel), stride, tuple(padding), dilation, groups)


@settings(max_examples=40)
@given(configurations(), st.sampled_from(list(LAYOUTS)))
def test_any_configuration(case: ConvCase, layout: str) -> None:
    assume(min(case.output[2:]) >= 1)
    assume(torch.Size(case.output[2:]).numel() <= 2000)
    check(case, torch.float32, layout, ["auto", "direct", "gemm", "depthwise"])


@pytest.mark.parametrize("padding", [0, 4100])
def test_few_taps_far_apart(padding: int) -> None:
    """Elements that meet one tap, and elements that meet two of a dilation beyond a block of outputs."""
    shape = case("", (1, 2, 9000 - padding), (3, 2, 2), dilation=4500 - padding // 11, padding=((padding, 0),))
    values = operands(shape, torch.float32)
    for direction in DIRECTIONS:
        error = relative_error(run(shape, direction, *values, "direct"), exact(shape, direction, *values))
        assert error <= bound("direct", torch.float32, direction)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("common_factor", "patches_and_a_rest", "3d")], ids=str)
def test_bits(case: ConvCase, threads) -> None:
    check_bits(case, torch.float32, "contiguous", "auto", threads)


@pytest.mark.parametrize(
    ("direction", "algorithm"),
    [(d, a) for d in DIRECTIONS for a in ("auto", "direct", "gemm", "depthwise", "fft") if (d, a) != GEMM_LACKS],
)
def test_cost_and_workspace_do_not_grow_with_the_window(direction: str, algorithm: str) -> None:
    """The same elements meet the same taps, farther and farther apart, and little is held beside them."""
    groups = 8 if algorithm == "depthwise" else 1
    for kernel, names in ((3, ("padding", "dilation")), (3, ("stride", "padding", "dilation")), (2, ("stride",))):
        if direction == "input_grad" and names == ("stride",):
            continue  # the result itself grows
        costs = set()
        for far in (10**3, 10**5, 10**7):
            stride, padding, dilation = (far if name in names else 1 for name in ("stride", "padding", "dilation"))
            sides = [padding] * 2 if "padding" in names else [0, 0]
            size = 5 if "padding" in names else far + 5
            *_, held, cost = ops._explain(
                direction, [1, 8, size], [8, 8 // groups, kernel], [stride], sides, [dilation], groups, torch.float32,
                False, algorithm,
            )  # fmt: skip
            costs.add(cost)
            assert held < 1 << 20
        assert len(costs) == 1


IN_A_PROCESS_OF_ITS_OWN = """
import resource, torch, torchconv, torchconv.functional as TF
from test_far import FAR
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), resource.RLIM_INFINITY))
for algorithm in ("auto", "direct", "gemm", "fft", "reference"):
    for far in (FAR, 2**31 - 1, 10**9 + 7):
        x, w = torch.ones(1, 2, 5, requires_grad=True), torch.ones(3, 2, 3, requires_grad=True)
        TF.conv1d(x, w, None, 1, far, far, algorithm=algorithm if algorithm != "gemm" else "auto").sum().backward()
        assert torch.allclose(x.grad, x.grad.new_tensor(3)) and torch.allclose(w.grad.sum(), w.grad.new_tensor(30))
        TF.conv1d(x, w, None, far, far, far, algorithm=algorithm)
    y = TF.conv_transpose1d(torch.ones(1, 3, 20), torch.ones(3, 4, 1), stride=100_000, algorithm=algorithm)
    assert torch.allclose(y.sum(), torch.tensor(240.0))
    if algorithm != "reference":  # which meets every element with every tap
        y = TF.conv_transpose2d(torch.ones(1, 3, 4, 4), torch.ones(3, 2, 100, 100), stride=100, algorithm=algorithm)
        assert torch.allclose(y, torch.tensor(3.0))
"""


def test_time_and_memory() -> None:
    """What took minutes and gigabytes, in a process that may take neither."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here.parents[1], here.parent, here)))}
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
