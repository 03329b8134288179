"""Locally connected layers: convolutions whose filters differ from position to position.

Operands with no kernel here (see _route.py) go through torch.nn.functional.unfold and fold.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..autograd.local import local_convolution, local_convolution_input_grad
from ._arguments import Ints, autocast, batched, check_operands, integer, per_axis
from ._route import has_kernel, overridden
from ._window import Padding, Window, both_sides, flat, pad_amounts, transposed_window


def _spatial(weight: Tensor, dims: int, name: str) -> tuple[list[int], list[int]]:
    """The kernel's and the positions' sides of a weight [O, C/groups, kernel..., positions...]."""
    if weight.dim() != 2 + 2 * dims:
        raise RuntimeError(
            f"{name}: expected a weight [out, in/groups, kernel..., positions...] of {2 + 2 * dims} axes, "
            f"got shape {list(weight.shape)}"
        )
    return list(weight.shape[2 : 2 + dims]), list(weight.shape[2 + dims :])


def _check(
    input: Tensor, weight: Tensor, bias: Tensor | None, channels: int, bias_size: tuple[int, ...], name: str
) -> None:
    if input.shape[1] != channels:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} expects {channels} input channels, "
            f"got input of shape {list(input.shape)}"
        )
    check_operands(input, weight, bias, bias_size, name)


def _local_conv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
) -> Tensor:
    name = f"local_conv{dims}d"
    if has_torch_function_variadic(input, weight, bias):
        args = (input, weight, bias, stride, padding, dilation, groups)
        return overridden(name, args[:3], *args)
    kernel, positions = _spatial(weight, dims, name)
    steps, gaps = per_axis(stride, dims, "stride", name, 1), per_axis(dilation, dims, "dilation", name, 1)
    groups = integer(groups, "groups", name)
    if groups < 1 or weight.shape[0] % groups:
        raise RuntimeError(f"{name}: groups={groups} does not divide the {weight.shape[0]} output channels")
    x, has_batch = batched(input, dims, name)
    window = Window(steps, both_sides(padding, x.shape[2:], kernel, steps, gaps, name), gaps, groups)
    x, weight, bias = autocast(x, weight, bias)
    _check(x, weight, bias, weight.shape[1] * groups, (weight.shape[0], *positions), name)
    sizes = window.output_sides(x.shape[2:], kernel)
    if sizes != positions:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} is for {positions} positions, but input of shape "
            f"{list(input.shape)} has {sizes} (stride={steps}, padding={window.padding}, dilation={gaps})"
        )
    if has_kernel(x, weight, bias):
        out = local_convolution(x, weight, bias, *window)
    else:
        out = _by_unfolding(x, weight, window).unflatten(-1, positions)
        out = out if bias is None else out + bias
    return out if has_batch else out.squeeze(0)


def _as_2d(x: Tensor) -> Tensor:
    return x if x.dim() == 4 else x.unsqueeze(-2)


def _two(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (2 - len(values)) + tuple(values)


def _by_unfolding(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The definition, by way of PyTorch's own unfold: [N, O, positions]."""
    dims, groups = x.dim() - 2, window.groups
    padded = torch.nn.functional.pad(x, pad_amounts(window.padding))
    columns = torch.nn.functional.unfold(
        _as_2d(padded), _two(weight.shape[2 : 2 + dims], 1), _two(window.dilation, 1), 0, _two(window.stride, 1)
    )
    filters = weight.reshape(groups, weight.shape[0] // groups, -1, columns.shape[-1])
    return torch.einsum("ngqt,goqt->ngot", columns.unflatten(1, (groups, -1)), filters).flatten(1, 2)


def _local_conv_transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    name = f"local_conv_transpose{dims}d"
    if has_torch_function_variadic(input, weight, bias):
        args = (input, weight, bias, stride, padding, output_padding, groups, dilation)
        return overridden(name, args[:3], *args)
    kernel, positions = _spatial(weight, dims, name)
    steps, gaps = per_axis(stride, dims, "stride", name, 1), per_axis(dilation, dims, "dilation", name, 1)
    cut = per_axis(padding, dims, "padding", name, 0)
    extra = per_axis(output_padding, dims, "output_padding", name, 0)
    groups = integer(groups, "groups", name)
    if groups < 1 or weight.shape[0] % groups:
        raise RuntimeError(f"{name}: groups={groups} does not divide the {weight.shape[0]} input channels")
    x, has_batch = batched(input, dims, name)
    if list(x.shape[2:]) != positions:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} is for inputs of size {positions}, "
            f"got input of shape {list(input.shape)}"
        )
    size, window = transposed_window(input, kernel, steps, cut, extra, gaps, groups, name)
    channels = weight.shape[1] * groups
    x, weight, bias = autocast(x, weight, bias)
    _check(x, weight, bias, weight.shape[0], (channels, *size), name)
    if has_kernel(x, weight, bias):
        out = local_convolution_input_grad(x, weight, [x.shape[0], channels, *size], *window)
    else:
        out = _by_folding(x, weight, size, window)
    out = out if bias is None else out + bias
    return out if has_batch else out.squeeze(0)


