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

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._common import asked, register
from .conv import _into_filters, _total


def _one_by_one(info: Any, in_dims: tuple, call: Any, args: tuple) -> tuple[Tensor, int]:
    """A batch of calls apart: for maps that differ within the batch."""

    def pick(arg: Any, at: int | None, i: int) -> Any:
        return arg if at is None else arg.select(at, i)

    flat = in_dims[: len(args)]
    outs = [call(*(pick(a, at, i) for a, at in zip(args, flat, strict=True))) for i in range(info.batch_size)]
    return torch.stack(outs), 0


def _tensor_dims(in_dims: tuple, args: tuple) -> tuple:
    """vmap's in_dims with None for what is no tensor."""
    return tuple(at if isinstance(arg, Tensor) else None for at, arg in zip(in_dims, args, strict=True))


class TransformFilters(Function):
    """[D·T, C, *] of weight [D, C, *], the map's pointers, columns and values, and the copies' kernel size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        weight, pointers, columns, values, ctx.support = inputs
        ctx.kernel = weight.shape[2:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight if ctx.needs_input_grad[3] else None, pointers, columns, values)
        ctx.save_for_forward(weight, pointers, columns, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 5
        weight, pointers, columns, values = ctx.saved_tensors
        to_weight, _, _, to_values = asked(ctx)[:4]
        return (
            transform_filters_transpose(grad, pointers, columns, values, ctx.kernel) if to_weight else None,
            None,
            None,
            transform_values_grad(grad, weight, pointers, columns) if to_values else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, weight: Tensor | None, _p: Any, _c: Any, values: Tensor | None, *_: Any) -> Tensor | None:
        w, pointers, columns, v = ctx.saved_tensors
        return _total(
            [
                None if weight is None else transform_filters(weight, pointers, columns, v, ctx.support),
                None if values is None else transform_filters(w, pointers, columns, values, ctx.support),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        in_dims = _tensor_dims(in_dims, args)
        if in_dims[1:4] != (None, None, None):
            return _one_by_one(info, in_dims, transform_filters, args)
        out = transform_filters(_into_filters(args[0], in_dims[0], info.batch_size), *args[1:])
        return out.unflatten(0, (info.batch_size, -1)), 0


class TransformFiltersTranspose(Function):
    """w̄ [D, C, *] of grad [D·T, C, *], the map's pointers, columns and values, and the filters' kernel size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, pointers, columns, values, ctx.kernel = inputs
        ctx.support = grad.shape[2:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad if ctx.needs_input_grad[3] else None, pointers, columns, values)
        ctx.save_for_forward(grad, pointers, columns, values)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor | None) -> tuple:
        if of_weight is None:
            return (None,) * 5
        grad, pointers, columns, values = ctx.saved_tensors
        to_grad, _, _, to_values = asked(ctx)[:4]
        return (
            transform_filters(of_weight, pointers, columns, values, ctx.support) if to_grad else None,
            None,
            None,
            transform_values_grad(grad, of_weight, pointers, columns) if to_values else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, _p: Any, _c: Any, values: Tensor | None, *_: Any) -> Tensor | None:
        g, pointers, columns, v = ctx.saved_tensors
        return _total(
            [
                None if grad is None else transform_filters_transpose(grad, pointers, columns, v, ctx.kernel),
                None if values is None else transform_filters_transpose(g, pointers, columns, values, ctx.kernel),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        in_dims = _tensor_dims(in_dims, args)
        if in_dims[1:4] != (None, None, None):
            return _one_by_one(info, in_dims, transform_filters_transpose, args)
        out = transform_filters_transpose(_into_filters(args[0], in_dims[0], info.batch_size), *args[1:])
        return out.unflatten(0, (info.batch_size, -1)), 0


class TransformValuesGrad(Function):
    """v̄ [entries] of grad [D·T, C, *], weight [D, C, *] and the map's pointers and columns."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, weight, pointers, columns = inputs
        ctx.support, ctx.kernel = grad.shape[2:], weight.shape[2:]
        ctx.set_materialize_grads(False)
        to_grad, to_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if to_weight else None, weight if to_grad else None, pointers, columns)
        ctx.save_for_forward(grad, weight, pointers, columns)

    @staticmethod
    def backward(ctx: Any, of_values: Tensor | None) -> tuple:
        if of_values is None:
            return (None,) * 4
        grad, weight, pointers, columns = ctx.saved_tensors
        to_grad, to_weight = asked(ctx)[:2]
        return (
            transform_filters(weight, pointers, columns, of_values, ctx.support) if to_grad else None,
            transform_filters_transpose(grad, pointers, columns, of_values, ctx.kernel) if to_weight else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, grad: Tensor | None, weight: Tensor | None, *_: Any) -> Tensor | None:
        g, w, pointers, columns = ctx.saved_tensors
        return _total(
            [
                None if grad is None else transform_values_grad(grad, w, pointers, columns),
                None if weight is None else transform_values_grad(g, weight, pointers, columns),
            ]
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        return _one_by_one(info, in_dims, transform_values_grad, args)  # a sum over the filters: they stay apart


transform_filters = register("transform_filters", TransformFilters)
transform_filters_transpose = register("transform_filters_transpose", TransformFiltersTranspose)
transform_values_grad = register("transform_values_grad", TransformValuesGrad)
