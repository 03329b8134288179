"""Locally connected layers, which torch.nn lacks: convolutions whose filters differ from position to position."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import functional
from .._calls import LocalCall, OperatorCall, Result, cropped_padding, maps_size
from ..functional._arguments import Ints, per_axis, require_tensors
from ..functional._window import Padding, Window, both_sides, transposed_sides
from ._layer import Layer

Sizes: TypeAlias = int | Sequence[int]


class _LocallyConnected(Layer, torch.nn.Module):
    """What the four layers share: sizes checked once, parameters, and the refusal of another input."""

    _functional: Callable[..., Tensor]
    _dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Sizes,
        kernel_size: Sizes,
        stride: Ints,
        dilation: Ints,
        groups: int,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups or min(in_channels, out_channels) < 1:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        named = dict(input_size=input_size, kernel_size=kernel_size, stride=stride, dilation=dilation)
        for what, value in named.items():
            try:
                setattr(self, what, tuple(per_axis(value, self._dims, what, name, 1)))
            except RuntimeError as error:
                raise ValueError(str(error)) from None

    def _make(self: Any, first: int, second: int, positions: Sequence[int], bias: bool, options: dict) -> None:
        shape = (first, second // self.groups, *self.kernel_size, *positions)
        self.weight = torch.nn.Parameter(torch.empty(shape, **options))
        size = (self.out_channels, *self.output_size)
        self.register_parameter("bias", torch.nn.Parameter(torch.empty(size, **options)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self: Any) -> None:
        """Uniform within 1/√fan, fan the weights of a filter: what torch.nn draws a convolution's from."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1 : 2 + self._dims]))
        torch.nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            torch.nn.init.uniform_(self.bias, -bound, bound)

    def _check(self: Any, input: Tensor) -> None:
        require_tensors(type(self).__name__, input=input)
        given = tuple(input.shape[-self._dims :])
        if given != self.input_size:
            raise RuntimeError(
                f"{type(self).__name__}: made for inputs of size {self.input_size}, got input of shape "
                f"{list(input.shape)}"
            )

    def _operator_calls(self: Any, given: Tensor, output: Tensor) -> list[OperatorCall]:
        transposed = hasattr(self, "output_padding")
        if transposed:
            padding = cropped_padding(self, given, output)
        else:
            window = (self.input_size, self.kernel_size, self.stride, self.dilation)
            padding = both_sides(self.padding, *window, type(self).__name__)
        return [
            LocalCall(
                maps_size(output if transposed else given, self._dims),
                self.weight.shape,
                Window(self.stride, padding, self.dilation, self.groups),
                given.nbytes + output.nbytes + self.weight.nbytes,
                0 if self.bias is None else self.bias.nbytes,
                Result.of(output),
                transposed,
            )
        ]

    def extra_repr(self: Any) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}"]
        parts.append(f"kernel_size={self.kernel_size}, stride={self.stride}")
        defaults = dict(padding=(0,) * self._dims, dilation=(1,) * self._dims, groups=1)
        if hasattr(self, "output_padding"):
            defaults["output_padding"] = (0,) * self._dims
        parts += [f"{name}={getattr(self, name)}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


class _Local(_LocallyConnected):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Sizes,
        kernel_size: Sizes,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, input_size, kernel_size, stride, dilation, groups)
        self_: Any = self
        name = type(self).__name__
        try:
            sides = both_sides(padding, self_.input_size, self_.kernel_size, self_.stride, self_.dilation, name)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        self.padding = (padding,) * self._dims if isinstance(padding, int) else padding
        window = Window(self_.stride, sides, self_.dilation, groups)
        self.output_size = tuple(window.output_sides(self_.input_size, self_.kernel_size))
        if any(n < 1 for n in self.output_size):
            raise ValueError(
                f"{name}: kernel_size={self_.kernel_size} with dilation={self_.dilation} is larger than "
                f"input_size={self_.input_size} with padding={padding}"
            )
        self._make(out_channels, in_channels, self.output_size, bias, dict(device=device, dtype=dtype))

    def forward(self: Any, input: Tensor) -> Tensor:
        self._check(input)
        return self._functional(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _LocalTranspose(_LocallyConnected):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Sizes,
        kernel_size: Sizes,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, input_size, kernel_size, stride, dilation, groups)
        self_: Any = self
        name = type(self).__name__
        try:
            self.padding = tuple(per_axis(padding, self._dims, "padding", name, 0))
            self.output_padding = tuple(per_axis(output_padding, self._dims, "output_padding", name, 0))
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        window = (self_.kernel_size, self_.stride, self.padding, self.output_padding, self_.dilation)
        self.output_size = tuple(transposed_sides(self_.input_size, *window))
        if any(n < 1 for n in self.output_size):
            raise ValueError(f"{name}: input_size={self_.input_size} gives an output of size {self.output_size}")
        self._make(in_channels, out_channels, self_.input_size, bias, dict(device=device, dtype=dtype))

    def forward(self: Any, input: Tensor) -> Tensor:
        self._check(input)
        return self._functional(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class LocallyConnected1d(_Local):
    """1-D locally connected layer: a convolution whose filters differ from position to position, plus a bias.

    Args:
        in_channels, out_channels, input_size, kernel_size, stride, padding, dilation, groups, bias, device, dtype:
            those of LocallyConnected2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as LocallyConnected2d's

    Attributes:
        those of LocallyConnected2d.

    Raises:
        ValueError, RuntimeError: where LocallyConnected2d does.
    """

    _functional, _dims = staticmethod(functional.local_conv1d), 1


class LocallyConnected2d(_Local):
    r"""2-D locally connected layer: a convolution whose filters differ from position to position, plus a bias.

    .. math::
        y[b, s, i] = bias[s, i]
            + \sum_{p, k} w[s, p, k, i] \, x[b, p, stride \cdot i + dilation \cdot k - padding]

    Each position has filters of its own, so the layer is made for one size of input, and has as many weights as
    connections: 400,000 units that look at a 200×200 image through fields of 10×10 have 40 million.

    Args:
        in_channels (int): number of input maps.
        out_channels (int): number of output maps.
        input_size (int or tuple): the spatial size of the input.
        kernel_size (int or tuple): side of the filters.
        stride (int or tuple): step between patches. Default: 1
        padding (int, tuple or str): as torchconv.nn.Conv2d's: integers, pairs (before, after), 'valid' or 'same'.
            Default: 0
        dilation (int or tuple): step between the elements of a filter. Default: 1
        groups (int): number of blocks that the maps are divided into. Default: 1
        bias (bool): whether each output map has a learned bias at each position. Default: True

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W), of the size given
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), sides as torchconv.nn.Conv2d's, in `output_size`

    Attributes:
        weight (Parameter): (out_channels, in_channels / groups, *kernel_size, *output_size), positions last, so that
            vectors lie along them; each filter drawn as a torch.nn.Conv2d's is.
        bias (Parameter or None): (out_channels, *output_size)

    Raises:
        ValueError: channels that groups does not divide, or a window larger than the padded input.
        RuntimeError: an input of another size than the layer was made for.
    """

    _functional, _dims = staticmethod(functional.local_conv2d), 2


class LocallyConnectedTranspose1d(_LocalTranspose):
    """1-D transpose of a locally connected layer: its input gradient, run forward, plus a bias.

    Args:
        in_channels, out_channels, input_size, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            device, dtype: those of LocallyConnectedTranspose2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as LocallyConnectedTranspose2d's

    Attributes:
        those of LocallyConnectedTranspose2d.

    Raises:
        ValueError, RuntimeError: where LocallyConnectedTranspose2d does.
    """

    _functional, _dims = staticmethod(functional.local_conv_transpose1d), 1


class LocallyConnectedTranspose2d(_LocalTranspose):
    r"""2-D transpose of a locally connected layer: its input gradient, run forward, plus a bias.

    .. math::
        y[b, s, stride \cdot i + dilation \cdot k - padding] \mathrel{+}= w[p, s, k, i] \, x[b, p, i]

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation:
            torch.nn.ConvTranspose2d's.
        input_size (int or tuple): the spatial size of the input.

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W), of the size given
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), sides as torchconv.nn.ConvTranspose2d's, in
          `output_size`

    Attributes:
        weight (Parameter): (in_channels, out_channels / groups, *kernel_size, *input_size)
        bias (Parameter or None): (out_channels, *output_size)

    Raises:
        ValueError: channels that groups does not divide, or an empty output.
        RuntimeError: an input of another size than the layer was made for.
    """

    _functional, _dims = staticmethod(functional.local_conv_transpose2d), 2
