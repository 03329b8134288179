"""Pooling against torch.nn.functional: values, indices, gradients and memory formats, and unusual values and inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from pool_cases import (
    ADAPTIVE,
    CASES,
    CHANNELS_LAST,
    DTYPES,
    PoolCase,
    assert_same,
    gradients,
    integers,
    layouts,
)

import torchconv.functional as ours

inf, nan = math.inf, math.nan
ops = torch.ops.torchconv

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_adaptive = pytest.mark.parametrize("case", ADAPTIVE, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def awkward(size, dtype):
    """Ties, both zeros, NaN and both infinities."""
    x = integers(size, dtype)
    for value, share in ((-0.0, 0.1), (nan, 0.05), (inf, 0.05), (-inf, 0.3)):
        x = torch.where(torch.rand(size) < share, torch.tensor(value, dtype=dtype), x)
    return x


# ---- max pooling ----


@by_case
@by_dtype
def test_max_pool(case, dtype):
    contiguous = awkward(case.input, dtype)
    # Of a channels-last window all -inf the built-in's index may be outside the window: take those of the contiguous.
    indices = case.max_pool(F, contiguous, return_indices=True)[1]
    for x in layouts(contiguous, case.dims).values():
        values, places = case.max_pool(ours, x, return_indices=True)
        expected, placed = case.max_pool(F, x, return_indices=True)
        assert_same(values, expected)
        assert places.stride() == placed.stride()
        assert torch.equal(places, indices)
        assert_same(case.max_pool(ours, x), case.max_pool(F, x))


@by_case
@by_dtype
def test_max_pool_gradient(case, dtype):
    contiguous = integers(case.input, dtype)
    # Whole numbers small enough for bfloat16 to hold any partial sum: equal whatever is summed first, in which type.
    grad = integers(case.max_pool(F, contiguous).shape, dtype, -2, 3)
    for x in layouts(contiguous, case.dims).values():
        mine, theirs = (gradients(lambda x, f=f: case.max_pool(f, x), x, grad)[1] for f in (ours, F))
        if case.batched:
            assert_same(mine, theirs)
        else:  # of an unbatched channels-last input the built-in's is contiguous
            assert_same(mine.contiguous(), theirs.contiguous())


@by_adaptive
@by_dtype
def test_adaptive_max_pool(case, dtype):
    for x in layouts(awkward(case.input, dtype), case.dims).values():
        values, places = case.pool(ours, "max", x, return_indices=True)
        expected, placed = case.pool(F, "max", x, return_indices=True)
        assert_same(values, expected)
        assert_same(places, placed)
    grad = integers(values.shape, dtype, -2, 3)
    for x in layouts(integers(case.input, dtype), case.dims).values():
        mine, theirs = (gradients(lambda x, f=f: case.pool(f, "max", x), x, grad) for f in (ours, F))
        assert_same(mine[1], theirs[1])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("length", [3, 40])  # rows in groups of planes, and rows by themselves
@pytest.mark.parametrize(
    ("row", "value", "place"),
    [
        ([2, 2, 1], 2, 0),  # the first of equal ones
        ([-0.0, 0.0, 0.0], -0.0, 0),
        ([0.0, -0.0, -0.0], 0.0, 0),
        ([nan, 3, inf], nan, 0),
        ([1, nan, nan], nan, 2),  # the last NaN
        ([-inf, -inf, -inf], -inf, 0),
        ([-inf, inf, inf], inf, 1),
    ],
)
def test_which_element_is_the_largest(row, value, place, length, layout):
    x = torch.tensor(row).repeat(1, 2, 1, length).float()
    y, i = ours.max_pool2d(layouts(x)[layout], (1, 3), return_indices=True)
    assert_same(y.contiguous(), torch.full((1, 2, 1, length), float(value)))
    assert i[0, 1, 0].tolist() == [3 * n + place for n in range(length)]


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_element_that_is_not_finite(value, layout):
    x = integers((63, 20, 9, 7), torch.float32)
    for n, map in enumerate(x):  # in each place once
        map[n % 20].view(-1)[n] = value
    x = x.contiguous(memory_format=layout)
    for mine, theirs in zip(*(f.max_pool2d(x, 3, 1, 1, return_indices=True) for f in (ours, F)), strict=True):
        assert_same(mine, theirs)


def test_padding_never_wins():
    x = torch.full((1, 1, 3, 3), -inf)
    y, i = ours.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert y.eq(-inf).all()
    assert i.flatten().tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_window_wholly_in_the_padding(layout):
    # Taps at -1 and 4 of an axis of 4: the maximum of nothing, which no element may have a derivative of.
    x = layouts(integers((2, 3, 4, 4), torch.float32))[layout].requires_grad_()
    y, i = ours.max_pool2d(x, 2, 1, 1, 5, return_indices=True)
    expected, places = F.max_pool2d(x, 2, 1, 1, 5, return_indices=True)
    assert y.eq(-inf).all()
    assert_same(y, expected)
    assert torch.equal(i, places)
    assert not torch.autograd.grad(y.sum(), x)[0].any()
    # Of a window in one axis, and half in the other: the built-in adds to an element in the next row.
    y = ours.max_pool2d(torch.ones(1, 1, 4, 8, requires_grad=True), 2, 1, 1, (1, 9))
    assert y.isinf().all()


def test_positions_take_a_byte():
    for case, dtype in ("plain", torch.uint8), ("byte_window", torch.uint8), ("short_window", torch.int16):
        case = next(c for c in CASES if c.name == case)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, into=saved: into.append(t) or t, lambda t: t):
            y = case.max_pool(ours, torch.randn(case.input, requires_grad=True))
        assert [(t.dtype, t.shape) for t in saved] == [(dtype, y.shape)]


# ---- mean pooling ----


def average(case, functions, x, **options):
    """The built-in has no bfloat16 mean in three dimensions: there, what it would be."""
    if functions is F and case.dims == 3 and x.dtype == torch.bfloat16:
        return case.avg_pool(F, x.float(), **options).bfloat16()
    return case.avg_pool(functions, x, **options)


by_divisor = pytest.mark.parametrize(
    ("case", "options"),
    [
        pytest.param(case, options, id=f"{case}-{options}")
        for case in CASES
        for options in ({}, {"count_include_pad": False}, {"divisor_override": 7})
        if case.dims > 1 or "divisor_override" not in options  # in one dimension there is no such argument
    ],
)


@by_divisor
@by_dtype
def test_avg_pool(case, dtype, options):
    for x in layouts(integers(case.input, dtype), case.dims).values():
        # The sums are whole numbers, so exact; the division is the same one.
        assert_same(average(case, ours, x, **options), average(case, F, x, **options))


@by_divisor
@by_dtype
def test_avg_pool_gradient(case, dtype, options):
    contiguous = torch.randn(case.input, dtype=dtype)
    grad = torch.randn(average(case, F, contiguous).shape, dtype=dtype)
    for x in layouts(contiguous, case.dims).values():
        mine, theirs = (gradients(lambda x, f=f: average(case, f, x, **options), x, grad)[1] for f in (ours, F))
        assert (mine.dtype, mine.stride()) == (theirs.dtype, theirs.stride())
        # In up to n windows, whose shares the built-in rounds and sums in the tensor's dtype: n + 1 roundings of a sum
        # of n shares, each of a gradient of up to about 4.
        n = min(grad.numel(), case.window)
        divisor = abs(options.get("divisor_override", 1))
        tolerance = (n + 1) * torch.finfo(dtype).eps
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=4 * tolerance / divisor)


def test_avg_pool_of_numbers_that_are_not_whole():
    # Summed in the same order, the scan order, and not fused with anything: the same bits as the built-in's.
    for size in ((2, 3, 9, 41), (3, 40, 5, 6)):
        for x in layouts(torch.randn(size)).values():
            assert_same(ours.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [2, 3, 7])
def test_gradient_of_a_mean_is_rounded_as_a_quotient(kernel, dtype):
    zeros, grad = torch.zeros(2, 37, 3 * kernel, 2 * kernel, dtype=dtype), torch.randn(2, 37, 3, 2, dtype=dtype)
    expected = (grad / kernel**2).repeat_interleave(kernel, 2).repeat_interleave(kernel, 3)
    for x in layouts(zeros, 2).values():
        assert torch.equal(gradients(lambda x: ours.avg_pool2d(x, kernel), x, grad)[1], expected)


@by_adaptive
@by_dtype
def test_adaptive_avg_pool(case, dtype):
    contiguous = integers(case.input, dtype)
    grad = integers(case.pool(F, "avg", contiguous).shape, dtype)
    for x in layouts(contiguous, case.dims).values():
        mine, theirs = (gradients(lambda x, f=f: case.pool(f, "avg", x), x, grad) for f in (ours, F))
        # The built-in divides once for each axis, we by the product: two roundings and one apart.
        torch.testing.assert_close(mine[0], theirs[0], rtol=3 * torch.finfo(dtype).eps, atol=0)
        assert mine[0].is_contiguous() == theirs[0].is_contiguous()
        # And windows overlap in at most two an axis; its bfloat16 sums are rounded at each.
        tolerance = 12 * torch.finfo(dtype).eps
        torch.testing.assert_close(mine[1], theirs[1], rtol=tolerance, atol=tolerance)
        if case.output != 1:  # there the built-in's gradient is contiguous whatever the input was
            assert mine[0].stride() == theirs[0].stride()
            assert mine[1].stride() == theirs[1].stride()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, inf, -inf])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_lp_pool(dims, norm_type, ceil_mode):
    x = torch.rand(2, 3, *[9] * dims) + 0.1
    lp_pool, max_pool = getattr(F, f"lp_pool{dims}d"), getattr(F, f"max_pool{dims}d")

    def built_in(x):
        if abs(norm_type) != math.inf:
            return lp_pool(x, norm_type, 3, 2, ceil_mode)
        sign = math.copysign(1, norm_type)  # the limit, which torch before 2.13 does not know
        return sign * max_pool(sign * x.abs(), 3, 2, ceil_mode=ceil_mode)

    grad = torch.randn(built_in(x).shape)
    mine = gradients(lambda x: getattr(ours, f"lp_pool{dims}d")(x, norm_type, 3, 2, ceil_mode), x, grad)
    theirs = gradients(built_in, x, grad)
    assert_same(mine[0], theirs[0])
    # The sums of the mean's gradient are in another order: of at most two windows an axis.
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-6, atol=1e-6)


def test_lp_pool_of_zeros_has_no_gradient():
    x = torch.zeros(1, 1, 4, 4)
    for functions in ours, F:
        assert not gradients(lambda x, f=functions: f.lp_pool2d(x, 2, 2), x, torch.ones(1, 1, 2, 2))[1].any()


# ---- worked by hand ----


def test_worked_example():
    x = torch.tensor([[[[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]]], requires_grad=True)
    largest, places = ours.max_pool2d(x, 2, return_indices=True)
    assert largest.tolist() == [[[[6, 8], [3, 4]]]]
    assert places.tolist() == [[[[5, 7], [8, 15]]]]
    mean = ours.avg_pool2d(x, 2)
    assert mean.tolist() == [[[[3.25, 5.25], [2, 2]]]]
    (grad,) = torch.autograd.grad(largest, x, torch.tensor([[[[1.0, 2], [3, 4]]]]))
    assert grad.tolist() == [[[[0, 0, 0, 0], [0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 0, 4]]]]
    (grad,) = torch.autograd.grad(mean, x, torch.tensor([[[[4.0, 8], [12, 16]]]]))
    assert grad.tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]]


def test_windows_that_pick_the_same_element_add_up():
    x = torch.tensor([[[0.0, 9, 0, 0]]], requires_grad=True)
    ours.max_pool1d(x, 2, 1).sum().backward()
    assert x.grad.tolist() == [[[0, 2, 1, 0]]]


# ---- inputs that lie unusually ----


def _huge_stride():
    return torch.randn(2, 3, 1 << 16)[..., ::4096].unsqueeze(2).expand(2, 3, 4, 16)


UNUSUAL = {
    "every_other_element": lambda: torch.randn(2, 3, 8, 32)[..., ::2],
    "transposed": lambda: torch.randn(2, 3, 16, 9).transpose(2, 3),
    "transposed_batch": lambda: torch.randn(3, 2, 9, 16).transpose(0, 1),
    "flipped_axes": lambda: torch.randn(9, 16, 3, 2).permute(3, 2, 0, 1),
    "expanded_channels": lambda: torch.randn(2, 1, 9, 16).expand(2, 5, 9, 16),
    "expanded_batch": lambda: torch.randn(1, 3, 9, 16).expand(4, 3, 9, 16),
    "one_number": lambda: torch.randn(1, 1, 1, 1).expand(2, 3, 9, 16),
    "overlapping": lambda: torch.randn(500).as_strided((2, 3, 9, 16), (100, 30, 5, 1)),
    "huge_stride": _huge_stride,
    "channels_last_slice": lambda: torch.randn(2, 8, 9, 16).to(memory_format=torch.channels_last)[:, 2:5],
    "one_channel": lambda: torch.randn(2, 1, 9, 16).to(memory_format=torch.channels_last),
    "one_sample": lambda: torch.randn(2, 5, 9, 16).to(memory_format=torch.channels_last)[:1],
    "offset": lambda: torch.randn(2 * 3 * 9 * 16 + 1)[1:].view(2, 3, 9, 16),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_inputs(make):
    x = make()
    for pool in (
        lambda f, x: f.max_pool2d(x, 3, 2, 1),
        lambda f, x: f.max_pool2d(x, 2, return_indices=True)[1],
        lambda f, x: f.avg_pool2d(x, 3, 2, 1),
        lambda f, x: f.adaptive_max_pool2d(x, 3),
    ):
        assert_same(pool(ours, x), pool(F, x))


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_gradients(make):
    grad = make()
    size = (*grad.shape[:2], 2 * grad.shape[2], 2 * grad.shape[3])
    for x in layouts(torch.randn(size)).values():
        for pool in (lambda f, x: f.max_pool2d(x, 2), lambda f, x: f.avg_pool2d(x, 2)):
            assert_same(*(gradients(lambda x, f=f, p=pool: p(f, x), x, grad)[1] for f in (ours, F)))


# ---- reproducible ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(5, 7, 33, 40), (5, 40, 24, 24)])
def test_bits_do_not_depend_on_threads_or_batch(size, dtype, threads):
    pools = {
        "max": lambda x: ours.max_pool2d(x, 3, 2, 1),
        "avg": lambda x: ours.avg_pool2d(x, 3, 2, 1),
        "short": lambda x: ours.avg_pool2d(x, 9, 5),
        "adaptive": lambda x: ours.adaptive_avg_pool2d(x, (5, 3)),
    }
    for x in layouts(torch.randn(size, dtype=dtype)).values():
        for name, pool in pools.items():
            grad = torch.randn(pool(x).shape, dtype=dtype)
            results = []
            for count in (1, 2, 3):
                threads(count)
                results.append(gradients(pool, x, grad))
            alone = [gradients(pool, x[i : i + 1], grad[i : i + 1]) for i in range(len(x))]
            for result in results[1:]:
                assert torch.equal(result[0], results[0][0]), name
                assert torch.equal(result[1], results[0][1]), name
            assert torch.equal(torch.cat([y for y, _ in alone]), results[0][0]), name
            assert torch.equal(torch.cat([g for _, g in alone]), results[0][1]), name


# ---- the operators by themselves ----


def test_positions_from_elsewhere_stay_inside():
    window = ([2, 2], [2, 2], [0, 0], [1, 1])
    for layout in layouts(torch.full((2, 40, 4, 4), 255, dtype=torch.uint8)).values():
        grad = torch.ones(2, 40, 4, 4)
        assert not ops.max_pool_scatter(grad, layout, [2, 40, 8, 8], *window).any()
        assert not ops.max_pool_gather(torch.ones(2, 40, 8, 8), layout, *window).any()
    # In the window, but there in the padding: another element of the plane may answer, nothing outside it.
    positions = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    assert (
        ops.max_pool_scatter(torch.ones(1, 1, 2, 2), positions, [1, 1, 4, 4], [3, 3], [2, 2], [1, 1], [1, 1]).sum() <= 4
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_takes_what_scatter_gives_back(dtype):
    # <scatter(g), x> = <g, gather(x)>, and so for the mean and its spread: each is the other's transpose.
    for size, window in (
        ((2, 37, 9, 10), ([3, 2], [2, 1], [1, 1], [1, 2])),
        ((2, 3, 6, 5, 8), ([2, 3, 2], [2, 1, 2], [1, 1, 0], [1, 1, 1])),
    ):
        for x in layouts(integers(size, dtype), len(size) - 2).values():
            output = F.max_pool2d(x, *window).shape if len(size) == 4 else F.max_pool3d(x, *window).shape
            _, positions = ops.max_pool(x, *window, output[2:])
            grad = integers(output, dtype, -1, 2)
            scattered = ops.max_pool_scatter(grad, positions, size, *window).double()
            gathered = ops.max_pool_gather(x, positions, *window).double()
            assert (scattered * x).sum() == (grad * gathered).sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.max_pool(torch.ones(4, 4), [2], [2], [0], [1], [2]), r"3 to 5 axes, got shape \[4, 4\]"),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [2, 2], [2], [0], [1], [2]), r"kernel_size needs 1 numbers"),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [2], [0], [0], [1], [2]), r"stride must be at least 1, got \[0\]"),
        (
            lambda: ops.max_pool(torch.ones(1, 1, 4), [2], [2], [2], [1], [2]),
            r"at most half the window, got padding=\[2\]",
        ),
        (
            lambda: ops.max_pool(torch.ones(1, 1, 4), [2], [2], [0], [1], [3]),
            r"output_size 3 has windows that start past",
        ),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [2], [2], [0], [1], [0]), r"an output must have from 1 to"),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [], [], [], [], [-1]), r"\[1, 1, -1\] has a negative side"),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [], [2], [], [], [1]), r"stride needs 0 numbers"),
        (lambda: ops.max_pool(torch.ones(1, 1, 4), [0, 0], [0], [0], [0], [1]), r"kernel_size needs 1 numbers"),
        (
            lambda: ops.max_pool(torch.ones(1, 1, 4, 4), [2, 0], [1, 1], [0, 0], [1, 1], [1, 1]),
            r"kernel_size must be at least 1, got \[2, 0\]",
        ),
        (lambda: ops.max_pool(torch.ones(1, 1, 0), [2], [2], [0], [1], [1]), r"an input must have from 1 to"),
        (
            lambda: ops.max_pool_scatter(
                torch.ones(1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.int64), [1, 1, 4], [2], [2], [0], [1]
            ),
            r"expected positions of dtype Byte for a window of 2 elements, got Long",
        ),
        (
            lambda: ops.max_pool_scatter(
                torch.ones(1, 1, 3), torch.zeros(1, 1, 2, dtype=torch.uint8), [1, 1, 4], [2], [2], [0], [1]
            ),
            r"a gradient of shape \[1, 1, 2\], got \[1, 1, 3\]",
        ),
        (
            lambda: ops.max_pool_gather(
                torch.ones(1, 2, 4), torch.zeros(1, 1, 2, dtype=torch.uint8), [2], [2], [0], [1]
            ),
            r"positions of shape \[1, 2, 2\], got \[1, 1, 2\]",
        ),
        (lambda: ops.avg_pool(torch.ones(1, 1, 4), [2], [2], [0], [2], True, 0), r"divisor_override must not be 0"),
        (
            lambda: ops.avg_pool_spread(
                torch.ones(1, 1, 3), [1, 1, 4], [2], [2], [0], True, None, torch.contiguous_format
            ),
            r"output_size 3 has windows that start past an input of size 4",
        ),
    ],
)
def test_what_the_operators_refuse(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


def test_the_operators_have_no_half():
    with pytest.raises(RuntimeError, match="max_pool: no kernel for Half; expected float32, float64 or bfloat16"):
        ops.max_pool(torch.ones(1, 1, 4).half(), [2], [2], [0], [1], [2])


def test_channels_last_survives_a_single_output():
    # [N, C, 1, 1] has strides that say nothing; the gradient must still come back as the input was.
    case = PoolCase("", (2, 5, 4, 4), 4)
    x = torch.randn(case.input).to(memory_format=CHANNELS_LAST[4])
    for pool in case.max_pool, case.avg_pool:
        grad = gradients(lambda x, p=pool: p(ours, x), x, torch.ones(2, 5, 1, 1))[1]
        assert grad.stride() == x.stride()
