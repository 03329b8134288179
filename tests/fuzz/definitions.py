"""What is right: convolution and pooling by their definitions, in exact integers and float64.

The definitions share nothing with the library: each reads its input through a table of indices, built axis by axis.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST = 1 << 22  # elements of a table of indices or of a result; larger ones are not checked


class Illegal(Exception):
    """The definition has no answer for this call."""


class Huge(Exception):
    """The answer is too large to compute here: whether the library computes it is a matter of memory."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Illegal(what)


def each_axis(value: Any, dims: int, least: int = 1) -> list[int]:
    """An integer for each axis, of `least` or more, as functionals take them."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    values = values * dims if len(values) == 1 else values
    need(len(values) == dims and all(type(v) is int and v >= least for v in values), "numbers an axis")
    return values


class Windows:
    """Windows over an input's spatial axes, and which inputs each meets."""

    def __init__(
        self,
        sides: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],  # before and after each axis
        dilation: Sequence[int],
        outputs: Sequence[int] | None = None,  # where they are given, and not what the padding leaves room for
    ):
        dims = len(sides)
        need(1 <= dims <= 3, "axes")
        need(len(kernel) == len(stride) == len(dilation) == dims and len(padding) == 2 * dims, "numbers an axis")
        need(all(n >= 1 for n in (*sides, *kernel, *stride, *dilation)), "sides, kernel, stride, dilation below 1")
        room = [
            n + padding[2 * a] + padding[2 * a + 1] - dilation[a] * (kernel[a] - 1) - 1 for a, n in enumerate(sides)
        ]
        if outputs is None:
            need(all(r >= 0 for r in room), "a kernel larger than the padded input")
            outputs = [r // s + 1 for r, s in zip(room, stride, strict=True)]
        need(len(outputs) == dims, "numbers an axis")
        self.sides, self.kernel, self.outputs = list(sides), list(kernel), list(outputs)
        self.stride, self.before, self.dilation = list(stride), list(padding[::2]), list(dilation)

    def positions(self) -> int:
        return product(self.outputs)

    def index(self) -> Tensor:
        """[outputs, taps]: the flat input that each tap of each window meets; the number of inputs where none."""
        if self.positions() * product(self.kernel) > MOST or product(self.sides) > MOST:
            raise Huge
        pixels, flat = product(self.sides), torch.zeros(1, 1, dtype=torch.int64)
        for n, k, o, s, b, d in zip(
            self.sides, self.kernel, self.outputs, self.stride, self.before, self.dilation, strict=True
        ):
            i = _met(n, k, o, s, b, d)
            here = i[None, :, None, :].expand(flat.shape[0], o, flat.shape[1], k)
            outer = flat[:, None, :, None]
            flat = torch.where((here < 0) | (outer < 0), -1, outer * n + here).reshape(-1, flat.shape[1] * k)
        return torch.where(flat < 0, pixels, flat)


def adaptive_index(sides: Sequence[int], outputs: list[int]) -> tuple[Tensor, list[int]]:
    """As `Windows.index` for adaptive windows, and the most taps of an axis."""
    need(all(n >= 1 for n in sides) and all(o >= 0 for o in outputs), "sides")
    taps = [(n + o - 2) // o + 1 if o else 1 for n, o in zip(sides, outputs, strict=True)]
    if max(product(taps) * product(outputs), *taps, *outputs) > 1 << 22:
        raise Huge
    flat, pixels = torch.zeros(1, 1, dtype=torch.int64), product(sides)
    for n, o, k in zip(sides, outputs, taps, strict=True):
        rows = [[t * n // o + j if t * n // o + j < -(-(t + 1) * n // o) else -1 for j in range(k)] for t in range(o)]
        here = (
            torch.tensor(rows, dtype=torch.int64)
            .reshape(o, k)[None, :, None, :]
            .expand(flat.shape[0], o, flat.shape[1], k)
        )
        outer = flat[:, None, :, None]
        flat = torch.where((here < 0) | (outer < 0), -1, outer * n + here).reshape(-1, flat.shape[1] * k)
    return torch.where(flat < 0, pixels, flat), taps


def _met(side: int, taps: int, outputs: int, stride: int, before: int, dilation: int) -> Tensor:
    """[outputs, taps]: the input of an axis that each tap of each window meets; -1 where none."""
    if max(stride * outputs, dilation * taps, abs(before)) < 1 << 31:
        i = (torch.arange(outputs) * stride - before)[:, None] + torch.arange(taps) * dilation
        return i.masked_fill_((i < 0) | (i >= side), -1)
    rows = [[t * stride - before + j * dilation for j in range(taps)] for t in range(outputs)]
    rows = [[i if 0 <= i < side else -1 for i in row] for row in rows]
    return torch.tensor(rows, dtype=torch.int64).reshape(outputs, taps)


def product(values: Sequence[int]) -> int:
    out = 1
    for v in values:
        out *= v
    return out


def gathered(x: Tensor, index: Tensor, fill: float = 0.0) -> Tensor:
    """[N, C, outputs, taps]: what the windows see of x [N, C, *]."""
    if x.shape[0] * x.shape[1] * index.numel() > 4 * MOST:
        raise Huge
    flat = torch.cat([x.flatten(2), x.new_full((*x.shape[:2], 1), fill)], -1)
    return flat[:, :, index]


def scattered(columns: Tensor, index: Tensor, sides: Sequence[int]) -> Tensor:
    """[N, C, *sides]: the transpose of `gathered`."""
    out = columns.new_zeros((*columns.shape[:2], product(sides) + 1))
    out.index_add_(2, index.flatten(), columns.flatten(2))
    return out[..., :-1].reshape(*columns.shape[:2], *sides)


def conv_windows(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Windows:
    """The windows of a convolution whose parameters are legal."""
    need(len(weight_size) in (3, 4, 5) and len(input_size) == len(weight_size), "axes")
    need(groups >= 1 and weight_size[0] > 0 and weight_size[0] % groups == 0, "groups")
    need(input_size[1] == weight_size[1] * groups, "channels")
    need(all(n >= 0 for n in input_size), "a negative size")
    return Windows(input_size[2:], weight_size[2:], stride, padding, dilation)


def conv(x: Tensor, w: Tensor, windows: Windows, groups: int) -> Tensor:
    """y = x * w, of float64 operands."""
    if x.shape[0] * w.shape[0] * windows.positions() > MOST:
        raise Huge
    n, m, columns = x.shape[0], w.shape[0] // groups, gathered(x, windows.index())
    columns = columns.reshape(n, groups, w.shape[1], windows.positions(), product(windows.kernel)).transpose(2, 3)
    columns = columns.reshape(n, groups, windows.positions(), w.shape[1] * product(windows.kernel))
    y = columns @ w.reshape(groups, m, columns.shape[-1]).transpose(1, 2)  # [N, groups, positions, M]
    return y.transpose(2, 3).reshape(n, w.shape[0], *windows.outputs)


def conv_input_grad(grad: Tensor, w: Tensor, windows: Windows, groups: int) -> Tensor:
    n, taps = grad.shape[0], product(windows.kernel)
    if n * w.shape[1] * groups * max(windows.positions() * taps, product(windows.sides)) > MOST:
        raise Huge
    m = w.shape[0] // groups
    g = grad.reshape(n, groups, m, windows.positions()).transpose(2, 3)
    columns = g @ w.reshape(groups, m, w.shape[1] * taps)  # [N, groups, positions, C·taps]
    columns = columns.unflatten(3, (w.shape[1], taps)).permute(0, 1, 3, 2, 4).flatten(1, 2)
    return scattered(columns, windows.index(), windows.sides)


def conv_weight_grad(grad: Tensor, x: Tensor, weight_size: Sequence[int], windows: Windows, groups: int) -> Tensor:
    n = grad.shape[0]
    columns = gathered(x, windows.index())
    columns = columns.reshape(n, groups, weight_size[1], windows.positions(), product(windows.kernel))
    g = grad.reshape(n, groups, weight_size[0] // groups, windows.positions())
    return torch.einsum("ngmp,ngcpk->gmck", g, columns).reshape(tuple(weight_size))
