"""A convolution with transformed filters, all maps, as one autograd Function.

It is `transform_filters` and `convolution` one after the other, and in all modes but one that is how it runs. Where
reverse derivatives alone are asked for, as in training, one Function does both, their gradients and the bias's: a
Function costs tens of microseconds in Python, which layers of a millisecond feel.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from ._common import asked
from ._strides import laid_out
from .conv import convolution, convolution_bias_grad, convolution_input_grad, convolution_weight_grad
from .transform import transform_filters, transform_filters_transpose, transform_values_grad


def transform_convolution(
    input: Tensor,
    weight: Tensor,
    values: Tensor,
    pointers: Tensor,
    columns: Tensor,
    bias: Tensor | None,
    kernel: Sequence[int],
    support: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    """conv(input, M(values) weight) + bias, bias [D]. The map goes from filters of size `kernel` to `support`, whose
    leading axes, beyond the input's spatial ones, are part of the weight's channels [D, C, *]."""
    operands, window = (input, weight, values, pointers, columns, bias), (stride, padding, dilation, groups, algorithm)
    if _reverse_alone(operands):
        return TransformConvolution.apply(*operands, kernel, support, window)
    copies = _copies(*operands[1:5], kernel, support, input.dim() - 2)
    every = bias if bias is None else bias.repeat_interleave(copies.shape[0] // weight.shape[0])
    return convolution(input, copies, every, *window)


def _reverse_alone(operands: Sequence[Tensor | None]) -> bool:
    return (
        torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in operands)
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
    )


def _copies(
    weight: Tensor,
    values: Tensor,
    pointers: Tensor,
    columns: Tensor,
    kernel: Sequence[int],
    support: Sequence[int],
    dims: int,
) -> Tensor:
    """The plain convolution's weight [D·T, C/groups, *]."""
    if len(kernel) == dims:
        return transform_filters(weight, pointers, columns, values, support)
    filters = weight.reshape(weight.shape[0], weight.shape[1] // math.prod(kernel[:-dims]), *kernel)
    copies = transform_filters(filters, pointers, columns, values, support)
    return copies.reshape(copies.shape[0], -1, *support[-dims:])


class TransformConvolution(Function):
    """y = conv(x, M w) + b of `transform_convolution`'s operands: the window is one tuple."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        input, weight, values, pointers, columns, bias, ctx.kernel, ctx.support, ctx.window = args
        ctx.set_materialize_grads(False)
        # Nothing is recorded in here.
        copies = _copies(weight, values, pointers, columns, ctx.kernel, ctx.support, input.dim() - 2)
        ctx.transforms = copies.shape[0] // weight.shape[0]
        ctx.input_size, ctx.copies_size = input.shape, copies.shape
        needs = ctx.needs_input_grad
        ctx.save_for_backward(
            input if needs[1] or needs[2] else None, copies if needs[0] else None, weight, values, pointers, columns
        )
        every = None if bias is None else bias[:, None].expand(-1, ctx.transforms).reshape(-1)
        return convolution(input, copies, every, *ctx.window)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 9
        input, copies, weight, values, pointers, columns = ctx.saved_tensors
        to_input, to_weight, to_values, _, _, to_bias = asked(ctx)[:6]
        of_input = of_weight = of_values = of_bias = None
        if to_input:
            if torch.is_grad_enabled():  # what was saved has no history
                copies = _copies(weight, values, pointers, columns, ctx.kernel, ctx.support, grad.dim() - 2)
            of_input = convolution_input_grad(grad, copies, ctx.input_size, *ctx.window)
        if to_weight or to_values:
            window = (*ctx.window, torch.contiguous_format)
            of_copies = convolution_weight_grad(grad, input, ctx.copies_size, *window)
            of_copies = of_copies.reshape(ctx.copies_size[0], -1, *ctx.support)
            if to_weight:
                of_weight = transform_filters_transpose(of_copies, pointers, columns, values, ctx.kernel)
                of_weight = laid_out(of_weight.reshape(weight.shape), weight.stride())
            if to_values:
                filters = weight.reshape(weight.shape[0], -1, *ctx.kernel)
                of_values = transform_values_grad(of_copies, filters, pointers, columns)
        if to_bias:
            of_bias = convolution_bias_grad(grad).reshape(-1, ctx.transforms).sum(1)
        return of_input, of_weight, of_values, None, None, of_bias, None, None, None
