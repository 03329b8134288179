"""Adaptive pooling, to an output of a given size, with the signatures of torch.nn.functional."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.overrides import has_torch_function_unary

from ..autograd.pool import avg_pool
from ._arguments import per_axis, wrong_length
from ._pool import built_in, max_result, prepare, runs_here
from ._route import overridden

# None where an axis keeps the input's size.
Sizes: TypeAlias = int | Sequence[int | None]


def adaptive_size(output_size: Sizes, shape: Sequence[int], dims: int, name: str) -> list[int]:
    """`output_size` with None replaced by the size in the input's shape."""
    if isinstance(output_size, (tuple, list)):
        if len(output_size) != dims:
            raise wrong_length(name, "output_size", dims, output_size)
        if dims > 1:  # as the built-in, which in one dimension has no None
            if len(shape) <= dims:
                raise ValueError(f"{name}: Input dimension should be at least {dims + 1}, got {len(shape)}")
            spatial = shape[-dims:]
            output_size = [n if o is None else o for o, n in zip(output_size, spatial, strict=True)]
    return per_axis(output_size, dims, "output_size", name, 0)  # type: ignore[arg-type]


def _adaptive_max_pool(dims: int, input: Tensor, output_size: Sizes, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{dims}d"
    if has_torch_function_unary(input):
        return overridden(name, (input,), input, output_size, return_indices)
    if not runs_here(input, dims):
        return built_in(name, input, output_size, return_indices)
    size = adaptive_size(output_size, input.shape, dims, name)
    x, has_batch = prepare(input, dims, name, any_format=False)
    zeros = [0] * dims
    return max_result(x, has_batch, (zeros, zeros, zeros, zeros), size, return_indices)


def _adaptive_avg_pool(dims: int, input: Tensor, output_size: Sizes) -> Tensor:
    name = f"adaptive_avg_pool{dims}d"
    if has_torch_function_unary(input):
        return overridden(name, (input,), input, output_size)
    if not runs_here(input, dims):
        return built_in(name, input, output_size)
    size = adaptive_size(output_size, input.shape, dims, name)
    x, has_batch = prepare(input, dims, name, any_format=False)
    zeros = [0] * dims
    out = avg_pool(x, zeros, zeros, zeros, size, True, None)
    return out if has_batch else out.squeeze(0)


# ---- the functions ----


def adaptive_max_pool1d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Max pooling to a given size over [N, C, W], otherwise as ``adaptive_max_pool2d``.

    Source: ``torch.nn.functional.adaptive_max_pool1d``.
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Max pooling to a given size: output o of an axis takes the largest of the elements from
    ``⌊o·side/size⌋`` to ``⌈(o + 1)·side/size⌉``.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: the output's spatial size, one integer or 2; among several, None keeps the input's.
        return_indices: also return where in its map each element was, as flat int64 indices.

    Returns:
        [N, C, *] (or [C, *]) of that size; with return_indices a pair of such tensors.

    Raises:
        RuntimeError: an input of the wrong shape, or a negative size.

    Source: ``torch.nn.functional.adaptive_max_pool2d``.
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Max pooling to a given size over [N, C, D, H, W], otherwise as ``adaptive_max_pool2d``.

    Source: ``torch.nn.functional.adaptive_max_pool3d``.
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """Mean pooling to a given size over [N, C, W], otherwise as ``adaptive_avg_pool2d``.

    Source: ``torch.nn.functional.adaptive_avg_pool1d``.
    """
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    """Mean pooling to a given size: output o of an axis takes the mean of the elements from
    ``⌊o·side/size⌋`` to ``⌈(o + 1)·side/size⌉``.

    Args:
        input: [N, C, H, W] or [C, H, W].
        output_size: the output's spatial size, one integer or 2; among several, None keeps the input's.

    Returns:
        [N, C, *] (or [C, *]) of that size.

    Raises:
        RuntimeError: an input of the wrong shape, or a negative size.

    Source: ``torch.nn.functional.adaptive_avg_pool2d``.
    """
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> Tensor:
    """Mean pooling to a given size over [N, C, D, H, W], otherwise as ``adaptive_avg_pool2d``.

    Source: ``torch.nn.functional.adaptive_avg_pool3d``.
    """
    return _adaptive_avg_pool(3, input, output_size)
