"""MobileNet: depth-wise separable convolutions throughout. Source: Howard et al., MobileNets, 2017."""

from types import ModuleType

from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Flatten, Linear, ReLU, Sequential

LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))  # stride


def _layers(nn: ModuleType, in_channels: int, num_classes: int, first_stride: int) -> Sequential:
    maps = 32
    conv = nn.Conv2d(in_channels, maps, 3, stride=first_stride, padding=1, bias=False)
    layers: list[torch_nn.Module] = [conv, BatchNorm2d(maps), ReLU()]
    for outputs, stride in LAYERS:
        depthwise = nn.Conv2d(maps, maps, 3, stride=stride, padding=1, groups=maps, bias=False)
        pointwise = nn.Conv2d(maps, outputs, 1, bias=False)
        layers += [depthwise, BatchNorm2d(maps), ReLU(), pointwise, BatchNorm2d(outputs), ReLU()]
        maps = outputs
    return Sequential(*layers, nn.AdaptiveAvgPool2d(1), Flatten(), Linear(maps, num_classes))


def mobilenet(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """For images of 32x32 pixels: the first stride is left out."""
    return _layers(nn, in_channels, num_classes, first_stride=1)


def mobilenet_full(nn: ModuleType, in_channels: int = 3, num_classes: int = 1000) -> Sequential:
    """For images of 224x224 pixels."""
    return _layers(nn, in_channels, num_classes, first_stride=2)
