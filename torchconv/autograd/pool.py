"""Pooling as autograd Functions, each linear in what it differentiates, so that derivatives of every order follow:

    =============  ====================  =====================================================
    operator       derivative            what it does at output o
    =============  ====================  =====================================================
    max_pool       gather at positions   ``p[o] = argmax of the window``, ``y[o] = x[p[o]]``
    gather         its transpose         ``y[o] = x[p[o]]``
    scatter        its transpose         ``x̄[p[o]] += ȳ[o]``
    avg_pool       itself                ``y[o] = Σ of the window / divisor[o]``
    spread         its transpose         ``x̄[window of o] += ȳ[o] / divisor[o]``
    =============  ====================  =====================================================

Max pooling saves neither its input nor its output, only the positions: a byte each. A window is
``(kernel_size, stride, padding, dilation)``, and for a mean ``(kernel_size, stride, padding)``: one number an axis, or
a kernel_size of zeros where it is adaptive.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function

from ._batch import into_samples
from ._common import register


def _split(x: Tensor, size: int) -> Tensor:
    """[B·N, C, ...] -> [B, N, C, ...]."""
    return x.unflatten(0, (size, x.shape[0] // size))


def _format(x: Tensor) -> torch.memory_format:
    """The memory format of x, for a gradient to come back in."""
    return torch.contiguous_format if x.is_contiguous() else suggest_memory_format(x)


class MaxPool(Function):
    """(values, positions in the window) of input [N, C, *], the window and the output's spatial size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        input, *ctx.window, _ = inputs
        ctx.input_size = input.shape
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple:
        if grad is None:
            return (None,) * 6
        return max_pool_scatter(grad, *ctx.saved_tensors, ctx.input_size, *ctx.window), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> tuple[Tensor, None]:
        return max_pool_gather(input, *ctx.saved_tensors, *ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, *rest: Any) -> tuple:
        size = info.batch_size
        values, positions = max_pool(into_samples(input, in_dims[0], size), *rest)
        return (_split(values, size), _split(positions, size)), (0, 0)


class MaxPoolReLU(Function):
    """(max(0, values), positions) of MaxPool's operands. Keeps where the values are 0, for nothing passes there."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        MaxPool.setup_context(ctx, inputs, output)
        # Not the values: they may be changed in place, as those of a pooling without a ReLU may.
        blocked = output[0].detach() <= 0
        ctx.save_for_backward(output[1], blocked)
        ctx.save_for_forward(output[1], blocked)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple:
        if grad is None:
            return (None,) * 6
        positions, blocked = ctx.saved_tensors
        return max_pool_scatter(grad.masked_fill(blocked, 0), positions, ctx.input_size, *ctx.window), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
        if input is None:
            return None, None
        positions, blocked = ctx.saved_tensors
        return max_pool_gather(input, positions, *ctx.window).masked_fill(blocked, 0), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        (values, positions), dims = MaxPool.vmap(info, in_dims, *args)
        return (values.relu(), positions), dims


class MaxPoolScatter(Function):
    """x̄ [input_size] of ȳ [N, C, *] and the positions."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, positions, ctx.input_size, *ctx.window = inputs
        ctx.save_for_backward(positions)
        ctx.save_for_forward(positions)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor) -> tuple:
        return max_pool_gather(of_input, *ctx.saved_tensors, *ctx.window), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        return max_pool_scatter(grad, *ctx.saved_tensors, ctx.input_size, *ctx.window)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, grad: Tensor, positions: Tensor, input_size: Sequence[int], *window: Any
    ) -> tuple:
        size = info.batch_size
        grad, positions = into_samples(grad, in_dims[0], size), into_samples(positions, in_dims[1], size)
        batch, *rest = input_size
        return _split(max_pool_scatter(grad, positions, (size * batch, *rest), *window), size), 0


class MaxPoolGather(Function):
    """y of x [N, C, *] at the positions kept by another max pooling of that size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, positions, *ctx.window = inputs
        ctx.input_size = input.shape
        ctx.save_for_backward(positions)
        ctx.save_for_forward(positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return max_pool_scatter(grad, *ctx.saved_tensors, ctx.input_size, *ctx.window), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> Tensor:
        return max_pool_gather(input, *ctx.saved_tensors, *ctx.window)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, positions: Tensor, *window: Any) -> tuple:
        size = info.batch_size
        input, positions = into_samples(input, in_dims[0], size), into_samples(positions, in_dims[1], size)
        return _split(max_pool_gather(input, positions, *window), size), 0


class MaxPoolIndices(Function):
    """The positions as flat indices into the input's planes: no derivative."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, _: Any) -> tuple:
        return (None,) * 6

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, positions: Tensor, input_size: Sequence[int], *window: Any) -> tuple:
        size = info.batch_size
        batch, *rest = input_size
        indices = max_pool_indices(into_samples(positions, in_dims[0], size), (size * batch, *rest), *window)
        return _split(indices, size), 0


class AvgPool(Function):
    """y of input [N, C, *], the window, the output's spatial size, count_include_pad and divisor_override."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, *ctx.window, ctx.output_size, include_pad, divisor = inputs
        ctx.input_size, ctx.divisor, ctx.format = input.shape, (include_pad, divisor), _format(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return avg_pool_spread(grad, ctx.input_size, *ctx.window, *ctx.divisor, ctx.format), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> Tensor:
        return avg_pool(input, *ctx.window, ctx.output_size, *ctx.divisor)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, *rest: Any) -> tuple:
        return _split(avg_pool(into_samples(input, in_dims[0], info.batch_size), *rest), info.batch_size), 0


class AvgPoolSpread(Function):
    """x̄ [input_size] of ȳ [N, C, *], the window, count_include_pad, divisor_override and x̄'s memory format."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, ctx.input_size, *ctx.window, include_pad, divisor, ctx.format = inputs
        ctx.output_size, ctx.divisor = grad.shape[2:], (include_pad, divisor)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor) -> tuple:
        return avg_pool(of_input, *ctx.window, ctx.output_size, *ctx.divisor), *(None,) * 7

    @staticmethod
    def jvp(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        return avg_pool_spread(grad, ctx.input_size, *ctx.window, *ctx.divisor, ctx.format)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, input_size: Sequence[int], *rest: Any) -> tuple:
        size = info.batch_size
        batch, *others = input_size
        return _split(avg_pool_spread(into_samples(grad, in_dims[0], size), (size * batch, *others), *rest), size), 0


max_pool = register("max_pool", MaxPool)
max_pool_relu = register("max_pool_relu", MaxPoolReLU)
max_pool_scatter = register("max_pool_scatter", MaxPoolScatter)
max_pool_gather = register("max_pool_gather", MaxPoolGather)
max_pool_indices = register("max_pool_indices", MaxPoolIndices)
avg_pool = register("avg_pool", AvgPool)
avg_pool_spread = register("avg_pool_spread", AvgPoolSpread)
