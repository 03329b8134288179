"""How many floating-point operations each operator does, for torch.utils.flop_counter: two a multiplication.

As in PyTorch's own formulas, taps that meet padding count, additions of a bias do not, and pooling and norms are left
out. An algorithm that saves multiplications (Winograd's, FFT) counts as the sum that it computes.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from torch.utils.flop_counter import register_flop_formula

# What a formula is given: an operator's arguments, with shapes in the place of tensors.
Shape: TypeAlias = Sequence[int]
_ops = torch.ops.torchconv


def _counts(*names: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return register_flop_formula([getattr(_ops, name) for name in names])


@_counts("convolution", "convolution_relu", "convolution_select")
def _forward(input: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


@_counts("convolution_input_grad")
def _input_grad(grad: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(grad) * prod(weight[1:])


@_counts("convolution_weight_grad")
def _weight_grad(grad: Shape, input: Shape, weight_size: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(grad) * prod(weight_size[1:])


@_counts("convolution_max")
def _maximum(input: Shape, weight: Shape, bias: Any, transforms: int, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * prod(out_shape[0]) * transforms * prod(weight[1:])


@_counts("convolution_norm")
def _norm(input: Shape, weight: Shape, bias: Any, transforms: int, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape) * transforms * prod(weight[1:])


@_counts("convolution_norm_grad")
def _norm_grad(
    grad: Shape,
    output: Shape,
    input: Shape,
    weight: Shape,
    bias: Any,
    to_input: bool,
    to_weight: bool,
    *_: Any,
    **__: Any,
) -> int:
    maps = grad[0] * weight[0] * prod(grad[2:])  # which are computed again
    return 2 * maps * prod(weight[1:]) * (1 + to_input + to_weight)


@_counts("convolution_select_input_grad")
def _select_input_grad(grad: Shape, winners: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(grad) * prod(weight[1:])


@_counts("convolution_select_weight_grad")
def _select_weight_grad(grad: Shape, winners: Shape, input: Shape, weight_size: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(grad) * prod(weight_size[1:])


@_counts("local_convolution", "local_convolution_input_grad")
def _local(maps: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * maps[0] * prod(weight)  # every weight once a sample


@_counts("local_convolution_weight_grad")
def _local_weight_grad(grad: Shape, input: Shape, weight_size: Shape, *_: Any, **__: Any) -> int:
    return 2 * grad[0] * prod(weight_size)


@_counts("transform_filters")
def _transform(weight: Shape, pointers: Shape, columns: Shape, *_: Any, **__: Any) -> int:
    return 2 * weight[0] * weight[1] * columns[0]  # every entry of the sparse map once a plane


@_counts("transform_filters_transpose")
def _transform_transpose(
    grad: Shape, pointers: Shape, columns: Shape, values: Any, kernel: Any, *_: Any, out_shape: Shape, **__: Any
) -> int:
    return 2 * out_shape[0] * out_shape[1] * columns[0]


@_counts("transform_values_grad")
def _transform_values_grad(grad: Shape, weight: Shape, pointers: Shape, columns: Shape, *_: Any, **__: Any) -> int:
    return 2 * weight[0] * weight[1] * columns[0]
