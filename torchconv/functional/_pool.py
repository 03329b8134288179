"""What the functions of pooling share: who pools an input, in what form, and what comes back."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..autograd.pool import max_pool, max_pool_indices
from ._arguments import batched, require_tensors
from ._route import has_kernel

# kernel_size, stride, padding and dilation, one number an axis each; all zeros where the pooling is adaptive.
Window: TypeAlias = tuple[list[int], list[int], list[int], list[int]]

# Positions along an axis that the operators' tables hold.
LARGEST = 2**31 - 1


def runs_here(input: Tensor, dims: int) -> bool:
    """Whether there is a kernel for this input. One with an empty axis other than the batch's is mostly refused."""
    return (
        isinstance(input, Tensor)
        and has_kernel(input)
        and (input.dim() not in (dims + 1, dims + 2) or 0 not in input.shape[-dims - 1 :])
        and not any(type(side) is int and side > LARGEST for side in input.shape[-dims:])
    )


def built_in(name: str, *args: Any) -> Any:
    """PyTorch's own pooling, where there is no kernel for the input here."""
    require_tensors(name, input=args[0])
    return getattr(torch.nn.functional, name)(*args)


def prepare(input: Tensor, dims: int, name: str, any_format: bool = True) -> tuple[Tensor, bool]:
    """The input with a batch axis, as autocast and the built-in's choice of memory format would have it."""
    x, has_batch = batched(input, dims, name)
    if dims == 3:
        if x.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"):
            x = x.float()
        if not any_format:
            x = x.contiguous()
        elif not has_batch and input.shape[0] > 1 and input.permute(1, 2, 3, 0).is_contiguous():
            x = x.clone(memory_format=torch.channels_last_3d)  # unsqueeze alone gives strides that say contiguous
    return x, has_batch


def max_result(x: Tensor, has_batch: bool, window: Window, output_size: list[int], return_indices: bool) -> Any:
    """The maxima of a batch, as they were asked for: of one sample without its batch axis, and with their indices."""
    values, positions = max_pool(x, *window, output_size)
    if not has_batch:
        values = values.squeeze(0)
    if not return_indices:
        return values
    indices = max_pool_indices(positions, x.shape, *window)
    return values, (indices if has_batch else indices.squeeze(0))
