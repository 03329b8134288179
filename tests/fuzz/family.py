"""Batch norm, local response norm, and locally connected layers."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF

from .conv import Shape, moderate, trusted
from .draw import KERNEL_DTYPES, Case, Draw, T, made
from .judge import (
    ERRORS,
    Huge,
    Illegal,
    Windows,
    answer,
    conv_windows,
    differ,
    each_axis,
    gathered,
    huge,
    need,
    product,
    rounding,
    scattered,
    verdict,
    widened,
)

F = torch.nn.functional
ops = torch.ops.torchconv


def _meta(args: list[Any]) -> bool:
    return any(isinstance(t, Tensor) and t.device.type == "meta" for t in args)


def _fine(dtype: torch.dtype) -> float:
    """What one rounding of a sum loses: sums are at least in float32."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


def _kernel(*recipes: Any) -> bool:
    """Whether all recipes that are given are of one dtype that has kernels."""
    dtypes = {t.dtype for t in recipes if isinstance(t, T)}
    return len(dtypes) == 1 and dtypes <= set(KERNEL_DTYPES)


# ---- batch norm ----


def _norm_shape(d: Draw) -> list[int]:
    while True:
        shape = [d.choice((1, 2, 3, 4, 8, 0)), d.side(), *(d.side(33) for _ in range(d.randrange(4)))]
        if product(shape) <= 1 << 12 and (product(shape) > shape[1] or shape[0] == 0):
            return shape


def draw_batch_norm(d: Draw) -> Case:
    shape, dtype, kind = _norm_shape(d), d.dtype(), d.choice(("normal", "positive"))
    c = shape[1:2]
    parameter = "float32" if dtype == "bfloat16" and d.chance(0.5) else dtype
    weight, bias = (d.tensor(c, parameter, "normal") if d.chance(0.6) else None for _ in range(2))
    running = [d.tensor(c, parameter, "positive") for _ in range(2)] if d.chance(0.7) else [None, None]
    args = (d.tensor(shape, dtype, kind), *running, weight, bias, True, d.choice((0.1, 0.5)), d.choice((1e-5, 1e-3)))
    return Case("batch_norm", args, {"activation": "relu"} if d.chance(0.3) else {}, backward=d.chance(0.5))


def check_batch_norm(case: Case) -> str | None:
    if huge(case):
        return None  # changed in place, so copied first
    args, kwargs = [made(a) for a in case.args], dict(case.kwargs)
    x = args[0]
    args[1:3] = [t.clone() if isinstance(t, Tensor) else t for t in args[1:3]]  # changed in place
    kernel = _kernel(case.args[0]) and not _meta(args)
    result, error = answer(lambda: TF.batch_norm(*args, **kwargs))
    if not kernel or not case.args[5]:  # PyTorch's own answers
        return None

    def expected(got: Any) -> str | None:
        wide = widened(case)
        wide[1:3] = [t.clone() if isinstance(t, Tensor) else t for t in wide[1:3]]
        need(kwargs.get("activation") in (None, "relu"), "activation")
        need(isinstance(wide[0], Tensor) and wide[0].dim() >= 2, "axes")
        vectors = [t for t in wide[1:5] if isinstance(t, Tensor)]
        need(all(t.numel() == wide[0].shape[1] for t in vectors), "a vector's length")
        if wide[0].shape[1] == 0 and case.args[5]:
            return differ(got, wide[0])  # of which the built-in looks at the first weight
        own = [made(a) for a in case.args]
        for call in (wide, own):  # with axes of size 1 the built-in reads some as what they are not
            call[3:5] = [t.flatten() if isinstance(t, Tensor) else t for t in call[3:5]]
        own[1:3] = [t.clone() if isinstance(t, Tensor) else t for t in own[1:3]]
        try:
            F.batch_norm(*own)  # in float64 it would take what it refuses in the call's dtypes
            want = F.batch_norm(*wide)
        except ERRORS as why:
            raise Illegal(str(why)) from None
        if not all(math.isfinite(v) for v in case.args[6:8]) or case.args[7] < 1e-6:
            raise Huge  # without ε a constant channel has no scale
        if x.dim() > 5 and x.dtype == torch.bfloat16:
            raise Huge  # the built-in's, which rounds more often
        # What rounding x and the mean loses, scaled as the values are.
        sized = wide[0].abs().max() if wide[0].numel() else 0.0
        scale = float(wide[3].abs().max()) if isinstance(wide[3], Tensor) and wide[3].numel() else 1.0
        var = wide[0].transpose(0, 1).flatten(1).var(1, correction=0).min() if wide[0].numel() else torch.ones(())
        least = float((var + case.args[7]).sqrt()) if case.args[5] else 0.25
        loss = 16 * _fine(x.dtype) * scale * float(sized) / least * max(want.numel(), 1) ** 0.5
        want = want.relu() if kwargs else want
        return differ(got, want, loss + 1e-300, 2 * torch.finfo(x.dtype).eps)

    return verdict(result, error, case.spoilt and not (moderate(case) and trusted(case)), expected)


