"""The partial inverse of max pooling, with the signatures of torch.nn.functional.

What it does is a scatter along each flattened map, and PyTorch's scatter and gather, each the other's derivative, do it
as fast as memory allows: the derivatives of every order are theirs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ._arguments import Ints, in_the_format_of, integer, per_axis, require_tensors
from ._pool import built_in, runs_here
from ._route import overridden


def _size(
    input: Tensor, kernel: list[int], stride: list[int], padding: list[int], size: Sequence[int] | None, name: str
) -> list[int]:
    """The spatial size asked for, within a step of the smallest that these windows take."""
    dims = len(kernel)
    usual = [(n - 1) * s + k - 2 * p for n, k, s, p in zip(input.shape[-dims:], kernel, stride, padding, strict=True)]
    if size is None:
        sides = usual
    else:
        sides = [integer(n, "output_size", name) for n in (size[2:] if len(size) == dims + 2 else size)]
        if len(sides) != dims:
            raise ValueError(f"{name}: output_size needs {dims} or {dims + 2} numbers, got {list(size)}")
        if not all(u - s < n < u + s for n, u, s in zip(sides, usual, stride, strict=True)):
            raise ValueError(f"{name}: output_size must be within the stride={stride} of {usual}, got {list(size)}")
    if any(n < 0 for n in sides):
        raise ValueError(f"{name}: output_size must contain non-negative spatial dimensions, but got {sides}")
    return sides


def _max_unpool(
    dims: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    output_size: Sequence[int] | None,
) -> Any:
    name = f"max_unpool{dims}d"
    if has_torch_function_variadic(input, indices):
        return overridden(name, (input, indices), input, indices, kernel_size, stride, padding, output_size)
    require_tensors(name, input=input, indices=indices)
    if not runs_here(input, dims):
        return built_in(name, input, indices, kernel_size, stride, padding, output_size)
    if input.dim() not in (dims + 1, dims + 2):
        raise RuntimeError(f"{name}: expected an input of {dims + 1} or {dims + 2} axes, got shape {list(input.shape)}")
    if indices.dtype != torch.int64:
        raise RuntimeError(f"{name}: expected indices of dtype int64, got {indices.dtype}")
    if indices.shape != input.shape:
        raise RuntimeError(
            f"{name}: expected indices of shape {list(input.shape)}, got {list(indices.shape)} "
            "(Expected shape of indices to be same as that of the input tensor)"
        )
    kernel = per_axis(kernel_size, dims, "kernel_size", name, 1)
    # A stride only says how large the output is: the built-in takes 0, but not in three dimensions.
    steps = kernel if stride is None else per_axis(stride, dims, "stride", name, int(dims == 3))
    pads = per_axis(padding, dims, "padding", name, 0)
    sides = _size(input, kernel, steps, pads, output_size, name)

    if 0 in sides:  # what the indices say is not looked at, as in the built-in
        return input.flatten(-dims)[..., :0].reshape(*input.shape[:-dims], *sides)
    flat = input.new_zeros((*input.shape[:-dims], torch.Size(sides).numel()))
    try:
        flat = flat.scatter(-1, indices.flatten(-dims), input.flatten(-dims))
    except RuntimeError as error:
        if "out of bounds" in str(error):
            raise RuntimeError(f"{name}: Found an invalid max index: {error} (an output of size {sides})") from error
        raise
    output = flat.unflatten(-1, sides)
    return in_the_format_of(input, output) if dims == 2 else output


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Any:
    """Partial inverse of max pooling over [N, C, W], otherwise as ``max_unpool2d``.

    Source: ``torch.nn.functional.max_unpool1d``.
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Any:
    """The partial inverse of max pooling: ``out[n, c, indices[n, c, t]] = input[n, c, t]``, and zero elsewhere.

    Args:
        input: [N, C, H, W] or [C, H, W], what max_pool2d gave.
        indices: [the same], int64, as max_pool2d gives them with ``return_indices=True``: flat, in the output's map.
        kernel_size, stride, padding: of that pooling; one integer or 2. Default stride: kernel_size.
        output_size: that pooling's input size, if windows of several sizes could have given this input.

    Returns:
        [N, C, *] (or [C, *]) with sides ``(side − 1)·stride − 2·padding + kernel``, or output_size.

    Raises:
        ValueError: an output_size that no such pooling has for its input.
        RuntimeError: indices of another shape or dtype, or outside the output.

    Source: ``torch.nn.functional.max_unpool2d``.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Any:
    """Partial inverse of max pooling over [N, C, D, H, W], otherwise as ``max_unpool2d``.

    Source: ``torch.nn.functional.max_unpool3d``.
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
