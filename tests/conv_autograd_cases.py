"""What tests of convolution's derivatives share: convolutions small enough for numerical ones, and their operands."""

import torch
from shapes import ConvCase, case

EVERY_MODE = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


# Small enough for numerical derivatives of second order, one for each path through the operators.
SMALL = [
    case("plain", (2, 2, 3, 4), (3, 2, 3, 3), padding=1),
    case("1d", (2, 2, 5), (3, 2, 3), padding=1),
    case("3d", (1, 2, 3, 2, 3), (2, 2, 2, 2, 2), padding=((0, 1), (1, 1), (1, 0))),
    case("strided", (2, 2, 5, 4), (2, 2, 3, 2), stride=(2, 3), padding=((1, 2), (0, 1))),
    case("dilated", (1, 2, 5, 5), (2, 2, 2, 3), padding=1, dilation=2),
    case("grouped", (1, 4, 3, 3), (4, 2, 2, 2), stride=2, padding=1, groups=2),
    case("depthwise", (2, 2, 2, 3), (4, 1, 3, 3), padding=1, groups=2),
    case("1x1", (2, 3, 2, 2), (2, 3, 1, 1)),
    case("cropped", (1, 1, 5, 4), (2, 1, 2, 2), padding=((-1, 1), (0, -1))),
]


def doubles(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]


def window(case: ConvCase) -> tuple:
    return (case.stride, case.flat_padding, case.dilation, case.groups, "auto")
