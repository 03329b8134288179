"""Few channels, groups of few and strides: where vectors of channels would be empty, and other kernels run."""

import pytest
import torch
from conv_cases import DIRECTIONS, LAYOUTS, bound, check_bits, exact, operands, relative_error, run
from shapes import ConvCase, case

ops = torch.ops.torchconv

# Half vectors of target channels (8 of float32, 4 of float64), planes of positions with one phase or several, rows that
# meet the same taps, maps whose vectors cross rows, and positions along the vectors of a weight gradient (no padding,
# few sums), each whole, with a tail, and one beyond.
CASES = [
    case("half_vector", (3, 32, 13, 13), (32, 8, 3, 3), stride=2, padding=1, groups=4),
    case("half_vector_tail", (2, 40, 9, 7), (20, 10, 3, 3), stride=(2, 1), padding=1, groups=4),
    case("half_vector_deep", (2, 600, 5, 6), (8, 300, 1, 3), groups=2),
    case("half_vector_and_one", (2, 27, 8, 8), (27, 9, 3, 3), stride=2, padding=1, groups=3),
    case("groups_of_wide_pixels", (2, 576, 7, 5), (576, 8, 3, 3), stride=(1, 2), padding=1, groups=72),
    case("groups_past_a_task", (2, 264, 6, 5), (264, 4, 3, 3), padding=1, groups=66),
    case("rows_alike", (2, 3, 19, 37), (64, 3, 3, 3), padding=1),
    case("rows_alike_below_a_vector", (3, 2, 12, 11), (6, 2, 5, 3), padding=(2, 1)),
    case("map_of_one_tap", (3, 24, 14, 14), (50, 24, 1, 1)),
    case("map_of_one_tap_strided", (3, 24, 27, 28), (50, 24, 1, 1), stride=2),
    case("map_of_one_tap_cropped", (2, 24, 18, 15), (26, 24, 1, 1), padding=((-1, -1), (0, -1))),
    case("map_of_one_tap_in_groups", (2, 48, 16, 12), (72, 16, 1, 1), groups=3),
    case("two_phases", (2, 1, 401), (32, 1, 9), stride=2, padding=4),
    case("two_phases_one_short", (2, 1, 400), (7, 1, 4), stride=2),
    case("phases_of_both_axes", (2, 2, 41, 67), (4, 2, 5, 3), stride=(2, 3), padding=((2, 1), (0, 2))),
    case("phases_without_taps", (2, 2, 30, 61), (3, 2, 2, 3), stride=4, padding=1),
    case("phases_of_three_axes", (1, 2, 9, 8, 35), (5, 2, 3, 3, 3), stride=(2, 1, 2), padding=1),
    case("phases_dilated", (2, 3, 20, 70), (6, 3, 3, 3), stride=2, padding=2, dilation=(1, 3)),
    case("positions", (5, 1, 32, 32), (6, 1, 5, 5)),
    case("positions_tail", (3, 2, 13, 22), (7, 2, 3, 4)),
    case("positions_equal", (2, 1, 6, 18), (6, 1, 3, 3)),
    case("positions_below_a_vector", (4, 3, 9, 9), (5, 3, 3, 3)),
    case("positions_of_many_rows", (2, 1, 150, 40), (3, 1, 3, 3)),
    case("positions_strided_rows", (3, 1, 21, 30), (4, 1, 5, 3), stride=(3, 1)),
    case("positions_of_three_axes", (2, 2, 6, 7, 24), (3, 2, 2, 3, 3)),
    case("positions_in_groups", (3, 6, 12, 33), (6, 2, 3, 3), groups=3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_against_float64(case: ConvCase, layout: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, w, b, g = operands(case, dtype, layout)
        for direction in DIRECTIONS:
            error = relative_error(run(case, direction, x, w, b, g, "direct"), exact(case, direction, x, w, b, g))
            assert error <= bound("direct", dtype, direction), (dtype, direction)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_number_of_threads_and_any_batch(case: ConvCase, layout: str, threads) -> None:
    check_bits(case, torch.float32, layout, "direct", threads)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["input", "grad"])
def test_nan_in_the_last_column_reaches_the_taps_that_see_it(value: float, side: str) -> None:
    """The weight gradient's vectors of positions reach past the rows' ends: nothing there counts."""
    narrow = case("narrow", (2, 1, 9, 22), (2, 1, 3, 3))  # 20 positions: a vector and a tail
    x, w, b, g = operands(narrow, torch.float32)
    if side == "input":
        x[1, 0, 4, 21] = value
        reached = {(m, i, 2) for m in range(2) for i in range(3)}  # the last tap of a row alone sees the last column
    else:
        g[1, 1, 3, 19] = value
        reached = {(1, i, j) for i in range(3) for j in range(3)}
    grad = run(narrow, "weight_grad", x, w, b, g, "direct")
    assert {(m, i, j) for m, _, i, j in grad.isfinite().logical_not().nonzero().tolist()} == reached


def test_empty_batch() -> None:
    empty = case("empty", (0, 1, 9, 22), (2, 1, 3, 3))
    x, w, b, g = operands(empty, torch.float32)
    assert run(empty, "forward", x, w, b, g, "direct").shape == (0, 2, 7, 20)
    assert run(empty, "weight_grad", x, w, b, g, "direct").eq(0).all()