def _by_folding(x: Tensor, weight: Tensor, size: list[int], window: Window) -> Tensor:
    dims, (stride, cropped, dilation, groups) = x.dim() - 2, window
    kernel = weight.shape[2 : 2 + dims]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1, math.prod(x.shape[2:]))
    columns = torch.einsum("ngot,goqt->ngqt", x.flatten(2).unflatten(1, (groups, -1)), filters).flatten(1, 2)
    whole = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], stride, dilation, kernel, strict=True)]
    # Fold takes the size that the windows fill: cut and padded to the wanted one afterwards.
    out = torch.nn.functional.fold(columns, _two(whole, 1), _two(kernel, 1), _two(dilation, 1), 0, _two(stride, 1))
    out = out.reshape(out.shape[0], out.shape[1], *whole)
    sides = flat((-p, n - (w - p)) for p, n, w in zip(cropped[::2], size, whole, strict=True))
    return torch.nn.functional.pad(out, pad_amounts(sides))


def local_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Locally connected layer over [N, C, W], otherwise as ``local_conv2d``."""
    return _local_conv(1, input, weight, bias, stride, padding, dilation, groups)


def local_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Locally connected layer: a convolution whose filters differ from position to position.

    ``out[n, o, t] = bias[o, t] + Σ_c Σ_k weight[o, c, k, t] · input[n, c, t·stride − padding + k·dilation]``,
    where an input position off the map reads 0. No unfolded copy of the input is kept, nor made of more than a block of
    it at a time.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [O, C/groups, kernel..., positions...]: positions last, so that vectors lie along them.
        bias: [O, positions...] or None.
        stride, dilation: one integer or 2.
        padding: as ``conv2d``'s: integers, a pair (before, after) for each axis, ``'valid'`` or ``'same'``.
        groups: channels are cut into so many independent layers.

    Returns:
        [N, O, positions...] or [O, positions...], contiguous.

    Raises:
        RuntimeError: shapes that do not fit, among them an input of another size than the weight's positions are for.
    """
    return _local_conv(2, input, weight, bias, stride, padding, dilation, groups)


def local_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Transpose of a locally connected layer over [N, C, W], otherwise as ``local_conv_transpose2d``."""
    return _local_conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def local_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """The transpose of a locally connected layer, its input gradient, run forward.

    ``out[n, c, t·stride − padding + k·dilation] += weight[s, c, k, t] · input[n, s, t]``, plus the bias.

    Args:
        input: [N, S, H, W] or [S, H, W].
        weight: [S, C/groups, kernel..., H, W].
        bias: [C, output...] or None.
        stride, padding, output_padding, groups, dilation: as ``conv_transpose2d``'s.

    Returns:
        [N, C, *] (or [C, *]) with sides ``(side − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1``.

    Raises:
        RuntimeError: shapes that do not fit.
    """
    return _local_conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)
