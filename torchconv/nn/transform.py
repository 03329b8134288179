"""Layers that try each filter under a set of transforms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.nn.functional import pad
from torch.nn.modules.utils import _ntuple

from .._calls import OperatorCall, convolution_call
from ..functional._arguments import require_tensors
from ..functional._window import flat, is_pairs, pad_amounts
from ..functional.transform import REDUCTIONS, _transform_conv, with_margins
from ..transforms import FilterMap, TransformSet, beside, constants
from ._layer import Layer
from .conv import _Conv


class _Mapped(Layer, torch.nn.Module):
    """A layer whose filters go through a map that follows from its arguments.

    The map is no buffer, since whatever averages, casts, empties or loads buffers would have it too. It is derived from
    the arguments where a layer is made, copied or unpickled, in float64 on the CPU; and `_held` the way the weight is,
    as far as changes of that are announced. Neither is written to.
    """

    _exact: FilterMap | None
    _held: FilterMap

    def _map(self) -> FilterMap | None:
        """The exact map; None where it is learned."""
        raise NotImplementedError

    def _derive(self) -> None:
        self._exact = self._map()
        self._hold()

    def _hold(self) -> None:
        like = next(self.parameters(), None)  # the weight may be computed of others
        if self._exact is not None and like is not None:
            with constants():
                fake = isinstance(like, FakeTensor)  # which are there for their shapes: only a call can tell
                self._held = self._exact.like(self._exact.values.to(like.dtype) if fake else like)

    def _map_like(self, weight: Tensor) -> FilterMap:
        """The map the way `weight` is: `_held`, or what a replica or another weight needs, rounded once either way."""
        assert self._exact is not None
        held = self._held
        same = held.values.dtype == weight.dtype and held.values.device == weight.device
        return (held if same else self._exact).like(weight)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._hold()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._hold()  # assigned parameters may be of another dtype, or on another device

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_exact", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name in FilterMap._fields:  # buffers once
            self._buffers.pop(name, None)
        self._derive()


class _TransformInvariantConv(_Mapped, torch.nn.modules.conv._ConvNd):
    """What the three share. `_ConvNd` checks the arguments and makes and draws the parameters."""

    _dims: int
    algorithm: str = "auto"
    learnable: bool = False

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int | tuple[int, ...],
        transforms: TransformSet,
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        reduce: str | None = None,
        learnable: bool = False,
        algorithm: str = "auto",
    ) -> None:
        if not isinstance(transforms, TransformSet):
            raise TypeError(f"transforms must be a torchconv.transforms set, got {transforms!r}")
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be one of {REDUCTIONS}, got {reduce!r}")
        if len(transforms) > 256:
            raise ValueError(f"at most 256 transforms, got {len(transforms)}")
        each = _ntuple(self._dims)
        kernel = each(kernel_size)
        transforms.support(kernel)  # raises where they do not fit
        super().__init__(
            in_channels,
            filters,
            kernel,
            each(1) if padding == "same" else each(stride),  # 'same' with a stride is ours
            padding if isinstance(padding, str) else each(padding),
            each(dilation),
            False,
            each(0),
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self.stride = each(stride)
        self._given_padding = padding
        if is_pairs(padding):
            self._reversed_padding_repeated_twice = pad_amounts(flat(padding))
        self.filters, self.transforms, self.reduce, self.learnable = filters, transforms, reduce, learnable
        self.out_channels = filters * (len(transforms) if reduce is None else 1)
        _Conv._choose(self, algorithm)  # type: ignore[arg-type]
        self.support = transforms.support(kernel)
        numbers = transforms.parameters() if learnable else {}
        self._names = list(numbers)
        for name, value in numbers.items():
            self.register_parameter(name, Parameter(beside(value, self.weight).to(self.weight.dtype)))
        self._derive()

    def reset_parameters(self) -> None:
        """Draws weight and bias as torch.nn's convolutions do; the transforms' own numbers begin as the set's."""
        super().reset_parameters()
        if self.learnable:
            with torch.no_grad():
                for name, value in self.transforms.parameters().items():
                    own = getattr(self, name)
                    own.copy_(beside(value, own))

    def _map(self) -> FilterMap | None:
        return None if self.learnable else self.transforms.filter_map(self.kernel_size)

    def filter_map(self) -> FilterMap:
        """The map from the filters to their transformed copies, in the weight's dtype and on its device."""
        if self.learnable:
            numbers = {name: getattr(self, name) for name in self._names}
            return self.transforms.learnable_map(self.kernel_size, self.support, numbers)
        return self._map_like(self.weight)

    @property
    def convolution_size(self) -> tuple[int, ...]:
        """The size of the plain convolution's weight that this is, before the reduction."""
        copies = 1 if self.reduce == "mean" else len(self.transforms)
        return (self.filters * copies, self.in_channels // self.groups, *self.support)

    def _pad_amounts(self: Any, size: Sequence[int]) -> list[int]:
        """What is added to maps of `size` in all, as torch.nn.functional.pad takes it: the last axis first."""
        padding = pad_amounts(_Conv._pad_amounts(self, size))
        return pad_amounts(with_margins(padding, self.kernel_size, self.support, self.dilation))

    def forward(self, input: Tensor) -> Tensor:
        require_tensors(type(self).__name__, input=input)
        padding: Any = self._given_padding
        weight = self.weight
        if self.padding_mode != "zeros":
            input, padding = pad(input, self._pad_amounts(input.shape[-self._dims :]), mode=self.padding_mode), 0
        return _transform_conv(
            self._dims,
            input,
            weight,
            self.filter_map() if self.learnable else self._map_like(weight),
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self.reduce,
            self.algorithm,
            margins=self.padding_mode == "zeros",
        )

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        return [convolution_call(self, given, output, self.convolution_size)]

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.filters}, kernel_size={self.kernel_size}", repr(self.transforms)]
        if math.prod(self.stride) > 1:
            parts.append(f"stride={self.stride}")
        if self._given_padding != 0:
            parts.append(f"padding={self._given_padding!r}")
        for name, usual in (("dilation", (1,) * self._dims), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)!r}")
        if self.bias is None:
            parts.append("bias=False")
        for name, usual_value in (("reduce", None), ("learnable", False), ("algorithm", "auto")):
            if getattr(self, name) != usual_value:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


