"""DenseNet: each layer sees the maps of all layers before it in its block. Source: Huang et al., 2016."""

from types import ModuleType

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Flatten, Linear, ReLU, Sequential


class Union(torch_nn.Module):
    """x and, after its maps, those that ``layer`` makes of them."""

    def __init__(self, layer: torch_nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layer(x)], 1)


def norm_conv(nn: ModuleType, inputs: int, maps: int, side: int) -> list[torch_nn.Module]:
    """Batch norm, ReLU, and a convolution that keeps the size."""
    return [BatchNorm2d(inputs), ReLU(), nn.Conv2d(inputs, maps, side, padding=side // 2, bias=False)]


def densenet40(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """The paper's smallest, for images of 32x32 pixels: three blocks of 12 layers, each of which adds 12 maps."""
    layers: list[torch_nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)]
    maps = 16
    for blocks in range(3):
        for _ in range(12):
            layers.append(Union(Sequential(*norm_conv(nn, maps, 12, 3))))
            maps += 12
        if blocks < 2:
            layers += [*norm_conv(nn, maps, maps, 1), nn.AvgPool2d(2)]
    return Sequential(*layers, *_head(nn, maps, num_classes))


def densenet121_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """For images of 224x224 pixels: four blocks of 6 to 24 layers of 1x1 and 3x3 filters, 32 maps more each."""
    maps, growth = 64, 32
    layers: list[torch_nn.Module] = [nn.Conv2d(in_channels, maps, 7, stride=2, padding=3, bias=False)]
    layers += [BatchNorm2d(maps), ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    for block, number in enumerate((6, 12, 24, 16)):
        if block:
            layers += [*norm_conv(nn, maps, maps // 2, 1), nn.AvgPool2d(2)]
            maps //= 2
        for _ in range(number):
            narrow = norm_conv(nn, maps, 4 * growth, 1)
            layers.append(Union(Sequential(*narrow, *norm_conv(nn, 4 * growth, growth, 3))))
            maps += growth
    return Sequential(*layers, *_head(nn, maps, num_classes))


def _head(nn: ModuleType, maps: int, num_classes: int) -> list[torch_nn.Module]:
    return [BatchNorm2d(maps), ReLU(), nn.AdaptiveAvgPool2d(1), Flatten(), Linear(maps, num_classes)]
