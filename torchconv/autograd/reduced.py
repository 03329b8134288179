"""Convolutions reduced over transforms as autograd Functions.

Of a convolution's maps z = conv(x, w), T for each filter, `ConvolutionMax` keeps the largest and which it was. With the
winners given, ``y = select(z)`` is linear, so it and the two gradients through its transpose are three corners, as
convolution's are. The norm is not: its first derivatives compute z again chunk by chunk, and the higher ones hold all
of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops import activation_format, check_alike, convolution_output_size, empty
from ._batch import FILTERS, MAPS, as_one
from ._bilinear import keep, total, triangle
from ._common import asked, differentiated, operator, primals
from .conv import convolution, convolution_bias_grad, convolution_input_grad, convolution_weight_grad


def _select(ctx: Any, x: Tensor, w: Tensor, winners: Tensor) -> Tensor:
    return convolution_select(x, w, winners, *ctx.window)


def _input_grad(ctx: Any, grad: Tensor, w: Tensor, winners: Tensor) -> Tensor:
    return convolution_select_input_grad(grad, winners, w, ctx.input_size, *ctx.window)


def _weight_grad(ctx: Any, grad: Tensor, x: Tensor, winners: Tensor) -> Tensor:
    return convolution_select_weight_grad(grad, winners, x, ctx.weight_size, *ctx.window)


_of_select, _of_input_grad, _of_weight_grad = triangle(_select, _input_grad, _weight_grad)


def _reduced(
    input: Tensor, weight: Tensor, filters: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """[N, filters, *]: what a convolution gives with its maps reduced."""
    size = convolution_output_size(input.shape, weight.shape, stride, padding, dilation)
    return empty([size[0], filters, *size[2:]], input, activation_format(input, weight))


class ConvolutionMax(Function):
    """(max_t z[t], which t) of convolution's operands, bias [D], with the number of transforms before the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        input, weight, _, _, *ctx.window = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.input_size, ctx.weight_size = input.shape, weight.shape
        keep(ctx, input, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple:
        if grad is None:
            return (None,) * 9
        input, weight, winners = ctx.saved_tensors
        to_input, to_weight, to_bias = asked(ctx)[:3]
        return (
            _input_grad(ctx, grad, weight, winners) if to_input else None,
            _weight_grad(ctx, grad, input, winners) if to_weight else None,
            convolution_bias_grad(grad) if to_bias else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> tuple:
        x, w, winners = primals(ctx)
        out = total(
            [
                None if input is None else _select(ctx, input, w, winners),
                None if weight is None else _select(ctx, x, weight, winners),
            ]
        )
        if bias is not None:
            spread = bias.reshape(1, -1, *[1] * (winners.dim() - 2))
            out = spread.expand(winners.shape) if out is None else out + spread
        return out, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_max, (MAPS, FILTERS, FILTERS), MAPS, info, in_dims, args, before_window=1)


@operator(ConvolutionMax)
def convolution_max(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transforms: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> tuple[Tensor, Tensor]:
    """`convolution` of `transforms` filters for each of the D maps that come back: their maxima, and which filter won.

    weight [D · transforms, C/groups, *kernel], bias [D] or None. Returns [N, D, *positions] twice, the second in uint8.
    """
    check_alike("convolution_max", input=input, weight=weight, bias=bias)
    values = _reduced(input, weight, weight.shape[0] // transforms, stride, padding, dilation)
    return values, torch.empty_like(values, dtype=torch.uint8)


@_of_select
class ConvolutionSelect(Function):
    """z[winner] of z = conv(input, weight); winners [N, D, *]."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, winners, *ctx.window = inputs
        ctx.input_size, ctx.weight_size = input.shape, weight.shape
        keep(ctx, input, weight, winners)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_select, (MAPS, FILTERS, MAPS), MAPS, info, in_dims, args)


@operator(ConvolutionSelect)
def convolution_select(
    input: Tensor,
    weight: Tensor,
    winners: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """`convolution` with, at every position, the filter that winners [N, D, *positions] name: [N, D, *positions]."""
    check_alike("convolution_select", input=input, weight=weight)
    return _reduced(input, weight, winners.shape[1], stride, padding, dilation)


@_of_input_grad
class ConvolutionSelectInputGrad(Function):
    """x̄ of grad [N, D, *] at the winners' maps, winners and weight [D·T, C/groups, *], for an input of `input_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, winners, weight, ctx.input_size, *ctx.window = inputs
        ctx.weight_size = weight.shape
        keep(ctx, grad, weight, winners, at=(0, 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_select_input_grad, (MAPS, MAPS, FILTERS), MAPS, info, in_dims, args, before_window=1)


@operator(ConvolutionSelectInputGrad)
def convolution_select_input_grad(
    grad: Tensor,
    winners: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """`convolution_select`'s transpose in its input, of grad [N, D, *positions]: `input_size`."""
    check_alike("convolution_select_input_grad", grad=grad, weight=weight)
    return empty(input_size, grad, activation_format(grad, weight))


@_of_weight_grad
class ConvolutionSelectWeightGrad(Function):
    """w̄ of grad [N, D, *] at the winners' maps, winners and input [N, C, *], for a weight of `weight_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, winners, input, ctx.weight_size, *ctx.window = inputs
        ctx.input_size = input.shape
        keep(ctx, grad, input, winners, at=(0, 2))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_select_weight_grad, (MAPS,) * 3, FILTERS, info, in_dims, args, before_window=1)


@operator(ConvolutionSelectWeightGrad)
def convolution_select_weight_grad(
    grad: Tensor,
    winners: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """`convolution_select`'s transpose in its weight, of grad [N, D, *positions]: `weight_size`."""
    check_alike("convolution_select_weight_grad", grad=grad, input=input)
    return grad.new_empty(weight_size)


class ConvolutionNorm(Function):
    """√Σ_t z[t]² of convolution's operands, bias [D], with the number of transforms before the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, bias, ctx.transforms, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, output)
        ctx.save_for_forward(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 9
        input, weight, bias, output = ctx.saved_tensors
        needs = asked(ctx)[:3]
        if differentiated():
            grads = _norm_grads(ctx, grad, input, weight, bias, needs)
        else:
            got = convolution_norm_grad(grad, output, input, weight, bias, *(*needs, *ctx.window))
            grads = tuple(g if need else None for g, need in zip(got, needs, strict=True))
        return (*grads, *(None,) * 6)

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        x, w, b = primals(ctx)[:3]
        varied = total(
            [
                None if input is None else convolution(input, w, None, *ctx.window),
                None if weight is None else convolution(x, weight, None, *ctx.window),
            ]
        )
        z = _maps(ctx, x, w, b)
        norm = _norm(z)
        out = None if varied is None else (_scaled(norm, z) * varied.reshape(z.shape)).sum(2)
        if bias is not None:
            part = _scaled(norm, z).sum(2) * bias.reshape(1, -1, *[1] * (z.dim() - 3))
            out = part if out is None else out + part
        return out

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return as_one(convolution_norm, (MAPS, FILTERS, FILTERS), MAPS, info, in_dims, args, before_window=1)


@operator(ConvolutionNorm)
def convolution_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transforms: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    /,
) -> Tensor:
    """√(Σ of squares) over the `transforms` maps of `convolution` that belong to one filter: [N, D, *positions].

    weight [D · transforms, C/groups, *kernel], bias [D] or None.
    """
    check_alike("convolution_norm", input=input, weight=weight, bias=bias)
    return _reduced(input, weight, weight.shape[0] // transforms, stride, padding, dilation)


def _maps(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """z [N, D, T, *]: all maps at once."""
    every = None if bias is None else bias.repeat_interleave(ctx.transforms)
    z = convolution(input, weight, every, *ctx.window)
    return z.reshape(z.shape[0], z.shape[1] // ctx.transforms, ctx.transforms, *z.shape[2:])


def _norm(z: Tensor) -> Tensor:
    """√Σ_t z² [N, D, *], with derivative 0 at 0."""
    square = z.square().sum(2)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def _scaled(norm: Tensor, z: Tensor) -> Tensor:
    """z / norm, and 0 where that is."""
    return z * torch.where(norm == 0, 0.0, 1 / torch.where(norm == 0, 1.0, norm)).unsqueeze(2)


def _norm_grads(
    ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of input, weight and bias, differentiable."""
    z = _maps(ctx, input, weight, bias)
    of_maps = (grad.unsqueeze(2) * _scaled(_norm(z), z)).flatten(1, 2)
    window = (*ctx.window, torch.contiguous_format)
    return (
        convolution_input_grad(of_maps, weight, input.shape, *ctx.window) if needs[0] else None,
        convolution_weight_grad(of_maps, input, weight.shape, *window) if needs[1] else None,
        convolution_bias_grad(of_maps).unflatten(0, (-1, ctx.transforms)).sum(1) if needs[2] else None,
    )


@operator()
def convolution_norm_grad(
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
    /,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients that are asked for, else empty tensors; not to be differentiated again."""
    check_alike("convolution_norm_grad", input=input, grad=grad, output=output, weight=weight, bias=bias)
    of_input = empty(input.shape, input, activation_format(input, weight)) if to_input else input.new_empty(0)
    of_weight = input.new_empty(weight.shape) if to_weight else input.new_empty(0)
    return of_input, of_weight, input.new_empty(output.shape[1] if to_bias else 0)
