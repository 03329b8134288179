"""Fake kernels: each operator's result as a shape, a dtype and strides, for tracing without data.

The schemas are in csrc/ops.cpp. Strides are those the kernels return: channels-last where PyTorch would answer so.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)

Fake = TypeVar("Fake", bound=Callable[..., Any])


def register_fake(name: str) -> Callable[[Fake], Fake]:
    """torch.library's, behind a check that all operands are on one device.

    Operands on the CPU and on ``meta`` together come here, and would be given memory that nothing has written.
    """

    def register(function: Fake) -> Fake:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            operands = {**dict(zip(names, args, strict=False)), **kwargs}
            (what, first), *others = ((what, t) for what, t in operands.items() if isinstance(t, Tensor))
            for other, t in others:
                if t.device != first.device:
                    raise RuntimeError(
                        f"{name.removeprefix('torchconv::')}: Expected all tensors to be on the same device, but "
                        f"{what} is on {first.device} but {other} is on {t.device}"
                    )
            return function(*args, **kwargs)

        torch.library.register_fake(name, checked)
        return function

    return register


def _empty(size: Sequence[int], like: Tensor, memory_format: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def check_alike(name: str, **operands: Tensor | None) -> None:
    """Raises, as the kernels do, unless all operands are of the first one's dtype."""
    (what, first), *others = ((what, t) for what, t in operands.items() if t is not None)
    for other, t in others:
        if t.dtype != first.dtype:
            raise RuntimeError(f"{name}: {what} is {first.dtype} but {other} is {t.dtype}")


# ---- convolution ----


def activation_format(activation: Tensor, other: Tensor) -> torch.memory_format:
    """What a convolution runs and answers in: channels-last where an operand is and the batch is not empty."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # here: it imports sympy, which takes a while

    if guard_or_false(activation.shape[0] == 0):
        return torch.contiguous_format
    for tensor in (activation, other):
        memory_format = suggest_memory_format(tensor)
        if memory_format in CHANNELS_LAST:
            return memory_format
    return torch.contiguous_format


def output_sides(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """A convolution's output along each axis: ``⌊(side + before + after − dilation·(kernel − 1) − 1)/stride⌋ + 1``."""
    return [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, before, after, d in zip(size, kernel, stride, padding[::2], padding[1::2], dilation, strict=True)
    ]


def convolution_output_size(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """[N, O, *] with `output_sides`.

    Raises where a side that is known would be less than 1 or more than can be counted.
    """
    dims = len(weight_size) - 2
    for what, values, length in (
        ("input", input_size, dims + 2),
        ("stride", stride, dims),
        ("padding", padding, 2 * dims),
        ("dilation", dilation, dims),
    ):
        if len(values) != length:
            raise RuntimeError(f"conv{dims}d: {what} needs {length} numbers, got {list(values)}")
    sides = output_sides(input_size[2:], weight_size[2:], stride, padding, dilation)
    if any(type(side) is int and not 1 <= side < 2**63 for side in sides):
        raise RuntimeError(
            f"conv{dims}d: input of shape {list(input_size)} and weight of shape {list(weight_size)} with stride "
            f"{list(stride)}, padding {list(padding)}, dilation {list(dilation)} give an output of sides {sides}"
        )
    return [input_size[0], weight_size[0], *sides]


@register_fake("torchconv::convolution")
@register_fake("torchconv::convolution_relu")
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
    check_alike("convolution", input=input, weight=weight, bias=bias)
    torch._check(
        input.shape[1] == weight.shape[1] * groups,
        lambda: (
            f"conv{weight.dim() - 2}d: weight of shape {list(weight.shape)} with groups={groups} expects "
            f"{weight.shape[1] * groups} input channels, got input of shape {list(input.shape)}"
        ),
    )
    size = convolution_output_size(input.shape, weight.shape, stride, padding, dilation)
    return _empty(size, input, activation_format(input, weight))


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
    check_alike("convolution_input_grad", grad=grad, weight=weight)
    return _empty(input_size, grad, activation_format(grad, weight))


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
    check_alike("convolution_weight_grad", grad=grad, input=input)
    return _empty(weight_size, grad, memory_format)


@register_fake("torchconv::convolution_bias_grad")
def _(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1])


@register_fake("torchconv::relu_bias_grad")
def _(grad: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    check_alike("relu_bias_grad", grad=grad, output=output)
    return _empty(grad.shape, grad, activation_format(output, output)), grad.new_empty(grad.shape[1])


# ---- pooling ----


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


@register_fake("torchconv::max_pool")
@register_fake("torchconv::max_pool_relu")
def _(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    values = _empty([*input.shape[:2], *output_size], input, suggest_memory_format(input))
    dtype = position_dtype(kernel_size, stride, dilation, input.shape[2:], output_size)
    return values, torch.empty_like(values, dtype=dtype)


@register_fake("torchconv::max_pool_scatter")
def _(
    grad: Tensor,
    positions: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return _empty(input_size, grad, suggest_memory_format(positions))


@register_fake("torchconv::max_pool_gather")
def _(
    input: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return _empty(positions.shape, input, suggest_memory_format(positions))


@register_fake("torchconv::max_pool_indices")
def _(
    positions: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return _empty(positions.shape, positions, suggest_memory_format(positions)).to(torch.int64)


@register_fake("torchconv::avg_pool")
def _(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_size: Sequence[int],
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    return _empty([*input.shape[:2], *output_size], input, suggest_memory_format(input))


@register_fake("torchconv::avg_pool_spread")
def _(
    grad: Tensor,
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    count_include_pad: bool,
    divisor_override: int | None,
    memory_format: torch.memory_format,
) -> Tensor:
    return _empty(input_size, grad, memory_format)


# ---- batch normalisation ----


def _norm_format(input: Tensor) -> torch.memory_format:
    return activation_format(input, input) if input.dim() >= 4 else torch.contiguous_format


def _statistic(input: Tensor) -> Tensor:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return torch.empty(input.shape[1], dtype=dtype, device=input.device)


@register_fake("torchconv::batch_norm")
def _(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(input.shape, input, _norm_format(input)), _statistic(input), _statistic(input)


@register_fake("torchconv::batch_norm_grad")
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(input.shape, input, _norm_format(input)), _statistic(input), _statistic(input)


# ---- locally connected layers ----


@register_fake("torchconv::local_convolution")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return input.new_empty([input.shape[0], weight.shape[0], *weight.shape[1 + weight.dim() // 2 :]])


@register_fake("torchconv::local_convolution_input_grad")
def _(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return grad.new_empty(input_size)


@register_fake("torchconv::local_convolution_weight_grad")
def _(
    grad: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return grad.new_empty(weight_size)


# ---- local response normalisation ----


@register_fake("torchconv::local_response_norm")
def _(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return _empty(input.shape, input, suggest_memory_format(input))


@register_fake("torchconv::local_response_norm_grad")
def _(grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return _empty(input.shape, input, suggest_memory_format(input))
