"""Depth-wise convolution: shapes that stand badly to its kernels, and the separable layer made of it.

Contiguous rows are taken a vector (16 floats at most) at a time, 8, 7, 4, 2 or 1 of them together, in bands of eight
rows at least, the taps of a column 7, 5, 3, 2 or 1 together. Channels-last, a vector of maps and tiles of 8, 7, 4, 2 or
1 pixels, those of 8 and 7 in two rows at once where both see source rows in common; fewer maps than a vector, or
several filters a map, are copied to contiguous ones.
"""

import math

import pytest
import torch
from conv_cases import BOUNDS, DIRECTIONS, LAYOUTS, bound, exact, operands, relative_error, run
from shapes import VECTOR_LENGTHS, ConvCase, case

import torchconv.functional as TF
import torchconv.transforms as T
from torchconv.nn import Conv2d, DepthwiseSeparableConv2d

F = torch.nn.functional


def depthwise(name: str, channels: int, sides: tuple[int, ...], kernel: tuple[int, ...], *window, n=2, m=1) -> ConvCase:
    return case(name, (n, channels, *sides), (channels * m, 1, *kernel), *window, channels)


def window(k: int, stride: int = 1, dilation: int = 1):
    """Stride, padding and dilation of a convolution that keeps the side where the stride is 1."""
    return stride, dilation * (k // 2), dilation


CASES = [
    *(depthwise(f"{k}x{k}", 20, (17, 19), (k, k), *window(k)) for k in (1, 2, 3, 4, 5, 6, 7, 9)),
    *(depthwise(f"{k}x{k}_s{s}", 20, (17, 19), (k, k), *window(k, s)) for k in (1, 2, 3, 5, 7) for s in (2, 3)),
    *(depthwise(f"{k}x{k}_s{s}_d2", 18, (22, 21), (k, k), *window(k, s, 2)) for k in (3, 5, 7) for s in (1, 2, 4)),
    *(depthwise(f"{k}x{k}_even_side", 33, (16, 14), (k, k), *window(k, 2)) for k in (3, 5, 7)),
    depthwise("band_equal", 2, (56, 56), (3, 3), *window(3)),
    depthwise("band_tail", 2, (113, 40), (3, 3), *window(3)),
    depthwise("band_tail_s2", 2, (113, 47), (5, 5), *window(5, 2)),
    depthwise("wide", 17, (3, 300), (3, 3), *window(3)),
    depthwise("tall", 17, (300, 3), (3, 3), *window(3)),
    depthwise("one_pixel", 19, (1, 1), (3, 3), *window(3)),
    depthwise("one_column", 16, (9, 1), (5, 1), 2, ((2, 2), (0, 0)), 1),
    depthwise("31x31_on_16", 17, (16, 16), (31, 31), *window(31), n=1),
    depthwise("31x31_on_35", 3, (35, 34), (31, 31), *window(31), n=1),
    depthwise("padding_beyond_the_kernel", 16, (7, 6), (3, 3), 1, ((5, 4), (6, 3)), 1),
    depthwise("padding_beyond_the_kernel_s2", 17, (7, 6), (3, 3), 2, ((5, 4), (6, 3)), 1),
    depthwise("cropped", 16, (12, 13), (3, 3), 1, ((-1, -2), (1, -3)), 1),
    depthwise("cropped_s2", 16, (12, 13), (3, 3), 2, ((-1, 2), (-3, 1)), 1),
    depthwise("stride_beyond_the_kernel", 16, (13, 14), (2, 2), 5, 1, 1),
    depthwise("unequal", 20, (15, 18), (7, 3), (1, 2), ((3, 2), (0, 1)), (2, 1)),
    depthwise("multiplier_2", 9, (11, 18), (3, 3), *window(3), m=2),
    depthwise("multiplier_3_s2", 17, (11, 18), (5, 5), *window(5, 2), m=3),
    depthwise("channels_of_a_vector_and_one", 33, (9, 9), (3, 3), *window(3)),
    depthwise("channels_of_blocks_and_some", 267, (5, 9), (3, 3), *window(3), n=1),
    depthwise("1d", 18, (37,), (5,), *window(5)),
    depthwise("1d_s2", 5, (37,), (7,), *window(7, 2), m=2),
    depthwise("1d_long", 2, (5000,), (3,), *window(3)),
    depthwise("3d", 18, (5, 9, 10), (3, 3, 3), *window(3)),
    depthwise("3d_s2", 17, (5, 8, 11), (3, 5, 3), *window(3, 2)),
    depthwise("3d_multiplier", 3, (4, 6, 18), (2, 3, 3), 1, ((1, 0), 1, 1), (2, 1, 1), m=2),
]  # fmt: skip
WIDTHS = [
    depthwise(f"{width}_wide_k{k}_s{s}", 16, (4, width), (k, k), *window(k, s), n=1)
    for width in range(1, 36)
    for k, s in ((3, 1), (3, 2), (7, 1))
] + [
    depthwise(
        f"{dims}d_{width}_wide_k{k}_s{s}_m{m}", 16, (2, 3, width)[3 - dims :], (k,) * dims, *window(k, s), n=1, m=m
    )
    for width in VECTOR_LENGTHS
    for dims in (1, 3)
    for k, s, m in ((3, 1, 1), (3, 2, 1), (5, 1, 2))
]
PAIRS = [
    depthwise(f"{height}x{width}_s{stride}", 33, (stride * height, stride * width), (3, 3), *window(3, stride))
    for height in (1, 2, 3, 7, 8, 9, 16, 18)
    for width in (14, 16, 20)
    for stride in (1, 2)
]


@pytest.mark.parametrize("c", [*CASES, *WIDTHS, *PAIRS], ids=str)
def test_against_float64(c: ConvCase) -> None:
    for dtype in BOUNDS:
        for layout in LAYOUTS if c.dims > 1 else ["contiguous"]:
            x, w, b, g = operands(c, dtype, layout)
            for direction in DIRECTIONS:
                result = run(c, direction, x, w, b, g, "depthwise")
                error = relative_error(result, exact(c, direction, x, w, b, g))
                assert error <= bound("depthwise", dtype, direction), (dtype, layout, direction, error)


@pytest.mark.parametrize("c", [*CASES, *PAIRS[-6:]], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_threads_and_batch(c: ConvCase, layout: str, threads) -> None:
    x, w, b, g = operands(c, torch.float32, layout)
    last = [t[-1:].clone() for t in (x, g)]
    for direction in DIRECTIONS:
        threads(1)
        expected = run(c, direction, x, w, b, g, "depthwise")
        for count in (2, 3, 16):
            threads(count)
            assert torch.equal(run(c, direction, x, w, b, g, "depthwise"), expected), (direction, count)
        if direction != "weight_grad":
            assert torch.equal(run(c, direction, last[0], w, b, last[1], "depthwise"), expected[-1:]), direction


def test_maps_that_are_copied_some_samples_at_a_time() -> None:
    """Channels-last ones of several filters a map: bit for bit as contiguous ones."""
    torch.manual_seed(0)
    x, w, b = torch.randn(40, 8, 48, 48), torch.randn(16, 1, 3, 3), torch.randn(16)
    window = ([1, 1], [1] * 4, [1, 1], 8, "depthwise")
    y = torch.ops.torchconv.convolution_relu(x, w, b, *window)
    gx = torch.ops.torchconv.convolution_input_grad(y, w, list(x.shape), *window)
    last_x, last_y = (t.to(memory_format=torch.channels_last) for t in (x, y))
    result = torch.ops.torchconv.convolution_relu(last_x, w, b, *window)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, y)
    assert torch.equal(torch.ops.torchconv.convolution_input_grad(last_y, w, list(x.shape), *window), gx)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_what_lies_beside_is_not_read(kernel: int, stride: int, layout: str) -> None:
    """NaN all around the operands in memory, and infinity in every other map, reach nothing they should not."""
    c = depthwise("", 17, (9, 11), (kernel, kernel), *window(kernel, stride))
    x, w, b, g = operands(c, torch.float32, layout)
    x[:, 1::2], g[:, 1::2] = math.inf, math.inf

    def surrounded(t: torch.Tensor) -> torch.Tensor:
        room = torch.full((t.numel() + 256,), math.nan)
        inside = room[128 : 128 + t.numel()].as_strided(t.shape, t.stride(), 128)
        return inside.copy_(t)

    x, w, g = surrounded(x), surrounded(w), surrounded(g)
    for direction in DIRECTIONS:
        result = run(c, direction, x, w, b, g, "depthwise")
        even = result[::2] if direction == "weight_grad" else result[:, ::2]
        assert even.isfinite().all(), direction


@pytest.mark.parametrize("layout", LAYOUTS)
def test_infinity_reaches_the_taps_that_meet_it(layout: str) -> None:
    """Weight gradients: no target looks at the last column through the left taps, wherever in a vector it lies."""
    for width in (9, 16, 18, 33):
        c = depthwise("", 16, (5, width), (3, 3), *window(3))
        x, w, b, g = operands(c, torch.float32, layout)
        x[0, 3, 2, width - 1] = math.inf
        reached = run(c, "weight_grad", x, w, b, g, "depthwise").isfinite().logical_not()
        assert reached.nonzero().tolist() == [[3, 0, i, j] for i in range(3) for j in (1, 2)], width


@pytest.mark.parametrize("layout", LAYOUTS)
def test_infinity_in_the_first_and_last_row(layout: str) -> None:
    """Weight gradients: the first row is below, and the last above, no target; nor does a row beside a strip count."""
    for height in (1, 7, 8, 9, 17):
        c = depthwise("", 16, (height, 14), (3, 3), *window(3))
        x, w, b, g = operands(c, torch.float32, layout)
        for row, taps in ((0, {0, 1}), (height - 1, {1, 2})):
            infinite = x.clone()
            infinite[0, 3, row, 5] = math.inf
            reached = run(c, "weight_grad", infinite, w, b, g, "depthwise").isfinite().logical_not()
            taps = taps if height > 1 else {1}
            assert reached.nonzero().tolist() == [[3, 0, i, j] for i in sorted(taps) for j in range(3)], (height, row)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_and_bias(layout: str, dtype: torch.dtype) -> None:
    for c in (CASES[6], CASES[7], depthwise("", 5, (9, 20), (3, 3), *window(3), m=2)):
        x, w, b, _ = operands(c, dtype, layout)
        arguments = (x, w, b, c.stride, c.padding, c.dilation, c.groups)
        y = TF.conv2d(*arguments, algorithm="depthwise", activation="relu")
        assert torch.equal(y, TF.conv2d(*arguments, algorithm="depthwise").relu())
        assert (y == 0).any()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("length", [4, 8, 16, 31, 32, 48, 64])
def test_one_axis_by_every_way_to_it(length: int, dtype: torch.dtype) -> None:
    """Rows of whole vectors: the layer, fused, transposed, several filters a map, filters in vmap, transforms."""
    x, w, b = torch.randn(2, 8, length).to(dtype), torch.randn(8, 1, 3).to(dtype), torch.randn(8).to(dtype)
    options = dict(padding=1, groups=8)
    several, wide = torch.randn(4, 8, 1, 3).to(dtype), torch.randn(24, 1, 3).to(dtype)
    tolerance = dict(rtol=0, atol=2**-5 if dtype == torch.bfloat16 else 1e-5)  # of sums of four numbers of about 1

    def check(result: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(result.double(), expected, **tolerance)

    of = lambda *tensors: [t.double() for t in tensors]  # noqa: E731
    check(TF.conv1d(x, w, b, **options), F.conv1d(*of(x, w, b), **options))
    check(TF.conv1d(x, w, b, **options, activation="relu"), F.conv1d(*of(x, w, b), **options).relu())
    check(TF.conv_transpose1d(x, w, b, **options), F.conv_transpose1d(*of(x, w, b), **options))
    check(TF.conv1d(x, wide, **options), F.conv1d(*of(x, wide), **options))
    each = torch.func.vmap(lambda w: TF.conv1d(x, w, **options))(several)
    check(each, torch.stack([F.conv1d(*of(x, w), **options) for w in several]))
    flips = T.reflections(dims=1)
    turned = TF.transform_conv1d(x, w, flips, **options)
    check(turned, F.conv1d(x.double(), TF.transform_filters(w.double(), flips), **options))


def test_empty_batch() -> None:
    c = depthwise("", 16, (6, 6), (3, 3), *window(3), n=0)
    for layout in LAYOUTS:
        x, w, b, g = operands(c, torch.float32, layout)
        assert run(c, "forward", x, w, b, g, "depthwise").shape == c.output
        assert run(c, "input_grad", x, w, b, g, "depthwise").shape == c.input
        assert run(c, "weight_grad", x, w, b, g, "depthwise").eq(0).all()


# ---- the separable layer ----


@pytest.mark.parametrize(("maps", "filters", "kernel"), [(3, 8, 3), (32, 64, 5), (7, 1, (3, 1))])
def test_separable_parameter_count(maps: int, filters: int, kernel: int | tuple[int, int]) -> None:
    """N · M + M · K² weights where the conventional layer has N · M · K²."""
    layer = DepthwiseSeparableConv2d(maps, filters, kernel, bias=False)
    size = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
    assert sum(p.numel() for p in layer.parameters()) == filters * maps + maps * size
    with_bias = DepthwiseSeparableConv2d(maps, filters, kernel)
    assert sum(p.numel() for p in with_bias.parameters()) == filters * maps + maps * size + filters


def test_separable_is_the_convolution_of_the_product() -> None:
    layer = DepthwiseSeparableConv2d(6, 9, 3, stride=2, padding=1, dtype=torch.float64)
    x = torch.randn(2, 6, 11, 12, dtype=torch.float64)
    weight = layer.pointwise.weight * layer.depthwise.weight[:, 0]
    expected = F.conv2d(x, weight, layer.pointwise.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0]), expected[0])


