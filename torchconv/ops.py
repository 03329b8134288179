"""What fake kernels share: each says an operator's result as a shape, a dtype and strides, for tracing without data.

A fake kernel is the body of its operator in autograd/; the schemas are in csrc/ops.cpp. Strides are those that the
kernels return: channels-last where PyTorch would answer so.
"""

import functools
import inspect
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


def empty(size: Sequence[int], like: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A result of this size, of the dtype and on the device of `like`."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def check_alike(name: str, **operands: Tensor | None) -> None:
    """Raises, as the kernels do, unless all operands are of the first one's dtype."""
    (what, first), *others = ((what, t) for what, t in operands.items() if t is not None)
    for other, t in others:
        if t.dtype != first.dtype:
            raise RuntimeError(f"{name}: {what} is {first.dtype} but {other} is {t.dtype}")


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
