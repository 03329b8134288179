"""Pooling with the signatures of torch.nn.functional.

Inputs with no kernel here (see _route.py) and those with an empty axis go to PyTorch's own functions, in
:func:`built_in`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from ..autograd.pool import avg_pool, max_pool_relu
from ._arguments import Ints, integer, per_axis, require_tensors
from ._pool import Window, built_in, max_result, prepare, runs_here
from ._route import overridden


def _window(kernel_size: Ints, stride: Ints | None, padding: Ints, dilation: Ints, dims: int, name: str) -> Window:
    kernel = per_axis(kernel_size, dims, "kernel_size", name, 1)
    # The built-in takes an empty stride, too, for the kernel's size.
    omitted = stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0)
    steps = kernel if omitted else per_axis(stride, dims, "stride", name, 1)  # type: ignore[arg-type]
    pads = per_axis(padding, dims, "padding", name, 0)
    gaps = per_axis(dilation, dims, "dilation", name, 1)
    for p, d, k in zip(pads, gaps, kernel, strict=True):
        if 2 * p > d * (k - 1) + 1:
            raise RuntimeError(
                f"{name}: padding must be at most half the window, got padding={padding}, kernel_size={kernel_size}"
                + (f", dilation={dilation}" if dilation != 1 else "")
                + " (pad should be at most half of effective kernel size; "
                "padding should be at most half of kernel size)"
            )
    return kernel, steps, pads, gaps


def _output_size(
    shape: Sequence[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
    name: str,
) -> list[int]:
    """``⌊(side + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1`` for each axis, or with ``⌈·⌉``."""
    sides: list[int] = []
    for n, k, s, p, d in zip(shape[-len(kernel) :], kernel, stride, padding, dilation, strict=True):
        side = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (side - 1) * s >= n + p:  # the last window would start past the input
            side -= 1
        sides.append(side)
    if min(sides) < 1:
        raise RuntimeError(
            f"{name}: input of shape {list(shape)} gives an output of spatial size {sides}, which is too small "
            f"(kernel_size={kernel}, stride={stride}, padding={padding}, dilation={dilation}; "
            f"Output size is too small; Invalid computed output size: {min(sides)})"
        )
    return sides


def max_pool_window(layer: Any, shape: Sequence[int]) -> tuple[Window, list[int]]:
    """What a max pooling layer's operator takes for a batch of this shape: the window, and the output's sides."""
    dims, name = len(shape) - 2, f"max_pool{len(shape) - 2}d"
    window = _window(layer.kernel_size, layer.stride, layer.padding, layer.dilation, dims, name)
    return window, _output_size(shape, *window, layer.ceil_mode, name)


def avg_pool_window(layer: Any, shape: Sequence[int]) -> tuple[tuple[list[int], list[int], list[int]], list[int]]:
    """The same of a mean pooling layer, whose windows are not dilated."""
    dims, name = len(shape) - 2, f"avg_pool{len(shape) - 2}d"
    window = _window(layer.kernel_size, layer.stride, layer.padding, 1, dims, name)
    return window[:3], _output_size(shape, *window, layer.ceil_mode, name)


def _max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
    return_indices: bool,
    activation: str | None = None,
) -> Any:
    name = f"max_pool{dims}d"
    if has_torch_function_unary(input):
        args = (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return overridden(name, (input,), *args, activation=activation)
    if activation not in (None, "relu") or (activation and return_indices):
        raise ValueError(
            f"{name}: activation must be None, or without return_indices 'relu', got {activation!r} with "
            f"return_indices={return_indices}"
        )
    if not runs_here(input, dims):
        out = built_in(name, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return out if activation is None else out.relu()
    x, has_batch = prepare(input, dims, name)
    window = _window(kernel_size, stride, padding, dilation, dims, name)
    output_size = _output_size(input.shape, *window, ceil_mode, name)
    if activation is not None:
        values = max_pool_relu(x, *window, output_size)[0]
        return values if has_batch else values.squeeze(0)
    return max_result(x, has_batch, window, output_size, return_indices)


def _avg_pool(
    dims: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    name = f"avg_pool{dims}d"
    if has_torch_function_unary(input):
        args = (input, kernel_size, stride, padding, ceil_mode, count_include_pad)
        return overridden(name, (input,), *args, *(() if dims == 1 else (divisor_override,)))
    if not runs_here(input, dims):
        divisor = () if dims == 1 else (divisor_override,)
        stride = () if stride is None else stride
        return built_in(name, input, kernel_size, stride, padding, ceil_mode, count_include_pad, *divisor)
    x, has_batch = prepare(input, dims, name, any_format=False)
    window = _window(kernel_size, stride, padding, 1, dims, name)
    if divisor_override is not None and integer(divisor_override, "divisor_override", name) == 0:
        raise RuntimeError(f"{name}: divisor_override must not be 0 (divisor must be not zero)")
    if dims == 3 and any(k > n for k, n in zip(window[0], x.shape[2:], strict=True)):
        raise RuntimeError(f"{name}: input of shape {list(input.shape)} is smaller than kernel_size={kernel_size}")
    output_size = _output_size(input.shape, *window, ceil_mode, name)
    out = avg_pool(x, *window[:3], output_size, count_include_pad, divisor_override)
    return out if has_batch else out.squeeze(0)


def _lp_pool(
    dims: int, input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None, ceil_mode: bool
) -> Tensor:
    name = f"lp_pool{dims}d"
    if has_torch_function_unary(input):
        return overridden(name, (input,), input, norm_type, kernel_size, stride, ceil_mode)
    require_tensors(name, input=input)
    kernel = per_axis(kernel_size, dims, "kernel_size", name, 1)
    if norm_type == math.inf:
        return _max_pool(dims, input.abs(), kernel, stride, 0, 1, ceil_mode, False)
    if norm_type == -math.inf:
        return -_max_pool(dims, -input.abs(), kernel, stride, 0, 1, ceil_mode, False)
    mean = _avg_pool(dims, input.pow(norm_type), kernel, stride, 0, ceil_mode, True, None)
    # The sum, of the mean; through relu, so that the derivative where it is zero is zero and not infinity times zero.
    total = (torch.sign(mean) * torch.relu(torch.abs(mean))).mul(math.prod(kernel))
    return total.pow(1.0 / norm_type)


# ---- the functions ----


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    activation: str | None = None,
) -> Any:
    """Max pooling over [N, C, W], otherwise as ``max_pool2d``. Source: ``torch.nn.functional.max_pool1d``."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, activation)


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    activation: str | None = None,
) -> Any:
    """Max pooling: ``out[n, c, t] = max over k of input[n, c, t·stride − padding + k·dilation]``.

    The first of equal elements is taken, a NaN is larger than any number, and the padding is never taken.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, dilation: one integer or 2: the elements of a window along an axis, and how far apart they are.
        stride: one integer or 2, from a window to the next. Default: kernel_size.
        padding: one integer or 2, at most half a window: how far the first window starts before the input.
        ceil_mode: windows may hang over the far edge, if they start in the input or the padding before it.
        return_indices: also return where in its map each element was, as flat int64 indices.

    Returns:
        [N, C, *] (or [C, *]) with sides ``⌊(side + 2·padding − dilation·(kernel − 1) − 1)/stride⌋ + 1``, or with
        ``⌈·⌉`` in ceil mode; with return_indices a pair of such tensors.

    Raises:
        RuntimeError: an input or a window of the wrong shape, or an output with an empty side.

    Source: ``torch.nn.functional.max_pool2d``.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, activation)


def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    activation: str | None = None,
) -> Any:
    """Max pooling over [N, C, D, H, W], otherwise as ``max_pool2d``. Source: ``torch.nn.functional.max_pool3d``."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, activation)


