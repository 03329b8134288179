"""Operators called directly, as compilers and other languages call them: whatever the operands, an answer or one error.

Each row below once ended the process, took time or memory out of proportion, or answered with what memory held.
"""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pool_cases import assert_same
from torch import Tensor

import torchconv.functional as TF

ops = torch.ops.torchconv
F = torch.nn.functional
R = torch.randn
CL, NCHW = torch.channels_last, torch.contiguous_format
F32 = torch.float32


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def bools(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.bool)


def bytes_of(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


MAP = (ints(0, 1, 2, 3), ints(0, 1, 2))  # the identity on three taps
LRN = (1e-4, 0.75, 1.0)

# ---- refused: (operator, operands, what the message says) ----

REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    # Pooling
    ("max_pool", (R(1, 1, 5, 5), [2, 2], [2**31, 1], [0, 0], [1, 1], [1, 4]), r"stride must be at most 2147483647"),
    ("max_pool", (R(1, 1, 5), [2**40], [2**39 + 3], [2**39], [1], [2]), r"start past .* at stride 54975"),
    ("max_pool", (R(1, 1, 5), [2**62], [1], [0], [2**62], [1]), r"a window's length .*kernel_size=\[461"),
    ("max_pool", (R(1, 1, 5), [2], [1], [2**63 - 1], [1], [1]), r"at most half the window, got padding=\[9223372036"),
    ("max_pool", (R(1, 1, 5), [2], [2**62], [0], [1], [3]), r"output_size 3 has windows that start past"),
    ("max_pool", (R(1, 1, 5), [], [], [], [], [2**62]), r"output of shape .* has more elements"),
    ("max_pool", (R(1, 1, 1).expand(1, 1, 2**31), [2], [2], [0], [1], [1]), r"from 1 to 2147483647 positions"),
    ("max_pool", (R(0, 1, 5).half(), [2], [1], [0], [1], [4]), r"no kernel for Half"),
    ("max_pool_scatter", (R(0, 1, 3), bytes_of(0, 1, 4), [0, 1, 5], [2], [1], [0], [1]), r"a gradient of shape"),
    ("max_pool_scatter", (None, bytes_of(1, 1, 9, 4), [1, 1, 2**30, 12], [1, 4], [1, 4], [0, 2], [1, 1]), r"got None"),
    ("max_pool_gather", (None, bytes_of(1, 1, 4), [2], [1], [0], [1]), r"got None"),
    ("max_pool", (ints(*range(12)).view(1, 3, 4), [], [], [], [], [10**9]), r"no kernel for Long"),
    ("avg_pool", (ints(*range(12)).view(1, 3, 4), [], [], [], [10**9], True, None), r"no kernel for Long"),
    ("max_pool_scatter", (R(1, 1, 4), bytes_of(1, 1, 4), [1, 1, -5], [2], [1], [0], [1]), r"has a negative side"),
    ("max_pool_gather", (R(1, 1, 300), bytes_of(1, 1, 44), [257], [1], [0], [1]), r"positions of dtype Short"),
    ("avg_pool", (R(1, 1, 5), [2**62], [1], [2**61], [6], True, None), r"kernel_size must be at most 2147483647"),
    ("avg_pool", (R(1, 1, 5, 5, 5), [2**30] * 3, [1] * 3, [2**29] * 3, [6] * 3, True, None), r"window of more than"),
    ("avg_pool_spread", (R(1, 1, 2), [1, 1, 4], [2], [2], [0], True, None, CL), r"required rank 4"),
    # Normalisation
    ("batch_norm", (R(0, 8), None, None, 1e-5, False), r"at least one element, got shape \[0, 8\]"),
    ("batch_norm", (R(0, 8, 4, 4), None, None, 1e-5, True), r"at least one element, got shape \[0, 8, 4, 4\]"),
    ("batch_norm", (R(2, 0, 78), None, None, 1e-5, False), r"at least one element, got shape \[2, 0, 78\]"),
    ("batch_norm", (R(2, 3), bools(3), None, 1e-5, False), r"a weight and a bias of Float, .* got Bool"),
    ("batch_norm", (R(2, 3), None, R(4), 1e-5, False), r"of 3 elements .* got shape \[4\]"),
    ("batch_norm_grad", (R(2, 3), R(2, 3), None, None, R(3), bools(3), 1e-5, False), r"a variance of 3 .* got Bool"),
    ("batch_norm_grad", (R(2, 3), R(2, 3), None, None, R(1), R(3), 1e-5, False), r"a mean of 3 .* of shape \[1\]"),
    ("batch_norm_grad", (R(2, 3).double(), R(2, 3), None, None, R(3), R(3), 1e-5, False), r"the gradient is Double"),
    ("batch_norm_grad", (R(0, 3), R(0, 3), None, None, R(3), R(3), 1e-5, False), r"at least one element"),
    ("local_response_norm", (R(1, 2, 5), 0, *LRN), r"size must be at least 1, got 0"),
    ("local_response_norm", (R(0, 2, 5).half(), 3, *LRN), r"no kernel for Half"),
    ("local_response_norm_grad", (R(1, 2, 4), R(1, 2, 5), 3, *LRN), r"gradient is Float of shape \[1, 2, 4\]"),
    # Locally connected layers
    ("local_convolution", (R(1, 1, 5), R(1, 1, 2, 4), None, [1], [2**63 - 1] * 2, [1], 1), r"sides beyond 2\^60"),
    ("local_convolution", (R(1, 1, 5), R(1, 1, 2, 4), None, [1], [2**62, -(2**62)], [1], 1), r"sides beyond 2\^60"),
    ("local_convolution", (R(1, 1, 5), R(1, 1, 2, 1), None, [1], [0, 0], [2**63 - 1], 1), r"sides beyond 2\^60"),
    ("local_convolution", (R(1, 1, 5), R(1, 1, 2, 4), None, [2**62], [0, 0], [1], 1), r"outputs of side 4 .* gives 1"),
    ("local_convolution", (R(0, 1, 5), R(3, 1, 2, 3), None, [1], [0, 0], [1], 1), r"outputs of side 3 .* gives 4"),
    ("local_convolution", (R(0, 1, 5), R(3, 1, 2, 4), R(3, 4).double(), [1], [0, 0], [1], 1), r"bias is Double"),
    ("local_convolution", (R(0, 1, 5).half(), R(3, 1, 2, 4).half(), None, [1], [0, 0], [1], 1), r"no kernel for Half"),
    ("local_convolution_input_grad", (R(1, 1, 4), R(1, 1, 2, 4), [1, 1, -5], [1], [0, 0], [1], 1), r"negative side"),
    ("local_convolution_weight_grad", (R(1, 1, 4), R(1, 1, 5), [1, 1, 2**62, 4], [1], [0, 0], [1], 1), r"more elem"),
    # Filters under transforms
    ("transform_filters", (R(2, 1, 3), *MAP, R(3), [2**63 - 1, 2, 2**63 - 1]), r"kernel of shape .* has more elements"),
    ("transform_filters", (R(2, 1, 3), *MAP, R(3), [-3]), r"kernel of shape \[-3\] has a negative side"),
    ("transform_filters", (R(2, 1, 3), ints(0, 1, 2, 4), ints(0, 1, 2), R(3), [3]), r"3 entries, got 0 to 4"),
    ("transform_filters", (R(2, 1, 3), ints(0, 2**62, 2, 3), ints(0, 1, 2), R(3), [3]), r"in disorder"),
    ("transform_filters", (R(2, 1, 3), ints(0, 1, 2, 3), ints(0, 1, 3), R(3), [3]), r"reads tap 3 of a filter of 3"),
    ("transform_filters", (R(0, 1, 3), ints(0, 1, 2, 3), ints(0, 1, -1), R(3), [3]), r"reads tap -1"),
    ("transform_filters", (R(0, 1, 3).half(), *MAP, R(3).half(), [3]), r"no kernel for Half"),
    ("transform_filters_transpose", (R(2, 1, 3), *MAP, R(3), [2**32, 2**32]), r"kernel of shape .* has more elements"),
    ("transform_filters_transpose", (R(2, 1, 3), *MAP, R(3), [10**13]), r"more than 2147483647 taps"),
    ("transform_filters", (R(1, 1, 2), ints(0, 1), ints(0), R(1), []), r"an empty kernel"),
    ("transform_filters_transpose", (R(1, 1, 1), ints(0, 1), ints(0), R(1), []), r"an empty kernel"),
    ("transform_values_grad", (R(2, 1, 3), R(2, 1, 3), ints(0, 1, 2, 3), ints(0, 1, 7)), r"reads tap 7"),
    # What takes memory comes after every check
    ("local_convolution", (R(1, 1, 1).expand(2**40, 1, 5), R(2, 1, 3, 3), ints(1, 2), [1], [0, 0], [1], 1), r"bias"),
    ("_explain", ("forward", [1, 1, 5], [1, 1, 3], [1], [2**28, 0], [1], 1, F32, False, "auto"), r"2\^25 .* positions"),
]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(REFUSED)],
)
def test_refused(name: str, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(*args)


# ---- operands on two devices: every operator that takes two ----

ALIKE: list[tuple[str, tuple[Any, ...]]] = [
    ("convolution", (R(1, 1, 5), R(1, 1, 2), None, [1], [0, 0], [1], 1, "auto")),
    ("convolution_relu", (R(1, 1, 5), R(1, 1, 2), None, [1], [0, 0], [1], 1, "auto")),
    ("convolution_input_grad", (R(1, 1, 4), R(1, 1, 2), [1, 1, 5], [1], [0, 0], [1], 1, "auto")),
    ("relu_bias_grad", (R(1, 1, 4), R(1, 1, 4))),
    ("max_pool_scatter", (R(1, 1, 4), bytes_of(1, 1, 4), [1, 1, 5], [2], [1], [0], [1])),
    ("max_pool_gather", (R(1, 1, 5), bytes_of(1, 1, 4), [2], [1], [0], [1])),
    ("batch_norm", (R(2, 3), R(3), R(3), 1e-5, False)),
    ("batch_norm_grad", (R(2, 3), R(2, 3), R(3), R(3), R(3), R(3), 1e-5, False)),
    ("local_convolution", (R(1, 1, 5), R(1, 1, 2, 4), R(1, 4), [1], [0, 0], [1], 1)),
    ("local_convolution_input_grad", (R(1, 1, 4), R(1, 1, 2, 4), [1, 1, 5], [1], [0, 0], [1], 1)),
    ("local_convolution_weight_grad", (R(1, 1, 4), R(1, 1, 5), [1, 1, 2, 4], [1], [0, 0], [1], 1)),
    ("local_response_norm_grad", (R(1, 2, 5), R(1, 2, 5), 3, *LRN)),
    ("transform_filters", (R(2, 1, 3), *MAP, R(3), [3])),
    ("transform_filters_transpose", (R(2, 1, 3), *MAP, R(3), [3])),
    ("transform_values_grad", (R(2, 1, 3), R(2, 1, 3), *MAP)),
    ("convolution_max", (R(1, 1, 5), R(2, 1, 2), None, 2, [1], [0, 0], [1], 1, "auto")),
    ("convolution_norm", (R(1, 1, 5), R(2, 1, 2), None, 2, [1], [0, 0], [1], 1, "auto")),
    ("convolution_select", (R(1, 1, 5), R(2, 1, 2), bytes_of(1, 1, 4), [1], [0, 0], [1], 1, "auto")),
]


@pytest.mark.parametrize(("name", "args"), ALIKE, ids=[row[0] for row in ALIKE])
def test_operands_on_two_devices(name: str, args: tuple[Any, ...]) -> None:
    getattr(ops, name)(*args)
    for i, operand in enumerate(args):
        if isinstance(operand, Tensor):
            mixed = (*args[:i], operand.to("meta"), *args[i + 1 :])
            with pytest.raises(RuntimeError, match=rf"{name}: Expected .* on the same device.* is on meta"):
                getattr(ops, name)(*mixed)


def test_winners_beyond_the_transforms() -> None:
    x, w, g, winners = R(1, 1, 5), R(4, 1, 2), R(1, 2, 4), bytes_of(1, 2, 4)
    winners[0, 1, 3] = 2  # of 0 and 1
    window = ([1], [0, 0], [1], 1, "auto")
    for call in (
        lambda: ops.convolution_select(x, w, winners, *window),
        lambda: ops.convolution_select_input_grad(g, winners, w, [1, 1, 5], *window),
        lambda: ops.convolution_select_weight_grad(g, winners, x, [4, 1, 2], *window),
    ):
        with pytest.raises(RuntimeError, match="conv1d: winners hold 2, beyond 2 transforms"):
            call()
        winners[0, 1, 3] = 1
        call()
        winners[0, 1, 3] = 2


# ---- answered, and no slower or larger for what lies off the map ----

FAR = 2**31 - 1


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_windows_far_larger_than_the_map(dims: int, dtype: torch.dtype, layout: str) -> None:
    """As a window that just covers it: a position is a place among what windows have in the map, not in the window."""
    x = R(2, 3, *[4] * dims).to(dtype)
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    far, near = ([2 * p] * dims for p in (2**28, 6))
    one, of_far, of_near = [1] * dims, [2**28] * dims, [6] * dims
    y, positions = ops.max_pool(x, far, one, of_far, one, [5] * dims)
    assert_same(y, ops.max_pool(x, near, one, of_near, one, [5] * dims)[0])
    assert positions.dtype == (torch.uint8 if dims < 3 else torch.int16)  # of 9 to the power of dims
    assert (y == x.amax(list(range(2, dims + 2)), keepdim=True)).all()
    window = (far, one, of_far, one)
    assert_same(ops.max_pool_gather(x, positions, *window), y)
    chosen = x.flatten(2).gather(2, ops.max_pool_indices(positions, x.shape, *window).flatten(2))
    assert torch.equal(chosen, y.flatten(2))
    scattered = ops.max_pool_scatter(torch.ones_like(y), positions, x.shape, *window)
    assert scattered.sum() == y.numel()
    assert torch.equal(scattered.flatten(2).argmax(2), x.flatten(2).argmax(2))
    far, of_far = [2**20] * dims, [2**19] * dims  # a mean counts its window's elements, in 64 bits
    mean = ops.avg_pool(x, far, one, of_far, [5] * dims, False, None)
    # Sums of 4^dims numbers in another order than torch's.
    torch.testing.assert_close(mean, x.mean(list(range(2, dims + 2)), keepdim=True).expand_as(mean))
    spread = ops.avg_pool_spread(torch.ones_like(mean), x.shape, far, one, of_far, False, None, torch.contiguous_format)
    torch.testing.assert_close(spread, torch.full_like(spread, (5 / 4) ** dims))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("max_pool1d", (R(1, 2, 6), 2, 2**62)),
        ("max_pool1d", (R(1, 2, 6), 1, 1, 0, 2**63 - 1)),
        ("max_pool1d", (R(1, 2, 6), 2, 1, 1, 2)),
        ("max_pool2d", (R(1, 2, 6, 6), 2, FAR)),
        ("max_pool2d", (R(1, 2, 6, 6), 1, 1, 0, FAR)),
        ("max_pool2d", (R(1, 2, 6, 6), 2, FAR, 0, 1, True)),
        ("max_pool3d", (R(1, 2, 6, 6, 6), 2, FAR)),
        ("avg_pool1d", (R(1, 2, 6), 2, FAR)),
        ("avg_pool1d", (R(1, 2, 6), 2**30, 1, 2**29)),
        ("avg_pool2d", (R(1, 2, 6, 6), 2**30, 1, 2**29)),
        ("avg_pool2d", (R(1, 2, 6, 6), 2, 2, 0, False, True, 2**40)),
        ("avg_pool3d", (R(1, 2, 6, 6, 6), 2, FAR)),
        ("lp_pool2d", (R(1, 2, 6, 6).abs(), 2, 2, FAR)),
    ],
)
def test_wild_integers_that_the_built_in_answers(name: str, args: tuple[Any, ...]) -> None:
    """Maxima bit for bit; means have up to 36 terms, the largest of them below 5, in another order."""
    for x in (args[0], args[0] if name == "avg_pool3d" else args[0].bfloat16()):  # which the built-in lacks
        mine, theirs = (getattr(f, name)(x, *args[1:]) for f in (TF, F))
        if "max" in name:
            assert torch.equal(mine, theirs)
        else:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=5 * torch.finfo(x.dtype).eps)


