"""Pooling layers: torch.nn's, calling torchconv.functional. Source of everything: torch/nn/modules/pooling.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ._layer import Layer

# What the layers of a family share; stands before torch.nn's class in each of their lists of bases.


class _MaxPool(Layer):
    _functional: Callable[..., Any]
    _activation: str | None = None  # what is done to the result

    def forward(self: Any, input: Tensor) -> Any:
        """Pools `input`; the result is a pair (output, indices) where return_indices was asked for."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return self._functional(input, *window, self.return_indices, activation=self._activation)


class _AvgPool(Layer):
    _functional: Callable[..., Any]

    def forward(self: Any, input: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return self._functional(input, *window, self.divisor_override)


class _LPPool(Layer):
    _functional: Callable[..., Any]

    def forward(self: Any, input: Tensor) -> Tensor:
        return self._functional(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class _AdaptiveMaxPool(Layer):
    _functional: Callable[..., Any]

    def forward(self: Any, input: Tensor) -> Any:
        """Pools `input`; the result is a pair (output, indices) where return_indices was asked for."""
        return self._functional(input, self.output_size, self.return_indices)


class _AdaptiveAvgPool(Layer):
    _functional: Callable[..., Any]

    def forward(self: Any, input: Tensor) -> Tensor:
        return self._functional(input, self.output_size)


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

    def forward(self, input: Tensor) -> Tensor:  # torch.nn's has no divisor_override in one dimension
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


class AdaptiveMaxPool1d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool1d):
    """1-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size, return_indices: those of AdaptiveMaxPool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as AdaptiveMaxPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveMaxPool2d does.

    Source: torch.nn.AdaptiveMaxPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool2d):
    """2-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size (int, None or tuple): side of the output; None keeps the input's.
        return_indices (bool): also return where in its map each output came from. Default: False

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), the output_size asked for

    Raises:
        RuntimeError: an input or a window that torchconv.functional.adaptive_max_pool2d refuses.

    Source: torch.nn.AdaptiveMaxPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool3d):
    """3-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size, return_indices: those of AdaptiveMaxPool2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as AdaptiveMaxPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveMaxPool2d does.

    Source: torch.nn.AdaptiveMaxPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool3d)


class AdaptiveAvgPool1d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool1d):
    """1-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size: those of AdaptiveAvgPool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as AdaptiveAvgPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveAvgPool2d does.

    Source: torch.nn.AdaptiveAvgPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool2d):
    """2-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size (int, None or tuple): side of the output; None keeps the input's.

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), the output_size asked for

    Raises:
        RuntimeError: an input or a window that torchconv.functional.adaptive_avg_pool2d refuses.

    Source: torch.nn.AdaptiveAvgPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool3d):
    """3-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size: those of AdaptiveAvgPool2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as AdaptiveAvgPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveAvgPool2d does.

    Source: torch.nn.AdaptiveAvgPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool3d)


class _MaxUnpool(Layer):
    """What the unpooling layers share; stands before torch.nn's class in each of their lists of bases."""

    _functional: Callable[..., Any]
    kernel_size: Any
    stride: Any
    padding: Any

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Any:
        """Puts `input` where `indices` say, which a max pooling of these windows returned."""
        return self._functional(input, indices, self.kernel_size, self.stride, self.padding, output_size)


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
