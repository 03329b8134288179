"""Convolution with the signatures of torch.nn.functional, plus ``algorithm=`` and padding that may differ by side.

Operands with no kernel here go to PyTorch's own operators, in :func:`_built_in`; which those are says _route.py.
"""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..autograd.conv import convolution, convolution_input_grad, convolution_relu
from ._arguments import require_weight, too_small, wrong_axes, wrong_length
from ._route import built_in_wanted, has_kernel, overridden

Ints: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[int] | Sequence[Sequence[int]]

LARGEST = 2**63 - 1  # that an operator takes


def _integer(value: int, what: str, name: str) -> int:
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value
    try:
        if not isinstance(value, bool):  # which Python has for an integer, and the built-in has not
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: {what} must be an integer, got {value!r}")


def _plain(value: Any, dims: int, least: int) -> list[int] | None:
    """`value` as one integer an axis where it is an int or a tuple of them, `least` or more; most calls end here."""
    if type(value) is int:
        return [value] * dims if least <= value <= LARGEST else None
    if type(value) is not tuple or len(value) != dims:
        return None
    for v in value:
        if type(v) is not int or not least <= v <= LARGEST:
            return None
    return list(value)


def _per_axis(value: Ints, dims: int, what: str, name: str, least: int) -> list[int]:
    """`value` as one integer an axis, as the built-in broadcasts them."""
    plain = _plain(value, dims, least)
    if plain is not None:
        return plain
    values = [_integer(v, what, name) for v in (value if isinstance(value, (tuple, list)) else (value,))]
    if len(values) == 1:
        values = values * dims
    if len(values) != dims:
        raise wrong_length(name, what, dims, value)
    if any(v < least for v in values):
        raise too_small(name, what, least, value, values)
    _check_fits(values, what, name)
    return values


def _check_fits(values: Sequence[int], what: str, name: str) -> None:
    if any(type(v) is int and v > LARGEST for v in values):
        raise RuntimeError(f"{name}: {what} must be at most 2^63 - 1, got {list(values)}")


