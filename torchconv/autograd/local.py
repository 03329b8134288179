"""The three corners of a locally connected layer as autograd Functions: convolution's, with a filter for each position.

    =============  ==================  ==================
    operator       to the first        to the second
    =============  ==================  ==================
    local          input_grad(ȳ, w)    weight_grad(ȳ, x)
    input_grad     local(·, w)         weight_grad(ȳ, ·)
    weight_grad    local(x, ·)         input_grad(ȳ, ·)
    =============  ==================  ==================

The weight is [O, C/groups, kernel..., positions...], the bias [O, positions...]; the bias's gradient is ȳ summed over
the samples. A window is ``(stride, padding, dilation, groups)``, padding with two numbers an axis (before, after).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ._common import asked, register
from .conv import _into_channels, _into_filters, _into_samples, _total


class LocalConvolution(Function):
    """y of input [N, C, *], weight, bias or None, and the window."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, _, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size, ctx.weight_size, ctx.output_size = input.shape, weight.shape, output.shape
        to_input, to_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(input if to_weight else None, weight if to_input else None)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 7
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = asked(ctx)[:3]
        return (
            local_convolution_input_grad(grad, weight, ctx.input_size, *ctx.window) if to_input else None,
            local_convolution_weight_grad(grad, input, ctx.weight_size, *ctx.window) if to_weight else None,
            grad.sum(0) if to_bias else None,
            *(None,) * 4,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        x, w = ctx.saved_tensors[:2]
        return _total(
            [
                None if input is None else local_convolution(input, w, None, *ctx.window),
                None if weight is None else local_convolution(x, weight, None, *ctx.window),
                None if bias is None else bias.expand(ctx.output_size).contiguous(),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> tuple:
        size, (at_input, at_weight, at_bias) = info.batch_size, in_dims[:3]
        *rest, groups = window
        shared_bias = bias if at_bias is None else None
        if at_weight is None and at_input is not None:
            out = local_convolution(_into_samples(input, at_input), weight, shared_bias, *window)
            out, axis = out.unflatten(0, (size, -1)), 0
        else:
            out = local_convolution(
                _into_channels(input, at_input, size),
                _into_filters(weight, at_weight, size),
                None if shared_bias is None else _into_filters(shared_bias, None, size),
                *rest,
                groups * size,
            )
            out, axis = out.unflatten(1, (size, -1)), 1
        if bias is not None and at_bias is not None:  # [B, O, *] over [B, N, O, *] or [N, B, O, *]
            out = out + bias.movedim(at_bias, 0).unsqueeze(1 - axis)
        return out, axis


class LocalConvolutionInputGrad(Function):
    """x̄ of ȳ [N, O, *] and the weight, for an input of `input_size`; a transposed layer run forward."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, ctx.input_size, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.weight_size = weight.shape
        to_grad, to_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if to_weight else None, weight if to_grad else None)
        ctx.save_for_forward(grad, weight)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor | None) -> tuple:
        if of_input is None:
            return (None,) * 7
        grad, weight = ctx.saved_tensors
        to_grad, to_weight = asked(ctx)[:2]
        return (
            local_convolution(of_input, weight, None, *ctx.window) if to_grad else None,
            local_convolution_weight_grad(grad, of_input, ctx.weight_size, *ctx.window) if to_weight else None,
            *(None,) * 5,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, weight: Tensor | None, *_: Any) -> Tensor | None:
        g, w = ctx.saved_tensors
        return _total(
            [
                None if grad is None else local_convolution_input_grad(grad, w, ctx.input_size, *ctx.window),
                None if weight is None else local_convolution_input_grad(g, weight, ctx.input_size, *ctx.window),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, weight: Tensor, input_size: Sequence[int], *window: Any) -> tuple:
        size, (at_grad, at_weight) = info.batch_size, in_dims[:2]
        *rest, groups = window
        batch, channels, *spatial = input_size
        if at_weight is None:
            shape = (size * batch, channels, *spatial)
            out = local_convolution_input_grad(_into_samples(grad, at_grad), weight, shape, *window)
            return out.unflatten(0, (size, batch)), 0
        grad, weight = _into_channels(grad, at_grad, size), _into_filters(weight, at_weight, size)
        shape = (batch, size * channels, *spatial)
        out = local_convolution_input_grad(grad, weight, shape, *rest, groups * size)
        return out.unflatten(1, (size, channels)), 1


class LocalConvolutionWeightGrad(Function):
    """w̄ of ȳ [N, O, *] and x [N, C, *], for a weight of `weight_size`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, input, ctx.weight_size, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape
        to_grad, to_input = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if to_input else None, input if to_grad else None)
        ctx.save_for_forward(grad, input)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor | None) -> tuple:
        if of_weight is None:
            return (None,) * 7
        grad, input = ctx.saved_tensors
        to_grad, to_input = asked(ctx)[:2]
        return (
            local_convolution(input, of_weight, None, *ctx.window) if to_grad else None,
            local_convolution_input_grad(grad, of_weight, ctx.input_size, *ctx.window) if to_input else None,
            *(None,) * 5,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, input: Tensor | None, *_: Any) -> Tensor | None:
        g, x = ctx.saved_tensors
        return _total(
            [
                None if grad is None else local_convolution_weight_grad(grad, x, ctx.weight_size, *ctx.window),
                None if input is None else local_convolution_weight_grad(g, input, ctx.weight_size, *ctx.window),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, input: Tensor, weight_size: Sequence[int], *window: Any) -> tuple:
        # The sum runs over samples, so a batch can only go into the groups.
        size, (at_grad, at_input) = info.batch_size, in_dims[:2]
        *rest, groups = window
        filters, *others = weight_size
        out = local_convolution_weight_grad(
            _into_channels(grad, at_grad, size),
            _into_channels(input, at_input, size),
            (size * filters, *others),
            *rest,
            groups * size,
        )
        return out.unflatten(0, (size, filters)), 0


local_convolution = register("local_convolution", LocalConvolution)
local_convolution_input_grad = register("local_convolution_input_grad", LocalConvolutionInputGrad)
local_convolution_weight_grad = register("local_convolution_weight_grad", LocalConvolutionWeightGrad)
