"""The three corners of convolution as autograd Functions.

With ``y = conv(x, w)``, ``x̄ = input_grad(ȳ, w)`` and ``w̄ = weight_grad(ȳ, x)``, each bilinear, each is the others'
derivative: `_bilinear` has the rules, which give derivatives of every order, forward and reverse.

A window is ``(stride, padding, dilation, groups, algorithm)``, padding with two numbers an axis (before, after).

A ReLU that follows is a Function of its own, so that these stay bilinear: with the mask ``m = (y > 0)`` of its output,
``ȳ ↦ m·ȳ`` is linear, and is its derivative both ways.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops import activation_format, check_alike, convolution_output_size, empty
from ._batch import FILTERS, MAPS, as_one, into_channels
from ._bilinear import keep, total, triangle
from ._common import asked, fake_of, operator, primals
from ._strides import as_maps, laid_out, maps_last, weight_format

aten = torch.ops.aten


def _as_channel(values: Tensor, dim: int) -> Tensor:
    """`values` [C] as [1, C, 1, ...] with `dim` axes."""
    return values.reshape(1, -1, *[1] * (dim - 2))


def _conv(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
    last = getattr(ctx, "maps_last", None)
    return as_maps(convolution(as_maps(x, last), w, None, *ctx.window), last)


def _input_grad(ctx: Any, grad: Tensor, w: Tensor) -> Tensor:
    last = getattr(ctx, "maps_last", None)
    return as_maps(convolution_input_grad(as_maps(grad, last), w, ctx.input_size, *ctx.window), last)


def _weight_grad(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
    window = (*ctx.window, ctx.weight_format)
    out = convolution_weight_grad(grad, x, ctx.weight_size, *window)
    return laid_out(out, ctx.weight_strides)


_, _of_input_grad, _of_weight_grad = triangle(_conv, _input_grad, _weight_grad)


class Convolution(Function):
    """y = x * w + b. Operands: input [N, C, *], weight [O, C/groups, *], bias [O] or None, then the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _keep_operands(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 8
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = asked(ctx)[:3]
        return (
            *_operand_grads(ctx, grad, input, weight, to_input, to_weight),
            convolution_bias_grad(grad) if to_bias else None,
            *(None,) * 5,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        x, w = primals(ctx)[:2]
        out = total(
            [None if input is None else _conv(ctx, input, w), None if weight is None else _conv(ctx, x, weight)]
        )
        if bias is None:
            return out
        if out is None:  # a bias alone varies: its tangent, everywhere
            out = torch.zeros_like(_conv(ctx, x, w))
        return out + _as_channel(bias, out.dim())

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution, (MAPS, FILTERS, FILTERS), MAPS, info, in_dims, args)


@operator(Convolution)
def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """y[n, o, t] = bias[o] + Σ over c, k of weight[o, c, k] · input[n, c, t · stride + k · dilation − before].

    input [N, C, *], weight [O, C/groups, *kernel], bias [O] or None; `padding` has two numbers an axis, before and
    after, and a negative one crops. Returns [N, O, *positions].
    """
    check_alike("convolution", input=input, weight=weight, bias=bias)
    torch._check(
        input.shape[1] == weight.shape[1] * groups,
        lambda: (
            f"conv{weight.dim() - 2}d: weight of shape {list(weight.shape)} with groups={groups} expects "
            f"{weight.shape[1] * groups} input channels, got input of shape {list(input.shape)}"
        ),
    )
    size = convolution_output_size(input.shape, weight.shape, stride, padding, dilation)
    return empty(size, input, activation_format(input, weight))


def _keep_operands(ctx: Any, inputs: tuple, *output: Tensor) -> None:
    """Keeps what the derivatives of a convolution need, and its `output` where they need that too."""
    input, weight, _, *ctx.window = inputs
    ctx.input_size = input.shape
    _keep_size(ctx, weight)
    ctx.maps_last = maps_last(input, weight)
    keep(ctx, input, weight, *output)


def _keep_size(ctx: Any, weight: Tensor) -> None:
    """Keeps what a gradient needs to come back as `weight` is."""
    ctx.weight_size, ctx.weight_format, ctx.weight_strides = weight.shape, weight_format(weight), weight.stride()


def _operand_grads(
    ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, to_input: bool, to_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a convolution's input and weight, where they are asked for."""
    grad = as_maps(grad, ctx.maps_last)
    return (
        _input_grad(ctx, grad, weight) if to_input else None,
        _weight_grad(ctx, grad, input) if to_weight else None,
    )


class ConvolutionReLU(Function):
    """y = max(0, x * w + b), where NaN stays, of Convolution's operands. Keeps its output, as a ReLU does."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _keep_operands(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 8
        input, weight, output = ctx.saved_tensors
        output, of_bias = output.detach(), None  # the mask has no derivative
        to_input, to_weight, to_bias = asked(ctx)[:3]
        if to_bias:
            grad, of_bias = relu_bias_grad(grad, output)
        else:
            grad = aten.threshold_backward(grad, output, 0)
        return (*_operand_grads(ctx, grad, input, weight, to_input, to_weight), of_bias, *(None,) * 5)

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        out = Convolution.jvp(ctx, input, weight, bias)
        return None if out is None else aten.threshold_backward(out, ctx.saved_tensors[2].detach(), 0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_relu, (MAPS, FILTERS, FILTERS), MAPS, info, in_dims, args)


convolution_relu = operator(ConvolutionReLU, "convolution_relu")(fake_of(convolution))


@_of_input_grad
class ConvolutionInputGrad(Function):
    """x̄ of ȳ [N, O, *] and w [O, C/groups, *], for an input of `input_size`; a transposed convolution run forward."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, ctx.input_size, *ctx.window = inputs
        _keep_size(ctx, weight)
        ctx.maps_last = maps_last(grad, weight)
        keep(ctx, grad, weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_input_grad, (MAPS, FILTERS), MAPS, info, in_dims, args, before_window=1)


@operator(ConvolutionInputGrad)
def convolution_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """`convolution`'s transpose in its input, of grad [N, O, *positions]: [N, C, *], which is `input_size`."""
    check_alike("convolution_input_grad", grad=grad, weight=weight)
    return empty(input_size, grad, activation_format(grad, weight))


@_of_weight_grad
class ConvolutionWeightGrad(Function):
    """w̄ of ȳ [N, O, *] and x [N, C, *], for a weight of `weight_size`, returned in `memory_format`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, input, ctx.weight_size, *ctx.window, ctx.weight_format = inputs
        ctx.input_size, ctx.weight_strides = input.shape, output.stride()
        keep(ctx, grad, input)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_weight_grad, (MAPS, MAPS), FILTERS, info, in_dims, args, before_window=1)


@operator(ConvolutionWeightGrad)
def convolution_weight_grad(
    grad: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    memory_format: torch.memory_format,
    /,
) -> Tensor:
    """`convolution`'s transpose in its weight: Σ over n, t of grad[n, o, t] · input[n, c, t · stride + …].

    Returns [O, C/groups, *kernel], which is `weight_size`, in `memory_format`.
    """
    check_alike("convolution_weight_grad", grad=grad, input=input)
    return empty(weight_size, grad, memory_format)


class ConvolutionBiasGrad(Function):
    """b̄[o] = Σ ȳ[n, o, *] over samples and positions."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, of_bias: Tensor) -> Tensor:
        return _as_channel(of_bias, len(ctx.shape)).expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, grad: Tensor) -> Tensor:
        return convolution_bias_grad(grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor) -> tuple:
        out = convolution_bias_grad(into_channels(grad, in_dims[0], info.batch_size))
        return out.unflatten(0, (info.batch_size, -1)), 0


@operator(ConvolutionBiasGrad)
def convolution_bias_grad(grad: Tensor, /) -> Tensor:
    """Σ over samples and positions of grad [N, O, *]: [O]."""
    return grad.new_empty(grad.shape[1])


class ReLUBiasGrad(Function):
    """m·ȳ, and its sum over samples and positions; ȳ [N, C, *] is the gradient of a ReLU's output y, m = (y > 0)."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, of_masked: Tensor, of_bias: Tensor) -> tuple[Tensor, None]:
        total = of_masked + _as_channel(of_bias, of_masked.dim())
        return aten.threshold_backward(total, ctx.saved_tensors[0].detach(), 0), None

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, output: Tensor | None) -> tuple[Tensor, Tensor]:
        (y,) = ctx.saved_tensors
        return relu_bias_grad(torch.zeros_like(y) if grad is None else grad, y.detach())

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Tensor) -> tuple:
        operands = (into_channels(t, at, info.batch_size) for t, at in zip(args, in_dims, strict=True))
        masked, bias = relu_bias_grad(*operands)
        return (masked.unflatten(1, (info.batch_size, -1)), bias.unflatten(0, (info.batch_size, -1))), (1, 0)


@operator(ReLUBiasGrad)
def relu_bias_grad(grad: Tensor, output: Tensor, /) -> tuple[Tensor, Tensor]:
    """What a ReLU with this output [N, O, *] lets through of grad, and its sum over samples and positions, [O]."""
    check_alike("relu_bias_grad", grad=grad, output=output)
    return empty(grad.shape, grad, activation_format(output, output)), grad.new_empty(grad.shape[1])
