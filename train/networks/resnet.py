"""Residual networks: for images of 32x32 pixels (20 layers, and 18), and the published ones of 18 and 50 layers.

Source: He et al., Deep Residual Learning for Image Recognition, 2015.
"""

from types import ModuleType

from torch import Tensor
from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Flatten, Linear, ReLU, Sequential
from torch.nn import functional as F


class Residual(torch_nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, branch: torch_nn.Module, shortcut: torch_nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.branch(x) + self.shortcut(x))


class PadMaps(torch_nn.Module):
    """Every ``stride``-th pixel, and maps of zeros after those that there are: a shortcut without parameters."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"


def conv_norm(nn: ModuleType, inputs: int, maps: int, side: int, stride: int = 1) -> list[torch_nn.Module]:
    """A convolution that keeps the size but for its stride, and batch norm."""
    return [nn.Conv2d(inputs, maps, side, stride=stride, padding=side // 2, bias=False), BatchNorm2d(maps)]


def block(nn: ModuleType, inputs: int, maps: int, stride: int, bottleneck: bool, projected: bool) -> Residual:
    """Two 3x3 convolutions, or a bottleneck: 1x1, 3x3 and 1x1 to four times the maps.

    Where size or number of maps change, the shortcut is a 1x1 convolution if ``projected``, else zeros for new maps.
    """
    outputs = 4 * maps if bottleneck else maps
    if bottleneck:
        branch = [*conv_norm(nn, inputs, maps, 1), ReLU(), *conv_norm(nn, maps, maps, 3, stride), ReLU()]
        branch += conv_norm(nn, maps, outputs, 1)
    else:
        branch = [*conv_norm(nn, inputs, maps, 3, stride), ReLU(), *conv_norm(nn, maps, maps, 3)]
    shortcut: torch_nn.Module = torch_nn.Identity()
    if stride > 1 or inputs != outputs:
        if projected:
            shortcut = Sequential(*conv_norm(nn, inputs, outputs, 1, stride))
        else:
            shortcut = PadMaps(outputs - inputs, stride)
    return Residual(Sequential(*branch), shortcut)


def stages(
    nn: ModuleType,
    inputs: int,
    maps: tuple[int, ...],
    blocks: tuple[int, ...],
    bottleneck: bool,
    projected: bool = True,
) -> list[torch_nn.Module]:
    """Stages of blocks, each but the first at half the size of the one before; then the mean of each map."""
    layers: list[torch_nn.Module] = []
    for stage, (width, number) in enumerate(zip(maps, blocks, strict=True)):
        for index in range(number):
            stride = 2 if stage and not index else 1
            layers.append(block(nn, inputs, width, stride, bottleneck, projected))
            inputs = 4 * width if bottleneck else width
    return [*layers, nn.AdaptiveAvgPool2d(1), Flatten()]


def resnet20(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """The paper's CIFAR network of 20 layers: 16, 32 and 64 maps, three blocks each, shortcuts without parameters."""
    first = [*conv_norm(nn, in_channels, 16, 3), ReLU()]
    body = stages(nn, 16, (16, 32, 64), (3, 3, 3), bottleneck=False, projected=False)
    return Sequential(*first, *body, Linear(64, num_classes))


def resnet18(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """ResNet-18 for images of 32x32 pixels: a 3x3 first convolution at stride 1 and no pooling."""
    first = [*conv_norm(nn, in_channels, 64, 3), ReLU()]
    return Sequential(*first, *stages(nn, 64, (64, 128, 256, 512), (2, 2, 2, 2), False), Linear(512, num_classes))


def resnet18_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """ResNet-18 for images of 224x224 pixels."""
    body = stages(nn, 64, (64, 128, 256, 512), (2, 2, 2, 2), bottleneck=False)
    return Sequential(*_first(nn, in_channels), *body, Linear(512, num_classes))


def resnet50_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """ResNet-50 for images of 224x224 pixels, the stride of a bottleneck in its 3x3 convolution."""
    body = stages(nn, 64, (64, 128, 256, 512), (3, 4, 6, 3), bottleneck=True)
    return Sequential(*_first(nn, in_channels), *body, Linear(2048, num_classes))


def _first(nn: ModuleType, in_channels: int) -> list[torch_nn.Module]:
    return [*conv_norm(nn, in_channels, 64, 7, 2), ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]  # 112, 56
