"""Batch norm and local response norm."""

import contextlib
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF

from .conv import moderate, trusted
from .definitions import Huge, Illegal, need, product
from .draw import KERNEL_DTYPES, Case, Draw, made, of_one_kernel
from .judge import ERRORS, answer, differ, gradients, huge, leaves_of, meta, rounding, verdict, widened

F = torch.nn.functional
ops = torch.ops.torchconv


def _fine(dtype: torch.dtype) -> float:
    """What one rounding of a sum loses: sums are at least in float32."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


# ---- batch norm ----


def _norm_shape(d: Draw) -> list[int]:
    while True:
        shape = [d.choice((1, 2, 3, 4, 8, 0)), d.side(), *(d.side(33) for _ in range(d.randrange(4)))]
        if product(shape) <= d.room << 12 and (product(shape) > shape[1] or shape[0] == 0):
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
    kernel = of_one_kernel(case.args[:1]) and not meta(args)
    leaves = leaves_of([args[0], *args[3:5]]) if kernel and case.backward else []

    def call() -> tuple[Tensor, Any, Any]:
        running = [t.clone() if isinstance(t, Tensor) else t for t in args[1:3]]  # changed in place
        return TF.batch_norm(args[0], *running, *args[3:], **kwargs), *running

    eps = case.args[7]
    if isinstance(eps, float) and not eps > 0:  # PyTorch's own, whose sums depend on the number of threads
        with contextlib.suppress(*ERRORS):
            call()
        return None
    result, error = answer(call)
    if not kernel or not case.args[5]:  # PyTorch's own answers
        return None

    def expected(got: Any) -> str | None:
        return _expected_batch_norm(case, got, leaves)

    return verdict(result, error, case.spoilt and not (moderate(case) and trusted(case)), expected)


def _expected_batch_norm(case: Case, got: Any, leaves: list[Tensor]) -> str | None:
    wide, relu = widened(case), case.kwargs.get("activation")
    wide[1:3] = [t.clone() if isinstance(t, Tensor) else t for t in wide[1:3]]
    need(relu in (None, "relu"), "activation")
    need(isinstance(wide[0], Tensor) and wide[0].dim() >= 2, "axes")
    vectors = [t for t in wide[1:5] if isinstance(t, Tensor)]
    need(all(t.numel() == wide[0].shape[1] for t in vectors), "a vector's length")
    if wide[0].shape[1] == 0:
        return differ(got and got[0], wide[0])  # of which the built-in looks at the first weight
    wide[0] = wide[0].contiguous()  # the built-in's gradient is wrong for (N, C, H, 1) of strides (32, 1, 32, 32)
    operands = leaves_of([wide[0], *wide[3:5]]) if leaves else []
    own = [made(a) for a in case.args]
    # Of axes of size 1 the built-in reads some as what they are not; of (N, C) it takes a weight's gaps for the weight.
    for call in (wide, own):
        call[3:5] = [t.flatten().contiguous() if isinstance(t, Tensor) else t for t in call[3:5]]
    own[1:3] = [t.clone() if isinstance(t, Tensor) else t for t in own[1:3]]
    try:
        F.batch_norm(*own)  # in float64 it would take what it refuses in the call's dtypes
        want = F.batch_norm(*wide)
    except ERRORS as why:
        raise Illegal(str(why)) from None
    momentum, eps = case.args[6:8]
    if not all(math.isfinite(v) for v in (momentum, eps)) or eps < 1e-6 or got is None:
        raise Huge  # without ε a constant channel has no scale
    y, x = got[0], wide[0].detach()
    if x.dim() > 5 and y.dtype == torch.bfloat16:
        raise Huge  # the built-in's, which rounds more often
    # What rounding x and the mean loses, scaled as the values are.
    size = float(x.abs().max()) if x.numel() else 0.0
    scale = float(wide[3].abs().max()) if isinstance(wide[3], Tensor) and wide[3].numel() else 1.0
    var = x.transpose(0, 1).flatten(1).var(1, correction=0).min() if x.numel() else torch.ones(())
    least, fine = float((var + eps).sqrt()), _fine(y.dtype)
    out, loss = want.relu() if relu else want, 16 * fine * scale * size / least * max(want.numel(), 1) ** 0.5
    problem = differ(y, out, loss + 1e-300, 2 * torch.finfo(y.dtype).eps)
    for name, i in (("mean", 1), ("variance", 2)):
        if problem is None and isinstance(wide[i], Tensor) and abs(momentum) <= 1:
            moved, n = got[i], max(wide[i].numel(), 1)
            rounding_twice = 4 * torch.finfo(moved.dtype).eps * float(wide[i].abs().max() + size**i)
            problem = differ(moved, wide[i], (rounding_twice + 64 * fine * size**i) * n**0.5 + 1e-300)
            problem = problem and f"running {name}: {problem}"
    if problem or not leaves or not y.numel():
        return problem
    count, steep = x.numel() / x.shape[1], scale * (1 + size / least) ** 2 / least

    def close(i: int, got: Tensor, want: Tensor, g: Tensor) -> str | None:
        # Of sums over a channel, of up to `count` terms, and of what is left of each gradient beside their means.
        loss = 64 * fine * float(g.abs().max()) * (steep if i == 0 else count * (1 + size / least))
        return differ(got, want, loss * want.numel() ** 0.5 + 1e-300, 4 * torch.finfo(got.dtype).eps)

    clear = want.detach().abs() > 1e-3 + loss if relu else None
    return gradients(case, (y, leaves), (out, operands), close, clear)


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
    if meta(args):
        return None
    return verdict(result, error, case.spoilt, partial(_expected_norm, name, case))


def _expected_norm(name: str, case: Case, got: Any) -> str | None:
    wide = widened(case)
    x, weight, bias = wide[:3] if name == "batch_norm" else wide[1:4]
    eps, relu = wide[-2:]
    recipes = case.args[:1] if name == "batch_norm" else case.args[:2]
    need(isinstance(x, Tensor) and of_one_kernel(recipes) and 2 <= x.dim() <= 5, "an input")
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
        if product(shape) <= d.room << 12:
            break
    numbers = (d.choice((1, 2, 3, 4, 5, 8, 31)), d.choice((1e-4, 0.1, 1.0)), d.choice((0.5, 0.75, 1.0, 0.3)), 1.0)
    dtype = d.dtype() if name == "local_response_norm" else d.kernel_dtype()
    x = d.tensor(shape, dtype, "normal")
    args = (x, *numbers) if not name.endswith("grad") else (d.tensor(shape, dtype, "normal"), x, *numbers)
    return Case(name, args, backward=not name.startswith("ops.") and d.chance(0.4))


def check_lrn(case: Case) -> str | None:
    name, args = case.operator, [made(a) for a in case.args]
    direct = name.startswith("ops.")
    kernel = of_one_kernel(case.tensors())
    if not direct and not kernel and type(args[1]) is int and args[1] > 1 << 16:
        return None  # the built-in, which works through every channel of a window, off the map or not
    leaves = leaves_of(args[:1]) if case.backward and kernel else []
    result, error = answer(lambda: (getattr(ops, name[4:]) if direct else TF.local_response_norm)(*args))
    if meta(args) or (not direct and not kernel):
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
        x.requires_grad_(name.endswith("grad") or bool(leaves))
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
        problem = differ(got, want.detach(), loss * (4 if name.endswith("grad") else 1), 2 * rounding(got.dtype))
        if problem or not leaves:
            return problem
        close = lambda _, mine, right, g: differ(mine, right, loss * 4, 2 * rounding(mine.dtype))  # noqa: E731
        return gradients(case, (got, leaves), (want, [x]), close)

    return verdict(result, error, case.spoilt, expected)


OPERATORS = {
    "batch_norm": (draw_batch_norm, check_batch_norm),
    **{f"ops.{name}": (partial(draw_norm_op, name), check_norm_op) for name in ("batch_norm", "batch_norm_grad")},
    **{
        name: (partial(draw_lrn, name), check_lrn)
        for name in ("local_response_norm", "ops.local_response_norm", "ops.local_response_norm_grad")
    },
}