@pytest.mark.parametrize("name", [f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)])
@pytest.mark.parametrize("far", [2**31, 2**62, 2**63 - 1, 2**70])
def test_wild_integers_that_the_built_in_refuses(name: str, far: int) -> None:
    dims = int(name[-2])
    x = R(1, 2, *[6] * dims)
    for args in ((2, far), (far, 1), (2, 1, far), (2, 1, (far,) * dims)):
        if name == "max_pool1d":
            if args == (2, far) and far < 2**63:
                continue  # answered, as above
        else:  # in one dimension the built-in's sums overflow, and it hangs
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                getattr(F, name)(x, *args)
        with pytest.raises((RuntimeError, ValueError)):
            getattr(TF, name)(x, *args)


def test_empty_outputs_and_maps() -> None:
    for size in ([0, 1000], [1000, 0]):
        assert ops.avg_pool(R(1, 2, 5, 5), [], [], [], size, True, None).shape == (1, 2, *size)
        assert ops.max_pool(R(1, 2, 5, 5), [], [], [], [], size)[1].shape == (1, 2, *size)
        spread = ops.avg_pool_spread(R(1, 2, *size), [1, 2, 5, 5], [], [], [], True, None, CL)
        assert not spread.any()
    for channels, batch in ((0, 1), (2, 0), (0, 0)):
        grad = R(batch, channels, 2, 2).contiguous(memory_format=CL)
        size = [batch, channels, 4, 4]
        assert ops.avg_pool_spread(grad, size, [2, 2], [2, 2], [0, 0], True, None, CL).shape == tuple(size)
        kept = bytes_of(batch, channels, 2, 2).contiguous(memory_format=CL)
        assert ops.max_pool_scatter(grad, kept, size, [2, 2], [2, 2], [0, 0], [1, 1]).shape == tuple(size)


