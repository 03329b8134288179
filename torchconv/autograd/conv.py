"""The three corners of convolution as autograd Functions.

With ``y = conv(x, w)``, ``x̄ = input_grad(ȳ, w)`` and ``w̄ = weight_grad(ȳ, x)``, each bilinear, the scalar
``<ȳ, conv(x, w)> = <x̄, x> = <w̄, w>`` is linear in all of ȳ, x and w; so the derivative of each of the three to one of
its operands is another of the three:

    ============  ==================  ==================
    operator      to the first        to the second
    ============  ==================  ==================
    conv          input_grad(ȳ, w)    weight_grad(ȳ, x)
    input_grad    conv(·, w)          weight_grad(ȳ, ·)
    weight_grad   conv(x, ·)          input_grad(ȳ, ·)
    ============  ==================  ==================

Derivatives of every order, forward and reverse, follow. A window is ``(stride, padding, dilation, groups, algorithm)``,
padding with two numbers an axis (before, after).

A ReLU that follows is a Function of its own, so that these stay bilinear: with the mask ``m = (y > 0)`` of its output,
``ȳ ↦ m·ȳ`` is linear, and is its derivative both ways.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._common import asked, register

aten = torch.ops.aten


def weight_format(weight: Tensor) -> torch.memory_format:
    """The memory format a gradient takes to come back in the strides of `weight`."""
    for dim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if weight.dim() == dim and not weight.is_contiguous() and weight.is_contiguous(memory_format=memory_format):
            return memory_format
    return torch.contiguous_format


def _total(terms: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the terms that are there."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def _as_channel(values: Tensor, dim: int) -> Tensor:
    """`values` [C] as [1, C, 1, ...] with `dim` axes."""
    return values.reshape(1, -1, *[1] * (dim - 2))


# Two ways to run a batch of convolutions as one: in the samples where they share the weight, else in the groups.


def _into_samples(x: Tensor, at: int) -> Tensor:
    """[N, C, ...] with a batch axis somewhere -> [B·N, C, ...]."""
    return x.movedim(at, 0).flatten(0, 1)


def _into_channels(x: Tensor, at: int | None, size: int) -> Tensor:
    """[N, C, ...] with or without a batch axis -> [N, B·C, ...]."""
    x = x.unsqueeze(1).expand(x.shape[0], size, *x.shape[1:]) if at is None else x.movedim(at, 1)
    return x.flatten(1, 2)


def _into_filters(w: Tensor, at: int | None, size: int) -> Tensor:
    """[O, C, ...] with or without a batch axis -> [B·O, C, ...]."""
    w = w.expand(size, *w.shape) if at is None else w.movedim(at, 0)
    return w.flatten(0, 1)


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
        x, w = ctx.saved_tensors[:2]
        out = _total(
            [
                None if input is None else convolution(input, w, None, *ctx.window),
                None if weight is None else convolution(x, weight, None, *ctx.window),
            ]
        )
        if bias is None:
            return out
        if out is None:  # a bias alone varies: its tangent, everywhere
            out = torch.zeros_like(convolution(x, w, None, *ctx.window))
        return out + _as_channel(bias, out.dim())

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> tuple:
        size, (at_input, at_weight, at_bias) = info.batch_size, in_dims[:3]
        shared_bias = bias if at_bias is None else None
        *rest, groups, algorithm = window
        if at_weight is None and at_input is not None:
            out = convolution(_into_samples(input, at_input), weight, shared_bias, *window).unflatten(0, (size, -1))
            axis = 0
        else:
            if shared_bias is not None:
                shared_bias = shared_bias.repeat(size)
            out = convolution(
                _into_channels(input, at_input, size),
                _into_filters(weight, at_weight, size),
                shared_bias,
                *rest,
                groups * size,
                algorithm,
            ).unflatten(1, (size, -1))
            axis = 1
        if bias is not None and at_bias is not None:  # [B, O] over [B, N, O, ...] or [N, B, O, ...]
            bias = bias.movedim(at_bias, 0).unsqueeze(1 - axis)
            out = out + bias.reshape(*bias.shape, *[1] * (out.dim() - 3))
        return out, axis


def _keep_operands(ctx: Any, inputs: tuple, *output: Tensor) -> None:
    """Keeps what the derivatives of a convolution need, and its `output` where they need that too."""
    input, weight, _, *ctx.window = inputs
    ctx.set_materialize_grads(False)
    ctx.input_size, ctx.weight_size, ctx.weight_format = input.shape, weight.shape, weight_format(weight)
    to_input, to_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if to_weight else None, weight if to_input else None, *output)
    ctx.save_for_forward(input, weight, *output)


def _operand_grads(
    ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, to_input: bool, to_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a convolution's input and weight, where they are asked for."""
    return (
        convolution_input_grad(grad, weight, ctx.input_size, *ctx.window) if to_input else None,
        convolution_weight_grad(grad, input, ctx.weight_size, *ctx.window, ctx.weight_format) if to_weight else None,
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
        out, axis = Convolution.vmap(info, in_dims, *args)
        return out.relu(), axis


class ConvolutionInputGrad(Function):
    """x̄ of ȳ [N, O, *] and w [O, C/groups, *], for an input of `input_size`; a transposed convolution run forward."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, ctx.input_size, *ctx.window = inputs
        ctx.set_materialize_grads(False)
        ctx.weight_size, ctx.weight_format = weight.shape, weight_format(weight)
        to_grad, to_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if to_weight else None, weight if to_grad else None)
        ctx.save_for_forward(grad, weight)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor | None) -> tuple:
        if of_input is None:
            return (None,) * 8
        grad, weight = ctx.saved_tensors
        to_grad, to_weight = asked(ctx)[:2]
        return (
            convolution(of_input, weight, None, *ctx.window) if to_grad else None,
            convolution_weight_grad(grad, of_input, ctx.weight_size, *ctx.window, ctx.weight_format)
            if to_weight
            else None,
            *(None,) * 6,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, weight: Tensor | None, *_: Any) -> Tensor | None:
        g, w = ctx.saved_tensors
        return _total(
            [
                None if grad is None else convolution_input_grad(grad, w, ctx.input_size, *ctx.window),
                None if weight is None else convolution_input_grad(g, weight, ctx.input_size, *ctx.window),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, weight: Tensor, input_size: Sequence[int], *window: Any) -> tuple:
        size, (at_grad, at_weight) = info.batch_size, in_dims[:2]
        *rest, groups, algorithm = window
        batch, channels, *spatial = input_size
        if at_weight is None:
            shape = (size * batch, channels, *spatial)
            out = convolution_input_grad(_into_samples(grad, at_grad), weight, shape, *window)
            return out.unflatten(0, (size, batch)), 0
        grad, weight = _into_channels(grad, at_grad, size), _into_filters(weight, at_weight, size)
        shape = (batch, size * channels, *spatial)
        out = convolution_input_grad(grad, weight, shape, *rest, groups * size, algorithm)
        return out.unflatten(1, (size, channels)), 1


class ConvolutionWeightGrad(Function):
    """w̄ of ȳ [N, O, *] and x [N, C, *], for a weight of `weight_size`, returned in `memory_format`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, input, ctx.weight_size, *ctx.window, ctx.weight_format = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape
        to_grad, to_input = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if to_input else None, input if to_grad else None)
        ctx.save_for_forward(grad, input)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor | None) -> tuple:
        if of_weight is None:
            return (None,) * 9
        grad, input = ctx.saved_tensors
        to_grad, to_input = asked(ctx)[:2]
        return (
            convolution(input, of_weight, None, *ctx.window) if to_grad else None,
            convolution_input_grad(grad, of_weight, ctx.input_size, *ctx.window) if to_input else None,
            *(None,) * 7,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, input: Tensor | None, *_: Any) -> Tensor | None:
        g, x = ctx.saved_tensors
        rest = (ctx.weight_size, *ctx.window, ctx.weight_format)
        return _total(
            [
                None if grad is None else convolution_weight_grad(grad, x, *rest),
                None if input is None else convolution_weight_grad(g, input, *rest),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, input: Tensor, weight_size: Sequence[int], *window: Any) -> tuple:
        # The sum runs over samples, so a batch can only go into the groups.
        size, (at_grad, at_input) = info.batch_size, in_dims[:2]
        *rest, groups, algorithm, memory_format = window
        filters, *others = weight_size
        out = convolution_weight_grad(
            _into_channels(grad, at_grad, size),
            _into_channels(input, at_input, size),
            (size * filters, *others),
            *rest,
            groups * size,
            algorithm,
            memory_format,
        )
        return out.unflatten(0, (size, filters)), 0


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
        out = convolution_bias_grad(_into_channels(grad, in_dims[0], info.batch_size))
        return out.unflatten(0, (info.batch_size, -1)), 0


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
        operands = (_into_channels(t, at, info.batch_size) for t, at in zip(args, in_dims, strict=True))
        masked, bias = relu_bias_grad(*operands)
        return (masked.unflatten(1, (info.batch_size, -1)), bias.unflatten(0, (info.batch_size, -1))), (1, 0)


convolution = register("convolution", Convolution)
convolution_relu = register("convolution_relu", ConvolutionReLU)
convolution_input_grad = register("convolution_input_grad", ConvolutionInputGrad)
convolution_weight_grad = register("convolution_weight_grad", ConvolutionWeightGrad)
convolution_bias_grad = register("convolution_bias_grad", ConvolutionBiasGrad)
relu_bias_grad = register("relu_bias_grad", ReLUBiasGrad)
