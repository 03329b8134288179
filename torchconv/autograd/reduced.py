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

from ._common import asked, register
from .conv import (
    _into_channels,
    _into_filters,
    _total,
    convolution,
    convolution_bias_grad,
    convolution_input_grad,
    convolution_weight_grad,
)


class ConvolutionMax(Function):
    """(max_t z[t], which t) of convolution's operands, bias [D], with the number of transforms before the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        input, weight, _, _, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.input_size, ctx.weight_size = input.shape, weight.shape
        to_input, to_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(input if to_weight else None, weight if to_input else None, output[1])
        ctx.save_for_forward(input, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple:
        if grad is None:
            return (None,) * 9
        input, weight, winners = ctx.saved_tensors
        to_input, to_weight, to_bias = asked(ctx)[:3]
        window = ctx.window
        return (
            convolution_select_input_grad(grad, winners, weight, ctx.input_size, *window) if to_input else None,
            convolution_select_weight_grad(grad, winners, input, ctx.weight_size, *window) if to_weight else None,
            convolution_bias_grad(grad) if to_bias else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> tuple:
        x, w, winners = ctx.saved_tensors
        out = _total(
            [
                None if input is None else convolution_select(input, w, winners, *ctx.window),
                None if weight is None else convolution_select(x, weight, winners, *ctx.window),
            ]
        )
        if bias is not None:
            spread = bias.reshape(1, -1, *[1] * (winners.dim() - 2))
            out = spread.expand(winners.shape) if out is None else out + spread
        return out, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, input: Tensor, weight: Tensor, bias: Any, transforms: int, *window: Any
    ) -> tuple:
        operands, at, window = _into_groups(info, in_dims, (input, weight, bias), window)
        values, winners = convolution_max(*operands, transforms, *window)
        return tuple(_out_of_groups(t, at, info.batch_size) for t in (values, winners)), (at, at)


def _into_groups(info: Any, in_dims: tuple, operands: tuple, window: tuple) -> tuple[list, int, tuple]:
    """input, weight and bias of a batch of convolutions as those of one, and the axis of its result that the batch is
    in: samples where the weight and the bias are shared, else groups."""
    size, (input, weight, bias) = info.batch_size, operands
    at_input, at_weight, at_bias = in_dims[:3]
    if at_weight is None and (bias is None or at_bias is None):
        return [input.movedim(at_input, 0).flatten(0, 1), weight, bias], 0, window
    *rest, groups, algorithm = window
    if bias is not None:
        bias = _into_filters(bias, at_bias, size)
    out = [_into_channels(input, at_input, size), _into_filters(weight, at_weight, size), bias]
    return out, 1, (*rest, groups * size, algorithm)


def _out_of_groups(t: Tensor, at: int, size: int) -> Tensor:
    return t.unflatten(at, (size, t.shape[at] // size))


class ConvolutionSelect(Function):
    """z[winner] of z = conv(input, weight); winners [N, D, *]."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, winners, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size, ctx.weight_size = input.shape, weight.shape
        ctx.save_for_backward(input, weight, winners)
        ctx.save_for_forward(input, weight, winners)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 8
        input, weight, winners = ctx.saved_tensors
        to_input, to_weight = asked(ctx)[:2]
        window = ctx.window
        return (
            convolution_select_input_grad(grad, winners, weight, ctx.input_size, *window) if to_input else None,
            convolution_select_weight_grad(grad, winners, input, ctx.weight_size, *window) if to_weight else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, *_: Any) -> Tensor | None:
        x, w, winners = ctx.saved_tensors
        return _total(
            [
                None if input is None else convolution_select(input, w, winners, *ctx.window),
                None if weight is None else convolution_select(x, weight, winners, *ctx.window),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, weight: Tensor, winners: Tensor, *window: Any) -> tuple:
        size, (at_input, at_weight, at_winners) = info.batch_size, in_dims[:3]
        *rest, groups, algorithm = window
        out = convolution_select(
            _into_channels(input, at_input, size),
            _into_filters(weight, at_weight, size),
            _into_channels(winners, at_winners, size),
            *rest,
            groups * size,
            algorithm,
        )
        return _out_of_groups(out, 1, size), 1


class ConvolutionSelectInputGrad(Function):
    """x̄ of grad [N, D, *] at the winners' maps, winners and weight [D·T, C/groups, *], for an input of `input_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, winners, weight, ctx.input_size, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.weight_size = weight.shape
        ctx.save_for_backward(grad, winners, weight)
        ctx.save_for_forward(grad, winners, weight)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor | None) -> tuple:
        if of_input is None:
            return (None,) * 9
        grad, winners, weight = ctx.saved_tensors
        to_grad, _, to_weight = asked(ctx)[:3]
        window = ctx.window
        return (
            convolution_select(of_input, weight, winners, *window) if to_grad else None,
            None,
            convolution_select_weight_grad(grad, winners, of_input, ctx.weight_size, *window) if to_weight else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, _w: Any, weight: Tensor | None, *_: Any) -> Tensor | None:
        g, winners, w = ctx.saved_tensors
        rest = (ctx.input_size, *ctx.window)
        return _total(
            [
                None if grad is None else convolution_select_input_grad(grad, winners, w, *rest),
                None if weight is None else convolution_select_input_grad(g, winners, weight, *rest),
            ]
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple,
        grad: Tensor,
        winners: Tensor,
        weight: Tensor,
        input_size: Sequence[int],
        *window: Any,
    ) -> tuple:
        size, (at_grad, at_winners, at_weight) = info.batch_size, in_dims[:3]
        *rest, groups, algorithm = window
        batch, channels, *spatial = input_size
        out = convolution_select_input_grad(
            _into_channels(grad, at_grad, size),
            _into_channels(winners, at_winners, size),
            _into_filters(weight, at_weight, size),
            (batch, size * channels, *spatial),
            *rest,
            groups * size,
            algorithm,
        )
        return _out_of_groups(out, 1, size), 1


class ConvolutionSelectWeightGrad(Function):
    """w̄ of grad [N, D, *] at the winners' maps, winners and input [N, C, *], for a weight of `weight_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, winners, input, ctx.weight_size, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape
        ctx.save_for_backward(grad, winners, input)
        ctx.save_for_forward(grad, winners, input)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor | None) -> tuple:
        if of_weight is None:
            return (None,) * 9
        grad, winners, input = ctx.saved_tensors
        to_grad, _, to_input = asked(ctx)[:3]
        window = ctx.window
        return (
            convolution_select(input, of_weight, winners, *window) if to_grad else None,
            None,
            convolution_select_input_grad(grad, winners, of_weight, ctx.input_size, *window) if to_input else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, _w: Any, input: Tensor | None, *_: Any) -> Tensor | None:
        g, winners, x = ctx.saved_tensors
        rest = (ctx.weight_size, *ctx.window)
        return _total(
            [
                None if grad is None else convolution_select_weight_grad(grad, winners, x, *rest),
                None if input is None else convolution_select_weight_grad(g, winners, input, *rest),
            ]
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple,
        grad: Tensor,
        winners: Tensor,
        input: Tensor,
        weight_size: Sequence[int],
        *window: Any,
    ) -> tuple:
        size, (at_grad, at_winners, at_input) = info.batch_size, in_dims[:3]
        *rest, groups, algorithm = window
        filters, *others = weight_size
        out = convolution_select_weight_grad(
            _into_channels(grad, at_grad, size),
            _into_channels(winners, at_winners, size),
            _into_channels(input, at_input, size),
            (size * filters, *others),
            *rest,
            groups * size,
            algorithm,
        )
        return out.unflatten(0, (size, filters)), 0


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
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            grads = _norm_grads(ctx, grad, input, weight, bias, needs)
        else:
            got = torch.ops.torchconv.convolution_norm_grad.default(
                grad, output, input, weight, bias, *needs, *ctx.window
            )
            grads = tuple(g if need else None for g, need in zip(got, needs, strict=True))
        return (*grads, *(None,) * 6)

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        x, w, b = ctx.saved_tensors[:3]
        varied = _total(
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
    def vmap(
        info: Any, in_dims: tuple, input: Tensor, weight: Tensor, bias: Any, transforms: int, *window: Any
    ) -> tuple:
        operands, at, window = _into_groups(info, in_dims, (input, weight, bias), window)
        return _out_of_groups(convolution_norm(*operands, transforms, *window), at, info.batch_size), at


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
    return (
        convolution_input_grad(of_maps, weight, input.shape, *ctx.window) if needs[0] else None,
        convolution_weight_grad(of_maps, input, weight.shape, *ctx.window, torch.contiguous_format)
        if needs[1]
        else None,
        convolution_bias_grad(of_maps).unflatten(0, (-1, ctx.transforms)).sum(1) if needs[2] else None,
    )


convolution_max = register("convolution_max", ConvolutionMax)
convolution_select = register("convolution_select", ConvolutionSelect)
convolution_select_input_grad = register("convolution_select_input_grad", ConvolutionSelectInputGrad)
convolution_select_weight_grad = register("convolution_select_weight_grad", ConvolutionSelectWeightGrad)
convolution_norm = register("convolution_norm", ConvolutionNorm)
