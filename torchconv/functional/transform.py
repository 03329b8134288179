"""Convolution with filters tried under a set of transforms.

Operands with no kernel here (see _route.py) take PyTorch's own operators, the maps of all transforms at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary, has_torch_function_variadic

from ..autograd.conv import convolution
from ..autograd.reduced import convolution_max, convolution_norm
from ..autograd.transform import transform_filters as _transform_filters
from ..autograd.transform_conv import transform_convolution
from ..transforms import FilterMap, TransformSet
from ._arguments import Ints, asked, autocast, batched, check_operands, integer, per_axis, require_weight
from ._route import has_kernel, overridden
from ._window import Padding, Window, both_sides
from .conv import built_in

REDUCTIONS = (None, "max", "mean", "norm")


def _map_for(weight: Tensor, transforms: TransformSet | FilterMap) -> FilterMap:
    fmap = transforms.filter_map(tuple(weight.shape[2:])) if isinstance(transforms, TransformSet) else transforms
    if tuple(weight.shape[2:]) != tuple(fmap.kernel_size):
        raise RuntimeError(
            f"transform_filters: a map for filters of size {list(fmap.kernel_size)} got a weight of shape "
            f"{list(weight.shape)}"
        )
    return fmap


def transform_filters(weight: Tensor, transforms: TransformSet | FilterMap) -> Tensor:
    """The transformed copies of filters, those of one filter next to each other.

    ``out[d·T + t, c, p] = Σ_q M_t[p, q] · weight[d, c, q]``, with M_t the map of transform t.

    Args:
        weight: [D, C, kernel...].
        transforms: a set of T transforms, or its map for this kernel size (``transforms.filter_map(kernel_size)``),
            whose values may be differentiated.

    Returns:
        [D·T, C, support...], contiguous.

    Raises:
        RuntimeError: a map for filters of another size.
    """
    if has_torch_function_unary(weight):
        return overridden("transform_filters", (weight,), weight, transforms)
    fmap = _map_for(weight, transforms)
    pointers, columns, values, *_ = fmap.like(weight)
    if has_kernel(weight):
        return _transform_filters(weight, pointers, columns, values, fmap.support)
    taps = weight.flatten(2)[..., columns] * values  # [D, C, entries]
    # Of each entry, its row: how many rows' ends lie before it. Exporters know these operators.
    ends = columns.new_zeros(len(columns) + 1).index_add(0, pointers[1:-1], torch.ones_like(pointers[1:-1]))
    rows = ends.cumsum(0)[:-1]
    out = taps.new_zeros(*taps.shape[:2], len(pointers) - 1).index_add(2, rows, taps)
    return out.unflatten(2, (-1, *fmap.support)).movedim(2, 1).flatten(0, 1)


def with_margins(
    padding: Sequence[int], kernel: Sequence[int], support: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Flat padding for filters of the size `kernel`, and on all sides what their supports reach beyond it: copies have
    the filter's centre, so that the output's size is the filter's."""
    margins = [d * (s - k) // 2 for d, s, k in zip(dilation, support, kernel, strict=True) for _ in (0, 1)]
    return [side + margin for side, margin in zip(padding, margins, strict=True)]


def _transform_conv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    transforms: TransformSet | FilterMap,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    reduce: str | None,
    algorithm: str,
    *,
    margins: bool = True,
) -> Tensor:
    """`margins`: whether to pad for what the supports reach beyond the filter; else the input has it already."""
    name = f"transform_conv{dims}d"
    if margins and has_torch_function_variadic(input, weight, bias):
        args = (input, weight, transforms, bias, stride, padding, dilation, groups)
        return overridden(name, (input, weight, bias), *args, reduce=reduce, algorithm=algorithm)
    if reduce not in REDUCTIONS:
        raise RuntimeError(f"{name}: reduce must be one of {REDUCTIONS}, got {reduce!r}")
    require_weight(name, dims, input, weight, bias)
    if reduce == "max" and input.is_complex():
        raise RuntimeError(f"{name}: reduce='max' of {input.dtype} maps: complex numbers have no maximum")
    stride = per_axis(stride, dims, "stride", name, 1)
    dilation = per_axis(dilation, dims, "dilation", name, 1)
    groups = integer(groups, "groups", name)
    x, has_batch = batched(input, dims, name)
    sides = both_sides(padding, x.shape[2:], weight.shape[2:], stride, dilation, name)
    filters, fmap = weight.shape[0], _map_for(weight, transforms)
    if groups < 1 or filters % groups:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} has {filters} filters, no multiple of groups={groups}"
        )
    if margins:
        sides = with_margins(sides, weight.shape[2:], fmap.support, dilation)
    window = Window(stride, sides, dilation, groups)
    if reduce is None:
        out = every_map(name, x, weight, fmap, bias, window, algorithm)
        return out if has_batch else out.squeeze(0)
    copies = transform_filters(weight, fmap)  # [D·T, C/groups, *]
    count = copies.shape[0] // max(filters, 1)
    if reduce == "mean":  # the mean of the maps is the map of the mean filter
        copies, count = copies.unflatten(0, (filters, count)).mean(1), 1
    x, w, b = autocast(x, copies, bias)
    if has_kernel(x, w, b):
        check_operands(x, w, b, (filters,), name)
        out = _reduced(x, w, b, count, window, reduce, algorithm)
    else:
        every = None if b is None else b.repeat_interleave(count)
        out = _reduced_by_torch(built_in(x, w, every, window, algorithm), count, reduce)
    return out if has_batch else out.squeeze(0)


