"""U-Net: each pixel's class from what is around it, near and far. Source: Ronneberger et al., U-Net, 2015."""

from collections.abc import Sequence
from types import ModuleType

from torch import nn as torch_nn
from torch.nn import ReLU, Sequential

from train.networks.densenet import Union
from train.networks.resnet import conv_norm

MAPS = (16, 32, 64, 128)  # of the levels, each at half the size of the one before; the paper's: 64 to 1024 on five


def unet(
    nn: ModuleType, in_channels: int = 1, num_classes: int = 11, maps: Sequence[int] = MAPS, norm: bool = True
) -> Sequential:
    """[B, in_channels, H, W] to logits [B, num_classes, H, W]; H and W are multiples of 8.

    Unlike the paper's, its convolutions are padded, so that they keep the size; with ``norm`` batch norms follow them.
    """
    return Sequential(*_level(nn, in_channels, maps, norm), nn.Conv2d(maps[0], num_classes, 1))


def _level(nn: ModuleType, inputs: int, maps: Sequence[int], norm: bool) -> list[torch_nn.Module]:
    """Two convolutions; what the deeper levels make of them beside them; two convolutions of both."""
    first, *deeper = maps
    layers = _two(nn, inputs, first, norm)
    if deeper:
        expanded = nn.ConvTranspose2d(deeper[0], first, 2, stride=2)
        layers.append(Union(Sequential(nn.MaxPool2d(2), *_level(nn, first, deeper, norm), expanded)))
        layers += _two(nn, 2 * first, first, norm)
    return layers


def _two(nn: ModuleType, inputs: int, maps: int, norm: bool) -> list[torch_nn.Module]:
    layers: list[torch_nn.Module] = []
    for channels in (inputs, maps):
        convolution = conv_norm(nn, channels, maps, 3) if norm else [nn.Conv2d(channels, maps, 3, padding=1)]
        layers += [*convolution, ReLU()]
    return layers
