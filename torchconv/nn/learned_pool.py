"""Pooling that is learned: by a filter, or by a small network applied to every block (network in network)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import functional
from .._calls import BuiltInCall, ConvolutionCall, OperatorCall, Result, maps_size
from ..functional._arguments import Ints, per_axis, require_tensors
from ..functional._window import Window, flat
from ._layer import Layer

Sizes: TypeAlias = int | Sequence[int]


def _sizes(value: Sizes, what: str, name: str, least: int = 1) -> tuple[int, int]:
    try:
        height, width = per_axis(value, 2, what, name, least)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return height, width


def _step(stride: Ints | None, kernel: tuple[int, int], name: str) -> tuple[int, int]:
    return kernel if stride is None else _sizes(stride, "stride", name)


class LearnedPool2d(Layer, torch.nn.Module):
    """Pooling whose weighting of the window is learned, each map by itself.

    .. math::
        y[b, c, i] = \\sum_k w[c, k] \\, x[b, c, stride \\cdot i + k - padding]

    It starts as mean pooling, every weight being 1 over the window's elements (those in the padding count, as in
    torch.nn.AvgPool2d), and is a depth-wise convolution.

    Args:
        channels (int or None): how many maps, each with a filter of its own; None for one filter that all maps share,
            however many there are.
        kernel_size (int or tuple): side of the window.
        stride (int or tuple): step between windows. Default: kernel_size
        padding (int or tuple): zeros on both sides of each axis. Default: 0

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), each side
          :math:`\\lfloor (size + 2 padding - kernel\\_size) / stride \\rfloor + 1`

    Attributes:
        weight (Parameter): (channels, 1, *kernel_size), with 1 for None.

    Raises:
        ValueError: a size below 1.
        RuntimeError: an input of another number of channels, or smaller than the window.
    """

    def __init__(
        self,
        channels: int | None,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if channels is not None and channels < 1:
            raise ValueError(f"LearnedPool2d: channels must be None or at least 1, got {channels}")
        self.channels = channels
        self.kernel_size = _sizes(kernel_size, "kernel_size", "LearnedPool2d")
        self.stride = _step(stride, self.kernel_size, "LearnedPool2d")
        self.padding = _sizes(padding, "padding", "LearnedPool2d", 0)
        self.weight = torch.nn.Parameter(torch.empty(channels or 1, 1, *self.kernel_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mean pooling."""
        torch.nn.init.constant_(self.weight, 1 / math.prod(self.kernel_size))

    def forward(self, input: Tensor) -> Tensor:
        require_tensors("LearnedPool2d", input=input)
        maps = input.shape[-3] if input.dim() in (3, 4) else -1
        if maps < 0 or (self.channels is not None and maps != self.channels):
            raise RuntimeError(
                f"LearnedPool2d: expected an input of {self.channels or 'any number of'} maps in 3 or 4 axes, "
                f"got shape {list(input.shape)}"
            )
        weight = self.weight if self.channels is not None else self.weight.repeat(maps, 1, 1, 1)
        return functional.conv2d(input, weight, None, self.stride, self.padding, groups=maps)

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        size, padding = maps_size(given, 2), flat((p, p) for p in self.padding)
        window = Window(list(self.stride), padding, [1, 1], size[1])
        weight_size = (size[1], *self.weight.shape[1:])
        return [ConvolutionCall(size, weight_size, output.numel(), window, "auto", 0, Result.of(output, 2))]

    def extra_repr(self) -> str:
        pad = f", padding={self.padding}" if any(self.padding) else ""
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}{pad}"


