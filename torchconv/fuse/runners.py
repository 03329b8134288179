"""Layers that are run as one operator: a function for each pattern of plan.py, of the input and the layers.

In evaluation a batch norm is affine, so convolution and batch norm are a convolution, whose weight and bias are

    w' = w · s,   b' = β + (b − μ) · s,   s = γ / √(σ² + ε)

of each output map. They are computed at each call, from the parameters and statistics as they are then: no copy can go
stale, and gradients reach w, b, γ and β. In training the convolution is by itself, and the batch norm does the ReLU.

Max pooling commutes with a ReLU, and does the one before it: on fewer elements, and what it pools need not be kept.

What a layer is told to do is read from the layer at the call: its parameters, its window, whether it is in training.
"""

import math
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from ..nn._norm import normalise

# Scaling a weight pays against the passes over the output that it saves unless the weight is large and the map small.
# By the size of a sample, since a result may not depend on the batch. Measured on VGG-16 and MobileNet: at this ratio a
# sample alone loses nothing and a batch of 64 gains; scaling every weight costs a sample alone 16% of VGG-16.
WEIGHTS_PER_OUTPUT = 16


def conv_relu(x: Tensor, conv: Any, relu: Any) -> Tensor:
    """A convolution and the ReLU after it, as one operator in both directions."""
    return conv._convolve(x, conv.weight, conv.bias, "relu")


def conv_norm(x: Tensor, conv: Any, norm: Any, relu: Any = None) -> Tensor:
    """A convolution and a batch norm, and a ReLU if there is one."""
    activation = None if relu is None else "relu"
    weight, bias = conv.weight, conv.bias  # once: a parametrization may count its uses
    if not norm.training and _can_fold(x, conv, norm, weight):
        return conv._convolve(x, *_folded(norm, weight, bias), activation)
    return normalise(conv._convolve(x, weight, bias, None), norm, activation)


def _can_fold(x: Tensor, conv: Any, norm: Any, weight: Tensor) -> bool:
    n = len(conv.kernel_size)
    positions = math.prod(x.shape[-n:]) // math.prod(conv.stride)
    return (
        norm.running_mean is not None
        and norm.running_var is not None
        and all(v is None or v.shape == weight.shape[:1] for v in _vectors(norm))  # or the norm says what is wrong
        and x.dim() == n + 2  # without a batch, batch norm refuses it, or in one dimension takes it for one
        and weight[0].numel() <= WEIGHTS_PER_OUTPUT * positions
        and type(weight) in (Tensor, Parameter)  # others may take no product
    )


def _vectors(norm: Any) -> tuple[Tensor | None, ...]:
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def norm_relu(x: Tensor, norm: Any, relu: Any) -> Tensor:
    """A batch norm and the ReLU after it: one operator in training, two in evaluation."""
    return normalise(x, norm, "relu")


def relu_pool(x: Tensor, relu: Any, pool: Any) -> Tensor:
    """A ReLU and the max pooling after it: the maximum first, then the ReLU on fewer elements."""
    window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return pool._functional(x, *window, activation="relu")


def _folded(norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight and bias of the convolution with `weight` and `bias` and the batch norm after it."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype), shift.to(weight.dtype)
