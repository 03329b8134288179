"""Filters under transforms as autograd Functions.

The sparse map from filters to transformed filters, ``u = M(v) w``, is linear in the filters w and in its own values v,
so it closes under differentiation as convolution does:

    ========================  ====================  =========================
    operator                  to the filters        to the values
    ========================  ====================  =========================
    transform_filters         transpose(ū, v)       values_grad(ū, w)
    transpose                 transform_filters     values_grad(ū, ·)
    values_grad               transpose(ū, ·)       (to ū) transform_filters
    ========================  ====================  =========================
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._batch import into_samples
from ._bilinear import keep, triangle
from ._common import operator
from ._strides import laid_out


def _one_by_one(info: Any, in_dims: tuple, call: Any, args: tuple) -> tuple[Tensor, int]:
    """A batch of calls apart: for maps that differ within the batch."""

    def pick(arg: Any, at: int | None, i: int) -> Any:
        return arg if at is None else arg.select(at, i)

    flat = in_dims[: len(args)]
    outs = [call(*(pick(a, at, i) for a, at in zip(args, flat, strict=True))) for i in range(info.batch_size)]
    return torch.stack(outs), 0


def _in_filters(call: Any, info: Any, in_dims: tuple, args: tuple) -> tuple[Tensor, int]:
    """A batch of calls on filters [D, C, ...] as one, where they share the map."""
    in_dims = tuple(at if isinstance(arg, Tensor) else None for at, arg in zip(in_dims, args, strict=True))
    if in_dims[1:4] != (None, None, None):
        return _one_by_one(info, in_dims, call, args)
    out = call(into_samples(args[0], in_dims[0], info.batch_size), *args[1:])
    return out.unflatten(0, (info.batch_size, -1)), 0


def _transform(ctx: Any, weight: Tensor, values: Tensor, pointers: Tensor, columns: Tensor) -> Tensor:
    return transform_filters(weight, pointers, columns, values, ctx.support)


def _transpose(ctx: Any, grad: Tensor, values: Tensor, pointers: Tensor, columns: Tensor) -> Tensor:
    out = transform_filters_transpose(grad, pointers, columns, values, ctx.kernel)
    return laid_out(out, ctx.weight_strides)


def _values_grad(ctx: Any, grad: Tensor, weight: Tensor, pointers: Tensor, columns: Tensor) -> Tensor:
    return transform_values_grad(grad, weight, pointers, columns)


_of_transform, _of_transpose, _of_values_grad = triangle(_transform, _transpose, _values_grad)


@_of_transform
class TransformFilters(Function):
    """[D·T, C, *] of weight [D, C, *], the map's pointers, columns and values, and the copies' kernel size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        weight, pointers, columns, values, ctx.support = inputs
        ctx.kernel, ctx.weight_strides = weight.shape[2:], weight.stride()
        keep(ctx, weight, values, pointers, columns, at=(0, 3))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _in_filters(transform_filters, info, in_dims, args)


@operator(TransformFilters)
def transform_filters(
    weight: Tensor, pointers: Tensor, columns: Tensor, values: Tensor, kernel_size: Sequence[int], /
) -> Tensor:
    """T copies of each filter of weight [D, C, *], by a sparse map: [D · T, C, *kernel_size].

    The map (pointers, columns, values) is as a `FilterMap` has it.
    """
    transforms = (pointers.shape[0] - 1) // math.prod(kernel_size)
    return weight.new_empty([weight.shape[0] * transforms, weight.shape[1], *kernel_size])


@_of_transpose
class TransformFiltersTranspose(Function):
    """w̄ [D, C, *] of grad [D·T, C, *], the map's pointers, columns and values, and the filters' kernel size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, pointers, columns, values, ctx.kernel = inputs
        ctx.support, ctx.weight_strides = grad.shape[2:], output.stride()
        keep(ctx, grad, values, pointers, columns, at=(0, 3))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _in_filters(transform_filters_transpose, info, in_dims, args)


@operator(TransformFiltersTranspose)
def transform_filters_transpose(
    grad: Tensor, pointers: Tensor, columns: Tensor, values: Tensor, kernel_size: Sequence[int], /
) -> Tensor:
    """`transform_filters`' transpose, of grad [D · T, C, *]: [D, C, *kernel_size]."""
    transforms = (pointers.shape[0] - 1) // math.prod(grad.shape[2:])
    return grad.new_empty([grad.shape[0] // transforms, grad.shape[1], *kernel_size])


@_of_values_grad
class TransformValuesGrad(Function):
    """v̄ [entries] of grad [D·T, C, *], weight [D, C, *] and the map's pointers and columns."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, pointers, columns = inputs
        ctx.support, ctx.kernel, ctx.weight_strides = grad.shape[2:], weight.shape[2:], weight.stride()
        keep(ctx, grad, weight, pointers, columns)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _one_by_one(info, in_dims, transform_values_grad, args)  # a sum over the filters: they stay apart


@operator(TransformValuesGrad)
def transform_values_grad(grad: Tensor, weight: Tensor, pointers: Tensor, columns: Tensor, /) -> Tensor:
    """`transform_filters`' derivative to its values, of grad [D · T, C, *] and weight [D, C, *]: as columns."""
    return grad.new_empty(columns.shape)
