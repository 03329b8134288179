"""Pooling layers: torch.nn's, calling torchconv.functional. Source of everything: torch/nn/modules/pooling.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import functional
from .._calls import OperatorCall, PassCall
from ._layer import Layer

# What the layers of a family share; stands before torch.nn's class in each of their lists of bases. Arguments are
# torch.nn's, written out for editors, which find no others.
Size: TypeAlias = int | tuple[int, ...]


class _MaxPool(Layer):
    _functional: Callable[..., Any]
    _activation: str | None = None  # what is done to the result

    def __init__(
        self: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[call-arg]

    def forward(self: Any, input: Tensor) -> Any:
        """Pools `input`; the result is a pair (output, indices) where return_indices was asked for."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return self._functional(input, *window, self.return_indices, activation=self._activation)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output, rounds="not", keeps_positions=True)]


class _AvgPool(Layer):
    _functional: Callable[..., Any]

    def __init__(
        self: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        window = (kernel_size, stride, padding, ceil_mode, count_include_pad)
        super().__init__(*window, divisor_override)  # type: ignore[call-arg]

    def forward(self: Any, input: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._functional(input, *window, self.divisor_override)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output)]


class _LPPool(Layer):
    _functional: Callable[..., Any]

    def __init__(
        self: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__(norm_type, kernel_size, stride, ceil_mode)  # type: ignore[call-arg]

    def forward(self: Any, input: Tensor) -> Tensor:
        return self._functional(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output, rounds=None)]


class MaxPool1d(_MaxPool, torch.nn.MaxPool1d):
    """1-D max pooling: the largest element of each window, the first of equal ones; NaN is larger than any.

    Args:
        kernel_size, stride, padding, dilation, return_indices, ceil_mode: those of MaxPool2d; a tuple has one number
            for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as MaxPool2d's

    Raises:
        ValueError, RuntimeError: where MaxPool2d does.

    Source: torch.nn.MaxPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_pool1d)


class MaxPool2d(_MaxPool, torch.nn.MaxPool2d):
    r"""2-D max pooling: the largest element of each window, the first of equal ones; NaN is larger than any.

    .. math::
        y[b, c, i] = \max_k x[b, c, stride \cdot i + dilation \cdot k - padding]

    Args:
        kernel_size (int or tuple): side of the window.
        stride (int or tuple): step between windows. Default: kernel_size
        padding (int or tuple): what is added, as -inf, on both sides of each axis; at most half a window. Default: 0
        dilation (int or tuple): step between the elements of a window. Default: 1
        return_indices (bool): also return where in its map each output came from. Default: False
        ceil_mode (bool): round the output side up. Default: False

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), each side
          :math:`\lfloor (size + 2 padding - dilation (kernel\_size - 1) - 1) / stride \rfloor + 1`, or with
          :math:`\lceil \cdot \rceil` in ceil mode, where a last window that would start past the input and its left
          padding is left out

    Raises:
        RuntimeError: an input or a window that torchconv.functional.max_pool2d refuses.

    Source: torch.nn.MaxPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_pool2d)


class MaxPool3d(_MaxPool, torch.nn.MaxPool3d):
    """3-D max pooling: the largest element of each window, the first of equal ones; NaN is larger than any.

    Args:
        kernel_size, stride, padding, dilation, return_indices, ceil_mode: those of MaxPool2d; a tuple has one number
            for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as MaxPool2d's

    Raises:
        ValueError, RuntimeError: where MaxPool2d does.

    Source: torch.nn.MaxPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.max_pool3d)


class AvgPool1d(_AvgPool, torch.nn.AvgPool1d):
    """1-D mean pooling: the mean of each window of each map.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad: those of AvgPool2d; a tuple has one number for each
            of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as AvgPool2d's

    Raises:
        ValueError, RuntimeError: where AvgPool2d does.

    Source: torch.nn.AvgPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.avg_pool1d)

    def __init__(  # torch.nn's has no divisor_override in one dimension
        self,
        kernel_size: int | tuple[int],
        stride: Any = None,
        padding: int | tuple[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super(_AvgPool, self).__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, input: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._functional(input, *window)


class AvgPool2d(_AvgPool, torch.nn.AvgPool2d):
    r"""2-D mean pooling: the mean of each window of each map.

    .. math::
        y[b, c, i] = \frac{1}{K} \sum_k x[b, c, stride \cdot i + k - padding]

    where :math:`K` is the number of elements in the window.

    Args:
        kernel_size (int or tuple): side of the window.
        stride (int or tuple): step between windows. Default: kernel_size
        padding (int or tuple): zeros added on both sides of each axis; at most half a window. Default: 0
        ceil_mode (bool): round the output side up. Default: False
        count_include_pad (bool): whether K counts the padding's zeros. Default: True
        divisor_override (int, in two and three dimensions): take this for K.

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), each side
          :math:`\lfloor (size + 2 padding - dilation (kernel\_size - 1) - 1) / stride \rfloor + 1`, or with
          :math:`\lceil \cdot \rceil` in ceil mode, where a last window that would start past the input and its left
          padding is left out

    Raises:
        RuntimeError: an input or a window that torchconv.functional.avg_pool2d refuses.

    Source: torch.nn.AvgPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.avg_pool2d)


class AvgPool3d(_AvgPool, torch.nn.AvgPool3d):
    """3-D mean pooling: the mean of each window of each map.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: those of AvgPool2d; a tuple has
            one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as AvgPool2d's

    Raises:
        ValueError, RuntimeError: where AvgPool2d does.

    Source: torch.nn.AvgPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.avg_pool3d)


class LPPool1d(_LPPool, torch.nn.LPPool1d):
    """1-D power-average pooling: the p-norm of each window of each map.

    Args:
        norm_type, kernel_size, stride, ceil_mode: those of LPPool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as LPPool2d's

    Raises:
        ValueError, RuntimeError: where LPPool2d does.

    Source: torch.nn.LPPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.lp_pool1d)


class LPPool2d(_LPPool, torch.nn.LPPool2d):
    r"""2-D power-average pooling: the p-norm of each window of each map.

    .. math::
        y[b, c, i] = \Big( \sum_k x[b, c, stride \cdot i + k]^p \Big)^{1/p}

    Args:
        norm_type (float): the power p; infinity is max pooling of absolute values.
        kernel_size (int or tuple): side of the window.
        stride (int or tuple): step between windows. Default: kernel_size
        ceil_mode (bool): round the output side up. Default: False

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), each side
          :math:`\lfloor (size + 2 padding - dilation (kernel\_size - 1) - 1) / stride \rfloor + 1`, or with
          :math:`\lceil \cdot \rceil` in ceil mode, where a last window that would start past the input and its left
          padding is left out

    Raises:
        RuntimeError: an input or a window that torchconv.functional.lp_pool2d refuses.

    Source: torch.nn.LPPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.lp_pool2d)


class LPPool3d(_LPPool, torch.nn.LPPool3d):
    """3-D power-average pooling: the p-norm of each window of each map.

    Args:
        norm_type, kernel_size, stride, ceil_mode: those of LPPool2d; a tuple has one number for each of the axes (D,
            H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as LPPool2d's

    Raises:
        ValueError, RuntimeError: where LPPool2d does.

    Source: torch.nn.LPPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.lp_pool3d)
