"""The neocognitron: modules of S-planes, which learn, and C-planes, which are fixed.

An S-cell answers to its plane's pattern at one position, a C-cell where an S-cell near it does: what is seen may shift
a little in each module. Source: Fukushima, Neocognitron: A Self-organizing Neural Network Model for a Mechanism of
Pattern Recognition Unaffected by Shift in Position, 1980.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Flatten, Linear, ReLU, Sequential


class SPlanes(torch.nn.Module):
    """S-planes: how like its plane's filter what a cell sees is, beyond a threshold.

    .. math::
        S_k = \\max(0, s_k - θ) / (1 - θ), \\quad s_k = (w_k * x) / (|w_k| \\sqrt{1 * x^2 + ε})

    where * is correlation over all maps and 1 a filter of ones, so that s is the cosine of the angle between filter and
    patch: S is at most 1, does not change with the strength of either, and is 0 where nothing is seen (ε = 1e-6).

    Fukushima's is S = r max(0, (1 + a * x) / (1 + h r / (1 + r)) - 1) with excitatory weights a and the inhibition h.
    For strong inputs, h being |a| |x|, that is the S above with w = a and θ = r / (1 + r).

    Args:
        nn: The namespace that convolution and pooling come from.
        in_planes: Maps of the input.
        planes: Maps of the output, each with a filter of its own.
        side: Of the filters, in pixels.
        threshold: θ, from 0 to less than 1.

    Shape:
        - Input: (N, in_planes, H, W)
        - Output: (N, planes, H - side + 1, W - side + 1)
    """

    def __init__(self, nn: ModuleType, in_planes: int, planes: int, side: int, threshold: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_planes, planes, side, bias=False)
        self.sum = nn.AvgPool2d(side, 1, divisor_override=1)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        strength = self.sum(x.square().sum(1, keepdim=True)).add(1e-6).sqrt()
        length = self.conv.weight.flatten(1).norm(dim=1)[:, None, None]
        cosine = self.conv(x) / strength / length
        return (cosine - self.threshold).relu() / (1 - self.threshold)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


def neocognitron(nn: ModuleType, in_channels: int = 1, num_classes: int = 10, threshold: float = 0.7) -> Sequential:
    """Three modules of 24, 64 and 256 planes on what is brighter than the mean, then the decision layer.

    The last C-planes are a cell each: the largest S anywhere. Hebb's rule (``train.hebbian``) makes filters of patches,
    which patches are like beyond a high ``threshold``. Random filters are like nothing, and learn by backpropagation
    from a threshold of 0, where S is a ReLU.
    """
    return Sequential(
        ReLU(),
        SPlanes(nn, in_channels, 24, 5, threshold), nn.MaxPool2d(2),  # 28, 14
        SPlanes(nn, 24, 64, 5, threshold), nn.MaxPool2d(2),  # 10, 5
        SPlanes(nn, 64, 256, 3, threshold), nn.AdaptiveMaxPool2d(1),  # 3, 1
        Flatten(), Linear(256, num_classes),
    )  # fmt: skip
