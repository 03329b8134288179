"""Convolution and transposed convolution layers: torch.nn's, calling torchconv.functional.

What is added to torch.nn: the choice of an algorithm, padding='same' with a stride, padding that differs on the two
sides of an axis, and layers that end in a ReLU. Source of everything else: torch/nn/modules/conv.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.modules.utils import _ntuple

from .. import functional
from .._calls import ConvolutionCall, OperatorCall, Result, convolution_call, cropped_padding, maps_size
from ..functional._arguments import require_tensors
from ..functional._window import Window, flat, is_pairs, pad_amounts, same_padding
from ._layer import Quantizable
from ._prepared import Preparing, convolve


def algorithms() -> tuple[str, ...]:
    """What a layer's `algorithm` may be."""
    return ("auto", "highest", *torch.ops.torchconv._algorithms())


class _Algorithm(Quantizable):
    """A layer's choice of algorithm: an attribute that a layer converted from torch.nn's need not have of its own."""

    algorithm: str = "auto"

    def _choose(self, algorithm: str) -> None:
        if algorithm not in algorithms():
            raise ValueError(f"algorithm must be one of {', '.join(algorithms())}, but got {algorithm!r}")
        if algorithm != "auto":
            self.algorithm = algorithm

    def extra_repr(self) -> str:
        chosen = "" if self.algorithm == "auto" else f", algorithm={self.algorithm}"
        return super().extra_repr() + chosen  # type: ignore[misc]