def draw_norm_op(name: str, d: Draw) -> Case:
    shape, dtype = _norm_shape(d), d.kernel_dtype()
    x, (weight, bias) = d.tensor(shape, dtype, "normal"), (d.tensor(shape[1:2], dtype, "normal") for _ in range(2))
    weight, bias = (t if d.chance(0.6) else None for t in (weight, bias))
    if name == "batch_norm":
        return Case("ops.batch_norm", (x, weight, bias, 1e-5, d.chance(0.4)))
    statistics = "float64" if dtype == "float64" else "float32"
    mean, var = d.tensor(shape[1:2], statistics, "normal"), d.tensor(shape[1:2], statistics, "positive")
    return Case("ops.batch_norm_grad", (d.tensor(shape, dtype, "normal"), x, weight, bias, mean, var, 1e-5, False))


def check_norm_op(case: Case) -> str | None:
    name, args = case.operator[4:], [made(a) for a in case.args]
    result, error = answer(lambda: getattr(ops, name)(*args))
    if _meta(args):
        return None
    return verdict(result, error, case.spoilt, partial(_expected_norm, name, case))


def _expected_norm(name: str, case: Case, got: Any) -> str | None:
    wide = widened(case)
    x, weight, bias = wide[:3] if name == "batch_norm" else wide[1:4]
    eps, relu = wide[-2:]
    recipes = case.args[:1] if name == "batch_norm" else case.args[:2]
    need(isinstance(x, Tensor) and _kernel(*recipes) and 2 <= x.dim() <= 5, "an input")
    vectors = [t for t in wide[1 if name == "batch_norm" else 2 : -2] if t is not None]
    need(all(isinstance(t, Tensor) and t.shape == x.shape[1:2] for t in vectors), "parameters")
    if not isinstance(eps, float) or not 1e-6 < eps < 1 or relu or not x.numel():
        raise Huge  # nothing to compare with, but it has to be survived
    if any(t.dtype not in KERNEL_DTYPES for t in case.tensors()):
        raise Huge
    size = float(max(t.abs().max() for t in (x, *vectors)))
    column = lambda t: t.reshape(1, -1, *[1] * (x.dim() - 2))  # noqa: E731
    axes = [0, *range(2, x.dim())]
    loss = 64 * _fine(getattr(torch, case.args[0].dtype)) * size * size
    if name == "batch_norm":
        mean, var = x.mean(axes), x.var(axes, correction=0)
        scale = (var + eps).rsqrt() * (1.0 if weight is None else weight)
        y = (x - column(mean)) * column(scale) + (0.0 if bias is None else column(bias))
        loss *= float(scale.abs().max()) + 1
        if not isinstance(got, tuple):
            return "no tuple"
        return (
            differ(got[0], y, loss * y.numel() ** 0.5, 2 * torch.finfo(got[0].dtype).eps)
            or differ(got[1], mean, loss * mean.numel() ** 0.5, 1e-6)
            or differ(got[2], var, loss * var.numel() ** 0.5, 1e-6)
        )
    grad, mean, var = wide[0], wide[4], wide[5]
    need(isinstance(grad, Tensor) and grad.shape == x.shape, "a gradient")
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor) or bool((var < 0).any()):
        raise Huge
    scale, centred, count = (var + eps).rsqrt(), x - column(mean), x.numel() / x.shape[1]
    of_bias, of_weight = grad.sum(axes), (grad * centred).sum(axes) * scale
    each = grad - column(of_bias / count) - centred * column(of_weight * scale / count)
    of_x = each * column(scale * (1.0 if weight is None else weight))
    if not isinstance(got, tuple):
        return "no tuple"
    loss *= float(scale.max()) ** 2 + 1
    return (
        differ(got[0], of_x, loss * size * of_x.numel() ** 0.5, 2 * torch.finfo(got[0].dtype).eps)
        or differ(got[1], of_weight, loss * count * of_weight.numel() ** 0.5, 1e-5)
        or differ(got[2], of_bias, loss * count * of_bias.numel() ** 0.5, 1e-5)
    )


# ---- local response norm ----


def draw_lrn(name: str, d: Draw) -> Case:
    while True:
        shape = [d.choice((1, 2, 3, 0)), d.side(), *(d.side(33) for _ in range(1 + d.randrange(3)))]
        if product(shape) <= 1 << 12:
            break
    numbers = (d.choice((1, 2, 3, 4, 5, 8, 31)), d.choice((1e-4, 0.1, 1.0)), d.choice((0.5, 0.75, 1.0, 0.3)), 1.0)
    dtype = d.dtype() if name == "local_response_norm" else d.kernel_dtype()
    x = d.tensor(shape, dtype, "normal")
    args = (x, *numbers) if not name.endswith("grad") else (d.tensor(shape, dtype, "normal"), x, *numbers)
    return Case(name, args)


