"""Layers that are run as one operator: a function for each pattern of plan.py, of the input and the layers.

In evaluation convolution and batch norm are a convolution (nn/_fold.py). Where no gradient is asked for, a layer keeps
its filters (nn/_prepared.py); else they are computed at each call, and gradients reach all parameters. In training the
convolution is by itself, and the batch norm does the ReLU.

Max pooling commutes with a ReLU, and does the one before it: on fewer elements, and what it pools need not be kept.

What a layer is told to do is read from the layer at the call: its parameters, its window, whether it is in training.
"""

from typing import Any

from torch import Tensor

from ..nn._fold import can_fold, folded
from ..nn._norm import normalise
from ..nn._prepared import convolve


def conv_relu(x: Tensor, conv: Any, relu: Any) -> Tensor:
    """A convolution and the ReLU after it, as one operator in both directions."""
    y = convolve(x, conv, None, True)
    return conv._convolve(x, conv.weight, conv.bias, "relu") if y is None else y


def conv_norm(x: Tensor, conv: Any, norm: Any, relu: Any = None) -> Tensor:
    """A convolution and a batch norm, and a ReLU if there is one."""
    y = None if norm.training else convolve(x, conv, norm, relu is not None)
    if y is not None:
        return y
    activation = None if relu is None else "relu"
    weight, bias = conv.weight, conv.bias  # once: a parametrization may count its uses
    if not norm.training and can_fold(x, conv, norm, weight):
        return conv._convolve(x, *folded(norm, weight, bias), activation)
    return normalise(conv._convolve(x, weight, bias, None), norm, activation)


def norm_relu(x: Tensor, norm: Any, relu: Any) -> Tensor:
    """A batch norm and the ReLU after it: one operator in training, two in evaluation."""
    return normalise(x, norm, "relu")


def relu_pool(x: Tensor, relu: Any, pool: Any) -> Tensor:
    """A ReLU and the max pooling after it: the maximum first, then the ReLU on fewer elements."""
    window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return pool._functional(x, *window, activation="relu")
