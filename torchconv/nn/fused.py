"""Layers that `torchconv.convert(model, fuse=True)` makes of neighbours: one that does what follows or precedes it, and
those that it does. They are made by giving a model's layers these classes, and not otherwise.

In evaluation a batch norm is affine, so convolution and batch norm are a convolution, whose weight and bias are

    w' = w · s,   b' = β + (b − μ) · s,   s = γ / √(σ² + ε)

of each output map. They are computed at each call, from the parameters and statistics as they are then: no copy can go
stale, and gradients reach w, b, γ and β. In training the convolution is by itself, and the batch norm does the ReLU.

Max pooling commutes with a ReLU, and does the one before it: on fewer elements, and what it pools need not be kept.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .. import functional
from .conv import Conv1d, Conv2d, Conv3d
from .pool import MaxPool1d, MaxPool2d, MaxPool3d

# Scaling a weight pays against the passes over the output that it saves unless the weight is large and the map small.
# By the size of a sample, since a result may not depend on the batch. Measured on VGG-16 and MobileNet: at this ratio a
# sample alone loses nothing and a batch of 64 gains; scaling every weight costs a sample alone 16% of VGG-16.
WEIGHTS_PER_OUTPUT = 16


class FusedReLU(torch.nn.ReLU):
    """A ReLU that the convolution or the batch norm before it does, or the max pooling after it."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class ReLUMaxPool1d(MaxPool1d):
    """Max pooling that does the ReLU before it."""

    _activation = "relu"


class ReLUMaxPool2d(MaxPool2d):
    """Max pooling that does the ReLU before it."""

    _activation = "relu"


class ReLUMaxPool3d(MaxPool3d):
    """Max pooling that does the ReLU before it."""

    _activation = "relu"


class _FusedNorm:
    """A batch norm that does a ReLU after it with `_last`, and that the convolution before it does in evaluation."""

    _last: str | None = None

    def forward(self: Any, input: Tensor) -> Tensor:
        return self.normalise(input) if self.training else input

    @property
    def affine_in_evaluation(self: Any) -> bool:
        return self.running_mean is not None and self.running_var is not None

    def normalise(self: Any, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        update, momentum = self.training and self.track_running_stats, self.momentum
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        used = update or not self.training
        return functional.batch_norm(
            input,
            self.running_mean if used else None,
            self.running_var if used else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum or 0.0,
            self.eps,
            activation=self._last,
        )

    def folded(self: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weight and bias of the convolution with `weight` and `bias` and this."""
        scale = (self.running_var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale if bias is None else (bias - self.running_mean) * scale
        if self.bias is not None:
            shift = shift + self.bias
        return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype), shift.to(weight.dtype)


class FusedBatchNorm1d(_FusedNorm, torch.nn.BatchNorm1d):
    """A batch norm that does the ReLU after it, or that the convolution before it does in evaluation."""


class FusedBatchNorm2d(_FusedNorm, torch.nn.BatchNorm2d):
    """A batch norm that does the ReLU after it, or that the convolution before it does in evaluation."""


class FusedBatchNorm3d(_FusedNorm, torch.nn.BatchNorm3d):
    """A batch norm that does the ReLU after it, or that the convolution before it does in evaluation."""


class _ConvBatchNorm:
    """A convolution that in evaluation does the batch norm `_norm` too, and a ReLU after it with `_last`."""

    _norm: Any  # in the instance's __dict__ and not among its modules: it has its own place in the model
    _last: str | None = None

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        norm, n = self._norm, len(self.kernel_size)
        if norm.training:
            return self._convolve(input, weight, bias, None)
        positions = math.prod(input.shape[-n:]) // math.prod(self.stride)
        if input.dim() == n + 2 and weight[0].numel() <= WEIGHTS_PER_OUTPUT * positions and norm.affine_in_evaluation:
            return self._convolve(input, *norm.folded(weight, bias), self._last)
        return norm.normalise(self._convolve(input, weight, bias, None))


class ConvBatchNorm1d(_ConvBatchNorm, Conv1d):
    """A convolution that in evaluation does the batch norm after it."""


class ConvBatchNorm2d(_ConvBatchNorm, Conv2d):
    """A convolution that in evaluation does the batch norm after it."""


class ConvBatchNorm3d(_ConvBatchNorm, Conv3d):
    """A convolution that in evaluation does the batch norm after it."""


class ConvBatchNormReLU1d(ConvBatchNorm1d):
    """A convolution that in evaluation does the batch norm and the ReLU after it."""

    _last = "relu"


class ConvBatchNormReLU2d(ConvBatchNorm2d):
    """A convolution that in evaluation does the batch norm and the ReLU after it."""

    _last = "relu"


class ConvBatchNormReLU3d(ConvBatchNorm3d):
    """A convolution that in evaluation does the batch norm and the ReLU after it."""

    _last = "relu"