@pytest.mark.parametrize("window", [256, 257, 32767, 32768, 32769])
def test_positions_at_the_bounds_of_their_integers(window: int) -> None:
    """The last element of a window is the largest."""
    x = torch.arange(window + 3.0).reshape(1, 1, -1)
    y, positions = ops.max_pool(x, [window], [1], [0], [1], [4])
    assert torch.iinfo(positions.dtype).max >= window - 1
    assert positions.dtype == (torch.uint8 if window <= 256 else torch.int16 if window <= 32768 else torch.int32)
    assert positions.eq(window - 1).all()
    assert torch.equal(ops.max_pool_gather(x, positions, [window], [1], [0], [1]), y)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = ops.max_pool(mode.from_tensor(x), [window], [1], [0], [1], [4])
    assert fake[1].dtype == positions.dtype


@pytest.mark.parametrize("kernel", [2, 3, 300])
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL])
def test_positions_of_no_window_touch_nothing(kernel: int, layout: torch.memory_format) -> None:
    """Corrupt positions: what they point to is at most a place of the same map, and the rest is zeros."""
    x = R(2, 17, kernel, kernel + 5).contiguous(memory_format=layout)
    window = ([kernel] * 2, [1, 1], [0, 0], [1, 1])
    y, positions = ops.max_pool(x, *window, [1, 6])
    kept = torch.full_like(positions, torch.iinfo(positions.dtype).max)
    assert not ops.max_pool_scatter(torch.ones_like(y), kept, x.shape, *window).any()
    assert not ops.max_pool_gather(x, kept, *window).any()
    ops.max_pool_indices(kept, x.shape, *window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL])
