"""The three corners of a locally connected layer as autograd Functions: convolution's, with a filter for each position.

The weight is [O, C/groups, kernel..., positions...], the bias [O, positions...]; the bias's gradient is ȳ summed over
the samples. A window is ``(stride, padding, dilation, groups)``, padding with two numbers an axis (before, after).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ._batch import FILTERS, MAPS, as_one
from ._bilinear import keep, total, triangle
from ._common import asked, operator, primals
from ._strides import laid_out


def _local(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
    return local_convolution(x, w, None, *ctx.window)


def _input_grad(ctx: Any, grad: Tensor, w: Tensor) -> Tensor:
    return local_convolution_input_grad(grad, w, ctx.input_size, *ctx.window)


def _weight_grad(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
    return laid_out(local_convolution_weight_grad(grad, x, ctx.weight_size, *ctx.window), ctx.weight_strides)


_, _of_input_grad, _of_weight_grad = triangle(_local, _input_grad, _weight_grad)


class LocalConvolution(Function):
    """y of input [N, C, *], weight, bias or None, and the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, bias, *ctx.window = inputs
        ctx.input_size, ctx.weight_size, ctx.output_size = input.shape, weight.shape, output.shape
        ctx.weight_strides, ctx.bias_strides = weight.stride(), () if bias is None else bias.stride()
        keep(ctx, input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 7
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = asked(ctx)[:3]
        return (
            _input_grad(ctx, grad, weight) if to_input else None,
            _weight_grad(ctx, grad, input) if to_weight else None,
            laid_out(grad.sum(0), ctx.bias_strides) if to_bias else None,
            *(None,) * 4,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        x, w = primals(ctx)
        return total(
            [
                None if input is None else _local(ctx, input, w),
                None if weight is None else _local(ctx, x, weight),
                None if bias is None else bias.expand(ctx.output_size).contiguous(),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(local_convolution, (MAPS, FILTERS, FILTERS), MAPS, info, in_dims, args)


@operator(LocalConvolution)
def local_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    /,
) -> Tensor:
    """`convolution` with filters of their own at every position t: bias[o, t] + Σ of weight[o, c, k, t] · input[…].

    input [N, C, *], weight [O, C/groups, *kernel, *positions], bias [O, *positions] or None.
    Returns [N, O, *positions].
    """
    return input.new_empty([input.shape[0], weight.shape[0], *weight.shape[1 + weight.dim() // 2 :]])


@_of_input_grad
class LocalConvolutionInputGrad(Function):
    """x̄ of ȳ [N, O, *] and the weight, for an input of `input_size`; a transposed layer run forward."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, ctx.input_size, *ctx.window = inputs
        ctx.weight_size, ctx.weight_strides = weight.shape, weight.stride()
        keep(ctx, grad, weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(local_convolution_input_grad, (MAPS, FILTERS), MAPS, info, in_dims, args, before_window=1)


@operator(LocalConvolutionInputGrad)
def local_convolution_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    /,
) -> Tensor:
    """`local_convolution`'s transpose in its input, of grad [N, O, *positions]: `input_size`."""
    return grad.new_empty(input_size)


@_of_weight_grad
class LocalConvolutionWeightGrad(Function):
    """w̄ of ȳ [N, O, *] and x [N, C, *], for a weight of `weight_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, input, ctx.weight_size, *ctx.window = inputs
        ctx.input_size, ctx.weight_strides = input.shape, output.stride()
        keep(ctx, grad, input)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(local_convolution_weight_grad, (MAPS, MAPS), FILTERS, info, in_dims, args, before_window=1)


@operator(LocalConvolutionWeightGrad)
def local_convolution_weight_grad(
    grad: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    /,
) -> Tensor:
    """`local_convolution`'s transpose in its weight, of grad [N, O, *positions]: `weight_size`."""
    return grad.new_empty(weight_size)
