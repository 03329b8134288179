"""A small network for pictures of 64x64 pixels that is to say what is where: no average over places, few maps."""

from types import ModuleType

from torch import nn as torch_nn
from torch.nn import Flatten, Linear, ReLU, Sequential

from train.networks.resnet import conv_norm

MAPS = (16, 32, 64, 128)  # of the blocks of two convolutions; a pooling ends each


def detector(nn: ModuleType, in_channels: int = 1, num_classes: int = 18) -> Sequential:
    """Four blocks of 3x3 convolutions with batch norm, then 256 neurons that see all 4x4 places."""
    layers: list[torch_nn.Module] = []
    for maps in MAPS:  # 64, 32, 16, 8
        for inputs in (in_channels, maps):
            layers += [*conv_norm(nn, inputs, maps, 3), ReLU()]
        layers.append(nn.MaxPool2d(2))
        in_channels = maps
    return Sequential(*layers, Flatten(), Linear(16 * in_channels, 256), ReLU(), Linear(256, num_classes))