@pytest.mark.parametrize("size", [7, 8, 10**4, 2**62])
def test_local_response_norm_over_more_channels_than_there_are(
    size: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x = R(2, 4, 3, 5).contiguous(memory_format=layout).to(dtype).requires_grad_()
    alpha, beta, k = 0.7 * size, 0.75, 1.0
    y = TF.local_response_norm(x, size, alpha, beta, k)
    exact = x.detach().double().requires_grad_()
    expected = exact / (k + alpha / size * (exact * exact).sum(1, keepdim=True)) ** beta  # every window sees all
    grad = torch.ones_like(y)
    tolerance = 16 * torch.finfo(dtype).eps  # two sums of four, a power and a product
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    ours, theirs = torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, exact, grad.double())[0]
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=4 * tolerance)


def test_local_response_norm_forward_mode_over_more_channels_than_there_are() -> None:
    x, v = R(2, 3, 4, dtype=torch.float64), R(2, 3, 4, dtype=torch.float64)
    along = [torch.func.jvp(lambda x, n=n: TF.local_response_norm(x, n, n / 2), (x,), (v,))[1] for n in (8, 2**60)]
    torch.testing.assert_close(*along)


def test_transforms_with_all_entries_in_one_row() -> None:
    """A table of as many slots for each transform as the longest row has would take 4 TB."""
    rows = entries = 100_000
    pointers = torch.cat([torch.zeros(rows, dtype=torch.int64), ints(entries)])
    copies = ops.transform_filters(torch.ones(1, 1, 1), pointers, ints(*[0] * entries), torch.ones(entries), [1])
    assert copies[-1] == entries
    assert not copies[:-1].any()
    assert ops.transform_filters_transpose(R(2, 0, 3), *MAP, R(3), [10**9]).shape == (2, 0, 10**9)


