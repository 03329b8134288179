"""Convolutions that learn their number of input channels from the first input: torch.nn's, which become ours."""

from typing import Any

import torch

from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, _Conv, _ConvTranspose


class _LazyConv(_Conv):
    """What LazyConv1d, 2d and 3d share. After `_Conv` comes torch.nn's lazy class, which builds what it is told."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        first_stride = 1 if padding == "same" else stride  # as in _Conv
        rest: Any = (padding, dilation, groups, bias, padding_mode, device, dtype)
        super(_Conv, self).__init__(out_channels, kernel_size, first_stride, *rest)  # type: ignore[call-arg]
        self._settle(stride, padding, algorithm)


class _LazyConvTranspose(_ConvTranspose):
    """What LazyConvTranspose1d, 2d and 3d share."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        rest: Any = (padding, output_padding, groups, bias, dilation, padding_mode, device, dtype)
        super(_ConvTranspose, self).__init__(out_channels, kernel_size, stride, *rest)  # type: ignore[call-arg]
        self._choose(algorithm)


class LazyConv1d(_LazyConv, Conv1d, torch.nn.LazyConv1d):  # type: ignore[misc]
    """1-D convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of Conv1d.

    Shape:
        those of Conv1d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): Conv1d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where Conv1d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConv1d, whose signature, parameters and results these are.
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d, torch.nn.LazyConv2d):  # type: ignore[misc]
    """2-D convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of Conv2d.

    Shape:
        those of Conv2d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): Conv2d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where Conv2d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConv2d, whose signature, parameters and results these are.
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d, torch.nn.LazyConv3d):  # type: ignore[misc]
    """3-D convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of Conv3d.

    Shape:
        those of Conv3d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): Conv3d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where Conv3d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConv3d, whose signature, parameters and results these are.
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d, torch.nn.LazyConvTranspose1d):  # type: ignore[misc]
    """1-D transposed convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode, device,
            dtype, algorithm: those of ConvTranspose1d.

    Shape:
        those of ConvTranspose1d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): ConvTranspose1d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where ConvTranspose1d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConvTranspose1d, whose signature, parameters and results these are.
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d, torch.nn.LazyConvTranspose2d):  # type: ignore[misc]
    """2-D transposed convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode, device,
            dtype, algorithm: those of ConvTranspose2d.

    Shape:
        those of ConvTranspose2d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): ConvTranspose2d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where ConvTranspose2d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConvTranspose2d, whose signature, parameters and results these are.
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d, torch.nn.LazyConvTranspose3d):  # type: ignore[misc]
    """3-D transposed convolution whose number of input channels is that of its first input.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode, device,
            dtype, algorithm: those of ConvTranspose3d.

    Shape:
        those of ConvTranspose3d, which it becomes with its first input.

    Attributes:
        weight, bias (UninitializedParameter): ConvTranspose3d's parameters from the first input on.

    Raises:
        ValueError, RuntimeError: where ConvTranspose3d does; a first input whose channels groups does not divide.

    Source: torch.nn.LazyConvTranspose3d, whose signature, parameters and results these are.
    """

    cls_to_become = ConvTranspose3d
