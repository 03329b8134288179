"""A network trained on patches, turned into the convolutional network that gives the same answers everywhere."""

import copy
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch

from . import nn
from .functional._arguments import Ints, per_axis

Layer: TypeAlias = torch.nn.Module

# Elementwise, and so the same on a map as on a vector.
_ELEMENTWISE = (
    torch.nn.Identity,
    torch.nn.ReLU,
    torch.nn.ReLU6,
    torch.nn.LeakyReLU,
    torch.nn.ELU,
    torch.nn.CELU,
    torch.nn.SELU,
    torch.nn.GELU,
    torch.nn.SiLU,
    torch.nn.Mish,
    torch.nn.Tanh,
    torch.nn.Tanhshrink,
    torch.nn.Sigmoid,
    torch.nn.LogSigmoid,
    torch.nn.Hardtanh,
    torch.nn.Hardsigmoid,
    torch.nn.Hardswish,
    torch.nn.Hardshrink,
    torch.nn.Softplus,
    torch.nn.Softshrink,
    torch.nn.Softsign,
    torch.nn.Threshold,
    torch.nn.Dropout,
    torch.nn.AlphaDropout,
)


def scan(mlp: torch.nn.Sequential, window: Sequence[int], stride: Ints = 1) -> torch.nn.Sequential:
    """The convolutional network that gives at every position of an input what `mlp` gives on the patch there.

    Its first linear layer, on the flattened patch, becomes a convolution with filters of the window's size, the others
    1×1 convolutions; activations stay. So ``scan(mlp, (C, H, W))(x)[n, :, i, j]`` is
    ``mlp(x[n:n+1, :, i:i+H, j:j+W])[0]`` at stride 1, up to rounding, at the cost of one pass over x.

    Weights are copied: what is learned later by either is not the other's.

    Args:
        mlp: a Sequential of Flatten (first, or left out where the patches came flattened), Linear, activations,
            dropout, BatchNorm1d, Softmax and LogSoftmax over the classes, and Sequentials of these.
        window: the size of the patches it was trained on: (C, L), (C, H, W) or (C, D, H, W).
        stride: one integer for each axis of the map, or one for all: from patch to patch.

    Returns:
        A Sequential of as many layers, with the same names, to be run on (N, C, *) with maps of at least the window's
        size. In training mode where `mlp` is.

    Raises:
        TypeError: not a Sequential, or a layer that is not one of those above.
        ValueError: a first linear layer that does not fit the window, or no linear layer at all.
    """
    if not isinstance(mlp, torch.nn.Sequential):
        raise TypeError(f"scan takes a torch.nn.Sequential, got {type(mlp).__name__}")
    window = tuple(window)
    dims = len(window) - 1
    if dims not in (1, 2, 3) or any(side < 1 for side in window):
        raise ValueError(f"scan: window must be (C, L), (C, H, W) or (C, D, H, W), got {window}")
    try:
        steps = tuple(per_axis(stride, dims, "stride", "scan", 1))
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    scanner = _Scanner(window, steps)
    result = scanner.sequence(mlp, "")
    if not scanner.started:
        raise ValueError("scan: the network has no linear layer")
    return result


class _Scanner:
    """Goes through the layers once, in order."""

    def __init__(self, window: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.window, self.stride, self.dims = window, stride, len(window) - 1
        self.started = False  # whether the first linear layer has been seen

    def sequence(self, layers: torch.nn.Sequential, prefix: str) -> torch.nn.Sequential:
        result = torch.nn.Sequential()
        for name, layer in layers.named_children():
            result.add_module(name, self.layer(layer, prefix + name))
        return result.train(layers.training)

    def layer(self, layer: Layer, name: str) -> Layer:
        if isinstance(layer, torch.nn.Sequential):
            return self.sequence(layer, f"{name}.")
        kind = type(layer)
        if kind is torch.nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1) and not self.started:
            return torch.nn.Identity()
        if kind is torch.nn.Linear:
            return self.linear(layer, name)  # type: ignore[arg-type]
        if kind in _ELEMENTWISE:
            return copy.deepcopy(layer)
        if kind is torch.nn.PReLU and (self.started or layer.num_parameters == 1):
            return copy.deepcopy(layer)
        if kind is torch.nn.BatchNorm1d and self.started:
            return self.batch_norm(layer)  # type: ignore[arg-type]
        if kind in (torch.nn.Softmax, torch.nn.LogSoftmax) and self.started and layer.dim in (1, -1):
            return kind(dim=1).train(layer.training)
        raise TypeError(
            f"scan: layer '{name}', {layer}, has no counterpart on maps"
            + ("" if self.started else " before the first linear layer")
        )

    def linear(self, layer: torch.nn.Linear, name: str) -> Layer:
        """The first one sees the window, the others what is at one position."""
        first = not self.started
        size = self.window if first else (layer.in_features, *(1,) * self.dims)
        if math.prod(size) != layer.in_features:
            raise ValueError(
                f"scan: layer '{name}' takes {layer.in_features} values, but window={self.window} has {math.prod(size)}"
            )
        conv: Layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.dims - 1](
            size[0],
            layer.out_features,
            size[1:],
            self.stride if first else 1,
            bias=layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        for mine, theirs in zip(
            conv.parameters(), layer.parameters(), strict=True
        ):  # weight, and bias where there is one
            mine.data.copy_(theirs.detach().reshape(mine.shape))
            mine.requires_grad_(theirs.requires_grad)
        self.started = True
        return conv.train(layer.training)

    def batch_norm(self, layer: torch.nn.BatchNorm1d) -> Layer:
        kind = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)[self.dims - 1]
        norm = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        reference = layer.weight if layer.affine else layer.running_mean
        if reference is not None:
            norm.to(reference.device, reference.dtype)
        norm.load_state_dict(layer.state_dict())
        return norm.train(layer.training)
