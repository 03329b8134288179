"""Direct convolution of bfloat16, which the capability avx512_bf16 multiplies two source channels at a time."""

import pytest
import torch
from conv_cases import DIRECTIONS, LAYOUTS, check_bits, exact, operands, run
from shapes import ConvCase, case

import torchconv

# Channels one short of pairs, of vectors and of squares of 16 × 32 that are turned; positions below a square, whole
# squares and tails; taps that fall off the map on every side.
CASES = [
    case("one_channel", (2, 1, 9, 20), (40, 1, 3, 3), padding=1),
    case("three_channels", (2, 3, 9, 20), (40, 3, 3, 3), padding=1),
    case("square", (2, 32, 4, 16), (16, 32, 1, 1)),
    case("square_less_a_channel", (1, 31, 4, 16), (17, 31, 3, 3), padding=1),
    case("square_and_a_channel", (1, 33, 5, 7), (33, 33, 3, 3), padding=1),
    case("few_positions", (3, 34, 2, 3), (64, 34, 3, 3), padding=1),
    case("several_blocks", (2, 261, 5, 5), (70, 261, 3, 3), padding=1),
    case("odd_groups", (2, 27, 9, 11), (36, 9, 3, 3), padding=1, groups=3),
    case("narrow_groups", (2, 64, 6, 19), (32, 16, 3, 3), padding=1, groups=4),
    case("strided", (2, 35, 13, 21), (37, 35, 3, 5), stride=(2, 3), padding=(1, 2)),
    case("strided_1x1", (2, 29, 13, 13), (41, 29, 1, 1), stride=2),
    case("strides_without_taps", (2, 7, 12, 15), (19, 7, 2, 1), stride=3),
    case("dilated", (1, 19, 12, 23), (21, 19, 3, 3), padding=2, dilation=(2, 3)),
    case("one_axis", (3, 21, 50), (33, 21, 5), padding=2),
    case("three_axes", (1, 5, 5, 6, 18), (18, 5, 3, 3, 3), stride=(1, 2, 1), padding=1),
]


def products(case: ConvCase, direction: str) -> int:
    """Terms of one sum, at the most."""
    if direction == "weight_grad":
        return case.input[0] * torch.Size(case.output[2:]).numel()
    channels = case.weight[1] if direction == "forward" else case.weight[0] // case.groups
    return channels * torch.Size(case.weight[2:]).numel() + 1  # and the bias


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_element_against_float64(case: ConvCase, layout: str) -> None:
    """Products of bfloat16 are exact in float32. n terms take n additions there, each of which rounds by 2⁻²⁴ of a sum
    that is Σ|terms| at the most (twice that if by chopping); then the result is rounded, by 2⁻⁸ of itself."""
    x, w, b, g = operands(case, torch.bfloat16, layout)
    for direction in DIRECTIONS:
        expected = exact(case, direction, x, w, b, g)
        terms = exact(case, direction, x.abs(), w.abs(), b.abs(), g.abs())
        summed = products(case, direction) * 2**-23 * terms
        error = (run(case, direction, x, w, b, g, "direct").double() - expected).abs()
        assert (error <= summed + 2**-8 * (expected.abs() + summed)).all(), direction


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_number_of_threads_and_any_batch(case: ConvCase, layout: str, threads) -> None:
    check_bits(case, torch.bfloat16, layout, "direct", threads)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channel", [0, 7, 18])  # first and second of a pair, and one alone
def test_what_is_not_finite_reaches_what_it_reaches_in_float64(value: float, layout: str, channel: int) -> None:
    odd = case("odd", (1, 19, 6, 18), (19, 19, 3, 3))
    for side, directions in {
        "input": ("forward", "weight_grad"),
        "weight": ("forward",),  # in the input gradient it would meet padding, which is not multiplied here
        "grad": ("input_grad", "weight_grad"),
    }.items():
        x, w, b, g = operands(odd, torch.bfloat16, layout)
        {"input": x, "weight": w, "grad": g}[side][0, channel, 1, 2] = value
        for direction in directions:
            found = run(odd, direction, x, w, b, g, "direct").isfinite()
            assert torch.equal(found, exact(odd, direction, x, w, b, g).isfinite()), (side, direction)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_denormals(layout: str) -> None:
    """The dot product takes denormal operands for zeros; multiplications and additions of float32 keep them."""
    deep = case("deep", (1, 64, 4, 4), (64, 64, 3, 3), padding=1)
    x, w, b, g = operands(deep, torch.bfloat16, layout)
    x, w, b = (x * 2**-130).bfloat16(), (w * 2.0**100).bfloat16(), b.zero_()
    assert 0 < x.abs().max() < torch.finfo(torch.bfloat16).tiny
    y = run(deep, "forward", x, w, b, g, "direct").double()
    expected = exact(deep, "forward", x, w, b, g)
    if torchconv.cpu_capability() == "avx512_bf16":
        assert y.eq(0).all()
    else:
        assert (y - expected).norm() < 2**-7 * expected.norm()
