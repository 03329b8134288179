"""Layers equivariant to a finite group of rotations (and mirrors) of the plane, which stack without losing it.

Feature maps [N, C·|G|, H, W] carry the group axis: channel by channel, the group's elements next to each other, in the
order of the group's TransformSet. Transforming a layer's input by u transforms its output's maps by u and moves element
h to u·h. Source: Cohen and Welling, Group equivariant convolutional networks, 2016.

What is exact: p4 (quarter turns) and p4m (with mirrors), since both act on the grid by permutations; for square maps
and symmetric padding at stride 1, with any kernel, odd or even. At stride S where S divides
``H + 2·padding − dilation·(kernel − 1) − 1``, so that the sampled positions are symmetric too; else not. Padding 'same'
with an even kernel is not symmetric; circular, replicated and reflected padding keep it. Pooling keeps it where its
windows lie evenly about the centre: 2×2 with stride 2 on an even side. Other rotations hold up to the interpolation.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, init
from torch.nn.modules.utils import _ntuple

from .. import functional
from .._calls import BuiltInCall, OperatorCall, convolution_call
from ..functional._arguments import batched, in_the_format_of, require_tensors
from ..functional._window import Window, both_sides, pad_amounts
from ..functional.transform import every_map, with_margins
from ..transforms import FilterMap, TransformSet, constants, dihedral, rotations
from ._layer import Layer
from ._norm import normalise
from .conv import _Conv
from .transform import _Mapped

GROUPS = {"p4": lambda: rotations(4), "p4m": lambda: dihedral(4)}


def group_of(group: str | TransformSet) -> TransformSet:
    """The set of transforms that a group's name stands for, or a set that is a group.

    Raises:
        ValueError: an unknown name, or a set that is no group.
    """
    if isinstance(group, str):
        if group not in GROUPS:
            raise ValueError(f"group must be one of {', '.join(GROUPS)} or a TransformSet, got '{group}'")
        return GROUPS[group]()
    if not isinstance(group, TransformSet):
        raise ValueError(f"group must be one of {', '.join(GROUPS)} or a TransformSet, got {group!r}")
    group.products()  # raises where it is none
    return group


@constants()
def regular_map(group: TransformSet, kernel: tuple[int, ...]) -> FilterMap:
    """The map that makes of a filter [|G|, *kernel] on regular maps its |G| transformed copies.

    ``(T_g w)[h, p] = (T_g w[g⁻¹ h])[p]``: each acts on the plane and permutes the group axis.
    """
    plane = group.filter_map(kernel)
    order, taps, copies = len(group), math.prod(kernel), math.prod(plane.support)
    inverses, products = group.inverses(), group.products()
    pointers, columns, values = [torch.zeros(1, dtype=torch.int64)], [], []
    for g in range(order):
        first, last = (int(plane.pointers[i * copies]) for i in (g, g + 1))
        rows = plane.pointers[g * copies : (g + 1) * copies + 1]
        for h in range(order):
            source = products[inverses[g]][h]
            pointers.append(rows[1:] - first + pointers[-1][-1])
            columns.append(plane.columns[first:last] + source * taps)
            values.append(plane.values[first:last])
    return FilterMap(
        torch.cat(pointers), torch.cat(columns), torch.cat(values), (order, *plane.kernel_size), (order, *plane.support)
    )


class GroupConv2d(_Mapped):
    """Convolution over the plane and a group of its transforms.

    .. math::
        y[b, o, g, i] = bias[o]
            + \\sum_{c, h, k} w[o, c, g^{-1} h, g^{-1} k] \\, x[b, c, h, stride \\cdot i + k - padding]

    and without :math:`h` for a lifting layer, whose input are plain maps. The filters are expanded by a sparse map,
    then it is one plain convolution of out_channels · |G| maps.

    Args:
        in_channels (int): channels of the input, the group axis not counted.
        out_channels (int): channels of the output, the group axis not counted.
        kernel_size (int or tuple): side of the filter, odd or even; square for an exact group.
        group (str or TransformSet): "p4", "p4m", or a set that is a group, as ``torchconv.transforms.rotations(8)``.
            Default: "p4"
        lifting (bool): whether the input are plain maps, (N, C_in, H, W). Default: False
        stride, padding, dilation, groups, padding_mode: torchconv.nn.Conv2d's; see the module for which keep the
            equivariance exact.
        bias (bool): whether each output channel has a learned bias. Default: True
        algorithm (str): 'auto', or the one that all directions must take. Default: 'auto'

    Shape:
        - Input: (N, C_in · |G|, H, W), channel by channel, the group's elements next to each other; lifting,
          (N, C_in, H, W)
        - Output: (N, C_out · |G|, H_out, W_out)

    Attributes:
        weight (Parameter): (out_channels, in_channels / groups · |G|, *kernel_size), as the input's maps; without |G|
            for a lifting layer.
        bias (Parameter or None): (out_channels,)

    Raises:
        ValueError: sizes that do not fit, an unknown group, or a set that is no group.
        RuntimeError: an input that torchconv.functional.conv2d refuses.
    """

    input_field: str
    output_field = "regular"
    algorithm: str = "auto"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        group: str | TransformSet = "p4",
        stride: int | tuple[int, int] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        lifting: bool = False,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups, self.lifting = in_channels, out_channels, groups, lifting
        pair = _ntuple(2)
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        self.padding, self.padding_mode = padding, padding_mode
        self.group_name = group if isinstance(group, str) else None
        self.group = group_of(group)
        self.order = len(self.group)
        self.input_field = "trivial" if lifting else "regular"
        _Conv._choose(self, algorithm)  # type: ignore[arg-type]
        options = dict(device=device, dtype=dtype)
        inputs = in_channels // groups * (1 if lifting else self.order)
        self.weight = Parameter(torch.empty(out_channels, inputs, *self.kernel_size, **options))
        self.bias = Parameter(torch.empty(out_channels, **options)) if bias else None
        self.reset_parameters()
        self._derive()
        self.support = self._held.support[-2:]

    def _map(self) -> FilterMap:
        if self.lifting:
            return self.group.filter_map(self.kernel_size)
        return regular_map(self.group, self.kernel_size)

    def reset_parameters(self) -> None:
        """Draws the parameters as torch.nn.Conv2d does, with the inputs of all group elements counted."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            init.uniform_(self.bias, -bound, bound)

    def filter_map(self) -> FilterMap:
        """The map from the filters, with the group axis of the input where it has one, to their copies."""
        return self._map_like(self.weight)

    def expanded(self) -> Tensor:
        """The plain convolution's weight: [out_channels · |G|, in_channels/groups (· |G|), *support]."""
        weight = self.weight
        fmap = self._map_like(weight)
        split = weight.reshape(self.out_channels, -1, *fmap.kernel_size)
        return functional.transform_filters(split, fmap).reshape(self.convolution_size)

    def forward(self, input: Tensor) -> Tensor:
        require_tensors("GroupConv2d", input=input)
        amounts = self._pad_amounts(input.shape[-2:])
        if self.padding_mode != "zeros":
            input, amounts = torch.nn.functional.pad(input, amounts, mode=self.padding_mode), [0] * 4
        x, has_batch = batched(input, 2, "GroupConv2d")
        if not self.lifting and x.shape[1] == self.in_channels != self.in_channels * self.order:
            raise RuntimeError(
                f"GroupConv2d: expected {self.in_channels} channels of {self.order} maps each, for the elements of its "
                f"group, got an input of {x.shape[1]} plain maps: a layer of plain maps is made with lifting=True"
            )
        window = Window(list(self.stride), pad_amounts(amounts), list(self.dilation), self.groups)
        weight = self.weight
        out = every_map("GroupConv2d", x, weight, self._map_like(weight), self.bias, window, self.algorithm)
        return out if has_batch else out.squeeze(0)

    def _pad_amounts(self, size: Any) -> list[int]:
        """What is added to maps of `size`, with what the support reaches beyond the filter, as torch.nn.functional.pad
        takes it: the last axis first."""
        padding = both_sides(self.padding, size, self.kernel_size, self.stride, self.dilation, "GroupConv2d")
        return pad_amounts(with_margins(padding, self.kernel_size, self.support, self.dilation))

    @property
    def convolution_size(self) -> tuple[int, ...]:
        """The size of `expanded()`."""
        inputs = self.in_channels // self.groups * (1 if self.lifting else self.order)
        return (self.out_channels * self.order, inputs, *self.support)

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        return [convolution_call(self, given, output, self.convolution_size)]

    def extra_repr(self) -> str:
        group = f"group={self.group_name!r}" if self.group_name else f"group={self.group}"
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, {group}"]
        if self.lifting:
            parts.append("lifting=True")
        for name, usual in (
            ("stride", (1, 1)),
            ("padding", 0),
            ("dilation", (1, 1)),
            ("groups", 1),
            ("padding_mode", "zeros"),
            ("algorithm", "auto"),
        ):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)!r}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class GroupPool2d(Layer, torch.nn.Module):
    """Reduces the group axis: (N, C · |G|, H, W) to (N, C, H, W), maps that turn with the picture and no more.

    Args:
        group (str or TransformSet): the layer's before. Default: "p4"
        reduce (str): 'max', 'mean' or 'norm'. Default: 'max'

    Raises:
        ValueError: an unknown group or reduction.
        RuntimeError: a number of maps that |G| does not divide.
    """

    input_field, output_field = "regular", "trivial"

    def __init__(self, group: str | TransformSet = "p4", reduce: str = "max") -> None:
        super().__init__()
        if reduce not in ("max", "mean", "norm"):
            raise ValueError(f"reduce must be 'max', 'mean' or 'norm', got {reduce!r}")
        self.order, self.reduce = len(group_of(group)), reduce

    def forward(self, input: Tensor) -> Tensor:
        maps = _by_channel(input, self.order)
        if self.reduce == "mean":
            return maps.mean(-3)
        if self.reduce == "max" and input.is_complex():
            raise RuntimeError(f"GroupPool2d: reduce='max' of {input.dtype} maps: complex numbers have no maximum")
        return maps.max(-3).values if self.reduce == "max" else torch.linalg.vector_norm(maps, dim=-3)

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        return [BuiltInCall(f"torch's own {self.reduce} over the group", given.nbytes + output.nbytes)]

    def extra_repr(self) -> str:
        return f"|G|={self.order}, reduce={self.reduce!r}"


