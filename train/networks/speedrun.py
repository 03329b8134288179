"""The small VGG-like network that is known to reach 94% on CIFAR-10 soonest.

Source: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn import GELU, BatchNorm2d, Flatten, Linear, Sequential

from train.errors import InputError

WIDTHS = (64, 256, 256)
WHITENED_IMAGES = 5000  # enough for the covariance of a few pixels


class Scale(torch_nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def shift_norm(maps: int) -> BatchNorm2d:
    """Batch norm whose weight stays one, and whose running statistics forget soon."""
    norm = BatchNorm2d(maps, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def speedrun(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """A 2x2 convolution that is meant to be whitened, three blocks of two 3x3 convolutions, one small dense layer."""
    maps = 2 * in_channels * 2**2
    layers: list[torch_nn.Module] = [nn.Conv2d(in_channels, maps, 2), GELU()]  # 31
    for width in WIDTHS:
        layers += [nn.Conv2d(maps, width, 3, padding=1, bias=False), nn.MaxPool2d(2), shift_norm(width), GELU()]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), shift_norm(width), GELU()]  # 15, 7, 3
        maps = width
    return Sequential(*layers, nn.MaxPool2d(3), Flatten(), Linear(maps, num_classes, bias=False), Scale(1 / 9))


def whiten(model: torch_nn.Module, images: Tensor, eps: float = 5e-4) -> torch_nn.Conv2d:
    """Makes the first convolution whiten patches of ``images`` [N, C, H, W] and fixes its weight; returns it.

    Its filters become the eigenvectors of the patches' covariance, each over the root of its eigenvalue, then their
    negatives. The mean is not taken away: the images are normalised.

    Raises:
        InputError: if it does not have twice as many filters as a patch has numbers.
    """
    layer = next(module for module in model.modules() if isinstance(module, torch_nn.Conv2d))
    filters, size = layer.weight.shape[0], layer.weight[0].numel()
    if filters != 2 * size:
        raise InputError(f"the first convolution has {filters} filters, but to whiten its patches takes {2 * size}")
    patches = torch.nn.functional.unfold(images[:WHITENED_IMAGES], layer.kernel_size).transpose(1, 2).reshape(-1, size)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (vectors / (values + eps).sqrt()).T.flip(0).view(size, *layer.weight.shape[1:])  # the strongest first
    with torch.no_grad():
        layer.weight.copy_(torch.cat([scaled, -scaled]))
    layer.weight.requires_grad_(False)
    return layer
