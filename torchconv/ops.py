"""Fake kernels: each operator's result as a shape, a dtype and strides, for tracing without data.

The schemas are in csrc/ops.cpp. Strides are those the kernels return: channels-last where PyTorch would answer so.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.library import register_fake

CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)


def _empty(size: Sequence[int], like: Tensor, memory_format: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


# ---- convolution ----


def _format(activation: Tensor, other: Tensor) -> torch.memory_format:
    """Channels-last where one of the two operands is and the batch is not empty."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # here: it imports sympy, which takes a while

    if guard_or_false(activation.shape[0] == 0):
        return torch.contiguous_format
    for tensor in (activation, other):
        memory_format = suggest_memory_format(tensor)
        if memory_format in CHANNELS_LAST:
            return memory_format
    return torch.contiguous_format


def convolution_output_size(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """[N, O, *] with sides ``⌊(size + before + after − dilation·(kernel − 1) − 1) / stride⌋ + 1``."""
    sides = [
        (size + padding[2 * a] + padding[2 * a + 1] - dilation[a] * (weight_size[2 + a] - 1) - 1) // stride[a] + 1
        for a, size in enumerate(input_size[2:])
    ]
    return [input_size[0], weight_size[0], *sides]


@register_fake("torchconv::convolution")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    torch._check(
        input.shape[1] == weight.shape[1] * groups,
        lambda: (
            f"conv{weight.dim() - 2}d: weight of shape {list(weight.shape)} with groups={groups} expects "
            f"{weight.shape[1] * groups} input channels, got input of shape {list(input.shape)}"
        ),
    )
    size = convolution_output_size(input.shape, weight.shape, stride, padding, dilation)
    return _empty(size, input, _format(input, weight))


@register_fake("torchconv::convolution_input_grad")
def _(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    return _empty(input_size, grad, _format(grad, weight))


@register_fake("torchconv::convolution_weight_grad")
def _(
    grad: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    algorithm: str,
    memory_format: torch.memory_format,
) -> Tensor:
    return _empty(weight_size, grad, memory_format)


@register_fake("torchconv::convolution_bias_grad")
def _(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1])
