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

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function

from ..ops import empty
from ._batch import into_samples, out_of_samples
from ._common import fake_of, operator


def _format(x: Tensor) -> torch.memory_format:
    """The memory format of x, for a gradient to come back in."""
    return torch.contiguous_format if x.is_contiguous() else suggest_memory_format(x)


def position_dtype(
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    input_spatial: Sequence[int],
    output_spatial: Sequence[int],
) -> torch.dtype:
    """The narrowest integer that holds a position in a window: a byte up to 256 elements, two up to 32,768.

    Of a window only those elements count that some output may have in the input.
    """
    sides = list(zip(input_spatial, output_spatial, strict=True))
    if not any(kernel_size):
        # No adaptive window is wider, and where output divides input (and is not 1) all are one narrower.
        window = math.prod((n + out - 2) // out + 1 if out > 0 else 1 for n, out in sides)
    elif (window := math.prod(kernel_size)) > 256:  # a smaller one is left alone, and symbolic sizes with it
        window = math.prod(
            min(k, (n - 1 + (out - 1) * s) // (d if k > 1 else 1) + 2)
            for k, s, d, (n, out) in zip(kernel_size, stride, dilation, sides, strict=True)
        )
    if window <= 256:
        return torch.uint8
    return torch.int16 if window <= 32768 else torch.int32


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
        (positions,) = ctx.saved_tensors
        return max_pool_scatter(grad, positions, ctx.input_size, *ctx.window), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> tuple[Tensor, None]:
        return max_pool_gather(input, *ctx.saved_tensors, *ctx.window), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, *rest: Any) -> tuple:
        size = info.batch_size
        values, positions = max_pool(into_samples(input, in_dims[0], size), *rest)
        return (out_of_samples(values, size), out_of_samples(positions, size)), (0, 0)


@operator(MaxPool)
def max_pool(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
    /,
) -> tuple[Tensor, Tensor]:
    """The maxima of windows of input [N, C, *], and where each stands in its window: both [N, C, *output_size].

    Windows are adaptive where `kernel_size` is empty.
    """
    values = empty([*input.shape[:2], *output_size], input, suggest_memory_format(input))
    dtype = position_dtype(kernel_size, stride, dilation, input.shape[2:], output_size)
    return values, torch.empty_like(values, dtype=dtype)


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


max_pool_relu = operator(MaxPoolReLU, "max_pool_relu")(fake_of(max_pool))


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
        (positions,) = ctx.saved_tensors
        return max_pool_scatter(grad, positions, ctx.input_size, *ctx.window)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, grad: Tensor, positions: Tensor, input_size: Sequence[int], *window: Any
    ) -> tuple:
        size = info.batch_size
        grad, positions = into_samples(grad, in_dims[0], size), into_samples(positions, in_dims[1], size)
        batch, *rest = input_size
        return out_of_samples(max_pool_scatter(grad, positions, (size * batch, *rest), *window), size), 0


@operator(MaxPoolScatter)
def max_pool_scatter(
    grad: Tensor,
    positions: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    /,
) -> Tensor:
    """The transpose of `max_pool_gather`: grad [N, C, *] added at the kept positions of a map of `input_size`."""
    return empty(input_size, grad, suggest_memory_format(positions))


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
        (positions,) = ctx.saved_tensors
        return max_pool_scatter(grad, positions, ctx.input_size, *ctx.window), *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> Tensor:
        return max_pool_gather(input, *ctx.saved_tensors, *ctx.window)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, positions: Tensor, *window: Any) -> tuple:
        size = info.batch_size
        input, positions = into_samples(input, in_dims[0], size), into_samples(positions, in_dims[1], size)
        return out_of_samples(max_pool_gather(input, positions, *window), size), 0


@operator(MaxPoolGather)
def max_pool_gather(
    input: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    /,
) -> Tensor:
    """The elements of input [N, C, *] at positions that `max_pool` kept: of their shape."""
    return empty(positions.shape, input, suggest_memory_format(positions))


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
        return out_of_samples(indices, size), 0


@operator(MaxPoolIndices)
def max_pool_indices(
    positions: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    /,
) -> Tensor:
    """Positions as torch.nn.functional.max_pool numbers them: int64, flat over a map of `input_size`."""
    return empty(positions.shape, positions, suggest_memory_format(positions)).to(torch.int64)


class AvgPool(Function):
    """y of input [N, C, *], the window, the output's spatial size, count_include_pad and divisor_override."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, kernel_size, stride, padding, output_size, *divisor = inputs
        ctx.of_mean = (kernel_size, stride, padding, output_size, *divisor)
        ctx.of_spread = (input.shape, kernel_size, stride, padding, *divisor, _format(input))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return avg_pool_spread(grad, *ctx.of_spread), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> Tensor:
        return avg_pool(input, *ctx.of_mean)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, *rest: Any) -> tuple:
        return out_of_samples(avg_pool(into_samples(input, in_dims[0], info.batch_size), *rest), info.batch_size), 0


@operator(AvgPool)
def avg_pool(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_size: Sequence[int],
    count_include_pad: bool,
    divisor_override: int | None,
    /,
) -> Tensor:
    """The means of windows of input [N, C, *]: Σ / divisor, [N, C, *output_size].

    The divisor is `divisor_override`, or the window's elements, with those in the padding where `count_include_pad`.
    """
    return empty([*input.shape[:2], *output_size], input, suggest_memory_format(input))


class AvgPoolSpread(Function):
    """x̄ [input_size] of ȳ [N, C, *], the window, count_include_pad, divisor_override and x̄'s memory format."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, _, kernel_size, stride, padding, *divisor, _ = inputs
        ctx.of_mean = (kernel_size, stride, padding, grad.shape[2:], *divisor)
        ctx.of_spread = inputs[1:]

    @staticmethod
    def backward(ctx: Any, of_input: Tensor) -> tuple:
        return avg_pool(of_input, *ctx.of_mean), *(None,) * 7

    @staticmethod
    def jvp(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        return avg_pool_spread(grad, *ctx.of_spread)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, input_size: Sequence[int], *rest: Any) -> tuple:
        size = info.batch_size
        batch, *others = input_size
        spread = avg_pool_spread(into_samples(grad, in_dims[0], size), (size * batch, *others), *rest)
        return out_of_samples(spread, size), 0


@operator(AvgPoolSpread)
def avg_pool_spread(
    grad: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    count_include_pad: bool,
    divisor_override: int | None,
    memory_format: torch.memory_format,
    /,
) -> Tensor:
    """`avg_pool`'s transpose: each of grad [N, C, *] over its divisor, added to its window: `input_size`."""
    return empty(input_size, grad, memory_format)
