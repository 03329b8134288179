"""Derivatives within derivatives: every nesting of forward and reverse mode to third order, over every layer."""

import itertools

import pytest
import torch
from nesting_cases import CASES, Nested
from torch.func import grad, jvp


def scalar(function, operands):
    """`function` of squares, its squares weighted to a number: no derivative to third order vanishes."""
    weights = torch.linspace(0.5, 1.5, function(*operands).numel(), dtype=torch.float64)

    def call(*operands):
        y = function(*(t * t for t in operands)).flatten()
        return (y * y * weights).sum()

    return call


def forward(function, directions):
    return lambda *operands: jvp(function, operands, directions)[1]


def reverse(function, directions):
    everything = tuple(range(len(directions)))

    def along(*operands):
        grads = grad(function, everything)(*operands)
        return sum((g * d).sum() for g, d in zip(grads, directions, strict=True))

    return along


MODES = {"F": forward, "R": reverse}
THIRD = ("conv2d", "max_pool2d", "batch_norm_relu")  # the other layers' nestings of three take longer


def nested(function, modes, directions):
    """The derivative of `function` along as many directions, the last of the modes innermost."""
    for mode, direction in zip(reversed(modes), directions, strict=False):
        function = MODES[mode](function, direction)
    return function


def check(case: Nested, order: int) -> None:
    """Every nesting of `order` modes against reverse mode alone, of operators that PyTorch differentiates."""
    operands = [torch.randn(size, dtype=torch.float64) for size in case.sizes]
    directions = [tuple(torch.randn_like(t) for t in operands) for _ in range(order)]
    ours, theirs = (scalar(function, operands) for function in (case.ours, case.theirs))
    expected = nested(theirs, "R" * order, directions)(*operands)
    for modes in itertools.product(MODES, repeat=order):
        value = nested(ours, modes, directions)(*operands)
        # Sums of some hundred products keep 13 digits; what they come to may be 1,000 times less than their terms.
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10, msg=lambda m, s=modes: f"{s}: {m}")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nesting(case: Nested, order: int) -> None:
    check(case, order)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c.name in THIRD else pytest.mark.slow) for c in CASES], ids=str
)
def test_nesting_of_three(case: Nested) -> None:
    check(case, 3)
