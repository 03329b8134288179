"""Layers that undo max pooling: torch.nn's, calling torchconv.functional. Source: torch/nn/modules/pooling.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional
from .._calls import OperatorCall, PassCall
from ._layer import Layer
from .pool import Size


class _MaxUnpool(Layer):
    """What the unpooling layers share; stands before torch.nn's class in each of their lists of bases."""

    _functional: Callable[..., Any]
    kernel_size: Any
    stride: Any
    padding: Any

    def __init__(self: Any, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__(kernel_size, stride, padding)  # type: ignore[call-arg]

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Any:
        """Puts `input` where `indices` say, which a max pooling of these windows returned."""
        return self._functional(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output)]


class MaxUnpool1d(_MaxUnpool, torch.nn.MaxUnpool1d):
    """1-D partial inverse of max pooling: each element to where the pooling took it from, and zero elsewhere.

    Args:
        kernel_size, stride, padding: those of MaxUnpool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as MaxUnpool2d's

    Raises:
        ValueError, RuntimeError: where MaxUnpool2d does.

    Source: torch.nn.MaxUnpool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_unpool1d)


class MaxUnpool2d(_MaxUnpool, torch.nn.MaxUnpool2d):
    r"""2-D partial inverse of max pooling: each element to where the pooling took it from, and zero elsewhere.

    .. math::
        y[b, c, indices[b, c, i]] = x[b, c, i]

    Args:
        kernel_size (int or tuple): side of the pooling's window.
        stride (int or tuple): its step between windows. Default: kernel_size
        padding (int or tuple): its padding. Default: 0

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), each side
          :math:`(size - 1) stride - 2 padding + kernel\_size`, or the output_size given

    Raises:
        RuntimeError: an input or a window that torchconv.functional.max_unpool2d refuses.

    Source: torch.nn.MaxUnpool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_unpool2d)


class MaxUnpool3d(_MaxUnpool, torch.nn.MaxUnpool3d):
    """3-D partial inverse of max pooling: each element to where the pooling took it from, and zero elsewhere.

    Args:
        kernel_size, stride, padding: those of MaxUnpool2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as MaxUnpool2d's

    Raises:
        ValueError, RuntimeError: where MaxUnpool2d does.

    Source: torch.nn.MaxUnpool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_unpool3d)