class _Conv(_Algorithm, Preparing):
    """What Conv1d, Conv2d and Conv3d share; stands before torch.nn's class in each of their lists of bases."""

    _functional: Callable[..., Tensor]
    _activation: str | None = None

    def __init__(
        self,
        in_channels: int,
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
        # torch.nn refuses 'same' with a stride, so it is told the stride afterwards: nothing it builds depends on it.
        first_stride = 1 if padding == "same" else stride
        super().__init__(
            in_channels,  # type: ignore[call-arg]
            out_channels,
            kernel_size,
            first_stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self._settle(stride, padding, algorithm)

    def _settle(self: Any, stride: Any, padding: Any, algorithm: str) -> None:
        """What torch.nn's constructor was not told."""
        self.stride = _ntuple(len(self.kernel_size))(stride)
        if is_pairs(padding):
            self._reversed_padding_repeated_twice = pad_amounts(flat(padding))
        self._choose(algorithm)

    def _pad_amounts(self: Any, size: Sequence[int]) -> list[int]:
        """What this layer adds to maps of `size`, as torch.nn.functional.pad takes it: the last axis first."""
        if self.padding != "same":
            return self._reversed_padding_repeated_twice
        return pad_amounts(same_padding(size, self.kernel_size, self.stride, self.dilation, type(self).__name__))

    def _operator_calls(self: Any, given: Tensor, output: Tensor) -> list[OperatorCall]:
        return [convolution_call(self, given, output, self.weight.shape)]

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight is self._parameters.get("weight") and bias is self._parameters.get("bias"):
            y = convolve(input, self, None, self._activation is not None)
            if y is not None:
                return y
        return self._convolve(input, weight, bias, self._activation)

    def _convolve(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            require_tensors(type(self).__name__, input=input)
            size = input.shape[-len(self.kernel_size) :]
            input, padding = pad(input, self._pad_amounts(size), mode=self.padding_mode), 0
        return self._functional(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            algorithm=self.algorithm,
            activation=activation,
        )


class _ConvTranspose(_Algorithm):
    """What ConvTranspose1d, ConvTranspose2d and ConvTranspose3d share."""

    _functional: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
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
        super().__init__(
            in_channels,  # type: ignore[call-arg]
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self._choose(algorithm)

    def forward(self: Any, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Expands `input`; `output_size`, the wanted spatial size or whole shape, settles what a stride leaves open."""
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation
        )
        return self._functional(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            algorithm=self.algorithm,
        )

    def _operator_calls(self: Any, given: Tensor, output: Tensor) -> list[OperatorCall]:
        n = len(self.kernel_size)
        return [
            ConvolutionCall(
                maps_size(output, n),
                self.weight.shape,
                given.numel(),
                Window(self.stride, cropped_padding(self, given, output), self.dilation, self.groups),
                self.algorithm,
                0 if self.bias is None else self.bias.numel(),
                Result.of(output, n),
                transposed=True,
            )
        ]


class Conv1d(_Conv, torch.nn.Conv1d):
    """1-D convolution (the field's correlation) of a batch of stacks of maps, plus a bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of Conv2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as Conv2d's

    Attributes:
        those of Conv2d.

    Raises:
        ValueError, RuntimeError: where Conv2d does.

    Source: torch.nn.Conv1d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv1d)


class Conv2d(_Conv, torch.nn.Conv2d):
    r"""2-D convolution (the field's correlation) of a batch of stacks of maps, plus a bias.

    .. math::
        y[b, s, i] = bias[s] + \sum_{p, k} w[s, p, k] \, x[b, p, stride \cdot i + dilation \cdot k - padding]

    where :math:`i` and :math:`k` run over the 2 spatial axes and :math:`p` over the input maps of the group of
    output map :math:`s`; :math:`x` is 0 (or what `padding_mode` says) outside the input.

    Args:
        in_channels (int): number of input maps.
        out_channels (int): number of output maps.
        kernel_size (int or tuple): side of the filter.
        stride (int or tuple): step between patches. Default: 1
        padding (int, tuple or str): what is added on both sides of each axis: one number, one for each axis, or for
            each axis a pair (before, after); 'valid' adds nothing; 'same' adds what makes the output side
            :math:`\lceil size / stride \rceil`, half on each side and the odd one at the end. Default: 0
        dilation (int or tuple): step between the elements of the filter. Default: 1
        groups (int): number of blocks that the input maps and the output maps are divided into; output maps see the
            input maps of their own block only. Default: 1
        bias (bool): whether each output map has a learned bias. Default: True
        padding_mode (str): 'zeros', 'reflect', 'replicate' or 'circular'. Default: 'zeros'
        algorithm (str): 'auto'; 'highest', which is 'auto' among those that sum directly (see torchconv.precision); or
            the one that all directions must take. Default: 'auto'

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W)
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), each side
          :math:`\lfloor (size + before + after - dilation (kernel\_size - 1) - 1) / stride \rfloor + 1`

    Attributes:
        weight (Parameter): (out_channels, in_channels / groups, *kernel_size), drawn as torch.nn.Conv2d draws it.
        bias (Parameter or None): (out_channels,)

    Raises:
        ValueError: a constructor's argument that torch.nn.Conv2d refuses, or an unknown algorithm.
        RuntimeError: an input that torchconv.functional.conv2d refuses, or an algorithm that cannot run on it.

    Source: torch.nn.Conv2d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv2d)


class Conv3d(_Conv, torch.nn.Conv3d):
    """3-D convolution (the field's correlation) of a batch of stacks of maps, plus a bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of Conv2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as Conv2d's

    Attributes:
        those of Conv2d.

    Raises:
        ValueError, RuntimeError: where Conv2d does.

    Source: torch.nn.Conv3d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv3d)


class ConvReLU1d(Conv1d):
    """1-D convolution followed by a ReLU, as one operator: ``torch.relu`` of torchconv.nn.Conv1d.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of ConvReLU2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as ConvReLU2d's

    Attributes:
        those of ConvReLU2d.

    Raises:
        ValueError, RuntimeError: where ConvReLU2d does.

    Source: torch.nn.Conv1d and torch.nn.ReLU, whose results these are.
    """

    _activation = "relu"


class ConvReLU2d(Conv2d):
    r"""2-D convolution followed by a ReLU, as one operator: ``torch.relu`` of torchconv.nn.Conv2d.

    .. math::
        y[b, s, i] = \max\Bigl(0, \;
            bias[s] + \sum_{p, k} w[s, p, k] \, x[b, p, stride \cdot i + dilation \cdot k - padding]\Bigr)

    The activation costs no pass over memory of its own, forward; backward, it shares one with the bias's gradient.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, algorithm:
            torchconv.nn.Conv2d's.

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W)
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), sides as torchconv.nn.Conv2d's

    Attributes:
        weight (Parameter), bias (Parameter or None): torchconv.nn.Conv2d's, so that a state_dict of either fits both.

    Raises:
        ValueError, RuntimeError: where torchconv.nn.Conv2d does.

    Source: torch.nn.Conv2d and torch.nn.ReLU, whose results these are.
    """

    _activation = "relu"


class ConvReLU3d(Conv3d):
    """3-D convolution followed by a ReLU, as one operator: ``torch.relu`` of torchconv.nn.Conv3d.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype,
            algorithm: those of ConvReLU2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as ConvReLU2d's

    Attributes:
        those of ConvReLU2d.

    Raises:
        ValueError, RuntimeError: where ConvReLU2d does.

    Source: torch.nn.Conv3d and torch.nn.ReLU, whose results these are.
    """

    _activation = "relu"


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):
    """1-D transposed (expanding) convolution of a batch of stacks of maps, plus a bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode,
            device, dtype, algorithm: those of ConvTranspose2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as ConvTranspose2d's

    Attributes:
        those of ConvTranspose2d.

    Raises:
        ValueError, RuntimeError: where ConvTranspose2d does.

    Source: torch.nn.ConvTranspose1d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):
    r"""2-D transposed (expanding) convolution of a batch of stacks of maps, plus a bias.

    Every input element adds its multiple of the filter into the output:

    .. math::
        y[b, s, stride \cdot i + dilation \cdot k - padding] \mathrel{+}= w[p, s, k] \, x[b, p, i]

    which is the derivative of torchconv.nn.Conv2d with respect to its input, run forward.

    Args:
        in_channels (int): number of input maps.
        out_channels (int): number of output maps.
        kernel_size (int or tuple): side of the filter.
        stride (int or tuple): step between the places that neighbouring inputs add to. Default: 1
        padding (int or tuple): what is cut off both sides of each axis of the output. Default: 0
        output_padding (int or tuple): what is added to the output's side at its end. Default: 0
        groups (int): number of blocks that the input maps and the output maps are divided into. Default: 1
        bias (bool): whether each output map has a learned bias. Default: True
        dilation (int or tuple): step between the elements of the filter. Default: 1
        padding_mode (str): 'zeros' only.
        algorithm (str): 'auto', or the one that all directions must take. Default: 'auto'

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W)
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), each side
          :math:`(size - 1) stride - 2 padding + dilation (kernel\_size - 1) + output\_padding + 1`, or the
          `output_size` given to forward.

    Attributes:
        weight (Parameter): (in_channels, out_channels / groups, *kernel_size)
        bias (Parameter or None): (out_channels,)

    Raises:
        ValueError: an argument that torch.nn.ConvTranspose2d refuses, or an unknown algorithm.
        RuntimeError: an input that torchconv.functional.conv_transpose2d refuses, or an algorithm that cannot run.

    Source: torch.nn.ConvTranspose2d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):
    """3-D transposed (expanding) convolution of a batch of stacks of maps, plus a bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode,
            device, dtype, algorithm: those of ConvTranspose2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as ConvTranspose2d's

    Attributes:
        those of ConvTranspose2d.

    Raises:
        ValueError, RuntimeError: where ConvTranspose2d does.

    Source: torch.nn.ConvTranspose3d, whose signature, parameters and results these are.
    """

    _functional = staticmethod(functional.conv_transpose3d)