class GroupBatchNorm2d(Layer, torch.nn.Module):
    """Batch norm of regular maps (N, C · |G|, H, W): a channel's statistics and parameters are all its elements'.

    Args:
        num_features (int): C.
        group (str or TransformSet): the layer's before. Default: "p4"
        eps, momentum, affine, track_running_stats: torch.nn.BatchNorm2d's.

    Attributes:
        norm (torch.nn.BatchNorm2d): of C channels. A layer of its own, so that what exchanges batch norms in a model,
            as torch.nn.SyncBatchNorm.convert_sync_batchnorm, exchanges it and leaves the group to this one.
    """

    input_field, output_field = "regular", "regular"

    def __init__(self, num_features: int, group: str | TransformSet = "p4", *args: Any, **keywords: Any) -> None:
        super().__init__()
        self.order = len(group_of(group))
        self.norm = torch.nn.BatchNorm2d(num_features, *args, **keywords)

    def forward(self, input: Tensor) -> Tensor:
        maps = _by_channel(input, self.order)  # [N, C, |G|, H, W]
        flat = maps.flatten(2, 3)
        ours = type(self.norm) is torch.nn.BatchNorm2d  # else another took its place
        out = normalise(flat, self.norm, None) if ours else self.norm(flat)
        return in_the_format_of(input, out.reshape(input.shape))

    def _operator_calls(self, given: Tensor, output: Tensor) -> list[OperatorCall]:
        return [BuiltInCall("torch's own batch norm over the group", given.nbytes + output.nbytes)]

    def extra_repr(self) -> str:
        return f"|G|={self.order}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes the names, too, that states had when this layer was itself a batch norm."""
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}norm.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _by_channel(input: Tensor, order: int) -> Tensor:
    """[..., C·|G|, H, W] as [..., C, |G|, H, W]."""
    require_tensors(f"maps of {order} group elements", input=input)
    if input.dim() < 3 or input.shape[-3] % order:
        raise RuntimeError(f"expected maps of {order} group elements each, got an input of shape {list(input.shape)}")
    return input.unflatten(-3, (input.shape[-3] // order, order))
