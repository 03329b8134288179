"""Winograd convolution asked for by name: at the edges of its tiles, and its transforms against their matrices."""

import math
from fractions import Fraction

import pytest
import torch
from conv_cases import BOUNDS, DIRECTIONS, LAYOUTS, bound, chosen, exact, layout_of, operands, relative_error, run
from shapes import CASES, WINOGRAD_CASES, ConvCase, case

import torchconv
import torchconv.functional as TF

F = torch.nn.functional
ops = torch.ops.torchconv


@pytest.fixture
def highest():
    """Precision "highest", put back afterwards."""
    before = torchconv.get_conv_precision()
    torchconv.set_conv_precision("highest")
    yield
    torchconv.set_conv_precision(before)


def with_batch(c: ConvCase, batch: int) -> ConvCase:
    return ConvCase(c.name, (batch, *c.input[1:]), *list(vars(c).values())[2:])


# ---- shapes ----


@pytest.mark.parametrize("case", WINOGRAD_CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_against_float64(case: ConvCase, dtype: torch.dtype) -> None:
    x, w, b, g = operands(case, dtype)
    for direction in DIRECTIONS:
        expected = exact(case, direction, x, w, b, g)
        for layout in LAYOUTS if case.dims > 1 else ["contiguous"]:
            if case.dims > 1:
                x, g = (t.contiguous(memory_format=layout_of(case, layout)) for t in (x, g))
            assert chosen(case, direction, x, w, g, "winograd") == ("winograd", "")
            for algorithm in ("winograd", chosen(case, direction, x, w, g)[0]):
                result = run(case, direction, x, w, b, g, algorithm)
                assert result.dtype == dtype
                assert result.shape == expected.shape
                error = relative_error(result, expected)
                assert error <= bound(algorithm, dtype, direction), (algorithm, layout, direction, error)


@pytest.mark.parametrize("case", WINOGRAD_CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_number_of_threads(case: ConvCase, layout: str, threads) -> None:
    x, w, b, g = operands(case, torch.float32, layout)
    for direction in DIRECTIONS:
        threads(1)
        expected = run(case, direction, x, w, b, g, "winograd")
        for count in (2, 16):
            threads(count)
            assert torch.equal(run(case, direction, x, w, b, g, "winograd"), expected), (direction, count)


@pytest.mark.parametrize("case", WINOGRAD_CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sample_s_result_does_not_depend_on_its_batch(case: ConvCase, layout: str) -> None:
    samples = 5 if case.name != "panels_of_several_chunks_and_slabs" else 15  # 60 tiles: the last in another chunk
    x, w, b, g = operands(with_batch(case, samples), torch.float32, layout)
    alone = with_batch(case, 1)
    for direction in ("forward", "input_grad"):
        together = run(with_batch(case, samples), direction, x, w, b, g, "winograd")
        for n in (0, 2, samples - 1):
            one = run(alone, direction, x[n : n + 1], w, b, g[n : n + 1], "winograd")
            assert torch.equal(one[0], together[n]), (direction, n)


@pytest.mark.parametrize("case", [c for c in WINOGRAD_CASES if c.dims > 1], ids=str)
def test_the_weight_s_memory_format_changes_no_bit(case: ConvCase) -> None:
    memory_format = layout_of(case, "channels_last")
    x, w, b, g = operands(case, torch.float32, "channels_last")  # else the weight's would decide the activations'
    other = w.contiguous(memory_format=memory_format)
    for direction in ("forward", "input_grad"):
        expected = run(case, direction, x, w, b, g, "winograd")
        assert torch.equal(run(case, direction, x, other, b, g, "winograd"), expected), direction
    window = (case.stride, case.flat_padding, case.dilation, case.groups, "winograd")
    grad = ops.convolution_weight_grad(g, x, w.shape, *window, memory_format)
    assert grad.is_contiguous(memory_format=memory_format)
    assert torch.equal(grad, run(case, "weight_grad", x, w, b, g, "winograd"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_and_autocast(layout: str) -> None:
    """Odd channels: what lies beyond the last is neither read as one nor written."""
    for channels, filters in ((1, 3), (7, 9), (31, 47), (33, 63)):
        c = case("odd", (3, channels, 11, 10), (filters, channels, 3, 3), padding=1)
        x, w, b, g = operands(c, torch.float32, layout)
        x.requires_grad_(), w.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = TF.conv2d(x, w, b, padding=1, algorithm="winograd")
        assert y.dtype == torch.bfloat16
        assert y.is_contiguous(memory_format=LAYOUTS[layout] if channels > 1 else torch.contiguous_format)
        grads = torch.autograd.grad(y, (x, w), g.bfloat16())
        rounded = [t.detach().bfloat16() for t in (x, w, b, g)]
        for direction, result in zip(DIRECTIONS, (y.detach(), *grads), strict=True):
            assert result.dtype == (torch.bfloat16 if direction == "forward" else torch.float32)
            error = relative_error(result, exact(c, direction, *rounded))
            assert error <= bound("winograd", torch.bfloat16, direction), (channels, direction, error)


# ---- transforms ----
#
# The formulas of csrc/conv/winograd/math.inl, evaluated in rational numbers: tiles of m outputs use the
# first m + r − 1 of 8 points, and are of 9 − r outputs at the most.

POINTS = [0, None, 1, -1, Fraction(1, 2), -2, 2, Fraction(-1, 2)]  # None: infinity


def differences(p: int, begin: int, end: int) -> Fraction:
    product = Fraction(1)
    for q in range(begin, end):
        if q not in (p, 1):
            product *= POINTS[p] - POINTS[q]
    return product


def powers(p: int, count: int) -> list[Fraction]:
    return [Fraction(j == count - 1) if p == 1 else Fraction(POINTS[p]) ** j for j in range(count)]


def interpolation(p: int, n: int, most: int) -> list[Fraction]:
    """Row p of Bᵀ."""
    coefficients = [Fraction(1)]  # of Π (z − q), ascending
    for q in range(n):
        if q not in (p, 1):
            shifted, scaled = [Fraction(0), *coefficients], [-POINTS[q] * c for c in coefficients] + [Fraction(0)]
            coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    factor = 1 if p == 1 else differences(p, n, most)
    return [c * factor for c in coefficients] + [Fraction(0)] * (n - len(coefficients))


def tile_terms(m: int, r: int, most: int):
    """The term of each point p in y_i = Σ_{j, k} y[i][j][k] w_j x_k: [p][i][j][k]."""
    for p in range(m + r - 1):
        scale = 1 if p == 1 else 1 / differences(p, 0, most)
        a, g, b = powers(p, m), [scale * v for v in powers(p, r)], interpolation(p, m + r - 1, most)
        yield [[[x * y * z for z in b] for y in g] for x in a]


def tiles(side: int, r: int) -> list[int]:
    """Outputs of the tiles along an axis: as few as can be, large ones first, the others of one output less."""
    count = side if r == 1 else -(-side // (9 - r))
    return [side // count + (i < side % count) for i in range(count)]


def points_of(outputs: int, r: int) -> int:
    """Points that the filters of an axis are scaled for, by the largest tile's outputs."""
    return {1: 1, 3: max(outputs, 4) + 2, 5: 8}[r]


def axis(side: int, r: int):
    """Along an axis of `side` positions, padded to keep it: which x_k meets w_j in y_i, and Σ_p |terms|; [i][j][k]."""
    exact, magnitude = torch.zeros(2, side, r, side + r - 1, dtype=torch.float64)
    sizes = tiles(side, r)
    most = points_of(sizes[0], r)
    for number, m in enumerate(sizes):
        first = sum(sizes[:number])
        terms = torch.tensor([[[[float(v) for v in k] for k in j] for j in i] for i in tile_terms(m, r, most)])
        exact[first : first + m, :, first : first + m + r - 1] = terms.double().sum(0)
        magnitude[first : first + m, :, first : first + m + r - 1] = terms.double().abs().sum(0)
    inside = slice(r // 2, r // 2 + side)
    return exact[:, :, inside].round(), magnitude[:, :, inside]


@pytest.mark.parametrize("r", [3, 5])
def test_matrices_are_the_convolution(r: int) -> None:
    """The formulas themselves, exactly."""
    for largest in range(1, 10 - r):
        for m in range(max(1, largest - 1), largest + 1):
            total = [[[sum(t[i][j][k] for t in tile_terms(m, r, points_of(largest, r))) for k in range(m + r - 1)]
                      for j in range(r)] for i in range(m)]  # fmt: skip
            assert total == [[[k == i + j for k in range(m + r - 1)] for j in range(r)] for i in range(m)]


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (3, 5), (5, 3), (1, 3), (3, 1), (1, 5), (5, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_impulses(kernel: tuple[int, int], layout: str) -> None:
    """Every pair of an impulse in the map and one in the filter, for tiles of every size along both axes.

    An impulse passes through Bᵀ exactly (its entries are sums of powers of two), and through G with two roundings an
    axis, of the entry and of the product; the product of both is rounded once, and Aᵀ adds n terms an axis. What is
    rounded are the terms that a matrix product of the formulas has: |Aᵀ| (|G| w ⊙ |Bᵀ| x).
    """
    (r, s), unit = kernel, 2.0**-24
    memory_format = LAYOUTS[layout]
    sides = [1, 2, 3, 4, 5, 6, 7, 9, 11]  # 11: tiles of 6 and 5 outputs
    for height in sides:
        for width in sides if r == s else (height, 12 - height):
            roundings = 2 * 2 + 1 + (tiles(height, r)[0] + r - 1) + (tiles(width, s)[0] + s - 1)
            (rows, more), (columns, most) = axis(height, r), axis(width, s)
            outer = lambda a, b: torch.einsum("ijk,xyz->kzjyix", a, b)  # noqa: E731  # [x pixel, tap, y pixel]
            expected = outer(rows, columns).reshape(height * width, r * s, height, width)
            allowed = roundings * unit * outer(more, most).reshape(expected.shape)
            pixels = torch.eye(height * width).reshape(-1, 1, height, width)
            filters = torch.eye(r * s).reshape(-1, 1, r, s)
            window = ([1, 1], [r // 2, r // 2, s // 2, s // 2], [1, 1], 1, "winograd")
            x = pixels.contiguous(memory_format=memory_format)
            y = ops.convolution(x, filters, None, *window)
            assert ((y - expected).abs() <= allowed).all(), ("forward", height, width)

            # x̄ is a convolution of ȳ with the filter turned round, and the same tiles are cut in x.
            turned = filters.reshape(1, -1, r, s)
            grad = ops.convolution_input_grad(x, turned, [height * width, r * s, height, width], *window)
            difference = (grad - expected.flip(1)).abs()
            assert (difference <= allowed.flip(1)).all(), ("input_grad", height, width)

            maps = pixels.transpose(0, 1).contiguous(memory_format=memory_format)  # a channel for each pixel
            size = [height * width, height * width, r, s]
            grad = ops.convolution_weight_grad(maps, maps, size, *window, torch.contiguous_format)
            wanted, allowed = (t.permute(2, 3, 0, 1).reshape(size) for t in (expected, allowed))
            assert ((grad - wanted).abs() <= allowed).all(), ("weight_grad", height, width)


# ---- NaN and infinity ----

VALUES = [float("nan"), float("inf"), -float("inf")]


def reaches(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Every output that is not finite in theirs is not in ours; ours may have more: a tile's outputs share products."""
    return bool((~ours.isfinite() | theirs.isfinite()).all()) and not theirs.isfinite().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 3), (5, 5), (1, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_nan_and_infinity_at_every_position(value: float, layout: str, size: tuple[int, ...], groups: int) -> None:
    """A sample for each position of the map that holds the value, and one without."""
    sides = (6, 7) if len(size) == 2 else (3, 4, 5)
    positions, padding = math.prod(sides), tuple(k // 2 for k in size)
    c = case("", (positions + 1, 4, *sides), (6, 4 // groups, *size), 1, padding, 1, groups)
    for direction, hit in (("forward", 0), ("input_grad", 3)):
        tensors = operands(c, torch.float32, layout)
        maps = tensors[hit].flatten(2)
        for position in range(positions):
            maps[position, position % 4, position] = value
        assert maps.data_ptr() == tensors[hit].data_ptr()  # a view
        result = run(c, direction, *tensors, "winograd")
        assert reaches(result, exact(c, direction, *tensors))
        assert result[-1].isfinite().all()
        if groups == 2:  # the other group's maps
            untouched = result.unflatten(1, (2, -1))[0, 1]
            assert untouched.isfinite().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_in_weights_and_of_weight_gradients(value: float, layout: str) -> None:
    c = case("", (1, 3, 6, 7), (4, 3, 3, 3), padding=1)
    for tap in range(9):
        x, w, b, g = operands(c, torch.float32, layout)
        w[1, 2].view(-1)[tap] = value
        for direction in ("forward", "input_grad"):
            result = run(c, direction, x, w, b, g, "winograd")
            assert reaches(result, exact(c, direction, x, w, b, g))
            assert result[0, 0].isfinite().all()  # neither this output channel nor this input channel meets the value
    for position in range(42):
        for hit in (0, 3):
            tensors = operands(c, torch.float32, layout)
            tensors[hit][0, 1, position // 7, position % 7] = value
            result = run(c, "weight_grad", *tensors, "winograd")
            assert reaches(result, exact(c, "weight_grad", *tensors))
            assert result[:, 0].isfinite().all() if hit == 0 else result[0].isfinite().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_where_auto_takes_winograd(value: float, layout: str) -> None:
    c = case("", (3, 64, 12, 13), (64, 64, 3, 3), padding=1)
    for direction, hits in (("forward", (0, 1)), ("input_grad", (3, 1)), ("weight_grad", (0, 3))):
        for hit in hits:
            x, w, _, g = tensors = operands(c, torch.float32, layout)
            assert chosen(c, direction, x, w, g) == ("winograd", "")
            tensors[hit][1, 33, 2, 1] = value
            result = run(c, direction, *tensors)
            assert reaches(result, exact(c, direction, *tensors))
            if hit != 1 and direction != "weight_grad":
                assert result[0].isfinite().all()
                assert result[2].isfinite().all()


# ---- precision ----


@pytest.mark.parametrize("case", CASES + WINOGRAD_CASES, ids=str)
def test_highest_never_picks_winograd(case: ConvCase, highest) -> None:
    for layout in LAYOUTS if case.dims > 1 else ["contiguous"]:
        x, w, b, g = operands(case, torch.float32, layout)
        for direction in DIRECTIONS:
            assert chosen(case, direction, x, w, g)[0] != "winograd"
            error = relative_error(run(case, direction, x, w, b, g), exact(case, direction, x, w, b, g))
            assert error <= BOUNDS[torch.float32][direction], (layout, direction, error)
            with pytest.raises(RuntimeError, match="the precision asked for is 'highest'"):
                run(case, direction, x, w, b, g, "winograd")


def test_float64_never_uses_winograd() -> None:
    c = case("", (1, 64, 12, 13), (64, 64, 3, 3), padding=1)
    x, w, b, g = operands(c, torch.float64)
    for direction in DIRECTIONS:
        assert chosen(c, direction, x, w, g)[0] != "winograd"
        with pytest.raises(RuntimeError, match="its transforms round, which float64 is asked for to avoid"):
            run(c, direction, x, w, b, g, "winograd")