def test_local_layers_with_windows_that_take_one_step() -> None:
    x, weight, bias = R(2, 3, 6), R(4, 3, 2, 1), R(4, 1)
    for stride, padding in ((2**62, [0, 0]), (2**62, [0, -3]), (1, [0, -4])):
        y = ops.local_convolution(x, weight, bias, [stride], padding, [1], 1)
        torch.testing.assert_close(y, torch.einsum("nck,ock->no", x[..., :2], weight[..., 0]).unsqueeze(-1) + bias)
    far = ops.local_convolution(x, weight, bias, [1], [2**40, 1 - 2**40 - 5], [1], 1)  # sees padding alone
    assert torch.equal(far, bias.expand(2, 4, 1))


HUGE = 2**30


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A quarter of a gigabyte more than what the process has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + (1 << 28), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("avg_pool", (R(1, 4, 3, 4), [], [], [], [0, HUGE], True, None), (1, 4, 0, HUGE)),
        ("avg_pool", (R(0, 4, 3, 4), [], [], [], [2, HUGE], True, None), (0, 4, 2, HUGE)),
        ("avg_pool_spread", (R(0, 1, HUGE // 4), [0, 1, HUGE], [4], [4], [0], True, None, NCHW), (0, 1, HUGE)),
        ("avg_pool_spread", (R(1, 0, HUGE // 4), [1, 0, HUGE], [4], [4], [0], True, None, NCHW), (1, 0, HUGE)),
        ("max_pool_scatter", (R(0, 1, 8), bytes_of(0, 1, 8), [0, 1, HUGE], [1], [HUGE // 8], [0], [1]), (0, 1, HUGE)),
        ("convolution", (R(0, 1, HUGE), R(1, 1, 1), None, [1], [0, 0], [1], 1, "auto"), (0, 1, HUGE)),
        (
            "convolution_input_grad",
            (R(0, 1, HUGE), R(1, 1, 1), [0, 1, HUGE], [1], [0, 0], [1], 1, "auto"),
            (0, 1, HUGE),
        ),
        (
            "convolution_weight_grad",
            (R(0, 1, HUGE), R(0, 1, HUGE), [1, 1, 1], [1], [0, 0], [1], 1, "auto", NCHW),
            (1, 1, 1),
        ),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_nothing_is_worked_out_for_what_has_no_element(name, args, shape) -> None:
    """Tables of such sides would take gigabytes."""
    result = getattr(ops, name)(*args)
    assert result.shape == shape
    assert not result.any()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["convolution", "convolution_relu"])
def test_a_word_that_is_no_algorithm_is_refused_first(name) -> None:
    with pytest.raises(ValueError, match="'nonsense' is none of auto, "):
        getattr(ops, name)(R(1, 1, 5), R(1, 1, 3), None, [1], [2**31, 0], [1], 1, "nonsense")


FAR = [3, 8, 2**31 - 1]  # whose tables would take gigabytes


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("avg_pool_spread", (torch.ones(3, 4, 5), FAR, [2], [2], [0], True, None, torch.contiguous_format)),
        ("max_pool_scatter", (torch.ones(3, 4, 5), torch.zeros(3, 4, 5).byte(), FAR, [2], [2], [0], [1])),
        ("max_pool_indices", (torch.zeros(3, 4, 5).byte(), FAR, [2], [2], [0], [1])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_maps_of_pooling_are_compared_before_its_tables_are_made(name, args) -> None:
    with pytest.raises(RuntimeError, match=r"of shape \[3, 8, 5\], got \[3, 4, 5\]"):
        getattr(ops, name)(*args)
