"""Three small networks for rotated digits, of nearly the same number of parameters: with plain filters (z2cnn), with
transform-invariant ones (ticnn) and equivariant to quarter turns (p4cnn).

Seven convolutions, 3x3 but for the last of 4x4, batch norm and ReLU after all but the last, one max pooling, no dense
layer; the plain one and p4's are those of Cohen and Welling, Group equivariant convolutional networks, 2016, section
8.1, with 21 and 22 maps where theirs has 20, so that the numbers of parameters are within 1%. Images of 32x32 pixels
lose their margin of 2 first.
"""

from types import ModuleType
from typing import Any

from torch import Tensor
from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Dropout2d, Flatten, ReLU, Sequential

PLAIN = (21, 21, 21, 22, 22, 22)  # maps of the first six layers
P4 = (10,) * 6  # channels of four maps each
DROPOUT = 0.1


class Crop(torch_nn.Module):
    """Takes `margin` pixels off each side of [B, C, H, W]."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, images: Tensor) -> Tensor:
        side = slice(self.margin, -self.margin)
        return images[..., side, side]

    def extra_repr(self) -> str:
        return str(self.margin)


def _network(nn: ModuleType, conv: Any, norm: Any, maps: tuple[int, ...], in_channels: int, num_classes: int) -> Any:
    """Crop, convolutions 28 -> 26 -> 24, pooling -> 12, convolutions -> 10 -> 8 -> 6 -> 4 -> 1."""
    layers: list[torch_nn.Module] = [Crop(2)]
    for index, (inputs, outputs) in enumerate(zip((in_channels, *maps), maps, strict=False)):
        layers += [conv(inputs, outputs, 3, index == 0), norm(outputs), ReLU()]
        if index == 1:
            layers.append(nn.MaxPool2d(2))
        if index > 1:
            layers.append(Dropout2d(DROPOUT))
    return Sequential(*layers, conv(maps[-1], num_classes, 4, False))


def z2cnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """With plain filters."""
    conv = lambda inputs, outputs, side, first: nn.Conv2d(inputs, outputs, side, bias=side > 3)  # noqa: E731
    return Sequential(*_network(nn, conv, BatchNorm2d, PLAIN, in_channels, num_classes), Flatten())


def ticnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """Each filter tried under eight rotations, the largest response kept."""
    from torchconv.transforms import rotations

    def conv(inputs: int, outputs: int, side: int, first: bool) -> torch_nn.Module:
        return nn.TransformInvariantConv2d(inputs, outputs, side, rotations(8), bias=side > 3, reduce="max")

    return Sequential(*_network(nn, conv, BatchNorm2d, PLAIN, in_channels, num_classes), Flatten())


def p4cnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """Equivariant to quarter turns in every layer, and invariant at the end."""

    def conv(inputs: int, outputs: int, side: int, first: bool) -> torch_nn.Module:
        return nn.GroupConv2d(inputs, outputs, side, "p4", bias=side > 3, lifting=first)

    layers = _network(nn, conv, nn.GroupBatchNorm2d, P4, in_channels, num_classes)
    return Sequential(*layers, nn.GroupPool2d("p4"), Flatten())