def check_lrn(case: Case) -> str | None:
    name, args = case.operator, [made(a) for a in case.args]
    direct = name.startswith("ops.")
    kernel = _kernel(*case.tensors())
    if not direct and not kernel and type(args[1]) is int and args[1] > 1 << 16:
        return None  # the built-in, which works through every channel of a window, off the map or not
    result, error = answer(lambda: (getattr(ops, name[4:]) if direct else TF.local_response_norm)(*args))
    if _meta(args) or (not direct and not kernel):
        return None

    def expected(got: Any) -> str | None:
        wide = widened(case)
        x, (size, alpha, beta, k) = wide[-5], wide[-4:]
        need(kernel and isinstance(x, Tensor) and x.dim() >= 3, "an input")
        if not x.numel() and not name.startswith("ops.") and type(size) is int and size > 0:
            return differ(got, x)  # as the built-in, which does not look at the size then
        need(type(size) is int and 1 <= size < 2**63, "a size")
        if not all(isinstance(v, float) and 0 <= v <= 10 for v in (alpha, beta, k)) or k < 0.1:
            raise Huge
        if name.endswith("grad"):
            need(isinstance(wide[0], Tensor) and wide[0].shape == x.shape, "a gradient")
        x.requires_grad_(name.endswith("grad"))
        c = x.shape[1]
        reach = torch.arange(c)[:, None] - torch.arange(c)  # an output's channel less an input's
        near = ((reach <= size // 2) & (-reach <= (size - 1) // 2)).double()
        squares = torch.einsum("oc,nc...->no...", near, x.square())
        want = x / (k + alpha / size * squares).pow(beta)
        if name.endswith("grad"):
            want = torch.autograd.grad(want, x, wide[0])[0]
        if not isinstance(got, Tensor):
            return "no tensor"
        loss = 64 * _fine(got.dtype) * max(want.numel(), 1) ** 0.5
        return differ(got, want.detach(), loss * (4 if name.endswith("grad") else 1), 2 * rounding(got.dtype))

    return verdict(result, error, case.spoilt, expected)


# ---- locally connected layers ----


class LocalShape(Shape):
    """A legal locally connected layer: a convolution's shape whose weight has positions."""

    def __init__(self, d: Draw):
        while True:
            super().__init__(d, d.choice((1, 2)))
            self.local = [*self.weight, *self.output[2:]]
            if product(self.local) <= 1 << 15 and min(self.input[2:]) > 0:
                break


def draw_local(d: Draw) -> Case:
    s, dtype = LocalShape(d), d.dtype()
    x, w = d.tensor(s.input, dtype), d.tensor(s.local, dtype)
    bias = d.tensor(s.output[1:], dtype) if d.chance(0.5) else None
    pairs = [(max(a, 0), max(b, 0)) for a, b in zip(s.padding[::2], s.padding[1::2], strict=True)]
    args = (x, w, bias, d.per_axis(s.stride), pairs, d.per_axis(s.dilation), s.groups)
    return Case(f"local_conv{s.dims}d", args)


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
    return Case(f"local_conv_transpose{s.dims}d", (x, w, bias, *window))


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
    result, error = answer(lambda: getattr(ops if direct else TF, name.removeprefix("ops."))(*args))
    if _meta(args) or (not direct and not _kernel(*case.tensors())):
        return None

    def expected(got: Any) -> str | None:
        if name == "ops._local_workspace":
            need(args[0] in ("forward", "input_grad", "weight_grad") and case.args[-1] in KERNEL_DTYPES, "words")
            _local_windows(case.args[1], case.args[2], case.args[3:7])
            return None if isinstance(got, int) and 0 <= got < 1 << 62 else f"{got} bytes"
        need(_kernel(*case.tensors()), "dtypes")
        want = _expected_local(case, widened(case))
        if not isinstance(got, Tensor):
            return "no tensor"
        # Whole numbers are summed exactly, and rounded once; a transposed one's bias is added to what was rounded.
        twice = "transpose" in name and case.args[2] is not None
        eps = 2 * torch.finfo(got.dtype).eps
        return differ(got, want, float(eps * want.norm()) + 1e-300) if twice else differ(got, want)

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
    "batch_norm": (draw_batch_norm, check_batch_norm),
    **{f"ops.{name}": (partial(draw_norm_op, name), check_norm_op) for name in ("batch_norm", "batch_norm_grad")},
    **{
        name: (partial(draw_lrn, name), check_lrn)
        for name in ("local_response_norm", "ops.local_response_norm", "ops.local_response_norm_grad")
    },
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