def same_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """The zeros (before, after) each axis that make the output's side ``⌈size/stride⌉``, the odd one at the end."""
    pairs = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pairs.append((total // 2, total - total // 2))
    return pairs


def output_sides(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    sides: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> list[int]:
    """A convolution's output, axis by axis: ``⌊(side + before + after − dilation·(kernel − 1) − 1)/stride⌋ + 1``."""
    return [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, (before, after), d in zip(size, kernel, stride, sides, dilation, strict=True)
    ]


def transposed_sides(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """A transposed one's: ``(side − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1``."""
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, extra, d in zip(size, kernel, stride, padding, output_padding, dilation, strict=True)
    ]


def _transposed_window(
    input: Tensor,
    kernel: Sequence[int],
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    name: str,
) -> tuple[list[int], list[int]]:
    """The output's spatial size, and the padding (before, after) with which a convolution of it has the input's
    size: it crops what output_padding added."""
    if any(extra >= s and extra >= d for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise RuntimeError(
            f"{name}: output_padding must be smaller than either stride or dilation, got "
            f"output_padding {output_padding}, stride {stride}, dilation {dilation}"
        )
    size = transposed_sides(input.shape[-len(kernel) :], kernel, stride, padding, output_padding, dilation)
    _check_fits(size, "the output's side", name)
    if any(n < 1 for n in size):
        raise RuntimeError(f"{name}: input of shape {list(input.shape)} gives an output of spatial size {size}")
    return size, [side for p, extra in zip(padding, output_padding, strict=True) for side in (p, p - extra)]


def _sides(
    padding: Padding, size: Sequence[int], kernel: Sequence[int], stride: list[int], dilation: list[int], name: str
) -> list[tuple[int, int]]:
    """Padding as (before, after) for each axis."""
    dims = len(kernel)
    plain = _plain(padding, dims, 0)
    if plain is not None:
        return [(v, v) for v in plain]
    if padding == "valid":
        return [(0, 0)] * dims
    if padding == "same":
        same = same_padding(size, kernel, stride, dilation)
        _check_fits([side for pair in same for side in pair], "padding", name)
        return same
    if isinstance(padding, str):
        raise RuntimeError(f"{name}: padding must be 'same', 'valid' or integers, got '{padding}'")
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        pairs = [p if isinstance(p, (tuple, list)) else (p, p) for p in padding]
        if len(pairs) != dims or any(len(p) != 2 for p in pairs):
            raise RuntimeError(f"{name}: padding by side must be {dims} pairs (before, after), got {padding}")
        flat = [_integer(v, "padding", name) for pair in pairs for v in pair]
        _check_fits(flat, "padding", name)
        if any(v < 0 for v in flat):
            raise RuntimeError(f"{name}: negative padding is not supported, got {padding}")
        return list(zip(flat[::2], flat[1::2], strict=True))
    values = [_integer(v, "padding", name) for v in (padding if isinstance(padding, (tuple, list)) else (padding,))]
    if any(v < 0 for v in values):
        raise RuntimeError(f"{name}: negative padding is not supported, got {padding}")
    values = _per_axis(values, dims, "padding", name, 0)
    return [(v, v) for v in values]


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands as autocast would have a convolution see them."""
    if not torch.is_autocast_enabled("cpu"):
        return x, weight, bias
    dtype = torch.get_autocast_dtype("cpu")

    def cast(t: Tensor) -> Tensor:
        eligible = t.device.type == "cpu" and t.is_floating_point() and t.dtype != torch.float64
        return t.to(dtype) if eligible else t

    return cast(x), cast(weight), None if bias is None else cast(bias)


def _batched(input: Tensor, dims: int, name: str) -> tuple[Tensor, bool]:
    """The input with a batch axis, and whether it came with one."""
    axes = input.dim()
    if axes == dims + 2:
        return input, True
    if axes != dims + 1:
        raise wrong_axes(name, dims, input.shape)
    return input.unsqueeze(0), False


def _in_the_format_of(input: Tensor, output: Tensor) -> Tensor:
    """`output` [N, C, H, W], channels-last where `input` is: said in permutations, for vmap knows no memory format."""
    if input.dim() != 4 or input.is_contiguous() or not input.movedim(1, 3).is_contiguous():
        return output
    return output.movedim(1, 3).contiguous().movedim(3, 1)


def _check_operands(input: Tensor, weight: Tensor, bias: Tensor | None, bias_size: list[int], name: str) -> None:
    if bias is not None and bias.shape != tuple(bias_size):
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} expects a bias of shape {bias_size}, got {list(bias.shape)}"
        )
    dtype = input.dtype
    if weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        what, other = ("weight", weight.dtype) if weight.dtype != dtype else ("bias", bias.dtype)  # type: ignore[union-attr]
        raise RuntimeError(f"{name}: input is {dtype} but {what} is {other}")


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
    stride = _per_axis(stride, dims, "stride", name, 1)
    dilation = _per_axis(dilation, dims, "dilation", name, 1)
    groups = _integer(groups, "groups", name)
    x, batched = _batched(input, dims, name)
    x, w, b = _autocast(x, weight, bias)
    if has_kernel(x, w, b) and w.shape[1] != 0:
        sides = _sides(padding, x.shape[2:], w.shape[2:], stride, dilation, name)
        _check_operands(x, w, b, [w.shape[0]], name)
        flat = [side for pair in sides for side in pair]
        run = convolution if activation is None else convolution_relu
        out = run(x, w, b, stride, flat, dilation, groups, algorithm)
    else:
        out = _built_in(dims, x, w, b, stride, padding, dilation, groups, algorithm)
        out = out if activation is None else out.relu()
    return out if batched else out.squeeze(0)


def _built_in(
    dims: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: Padding,
    dilation: list[int],
    groups: int,
    algorithm: str,
) -> Tensor:
    """PyTorch's own convolution, where this package has no kernel, or there is no map to convolve."""
    name = f"conv{dims}d"
    _check_algorithm(algorithm, x, name)
    conv = getattr(torch.nn.functional, name)
    if padding == "same" and max(stride) == 1:  # as it is: a recorded call then holds for inputs of any size
        return conv(x, weight, bias, stride, padding, dilation, groups)
    sides = _sides(padding, x.shape[2:], weight.shape[2:], stride, dilation, name)
    if any(before != after for before, after in sides):
        x = torch.nn.functional.pad(x, [side for pair in reversed(sides) for side in pair])
        sides = [(0, 0)] * dims
    return conv(x, weight, bias, stride, [before for before, _ in sides], dilation, groups)


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
    stride = _per_axis(stride, dims, "stride", name, 1)
    dilation = _per_axis(dilation, dims, "dilation", name, 1)
    padding = _per_axis(padding, dims, "padding", name, 0)
    output_padding = _per_axis(output_padding, dims, "output_padding", name, 0)
    groups = _integer(groups, "groups", name)
    x, batched = _batched(input, dims, name)
    x, w, b = _autocast(x, weight, bias)
    if has_kernel(x, w, b) and w.shape[0] != 0 and w.shape[1] != 0:
        size, flat = _transposed_window(input, w.shape[2:], stride, padding, output_padding, dilation, name)
        if groups < 1 or x.shape[1] != w.shape[0] or w.shape[0] % groups:
            raise RuntimeError(
                f"{name}: weight of shape {list(w.shape)} with groups={groups} expects {w.shape[0]} input channels, "
                f"a multiple of groups, got input of shape {list(input.shape)}"
            )
        _check_operands(x, w, b, [w.shape[1] * groups], name)
        shape = [x.shape[0], w.shape[1] * groups, *size]
        out = convolution_input_grad(x, w, shape, stride, flat, dilation, groups, algorithm)
        if b is not None:
            out = out + b.reshape(1, -1, *[1] * dims)
    elif has_kernel(x, w, b) and w.shape[1] == 0:  # the built-in refuses it from inside
        raise RuntimeError(f"{name}: weight of shape {list(w.shape)} has no output channels")
    else:
        _check_algorithm(algorithm, x, name)
        out = getattr(torch.nn.functional, name)(x, w, b, stride, padding, output_padding, groups, dilation)
    return out if batched else out.squeeze(0)


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
