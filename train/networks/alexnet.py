"""AlexNet for images of 32x32 pixels and as published, and ZFNet, which is AlexNet with a finer first layer.

Sources: Krizhevsky et al., 2012; Zeiler and Fergus, 2013.
"""

from types import ModuleType

from torch import nn as torch_nn
from torch.nn import Dropout, Flatten, Linear, ReLU, Sequential


def alexnet(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """AlexNet's five convolutions with 5x5 first filters at stride 1.

    The dense layers have 1024 neurons, not 4096: they see 2,304 values here, not 9,216.
    """
    return Sequential(
        nn.Conv2d(in_channels, 96, 5, padding=2), ReLU(), nn.MaxPool2d(3, stride=2),  # 32, 15
        nn.Conv2d(96, 256, 5, padding=2), ReLU(), nn.MaxPool2d(3, stride=2),  # 15, 7
        nn.Conv2d(256, 384, 3, padding=1), ReLU(),
        nn.Conv2d(384, 384, 3, padding=1), ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), ReLU(), nn.MaxPool2d(3, stride=2),  # 7, 3
        *dense(2304, 1024, num_classes),
    )  # fmt: skip


def alexnet_full(
    nn: ModuleType, in_channels: int = 3, num_classes: int = 1000, groups: int = 2, norm: bool = True
) -> Sequential:
    """AlexNet for images of 227x227 pixels; ``groups`` of maps that do not see each other, and ``norm`` across maps."""
    lrn = [nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)] if norm else []
    return Sequential(
        nn.Conv2d(in_channels, 96, 11, stride=4), ReLU(), *lrn, nn.MaxPool2d(3, stride=2),  # 55, 27
        nn.Conv2d(96, 256, 5, padding=2, groups=groups), ReLU(), *lrn, nn.MaxPool2d(3, stride=2),  # 27, 13
        *_last_convolutions(nn, groups),
        *dense(9216, 4096, num_classes),
    )  # fmt: skip


def zfnet_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """ZFNet for images of 224x224 pixels: 7x7 first filters at stride 2, 5x5 second ones at stride 2, no groups."""
    lrn = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    return Sequential(
        nn.Conv2d(in_channels, 96, 7, stride=2, padding=1), ReLU(), nn.MaxPool2d(3, 2, padding=1), lrn,  # 110, 55
        nn.Conv2d(96, 256, 5, stride=2), ReLU(), nn.MaxPool2d(3, 2, padding=1), lrn,  # 26, 13
        *_last_convolutions(nn, 1),
        *dense(9216, 4096, num_classes),
    )  # fmt: skip


def zfnet(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """ZFNet for images of 32x32 pixels: as `alexnet`, with 3x3 first filters and 512, 1024 and 512 last maps.

    The wider last layers are those of the paper's best network.
    """
    return Sequential(
        nn.Conv2d(in_channels, 96, 3, padding=1), ReLU(), nn.MaxPool2d(3, stride=2),  # 32, 15
        nn.Conv2d(96, 256, 5, padding=2), ReLU(), nn.MaxPool2d(3, stride=2),  # 15, 7
        nn.Conv2d(256, 512, 3, padding=1), ReLU(),
        nn.Conv2d(512, 1024, 3, padding=1), ReLU(),
        nn.Conv2d(1024, 512, 3, padding=1), ReLU(), nn.MaxPool2d(3, stride=2),  # 7, 3
        *dense(4608, 1024, num_classes),
    )  # fmt: skip


def _last_convolutions(nn: ModuleType, groups: int) -> list[torch_nn.Module]:
    """Three at 13x13 and the pooling to 6x6."""
    return [
        nn.Conv2d(256, 384, 3, padding=1), ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=groups), ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=groups), ReLU(), nn.MaxPool2d(3, stride=2),
    ]  # fmt: skip


def dense(inputs: int, neurons: int, num_classes: int) -> list[torch_nn.Module]:
    """Two dense layers with dropout before each, and that of the classes."""
    layers: list[torch_nn.Module] = [Flatten()]
    for size in (inputs, neurons):
        layers += [Dropout(0.5), Linear(size, neurons), ReLU()]
    return [*layers, Linear(neurons, num_classes)]
