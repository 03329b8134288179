"""What tests of the convolution operators share: operands, a run, the exact result and the bounds on the error."""

from collections.abc import Sequence

import torch
from shapes import ConvCase

from torchconv.ops import activation_format

F = torch.nn.functional
ops = torch.ops.torchconv
ALGORITHMS = ["auto", *ops._algorithms()]
DIRECTIONS = ["forward", "input_grad", "weight_grad"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


# Relative to the norm of the exact result. float32: direct summation in blocks of 256 products; the weight gradient
# sums over positions and samples too. float64: the same with 2^-53 for 2^-24. bfloat16: operands are exact, sums are in
# float32, and the result is rounded once, by at most 2^-8 of each element. Winograd: its transforms amplify float32's
# rounding by the norms of their matrices, 2 to 5 times for tiles of 4 × 4.
BOUNDS = {
    torch.float32: {"forward": 2e-6, "input_grad": 2e-6, "weight_grad": 1e-5},
    torch.float64: {"forward": 4e-15, "input_grad": 4e-15, "weight_grad": 2e-14},
    torch.bfloat16: dict.fromkeys(DIRECTIONS, 2**-8 + 1.5e-5),
}


def bound(algorithm: str, dtype: torch.dtype, direction: str) -> float:
    """What the algorithm's record promises in float32; "auto" may be any of those above."""
    if algorithm in ops._algorithms() and dtype == torch.float32:
        return ops._error_bounds(algorithm)[direction == "weight_grad"]
    return BOUNDS[dtype][direction]


def layout_of(case: ConvCase, layout: str) -> torch.memory_format:
    return torch.channels_last_3d if layout == "channels_last" and case.dims == 3 else LAYOUTS[layout]


def operands(case: ConvCase, dtype: torch.dtype, layout: str = "contiguous", scale: float = 1, mean: float = 0):
    """input, weight, bias and output gradient, drawn and then rounded to dtype."""
    x, w, b, g = (
        (torch.randn(size, dtype=torch.float64) * scale + mean).to(dtype)
        for size in (case.input, case.weight, case.weight[:1], case.output)
    )
    if case.dims > 1:
        memory_format = layout_of(case, layout)
        x, g = x.contiguous(memory_format=memory_format), g.contiguous(memory_format=memory_format)
    return x, w, b, g


def run(case: ConvCase, direction: str, x, w, b, g, algorithm: str = "auto"):
    window = (case.stride, case.flat_padding, case.dilation, case.groups, algorithm)
    if direction == "forward":
        return ops.convolution(x, w, b, *window)
    if direction == "input_grad":
        return ops.convolution_input_grad(g, w, x.shape, *window)
    return ops.convolution_weight_grad(g, x, w.shape, *window, torch.contiguous_format)


def exact(case: ConvCase, direction: str, x, w, b, g):
    """The same by PyTorch's operators in float64, on an input padded (or cropped) beforehand."""
    x, w, b, g = (t.double() for t in (x, w, b, g))
    pad = [side for pair in reversed(case.padding) for side in pair]
    x.requires_grad_(), w.requires_grad_()
    y = (F.conv1d, F.conv2d, F.conv3d)[case.dims - 1](
        F.pad(x, pad), w, b, case.stride, 0, case.dilation, case.groups
    )  # fmt: skip
    if direction == "forward":
        return y.detach()
    return torch.autograd.grad(y, x if direction == "input_grad" else w, g)[0]


def check_bits(
    case: ConvCase, dtype: torch.dtype, layout: str, algorithm: str, threads, directions: Sequence[str] = DIRECTIONS
) -> None:
    """Every direction gives the same bits on 1, 2 and 16 threads, and to a sample alone those it has in the batch."""
    x, w, b, g = operands(case, dtype, layout)
    for direction in directions:
        threads(1)
        expected = run(case, direction, x, w, b, g, algorithm)
        for count in (2, 16):
            threads(count)
            assert torch.equal(run(case, direction, x, w, b, g, algorithm), expected), (direction, count)
        if direction != "weight_grad":
            alone = run(case, direction, x[:1], w, b, g[:1], algorithm)
            assert torch.equal(alone, expected[:1]), direction


def relative_error(result, expected) -> float:
    error = (result.double() - expected).norm()
    return (error / expected.norm()).item() if error > 0 else 0.0


def chosen(case: ConvCase, direction: str, x, w, g, algorithm: str = "auto") -> tuple[str, str]:
    """The algorithm that runs, by the operator that explains it, and ""; or "" and why the one asked for refuses."""
    pair = {"forward": (x, w), "input_grad": (g, w), "weight_grad": (x, g)}[direction]
    channels_last = activation_format(*pair) != torch.contiguous_format
    window = (case.stride, case.flat_padding, case.dilation, case.groups)
    try:
        name, *_ = ops._explain(direction, x.shape, w.shape, *window, x.dtype, channels_last, algorithm)
    except RuntimeError as error:
        return "", str(error)
    assert algorithm in ("auto", "highest", name)
    return name, ""
