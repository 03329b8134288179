"""VGG-16 for images of 32x32 pixels."""

from types import ModuleType

from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Dropout, Flatten, Linear, ReLU, Sequential

VGG_D = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]  # maps, and convolutions before the pooling that halves


def vgg16(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """VGG configuration D with batch norm: 13 convolutions, 3 dense layers. Source: Simonyan and Zisserman, 2014.

    Five poolings leave 512 values, so the dense layers have 512 neurons. The convolutions have no bias: the batch norm
    after each would take it away again.
    """
    layers: list[torch_nn.Module] = []
    for maps, convolutions in VGG_D:
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, maps, 3, padding=1, bias=False), BatchNorm2d(maps), ReLU()]
            in_channels = maps
        layers.append(nn.MaxPool2d(2))
    layers += [Flatten(), Dropout(0.5), Linear(512, 512), ReLU()]
    layers += [Dropout(0.5), Linear(512, 512), ReLU(), Linear(512, num_classes)]
    return Sequential(*layers)
