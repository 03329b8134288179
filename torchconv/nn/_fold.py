"""A batch norm in evaluation folded into the convolution before it.

It is affine then, so convolution and batch norm are a convolution, whose weight and bias are

    w' = w · s,   b' = β + (b − μ) · s,   s = γ / √(σ² + ε)

of each output map.
"""

import math
from typing import Any

from torch import Tensor
from torch.nn import Parameter

# Scaling a weight pays against the passes over the output that it saves unless the weight is large and the map small.
# By the size of a sample, since a result may not depend on the batch. Measured on VGG-16 and MobileNet: at this ratio a
# sample alone loses nothing and a batch of 64 gains; scaling every weight costs a sample alone 16% of VGG-16.
WEIGHTS_PER_OUTPUT = 16


def can_fold(x: Tensor, conv: Any, norm: Any, weight: Tensor, always: bool = False) -> bool:
    """Whether the norm after a convolution of `x` can be folded into it and, unless `always`, pays at every call."""
    n = len(conv.kernel_size)
    positions = math.prod(x.shape[-n:]) // math.prod(conv.stride)
    return (
        norm.running_mean is not None
        and norm.running_var is not None
        and all(v is None or v.shape == weight.shape[:1] for v in _vectors(norm))  # or the norm says what is wrong
        and x.dim() == n + 2  # without a batch, batch norm refuses it, or in one dimension takes it for one
        and (always or weight[0].numel() <= WEIGHTS_PER_OUTPUT * positions)
        and type(weight) in (Tensor, Parameter)  # others may take no product
    )


def _vectors(norm: Any) -> tuple[Tensor | None, ...]:
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def folded(norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight and bias of the convolution with `weight` and `bias` and the batch norm after it."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return (weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype), shift.to(weight.dtype)