class TransformInvariantConv1d(_TransformInvariantConv):
    """1-D convolution invariant, or equivariant, to more than shifts: each filter is tried under T transforms.

    Args:
        in_channels, filters, kernel_size, transforms, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype, reduce, learnable, algorithm: those of TransformInvariantConv2d; a tuple has one number for each of
            the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as TransformInvariantConv2d's

    Attributes:
        those of TransformInvariantConv2d.

    Raises:
        ValueError, RuntimeError: where TransformInvariantConv2d does.
    """

    _dims = 1


class TransformInvariantConv2d(_TransformInvariantConv):
    r"""2-D convolution invariant, or equivariant, to more than shifts: each filter is tried under T transforms.

    .. math::
        z[b, d, t, i] = bias[d]
            + \sum_{p, k} (T_t w)[d, p, k] \, x[b, p, stride \cdot i + dilation \cdot k - padding]

    Output maps are filter by filter, the transforms of one filter next to each other; with `reduce`, each filter's T
    maps become one, their maximum, mean or Euclidean norm, and are never all in memory at once. There are only D
    filters' parameters, whose gradients come back through every transform.

    Args:
        in_channels (int): number of input maps.
        filters (int): D, the number of filters.
        kernel_size (int or tuple): side of the filter, odd or even.
        transforms (TransformSet): what the filters are tried under, from torchconv.transforms. Where one needs a larger
            support, all copies have it, with the same centre, and the padding grows with it: the output's size depends
            on kernel_size alone. Rotated filters keep their size (see TransformSet.support).
        stride, padding, dilation, groups, padding_mode: torchconv.nn.Conv2d's.
        bias (bool): whether each filter has a learned bias. Default: True
        reduce (str or None): None, 'max', 'mean' or 'norm'. Default: None
        learnable (bool): whether the transforms' own numbers (angles in radians, scales, shears, matrices) are learned
            too; their supports stay those of the set. Default: False
        algorithm (str): 'auto', or the one that all directions must take. Default: 'auto'

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W)
        - Output: (N, D · T, H_out, W_out) or (D · T, H_out, W_out), with `reduce` D instead of D · T; sides as Conv2d's

    Attributes:
        weight (Parameter): (filters, in_channels / groups, *kernel_size), drawn as torch.nn.Conv2d draws it.
        bias (Parameter or None): (filters,)
        out_channels (int): number of output maps.
        angles, scales, shears, matrices (Parameter): numbers of the set's factors, where learnable: (n, 1) or (n, d²)

    Raises:
        ValueError: an argument that torch.nn.Conv2d refuses, or a set that does not fit the filter.
        RuntimeError: an input that torchconv.functional.conv2d refuses, or an algorithm that cannot run on it.
    """

    _dims = 2


class TransformInvariantConv3d(_TransformInvariantConv):
    """3-D convolution invariant, or equivariant, to more than shifts: each filter is tried under T transforms.

    Args:
        in_channels, filters, kernel_size, transforms, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype, reduce, learnable, algorithm: those of TransformInvariantConv2d; a tuple has one number for each of
            the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as TransformInvariantConv2d's

    Attributes:
        those of TransformInvariantConv2d.

    Raises:
        ValueError, RuntimeError: where TransformInvariantConv2d does.
    """

    _dims = 3