def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """``max_pool1d`` with ``return_indices=True``, whatever is passed for that.

    Source: ``torch.nn.functional.max_pool1d_with_indices``.
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """``max_pool2d`` with ``return_indices=True``, whatever is passed for that.

    Source: ``torch.nn.functional.max_pool2d_with_indices``.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """``max_pool3d`` with ``return_indices=True``, whatever is passed for that.

    Source: ``torch.nn.functional.max_pool3d_with_indices``.
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, True)


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean pooling over [N, C, W], otherwise as ``avg_pool2d``. Source: ``torch.nn.functional.avg_pool1d``."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean pooling: ``out[n, c, t] = (Σ_k input[n, c, t·stride − padding + k]) / divisor``.

    The divisor is the number of elements in the window: with ``count_include_pad`` those in the padding too, though
    not those hanging over it in ceil mode; or ``divisor_override`` if given (``avg_pool1d`` has none).

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size: one integer or 2.
        stride: one integer or 2, from a window to the next. Default: kernel_size.
        padding: zeros before and after each axis, one integer or 2, at most half a window.
        ceil_mode: windows may hang over the far edge, if they start in the input or the padding before it.
        count_include_pad, divisor_override: see above.

    Returns:
        [N, C, *] (or [C, *]) with sides ``⌊(side + 2·padding − kernel)/stride⌋ + 1``, or with ``⌈·⌉`` in ceil mode.

    Raises:
        RuntimeError: an input or a window of the wrong shape, an output with an empty side, or a divisor of 0.

    Source: ``torch.nn.functional.avg_pool2d``.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean pooling over [N, C, D, H, W], otherwise as ``avg_pool2d``. Source: ``torch.nn.functional.avg_pool3d``."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power-average pooling over [N, C, W], otherwise as ``lp_pool2d``. Source: ``torch.nn.functional.lp_pool1d``."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power-average pooling: ``out[n, c, t] = (Σ_k input[n, c, t·stride + k]^p)^(1/p)``.

    Where the sum is zero so is the derivative. In ceil mode the sum of a window that hangs over the far edge is scaled
    up to a whole window's number of elements.

    Args:
        input: [N, C, H, W] or [C, H, W].
        norm_type: p; infinity gives the largest absolute value, minus infinity the smallest.
        kernel_size: one integer or 2.
        stride: one integer or 2, from a window to the next. Default: kernel_size.
        ceil_mode: windows may hang over the far edge.

    Returns:
        [N, C, *] (or [C, *]) with sides ``⌊(side − kernel)/stride⌋ + 1``, or with ``⌈·⌉`` in ceil mode.

    Raises:
        RuntimeError: an input or a window of the wrong shape, or an output with an empty side.

    Source: ``torch.nn.functional.lp_pool2d``.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
) -> Tensor:
    """Power-average pooling over [N, C, D, H, W], otherwise as ``lp_pool2d``.

    Source: ``torch.nn.functional.lp_pool3d``.
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)
