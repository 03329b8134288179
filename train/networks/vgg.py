"""The VGG networks A to E for images of 32x32 pixels and, with ``full``, as published. Simonyan and Zisserman, 2014."""

from types import ModuleType

from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Dropout, Flatten, Linear, ReLU, Sequential

MAPS = (64, 128, 256, 512, 512)  # of the five blocks; a pooling ends each
CONFIGURATIONS = {  # convolutions a block
    "a": (1, 1, 2, 2, 2),
    "a_lrn": (1, 1, 2, 2, 2),  # normalised across maps after the first
    "b": (2, 2, 2, 2, 2),
    "c": (2, 2, 3, 3, 3),  # the third ones 1x1
    "d": (2, 2, 3, 3, 3),
    "e": (2, 2, 4, 4, 4),
}


def vgg(
    nn: ModuleType,
    in_channels: int = 3,
    num_classes: int = 10,
    configuration: str = "d",
    norm: bool = True,
    full: bool = False,
) -> Sequential:
    """One of ``CONFIGURATIONS``, with batch norm after each convolution if ``norm``; then they have no bias, which the
    batch norm would take away again.

    Five poolings leave 512 values of a 32x32 image, so the dense layers have 512 neurons, not 4096; with ``full``, for
    images of 224x224 pixels, they are the published ones.
    """
    layers: list[torch_nn.Module] = []
    for maps, convolutions in zip(MAPS, CONFIGURATIONS[configuration], strict=True):
        for index in range(convolutions):
            side = 1 if configuration == "c" and index == 2 else 3
            layers.append(nn.Conv2d(in_channels, maps, side, padding=side // 2, bias=full or not norm))
            layers += [BatchNorm2d(maps), ReLU()] if norm else [ReLU()]
            if configuration == "a_lrn" and maps == 64:
                layers.append(nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
            in_channels = maps
        layers.append(nn.MaxPool2d(2))
    if full:
        layers += [Flatten(), Linear(512 * 7 * 7, 4096), ReLU(), Dropout(0.5)]
        layers += [Linear(4096, 4096), ReLU(), Dropout(0.5), Linear(4096, num_classes)]
    else:
        layers += [Flatten(), Dropout(0.5), Linear(512, 512), ReLU()]
        layers += [Dropout(0.5), Linear(512, 512), ReLU(), Linear(512, num_classes)]
    return Sequential(*layers)