class BlockPool2d(Layer, torch.nn.Module):
    """The same small network applied to every block of the input (network in network).

    .. math::
        y[b, :, i] = network(x[b, :, stride \\cdot i : stride \\cdot i + kernel\\_size])

    The blocks are handed over as a batch, so that the network sees a block as it would a sample: (C, kH, kW), behind a
    batch axis. They are copied into it once, some rows of blocks at a time, so that in evaluation no more than about
    `at_once` elements of them are there; in training the network's own backward keeps what it needs of all. Gradients
    reach the input and the network.

    Args:
        network (Module or callable): takes blocks (B, C, kH, kW) to (B, D) or (B, D, 1, 1); what it gives of one block
            must not depend on the others, so batch norm in training sees parts, not the whole.
        kernel_size (int or tuple): side of a block.
        stride (int or tuple): step between blocks. Default: kernel_size
        at_once (int): about how many elements of blocks to hand over at a time, at least a row of blocks of one sample.
            Default: 4 million

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, D, H_out, W_out) or (D, H_out, W_out), each side
          :math:`\\lfloor (size - kernel\\_size) / stride \\rfloor + 1`

    Raises:
        ValueError: a size below 1.
        RuntimeError: an input smaller than a block, or a network whose result is of another shape.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        kernel_size: Sizes,
        stride: Sizes | None = None,
        at_once: int = 1 << 22,
    ) -> None:
        super().__init__()
        self.network = network
        self.kernel_size = _sizes(kernel_size, "kernel_size", "BlockPool2d")
        self.stride = _step(stride, self.kernel_size, "BlockPool2d")
        if at_once < 1:
            raise ValueError(f"BlockPool2d: at_once must be at least 1, got {at_once}")
        self.at_once = at_once

    def forward(self, input: Tensor) -> Tensor:
        require_tensors("BlockPool2d", input=input)
        (height, width), (down, right) = self.kernel_size, self.stride
        if input.dim() not in (3, 4) or input.shape[-2] < height or input.shape[-1] < width:
            raise RuntimeError(
                f"BlockPool2d: expected an input (N, C, H, W) or (C, H, W) that holds a block of {height} by {width}, "
                f"got shape {list(input.shape)}"
            )
        x = input if input.dim() == 4 else input.unsqueeze(0)
        # [N, H_out, W_out, C, kH, kW], a view
        blocks = x.unfold(2, height, down).unfold(3, width, right).permute(0, 2, 3, 1, 4, 5)
        batch, rows, columns = blocks.shape[:3]
        most = self._rows_at_once(rows, math.prod(blocks.shape[2:]))
        if torch.compiler.is_exporting():  # a program for any batch cannot be made of so many parts
            parts = [self._applied(blocks)]
        elif most >= rows:  # whole samples
            parts = [self._applied(part) for part in blocks.split(most // rows)]
        else:
            parts = [self._applied(part) for sample in blocks.split(1) for part in sample.split(most, 1)]
        out = torch.cat(parts)  # [N·H_out·W_out, D]
        out = out.reshape(batch, rows, columns, out.shape[1]).permute(0, 3, 1, 2)
        return out if input.dim() == 4 else out.squeeze(0)

    def _rows_at_once(self, rows: int, size: int) -> int:
        """How many rows of blocks, of `size` elements each, to copy at a time: of one sample, or all `rows` of some."""
        most = max(self.at_once // size, 1)
        return most - most % rows if most >= rows else most

    def _applied(self, part: Tensor) -> Tensor:
        """[N, rows, W_out, C, kH, kW] -> [N·rows·W_out, D]."""
        flat = part.flatten(0, 2)  # the copy
        out = self.network(flat)
        if out.dim() < 2 or out.shape[0] != flat.shape[0] or any(side != 1 for side in out.shape[2:]):
            raise RuntimeError(
                f"BlockPool2d: the network must take blocks of shape {list(flat.shape)} to [{flat.shape[0]}, D], "
                f"got {list(out.shape)}"
            )
        return out.flatten(1)

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        """The copies of the blocks. What the network makes of them are calls of its own layers."""
        row = output.shape[-1] * given.shape[-3] * math.prod(self.kernel_size)  # elements of a row of blocks
        rows = output.shape[:-3].numel() * output.shape[-2]
        copies = rows * row * given.element_size()
        at_once = min(self._rows_at_once(output.shape[-2], row), rows) * row * given.element_size()
        reason = f"the network's own layers, on {rows * output.shape[-1]} blocks"
        return [BuiltInCall(reason, given.nbytes + copies + output.nbytes, at_once)]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
