"""Fake kernels, as in ops.py, of the operators on transformed filters."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .ops import _empty, activation_format, check_alike, convolution_output_size, register_fake


@register_fake("torchconv::transform_filters")
def _(weight: Tensor, pointers: Tensor, columns: Tensor, values: Tensor, kernel_size: Sequence[int]) -> Tensor:
    transforms = (pointers.shape[0] - 1) // math.prod(kernel_size)
    return weight.new_empty([weight.shape[0] * transforms, weight.shape[1], *kernel_size])


@register_fake("torchconv::transform_filters_transpose")
def _(grad: Tensor, pointers: Tensor, columns: Tensor, values: Tensor, kernel_size: Sequence[int]) -> Tensor:
    transforms = (pointers.shape[0] - 1) // math.prod(grad.shape[2:])
    return grad.new_empty([grad.shape[0] // transforms, grad.shape[1], *kernel_size])


@register_fake("torchconv::transform_values_grad")
def _(grad: Tensor, weight: Tensor, pointers: Tensor, columns: Tensor) -> Tensor:
    return grad.new_empty(columns.shape)


def _reduced(
    input: Tensor, weight: Tensor, filters: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """[N, filters, *]: what a convolution gives with its maps reduced."""
    size = convolution_output_size(input.shape, weight.shape, stride, padding, dilation)
    return _empty([size[0], filters, *size[2:]], input, activation_format(input, weight))


@register_fake("torchconv::convolution_max")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transforms: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> tuple[Tensor, Tensor]:
    check_alike("convolution_max", input=input, weight=weight, bias=bias)
    values = _reduced(input, weight, weight.shape[0] // transforms, stride, padding, dilation)
    return values, torch.empty_like(values, dtype=torch.uint8)


@register_fake("torchconv::convolution_norm")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transforms: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    check_alike("convolution_norm", input=input, weight=weight, bias=bias)
    return _reduced(input, weight, weight.shape[0] // transforms, stride, padding, dilation)


@register_fake("torchconv::convolution_select")
def _(
    input: Tensor,
    weight: Tensor,
    winners: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    check_alike("convolution_select", input=input, weight=weight)
    return _reduced(input, weight, winners.shape[1], stride, padding, dilation)


@register_fake("torchconv::convolution_select_input_grad")
def _(
    grad: Tensor,
    winners: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    check_alike("convolution_select_input_grad", grad=grad, weight=weight)
    return _empty(input_size, grad, activation_format(grad, weight))


@register_fake("torchconv::convolution_select_weight_grad")
def _(
    grad: Tensor,
    winners: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    check_alike("convolution_select_weight_grad", grad=grad, input=input)
    return grad.new_empty(weight_size)


@register_fake("torchconv::convolution_norm_grad")
def _(
    grad: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    to_input: bool,
    to_weight: bool,
    to_bias: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_alike("convolution_norm_grad", input=input, grad=grad, output=output, weight=weight, bias=bias)
    of_input = _empty(input.shape, input, activation_format(input, weight)) if to_input else input.new_empty(0)
    of_weight = input.new_empty(weight.shape) if to_weight else input.new_empty(0)
    return of_input, of_weight, input.new_empty(output.shape[1] if to_bias else 0)
