"""Convolution with the signatures of torch.nn.functional, plus ``algorithm=`` and padding that may differ by side.

Operands with no kernel here go to PyTorch's own operators, in :func:`built_in`; which those are says _route.py.
"""

from functools import partial

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..autograd.conv import convolution, convolution_input_grad, convolution_relu
from ._arguments import Ints, asked, autocast, batched, check_operands, integer, per_axis, require_weight
from ._route import built_in_wanted, has_kernel, overridden
from ._window import Padding, Window, both_sides, pad_amounts, plain_padding, transposed_window


def _conv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    algorithm: str,
    activation: str | None,
) -> Tensor:
    name = f"conv{dims}d"
    if has_torch_function_variadic(input, weight, bias):
        args = (input, weight, bias, stride, padding, dilation, groups)
        return overridden(name, args[:3], *args, algorithm=algorithm, activation=activation)
    if activation not in (None, "relu"):
        raise RuntimeError(f"{name}: activation must be None or 'relu', got {activation!r}")
    require_weight(name, dims, input, weight, bias)
    stride = per_axis(stride, dims, "stride", name, 1)
    dilation = per_axis(dilation, dims, "dilation", name, 1)
    groups = integer(groups, "groups", name)
    x, has_batch = batched(input, dims, name)
    x, w, b = autocast(x, weight, bias)
    if has_kernel(x, w, b) and w.shape[1] != 0:
        sides = plain_padding(padding, dims)
        if sides is None:
            sides = both_sides(padding, x.shape[2:], w.shape[2:], stride, dilation, name)
        check_operands(x, w, b, (w.shape[0],), name)
        run = convolution if activation is None else convolution_relu
        out = run(x, w, b, stride, sides, dilation, groups, asked(algorithm))
    else:
        if padding == "same" and max(stride) == 1:  # as it is: a recorded call then holds for inputs of any size
            _check_algorithm(algorithm, x, name)
            out = getattr(torch.nn.functional, name)(x, w, b, stride, padding, dilation, groups)
        else:
            sides = both_sides(padding, x.shape[2:], w.shape[2:], stride, dilation, name)
            out = built_in(x, w, b, Window(stride, sides, dilation, groups), algorithm)
        out = out if activation is None else out.relu()
    return out if has_batch else out.squeeze(0)


def built_in(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, algorithm: str) -> Tensor:
    """PyTorch's own convolution of batched maps, where this package has no kernel, or there is no map to convolve."""
    name = f"conv{x.dim() - 2}d"
    _check_algorithm(algorithm, x, name)
    stride, padding, dilation, groups = window
    if padding[::2] != padding[1::2]:
        x, padding = torch.nn.functional.pad(x, pad_amounts(padding)), [0] * len(padding)
    return getattr(torch.nn.functional, name)(x, weight, bias, stride, padding[::2], dilation, groups)


def _check_algorithm(algorithm: str, x: Tensor, name: str) -> None:
    if algorithm not in ("auto", "highest") and not built_in_wanted():
        why = f"no kernel for {type(x).__name__} of {x.dtype} on {x.device.type}, {x.layout}"
        if has_kernel(x):
            why = "there is no map to convolve"
        raise RuntimeError(f"{name}: algorithm '{algorithm}' cannot run this convolution: {why}")


