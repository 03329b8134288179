"""Locally connected layers."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF

from .conv import Shape
from .definitions import Huge, Windows, conv_windows, each_axis, gathered, need, product, scattered
from .draw import KERNEL_DTYPES, Case, Draw, made, of_one_kernel
from .judge import answer, differ, gradients, leaves_of, meta, verdict, widened

F = torch.nn.functional
ops = torch.ops.torchconv


class LocalShape(Shape):
    """A legal locally connected layer: a convolution's shape whose weight has positions."""

    def __init__(self, d: Draw):
        while True:
            super().__init__(d, d.choice((1, 2)))
            self.local = [*self.weight, *self.output[2:]]
            if product(self.local) <= d.room << 15 and min(self.input[2:]) > 0:
                break


def draw_local(d: Draw) -> Case:
    s, dtype = LocalShape(d), d.dtype()
    x, w = d.tensor(s.input, dtype), d.tensor(s.local, dtype)
    bias = d.tensor(s.output[1:], dtype) if d.chance(0.5) else None
    pairs = [(max(a, 0), max(b, 0)) for a, b in zip(s.padding[::2], s.padding[1::2], strict=True)]
    args = (x, w, bias, d.per_axis(s.stride), pairs, d.per_axis(s.dilation), s.groups)
    return Case(f"local_conv{s.dims}d", args, backward=d.chance(0.4))


def draw_local_transpose(d: Draw) -> Case:
    while True:
        s = LocalShape(d)
        if s.padding[::2] == s.padding[1::2] and not any(s.padding):
            break
    extra = [0] * s.dims
    sizes = [
        (n - 1) * t - 2 * p + g * (k - 1) + 1
        for n, t, p, g, k in zip(s.output[2:], s.stride, s.padding[::2], s.dilation, s.weight[2:], strict=True)
    ]
    dtype = d.dtype()
    bias = d.tensor([s.input[1], *sizes], dtype) if d.chance(0.5) else None
    x, w = d.tensor(s.output, dtype), d.tensor(s.local, dtype)
    window = (d.per_axis(s.stride), d.per_axis(s.padding[::2]), extra, s.groups, d.per_axis(s.dilation))
    return Case(f"local_conv_transpose{s.dims}d", (x, w, bias, *window), backward=d.chance(0.4))


def draw_local_op(name: str, d: Draw) -> Case:
    s, dtype = LocalShape(d), d.kernel_dtype()
    x, w, g = (d.tensor(size, dtype) for size in (s.input, s.local, s.output))
    if name == "_local_workspace":
        direction = d.choice(("forward", "input_grad", "weight_grad"))
        return Case("ops._local_workspace", (direction, s.input, s.local, *s.window(), dtype))
    if name == "local_convolution":
        bias = d.tensor(s.output[1:], dtype) if d.chance(0.5) else None
        return Case(f"ops.{name}", (x, w, bias, *s.window()))
    rest = (w, s.input) if name.endswith("input_grad") else (x, s.local)
    return Case(f"ops.{name}", (g, *rest, *s.window()))


