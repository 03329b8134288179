"""GoogLeNet, in full and for images of 32x32 pixels. Source: Szegedy et al., Going Deeper with Convolutions, 2014."""

from types import ModuleType

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Dropout, Flatten, Linear, ReLU, Sequential

# Maps of an inception module: of the 1x1 filters; of those before the 3x3 ones and of these; likewise for 5x5; of those
# after the pooling. None halves the picture.
MODULES = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None,
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


class Inception(torch_nn.Module):
    """Several branches that see the same maps, side by side; their maps are joined."""

    def __init__(self, branches: list[Sequential]) -> None:
        super().__init__()
        self.branches = torch_nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def convolution(
    nn: ModuleType, inputs: int, maps: int, side: int, stride: int = 1, norm: bool = False
) -> list[torch_nn.Module]:
    """A convolution that keeps the size but for its stride, and ReLU; batch norm between, if ``norm``."""
    conv = nn.Conv2d(inputs, maps, side, stride=stride, padding=side // 2, bias=not norm)
    return [conv, BatchNorm2d(maps), ReLU()] if norm else [conv, ReLU()]


def inceptions(nn: ModuleType, inputs: int, norm: bool) -> list[torch_nn.Module]:
    """The nine inception modules with their poolings; 1024 maps come out."""
    layers: list[torch_nn.Module] = []
    for maps in MODULES:
        if maps is None:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            continue
        ones, before3, threes, before5, fives, pooled = maps
        branches = [
            Sequential(*convolution(nn, inputs, ones, 1, 1, norm)),
            Sequential(*convolution(nn, inputs, before3, 1, 1, norm), *convolution(nn, before3, threes, 3, 1, norm)),
            Sequential(*convolution(nn, inputs, before5, 1, 1, norm), *convolution(nn, before5, fives, 5, 1, norm)),
            Sequential(nn.MaxPool2d(3, stride=1, padding=1), *convolution(nn, inputs, pooled, 1, 1, norm)),
        ]
        layers.append(Inception(branches))
        inputs = ones + threes + fives + pooled
    return layers


def googlenet(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """For images of 32x32 pixels: one 3x3 convolution of 192 maps first, batch norm, 8x8 maps at the end."""
    body = inceptions(nn, 192, norm=True)
    head = [nn.AdaptiveAvgPool2d(1), Flatten(), Linear(1024, num_classes)]
    return Sequential(*convolution(nn, in_channels, 192, 3, norm=True), *body, *head)


def googlenet_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """For images of 224x224 pixels, without the two classifiers that look on half way."""
    lrn = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    return Sequential(
        *convolution(nn, in_channels, 64, 7, 2), nn.MaxPool2d(3, 2, padding=1), lrn,  # 112, 56
        *convolution(nn, 64, 64, 1), *convolution(nn, 64, 192, 3), lrn, nn.MaxPool2d(3, 2, padding=1),  # 28
        *inceptions(nn, 192, norm=False),  # 14, 7
        nn.AdaptiveAvgPool2d(1), Flatten(), Dropout(0.4), Linear(1024, num_classes),
    )  # fmt: skip