def every_map(
    name: str, x: Tensor, weight: Tensor, fmap: FilterMap, bias: Tensor | None, window: Window, algorithm: str
) -> Tensor:
    """The convolution of x [N, C, *] with the copies of weight [D, C', *], bias [D]: [N, D·T, *]. A map of more axes
    than x has spatial ones takes its first from the weight's channels."""
    dims, filters = x.dim() - 2, weight.shape[0]
    if has_kernel(x, weight, bias) and not torch.is_autocast_enabled("cpu"):
        check_operands(x, weight, bias, (filters,), name)
        pointers, columns, values, kernel, support = fmap.like(weight)
        operands = x, weight, values, pointers, columns, bias
        return transform_convolution(*operands, kernel, support, *window, asked(algorithm))
    split = weight.reshape(filters, -1, *fmap.kernel_size)
    copies = transform_filters(split, fmap)
    x, w, b = autocast(x, copies.reshape(copies.shape[0], -1, *fmap.support[-dims:]), bias)
    every = None if b is None else b.repeat_interleave(w.shape[0] // filters)
    if has_kernel(x, w, b):
        check_operands(x, w, b, (filters,), name)
        return convolution(x, w, every, *window, asked(algorithm))
    return built_in(x, w, every, window, algorithm)


def _reduced(x: Tensor, w: Tensor, b: Tensor | None, count: int, window: Window, reduce: str, algorithm: str) -> Tensor:
    """The convolution with the copies w, `count` for each filter, reduced."""
    if reduce == "max":
        return convolution_max(x, w, b, count, *window, asked(algorithm))[0]
    if reduce == "norm":
        return convolution_norm(x, w, b, count, *window, asked(algorithm))
    return convolution(x, w, b, *window, asked(algorithm))  # the mean filters


def _reduced_by_torch(maps: Tensor, count: int, reduce: str) -> Tensor:
    if reduce == "mean":
        return maps
    maps = maps.unflatten(1, (maps.shape[1] // count, count))
    return maps.max(2).values if reduce == "max" else torch.linalg.vector_norm(maps, dim=2)


def transform_conv1d(
    input: Tensor,
    weight: Tensor,
    transforms: TransformSet | FilterMap,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    reduce: str | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolution over [N, C, W] with filters under T transforms, otherwise as ``transform_conv2d``."""
    return _transform_conv(1, input, weight, transforms, bias, stride, padding, dilation, groups, reduce, algorithm)


def transform_conv2d(
    input: Tensor,
    weight: Tensor,
    transforms: TransformSet | FilterMap,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    reduce: str | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolution with every filter tried under each of T transforms.

    ``out[n, d·T + t] = bias[d] + Σ_c input[n, c] ⋆ (T_t weight)[d, c]``; with `reduce`, the T maps of a filter become
    one, without all of them ever being in memory: ``max``, ``mean``, or ``norm`` (``√Σ_t out[t]²``).

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [D, C/groups, kernel...].
        transforms: a ``torchconv.transforms`` set, or its map for this kernel size.
        bias: [D], one a filter, or None.
        stride, dilation, groups, algorithm: as in ``conv2d``.
        padding: as in ``conv2d``, for filters of the weight's size; where transforms need a larger support, the
            zeros for it are added, so that the output's size is ``conv2d``'s with the same arguments.
        reduce: None, "max", "mean" or "norm".

    Returns:
        [N, D·T, *], or with `reduce` [N, D, *]; without N where the input has none.

    Raises:
        RuntimeError: shapes that do not fit, or an algorithm that cannot run.
    """
    return _transform_conv(2, input, weight, transforms, bias, stride, padding, dilation, groups, reduce, algorithm)


def transform_conv3d(
    input: Tensor,
    weight: Tensor,
    transforms: TransformSet | FilterMap,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    reduce: str | None = None,
    algorithm: str = "auto",
) -> Tensor:
    """Convolution over [N, C, D, H, W] with filters under T transforms, otherwise as ``transform_conv2d``."""
    return _transform_conv(3, input, weight, transforms, bias, stride, padding, dilation, groups, reduce, algorithm)