def _local(windows: Windows, x: Tensor, w: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """x's columns [N, groups, C, positions, taps] and the weight as [groups, M, C, taps, positions]."""
    columns = gathered(x, windows.index())
    columns = columns.reshape(x.shape[0], groups, x.shape[1] // groups, *columns.shape[2:])
    return columns, w.reshape(groups, w.shape[0] // groups, w.shape[1], product(windows.kernel), windows.positions())


def local_forward(x: Tensor, w: Tensor, windows: Windows, groups: int) -> Tensor:
    columns, filters = _local(windows, x, w, groups)
    return torch.einsum("ngcpk,gmckp->ngmp", columns, filters).reshape(x.shape[0], w.shape[0], *windows.outputs)


def local_input_grad(grad: Tensor, w: Tensor, windows: Windows, groups: int) -> Tensor:
    filters = w.reshape(groups, w.shape[0] // groups, w.shape[1], product(windows.kernel), windows.positions())
    g = grad.reshape(grad.shape[0], groups, w.shape[0] // groups, windows.positions())
    columns = torch.einsum("ngmp,gmckp->ngcpk", g, filters).flatten(1, 2)
    return scattered(columns, windows.index(), windows.sides)


def check_local(case: Case) -> str | None:
    name, args = case.operator, [made(a) for a in case.args]
    direct = name.startswith("ops.")
    if name == "ops._local_workspace":
        args[-1] = getattr(torch, str(args[-1]), args[-1])
    leaves = leaves_of(args[:3]) if case.backward else []
    result, error = answer(lambda: getattr(ops if direct else TF, name.removeprefix("ops."))(*args))
    if meta(args) or (not direct and not of_one_kernel(case.tensors())):
        return None

    def expected(got: Any) -> str | None:
        if name == "ops._local_workspace":
            need(args[0] in ("forward", "input_grad", "weight_grad") and case.args[-1] in KERNEL_DTYPES, "words")
            _local_windows(case.args[1], case.args[2], case.args[3:7])
            return None if isinstance(got, int) and 0 <= got < 1 << 62 else f"{got} bytes"
        need(of_one_kernel(case.tensors()), "dtypes")
        wide = widened(case)
        operands = leaves_of(wide[:3]) if leaves else []
        want = _expected_local(case, wide)
        if not isinstance(got, Tensor):
            return "no tensor"
        # Whole numbers are summed exactly, and rounded once; a transposed one's bias is added to what was rounded.
        twice = "transpose" in name and case.args[2] is not None
        eps = 2 * torch.finfo(got.dtype).eps
        problem = differ(got, want, float(eps * want.detach().norm()) + 1e-300 if twice else 0.0)
        if problem or not leaves:
            return problem
        return gradients(case, (got, leaves), (want, operands), lambda _, mine, right, g: differ(mine, right))

    return verdict(result, error, case.spoilt, expected)


def _local_windows(input_size: Any, local: Any, window: Any) -> Windows:
    stride, padding, dilation, groups = window
    need(len(local) in (4, 6) and len(input_size) == len(local) // 2 + 1, "axes")
    dims = len(local) // 2 - 1
    need(all(isinstance(i, int) for v in (stride, padding, dilation, [groups]) for i in v), "numbers")
    windows = conv_windows(input_size, local[: 2 + dims], stride, padding, dilation, groups)
    need(list(local[2 + dims :]) == windows.outputs, "positions")
    return windows


def _expected_local(case: Case, wide: list[Any]) -> Tensor:
    name = case.operator
    a, b, third = wide[:3]
    need(isinstance(a, Tensor) and isinstance(b, Tensor), "operands that are no tensors")
    if name.startswith("ops."):
        window = wide[3:7]
        if name.endswith("input_grad"):
            windows = _local_windows(third, b.shape, window)
            need(list(a.shape) == [third[0], b.shape[0], *windows.outputs], "a gradient")
            return local_input_grad(a, b, windows, window[3])
        if name.endswith("weight_grad"):
            windows = _local_windows(b.shape, third, window)
            need(list(a.shape) == [b.shape[0], third[0], *windows.outputs], "a gradient")
            g = a.reshape(a.shape[0], window[3], third[0] // window[3], windows.positions())
            columns = gathered(b, windows.index()).reshape(b.shape[0], window[3], third[1], *windows.index().shape)
            return torch.einsum("ngmp,ngcpk->gmckp", g, columns).reshape(tuple(third))
        y = local_forward(a, b, _local_windows(a.shape, b.shape, window), window[3])
        need(third is None or third.shape == y.shape[1:], "bias")
        return y if third is None else y + third
    dims = int(name[-2])
    need(b.dim() == 2 + 2 * dims and a.dim() in (dims + 1, dims + 2), "axes")
    x = a if a.dim() == dims + 2 else a.unsqueeze(0)
    numbers = [each_axis(v, dims) for v in (wide[3], wide[5] if "transpose" not in name else wide[7])]
    if "transpose" in name:
        padding, extra, groups = each_axis(wide[4], dims, 0), each_axis(wide[5], dims, 0), wide[6]
        need(all(e < max(s, g) for e, s, g in zip(extra, *numbers, strict=True)), "output_padding")
        sizes = [
            (n - 1) * s - 2 * p + g * (k - 1) + e + 1
            for n, s, p, g, k, e in zip(x.shape[2:], numbers[0], padding, numbers[1], b.shape[2:], extra, strict=False)
        ]
        flat = [side for p, e in zip(padding, extra, strict=True) for side in (p, p - e)]
        need(type(groups) is int, "groups")
        windows = _local_windows(
            [x.shape[0], b.shape[1] * groups, *sizes], b.shape, (numbers[0], flat, numbers[1], groups)
        )
        need(x.shape[1] == b.shape[0] and list(x.shape[2:]) == windows.outputs, "an input that does not fit")
        y = local_input_grad(x, b, windows, groups)
    else:
        if not isinstance(wide[4], list):
            raise Huge
        sides = wide[4] * dims if len(wide[4]) == 1 else wide[4]  # a number or a pair an axis, or one for all
        pairs = [p if isinstance(p, tuple) else (p, p) for p in sides]
        need(len(pairs) == dims and all(len(pair) == 2 for pair in pairs), "padding")
        flat = [side for pair in pairs for side in pair]
        need(all(type(side) is int and side >= 0 for side in flat), "padding")
        windows = _local_windows(x.shape, b.shape, (numbers[0], flat, numbers[1], wide[6]))
        y = local_forward(x, b, windows, wide[6])
    need(third is None or (isinstance(third, Tensor) and third.shape == y.shape[1:]), "bias")
    y = y if third is None else y + third
    return y if a.dim() == dims + 2 else y.squeeze(0)


OPERATORS = {
    **{f"local_conv{n}d": (draw_local, check_local) for n in (1, 2)},
    **{f"local_conv_transpose{n}d": (draw_local_transpose, check_local) for n in (1, 2)},
    **{
        f"ops.{name}": (partial(draw_local_op, name), check_local)
        for name in (
            "local_convolution",
            "local_convolution_input_grad",
            "local_convolution_weight_grad",
            "_local_workspace",
        )
    },
}