def test_separable_takes_conv2d_s_arguments() -> None:
    layer = DepthwiseSeparableConv2d(
        6, 4, (3, 5), (1, 2), padding=((1, 0), (2, 1)), dilation=2, bias=False, padding_mode="circular",
        dtype=torch.float64, algorithm="depthwise",
    )  # fmt: skip
    assert layer.depthwise.algorithm == "depthwise"
    assert layer.pointwise.algorithm == "auto"
    conventional = Conv2d(
        6, 4, (3, 5), (1, 2), padding=((1, 0), (2, 1)), dilation=2, bias=False, padding_mode="circular",
        dtype=torch.float64,
    )  # fmt: skip
    x = torch.randn(2, 6, 12, 13, dtype=torch.float64)
    with torch.no_grad():
        conventional.weight.copy_(layer.pointwise.weight * layer.depthwise.weight[:, 0])
    torch.testing.assert_close(layer(x), conventional(x))
    with pytest.raises(ValueError, match="padding_mode"):
        DepthwiseSeparableConv2d(6, 4, 3, padding_mode="none")


def test_separable_gradients() -> None:
    layer = DepthwiseSeparableConv2d(3, 2, 3, padding=1, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_windows_off_the_map_along_the_first_axis() -> None:
    x = torch.randn(1, 32, 2, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    w, b = torch.randn(32, 1, 1, 3, 3), torch.randn(32)
    y = TF.conv3d(x, w, b, padding=1, groups=32, algorithm="depthwise")
    torch.testing.assert_close(y, torch.nn.functional.conv3d(x, w, b, padding=1, groups=32))