def _conv_transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
    algorithm: str,
) -> Tensor:
    name = f"conv_transpose{dims}d"
    if has_torch_function_variadic(input, weight, bias):
        args = (input, weight, bias, stride, padding, output_padding, groups, dilation)
        return overridden(name, args[:3], *args, algorithm=algorithm)
    require_weight(name, dims, input, weight, bias)
    stride = per_axis(stride, dims, "stride", name, 1)
    dilation = per_axis(dilation, dims, "dilation", name, 1)
    padding = per_axis(padding, dims, "padding", name, 0)
    output_padding = per_axis(output_padding, dims, "output_padding", name, 0)
    groups = integer(groups, "groups", name)
    x, has_batch = batched(input, dims, name)
    x, w, b = autocast(x, weight, bias)
    function = getattr(torch.nn.functional, name)
    by_torch = partial(function, x, w, b, stride, padding, output_padding, groups, dilation)
    if has_kernel(x, w, b) and w.shape[0] != 0 and w.shape[1] != 0:
        size, window = transposed_window(input, w.shape[2:], stride, padding, output_padding, dilation, groups, name, 0)
        if groups < 1 or x.shape[1] != w.shape[0] or w.shape[0] % groups:
            raise RuntimeError(
                f"{name}: weight of shape {list(w.shape)} with groups={groups} expects {w.shape[0]} input channels, "
                f"a multiple of groups, got input of shape {list(input.shape)}"
            )
        check_operands(x, w, b, (w.shape[1] * groups,), name)
        shape = [x.shape[0], w.shape[1] * groups, *size]
        if 0 in size:
            out = by_torch()
        else:
            out = convolution_input_grad(x, w, shape, *window, asked(algorithm))
            if b is not None:
                out = out + b.reshape(1, -1, *[1] * dims)
    elif has_kernel(x, w, b) and w.shape[1] == 0:  # the built-in refuses it from inside
        raise RuntimeError(f"{name}: weight of shape {list(w.shape)} has no output channels")
    else:
        _check_algorithm(algorithm, x, name)
        out = by_torch()
    return out if has_batch else out.squeeze(0)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str | None = None,
) -> Tensor:
    """Convolution over [N, C, W], otherwise as ``conv2d``. Source: ``torch.nn.functional.conv1d``."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, algorithm, activation)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str | None = None,
) -> Tensor:
    """Convolution (the field's correlation) over an input of several maps.

    ``out[n, o, t] = bias[o] + Σ_c Σ_k weight[o, c, k] · input[n, c, t·stride − padding + k·dilation]``,
    where an input position off the map reads 0.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [O, C/groups, kernel...].
        bias: [O] or None.
        stride, dilation: one integer or 2.
        padding: zeros on both sides of an axis, one integer or 2; a pair (before, after) for each axis;
            ``'valid'`` for none; ``'same'`` for an output side of ``⌈side/stride⌉``, the odd zero at the end.
        groups: channels are cut into so many independent convolutions.
        algorithm: ``"auto"``; ``"highest"``, which is ``"auto"`` among those that sum directly, whatever the process's
            precision; or the name of the one to use (see ``torchconv.explain``).
        activation: None, or ``"relu"`` for ``max(0, out)``, at no cost of its own.

    Returns:
        [N, O, *] (or [O, *]) with sides ``⌊(side + padding − dilation·(kernel − 1) − 1)/stride⌋ + 1``, channels-last
        where the input or the weight is.

    Raises:
        RuntimeError: shapes that do not fit, a window larger than the padded input, or an algorithm that cannot run.

    Source: ``torch.nn.functional.conv2d``.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, algorithm, activation)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str | None = None,
) -> Tensor:
    """Convolution over [N, C, D, H, W], otherwise as ``conv2d``. Source: ``torch.nn.functional.conv3d``."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, algorithm, activation)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Transposed convolution over [N, C, W], otherwise as ``conv_transpose2d``.

    Source: ``torch.nn.functional.conv_transpose1d``.
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Transposed convolution: the input gradient of ``conv2d``, run forward.

    ``out[n, c, t·stride − padding + k·dilation] += weight[s, c, k] · input[n, s, t]``, plus the bias.

    Args:
        input: [N, S, H, W] or [S, H, W].
        weight: [S, C/groups, kernel...].
        bias: [C] or None.
        stride, padding, dilation: one integer or 2; padding crops the output on both sides.
        output_padding: added to the output's far side; smaller than the stride or the dilation.
        groups: channels are cut into so many independent convolutions.
        algorithm: ``"auto"``, or the name of the one to use.

    Returns:
        [N, C, *] (or [C, *]) with sides ``(side − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1``.

    Raises:
        RuntimeError: shapes that do not fit, an empty output, or an algorithm that cannot run.

    Source: ``torch.nn.functional.conv_transpose2d``.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    algorithm: str = "auto",
) -> Tensor:
    """Transposed convolution over [N, C, D, H, W], otherwise as ``conv_transpose2d``.

    Source: ``torch.nn.functional.conv_transpose3d``.
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)
