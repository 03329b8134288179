"""The strides that gradients come back in: a parameter's own, to the last axis of one element; of maps the layout that
the result has, as the built-in's, whatever that of its gradient.

An axis of one element may have any stride, and a memory format says nothing of it: a depth-wise or 1×1 weight is
contiguous and channels-last at once. PyTorch's DistributedDataParallel compares the numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _packed(size: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense tensor whose axes lie in memory in this order, outermost first."""
    strides, step = [0] * len(size), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(size[axis], 1)
    return tuple(strides)


def _alike(size: Sequence[int], some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether strides are the same but on axes of one element."""
    return all(a == b for n, a, b in zip(size, some, others, strict=True) if n != 1)


def weight_format(weight: Tensor) -> torch.memory_format:
    """The memory format that gives a result of `weight`'s size its strides, or comes closest."""
    channels_last = _CHANNELS_LAST.get(weight.dim())
    size, strides = weight.shape, weight.stride()
    if channels_last is None or (strides[1] != 1 and (size[1] != 1 or weight.is_contiguous())):
        return torch.contiguous_format
    packed = _packed(size, (0, *range(2, len(size)), 1))
    if strides != packed and (weight.is_contiguous() or not _alike(size, strides, packed)):
        return torch.contiguous_format
    return channels_last


def maps_last(*operands: Tensor) -> bool | None:
    """Whether a convolution's maps are channels-last: whether an operand is. None in one dimension."""
    if operands[0].dim() == 3:
        return None
    return any(
        not t.is_contiguous()
        and weight_format(t) != torch.contiguous_format
        and t.stride(0)
        >= t.stride(2) * t.size(2)  # not so where a map was given a batch axis: PyTorch calls that strided
        for t in operands
    )


def as_maps(maps: Tensor, last: bool | None) -> Tensor:
    """`maps` [N, C, *] in the layout that `maps_last` tells. In permutations, for vmap knows no memory format."""
    if last is None or torch._C._are_functorch_transforms_active():
        return maps
    return maps.movedim(1, -1).contiguous().movedim(-1, 1) if last else maps.contiguous()


def laid_out(grad: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`grad` in `strides`, those of its parameter, where they are dense. A view where axes of one element alone differ,
    which is all that memory formats leave open; a copy for weights permuted otherwise."""
    if grad.stride() == strides or torch._C._are_functorch_transforms_active():
        return grad
    order = sorted(range(len(strides)), key=lambda axis: (-strides[axis], grad.shape[axis] == 1))
    packed = _packed(grad.shape, order)
    if not _alike(grad.shape, strides, packed):
        return grad  # not dense
    if not _alike(grad.shape, strides, grad.stride()):
        inverse = sorted(range(len(order)), key=order.__getitem__)
        grad = grad.permute(order).contiguous().permute(inverse)
    return grad if grad.stride() == strides else grad.as_strided(grad.shape, strides)
