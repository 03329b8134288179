"""Convolution: the functionals, their transposes, and the operators under them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF
from torchconv.ops import activation_format

from .definitions import Huge, Illegal, conv, conv_input_grad, conv_weight_grad, conv_windows, each_axis, need, product
from .draw import KERNEL_DTYPES, LARGEST, Case, Draw, integers, made
from .judge import ERRORS, answer, conv_allowed, differ, gradients, meta, verdict, widened

F = torch.nn.functional
ops = torch.ops.torchconv
ALGORITHMS = ("auto", "auto", "auto", *ops._algorithms())
EXACT = {*ops._algorithms()} - {"winograd", "fft"}  # sums of whole numbers are whole numbers
MOST_TERMS = (1 << 14, 1 << 14, 1 << 15, 1 << 18)  # multiply-adds of a drawn convolution
MODERATE = 4096  # below, the built-in is called too; above, it may crash itself


class Shape:
    """A legal convolution."""

    def __init__(self, d: Draw, dims: int, symmetric: bool = False):
        self.dims, most, elements = dims, d.choice(MOST_TERMS) * d.room, d.room << 13
        while True:
            self._draw(d, symmetric)
            terms = self.weight[0] * self.weight[1] * product(self.weight[2:]) * product(self.output[2:])
            if self.input[0] * terms <= most and sum(map(product, (self.input, self.weight, self.output))) <= elements:
                break

    def _draw(self, d: Draw, symmetric: bool) -> None:
        roll, most = d.random(), (130, 65, 17)[self.dims - 1]
        if roll < 0.25:  # depth-wise
            self.groups = d.side(33)
            channels, maps = 1, d.choice((1, 1, 1, 2, 3))
        else:
            self.groups = 1 if roll < 0.75 else d.choice((2, 3, 4))
            channels, maps = d.side(33), d.side(33)
        kernel = [d.choice((1, 1, 2, 3, 3, 3, 4, 5, 7, 11)) for _ in range(self.dims)]
        if d.chance(0.4):
            kernel = [d.choice((1, 3, 3, 5))] * self.dims
        plain = d.chance(0.5)
        self.stride = [1 if plain else d.choice((1, 1, 2, 3, 4, 7)) for _ in range(self.dims)]
        self.dilation = [1 if plain else d.choice((1, 1, 1, 2, 3, 5)) for _ in range(self.dims)]
        self.padding, sides, outputs = [], [], []
        for k, s, g in zip(kernel, self.stride, self.dilation, strict=True):
            before = d.choice((0, k // 2, k // 2, d.randrange(k + 2)))
            after = before if symmetric or d.chance(0.7) else d.randrange(k + 1)
            if not symmetric and d.chance(0.05):
                before -= 3
            reach = g * (k - 1) + 1
            # By the output's side or by the input's: both meet whole vectors.
            side = d.side(most) if d.chance(0.5) else (d.side(most) - 1) * s + reach - before - after
            side = max(side, reach - before - after, 1)
            self.padding += [before, after]
            sides.append(side)
            outputs.append((side + before + after - reach) // s + 1)
        batch = d.choice((1, 1, 1, 2, 2, 3, 4, 0)) if d.chance(0.5) else 1
        self.input = [batch, channels * self.groups, *sides]
        self.weight = [maps * self.groups, channels, *kernel]
        self.output = [batch, maps * self.groups, *outputs]

    def window(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups


def numbers(d: Draw) -> str:
    return d.choice(("whole", "whole", "normal"))


# ---- functionals ----


def draw_conv(dims: int, d: Draw) -> Case:
    shape, dtype, kind = Shape(d, dims, symmetric=d.chance(0.8)), d.dtype(), numbers(d)
    pairs = list(zip(shape.padding[::2], shape.padding[1::2], strict=True))
    padding: Any = d.per_axis([before for before, _ in pairs]) if all(a == b for a, b in pairs) else pairs
    if d.chance(0.1):
        padding = d.choice(("valid", "same"))
    elif any(min(pair) < 0 for pair in pairs):
        padding = 0
    bias = d.tensor(shape.weight[:1], dtype, kind) if d.chance(0.5) else None
    args = (
        *(d.tensor(shape.input, dtype, kind), d.tensor(shape.weight, dtype, kind), bias),
        *(d.per_axis(shape.stride), padding, d.per_axis(shape.dilation), shape.groups),
    )
    kwargs = {"algorithm": d.choice(ALGORITHMS)} | ({"activation": "relu"} if d.chance(0.2) else {})
    return Case(f"conv{dims}d", args, kwargs, backward=d.chance(0.3))


def draw_conv_transpose(dims: int, d: Draw) -> Case:
    shape, dtype, kind = Shape(d, dims, symmetric=True), d.dtype(), numbers(d)
    extra = [d.randrange(max(s, g)) if d.chance(0.3) else 0 for s, g in zip(shape.stride, shape.dilation, strict=True)]
    sides = TF._window.transposed_sides(
        shape.output[2:], shape.weight[2:], shape.stride, shape.padding[::2], extra, shape.dilation
    )
    if min(sides) < 1:
        shape.padding = [0] * len(shape.padding)
    # The convolution's output is the input here.
    bias = d.tensor([shape.input[1]], dtype, kind) if d.chance(0.5) else None
    args = (
        *(d.tensor(shape.output, dtype, kind), d.tensor(shape.weight, dtype, kind), bias),
        *(d.per_axis(shape.stride), d.per_axis(shape.padding[::2]), d.per_axis(extra), shape.groups),
        d.per_axis(shape.dilation),
    )
    return Case(f"conv_transpose{dims}d", args, {"algorithm": d.choice(ALGORITHMS)}, backward=d.chance(0.3))


def trusted(case: Case) -> bool:
    """Whether a refusal of the built-in's has to be ours: it checks little where the batch is empty."""
    return all(t.count for t in case.tensors())


def moderate(case: Case) -> bool:
    """Whether the built-in can be trusted with it."""
    numbers = (*integers(list(case.args)), *integers(list(case.kwargs.values())))
    if any(isinstance(v, (list, tuple)) and any(v is True for v in v) for v in case.args):
        return False  # it refuses True for an integer, but among others only where it is the first
    return all(-MODERATE <= i <= MODERATE for i in numbers) and all(t.count <= 1 << 20 for t in case.tensors())


def check_functional(case: Case) -> str | None:
    """A functional of the built-in's signature against the built-in in float64."""
    dims, transposed = int(case.operator[-2]), "transpose" in case.operator
    if any(t.count > LARGEST and max(t.shape[2:], default=0) > LARGEST for t in case.tensors()):
        return None  # takes the time of so many taps
    args, kwargs = [made(a) for a in case.args], dict(case.kwargs)
    algorithm, relu = kwargs.get("algorithm", "auto"), kwargs.get("activation") == "relu"
    leaves = [t for t in args if isinstance(t, Tensor)]
    backward = case.backward and all(t.dtype.is_floating_point and t.device.type == "cpu" for t in leaves)
    for t in leaves:
        if backward:
            t.requires_grad_()
    result, error = answer(lambda: getattr(TF, case.operator)(*args, **kwargs))
    if error is not None and algorithm != "auto" and "cannot run this convolution" in str(error):
        return None
    if meta(leaves):
        return None
    x, w = args[0], args[1]
    if not (isinstance(x, Tensor) and isinstance(w, Tensor)):
        return verdict(result, error, True, lambda _: _never("operands that are no tensors"))
    dtypes = {str(t.dtype).removeprefix("torch.") for t in leaves}
    if not dtypes <= set(KERNEL_DTYPES):
        return None  # PyTorch's own operator answers
    if len(dtypes) > 1:
        return verdict(result, error, True, lambda _: _never("operands of several dtypes"))
    known = moderate(case)
    wide: list[Tensor] = []

    def expected(got: Any) -> str | None:
        need(algorithm in ALGORITHMS and kwargs.get("activation") in (None, "relu"), "words")
        again = widened(case)
        wide.extend(t for t in again if isinstance(t, Tensor))
        for t in wide:
            t.requires_grad_(backward)
        if isinstance(got, Tensor) and got.numel() == 0:
            raise Huge  # the built-in refuses some that have no element, and some only by the way
        y = _built_in(case.operator, dims, again) if known else _defined(dims, transposed, again)
        y = y.relu() if relu else y
        bias = args[2] if isinstance(args[2], Tensor) else None
        if not isinstance(got, Tensor) or got.shape != y.shape:
            return f"a result {getattr(got, 'shape', got)} where {y.shape} is right"
        # A transposed convolution's bias is added to what was rounded.
        twice = transposed and bias is not None
        problem = _near(case, got, y, "input_grad" if transposed else "forward", algorithm, x, w, twice)
        if problem or not backward:
            return problem
        return _gradients(case, got, y, leaves, wide, algorithm)

    return verdict(result, error, case.spoilt and not (known and trusted(case)), expected)


def _never(why: str) -> str | None:
    raise Illegal(why)


def _near(
    case: Case, got: Tensor, want: Tensor, direction: str, algorithm: str, a: Tensor, b: Tensor, twice: bool = False
) -> str | None:
    """How a result of a convolution differs from the right one; `twice`: it was rounded before a bias was added."""
    if not isinstance(got, Tensor) or got.shape != want.shape or want.numel() == 0:
        return differ(got, want)
    got, want = got.detach(), want.detach()
    whole = all(t.numbers == "whole" for t in case.tensors() if isinstance(t.numbers, str))
    if whole and algorithm in EXACT and not (twice and got.dtype == torch.bfloat16):
        return differ(got, want)
    allowed = conv_allowed(want.to(got.dtype), direction, algorithm, a.detach(), b.detach())
    if twice:
        allowed += 2 * torch.finfo(got.dtype).eps * float(want.norm())
    return differ(got, want, max(allowed, 1e-300))


def _gradients(
    case: Case, y: Tensor, wide_y: Tensor, leaves: list[Tensor], wide: list[Tensor], algorithm: str
) -> str | None:
    """How the gradients differ from the built-in's in float64."""
    relu = "activation" in case.kwargs
    if relu and not (algorithm in EXACT and all(t.numbers == "whole" for t in case.tensors())):
        return None  # where an output is close to zero, its rounding decides
    transposed, (x, w) = "transpose" in case.operator, leaves[:2]
    sums = [("forward" if transposed else "input_grad", w), ("weight_grad", x), ("weight_grad", y)]

    def close(i: int, got: Tensor, want: Tensor, g: Tensor) -> str | None:
        direction, other = sums[i]
        return _near(case, got, want, direction, algorithm, g, other)

    return gradients(case, (y, leaves), (wide_y, wide), close)


def _built_in(name: str, dims: int, args: list[Any]) -> Tensor:
    """The built-in's answer, or Illegal. What it has not, padding by side and 'same' with strides, is padded first."""
    args = list(args)
    padding, x = (args[4] if "transpose" not in name else 0), args[0]
    if padding == "same" or (isinstance(padding, (list, tuple)) and any(isinstance(p, tuple) for p in padding)):
        stride, dilation = (each_axis(args[i], dims) for i in (3, 5))
        need(x.dim() in (dims + 1, dims + 2) and args[1].dim() == dims + 2, "axes")
        try:
            sides = TF._window.both_sides(padding, x.shape[-dims:], args[1].shape[2:], stride, dilation, name)
        except ERRORS as error:
            raise Illegal(str(error)) from None
        args[0] = F.pad(x, TF._window.pad_amounts(sides))
        args[4] = 0
    args[1] = args[1].contiguous()  # or the built-in's gradient of some transposed ones asserts that it is
    try:
        return getattr(F, name)(*args)
    except ERRORS as error:
        raise Illegal(str(error)) from None


def _defined(dims: int, transposed: bool, args: list[Any]) -> Tensor:
    """The answer by the definition, for integers that the built-in cannot be trusted with."""
    x, w, bias, stride = args[:4]
    need(x.dim() in (dims + 1, dims + 2) and w.dim() == dims + 2, "axes")
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    if transposed:
        padding, extra, groups, dilation = args[4:8]
    else:
        padding, dilation, groups = args[4:7]
        if isinstance(padding, str):
            raise Huge  # of what size 'same' then is
    need(type(groups) is int, "groups")
    steps, gaps = each_axis(stride, dims), each_axis(dilation, dims)
    if transposed:
        pads, more = (each_axis(p, dims, 0) for p in (padding, extra))
        flat = [side for p, e in zip(pads, more, strict=True) for side in (p, p - e)]
        sizes = [
            (n - 1) * s - 2 * p + g * (k - 1) + e + 1
            for n, k, s, p, g, e in zip(batched.shape[2:], w.shape[2:], steps, pads, gaps, more, strict=True)
        ]
        size = [batched.shape[0], w.shape[1] * groups, *sizes]
        windows = conv_windows(size, w.shape, steps, flat, gaps, groups)
        need(
            batched.shape[1] == w.shape[0] and windows.outputs == list(batched.shape[2:]), "an input that does not fit"
        )
        need(all(e < max(s, g) for e, s, g in zip(more, steps, gaps, strict=True)), "output_padding")
        y = conv_input_grad(batched, w, windows, groups)
    else:
        pairs = padding if isinstance(padding, (list, tuple)) and any(isinstance(p, tuple) for p in padding) else None
        if pairs is None:
            flat = [v for v in each_axis(padding, dims, 0) for _ in range(2)]
        else:
            flat = [side for pair in pairs for side in (pair if isinstance(pair, tuple) else (pair, pair))]
            need(all(side >= 0 for side in flat), "negative padding")
        y = conv(batched, w, conv_windows(batched.shape, w.shape, steps, flat, gaps, groups), groups)
    if isinstance(bias, Tensor):
        need(bias.shape == (y.shape[1],), "bias")
        y = y + bias.reshape(1, -1, *[1] * dims)
    return y if x.dim() == dims + 2 else y.squeeze(0)


# ---- operators called directly ----


def draw_op(name: str, d: Draw) -> Case:
    dims = d.choice((1, 2, 2, 3))
    shape, dtype, kind, algorithm = Shape(d, dims), d.kernel_dtype(), numbers(d), d.choice(ALGORITHMS)
    x, w, g = (d.tensor(size, dtype, kind) for size in (shape.input, shape.weight, shape.output))
    window = (*shape.window(), algorithm)
    if name in ("convolution", "convolution_relu", "_prepare_convolution"):
        return Case(f"ops.{name}", (x, w, d.tensor(shape.weight[:1], dtype, kind) if d.chance(0.5) else None, *window))
    if name == "convolution_input_grad":
        return Case(f"ops.{name}", (g, w, list(shape.input), *window))
    memory_format = d.choice(("contiguous_format", {2: "channels_last", 3: "channels_last_3d"}.get(dims)))
    return Case(f"ops.{name}", (g, x, list(shape.weight), *window, memory_format or "contiguous_format"))


def prepared_convolution(x: Tensor, w: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
    """`convolution` in its two steps."""
    if not isinstance(x, Tensor) or not isinstance(w, Tensor):
        raise TypeError("operands that are no tensors")
    last = activation_format(x, w) != torch.contiguous_format
    filters = ops._prepare_convolution(w, bias, list(x.shape), *window[:-1], last, window[-1], False)
    return ops._run_prepared(x, [filters]) if filters.numel() else ops.convolution(x, w, bias, *window)


def check_op(case: Case) -> str | None:
    name = case.operator[4:]
    args = [made(a) for a in case.args]
    if name == "convolution_weight_grad":
        args[-1] = getattr(torch, str(args[-1]), args[-1])
    operator = prepared_convolution if name == "_prepare_convolution" else getattr(ops, name)
    result, error = answer(lambda: operator(*args))
    if meta(args):
        return None
    algorithm = case.args[-2 if name == "convolution_weight_grad" else -1]
    if error is not None and algorithm != "auto" and "cannot run this convolution" in str(error):
        return None

    def expected(got: Any) -> str | None:
        a, b, third, stride, padding, dilation, groups = widened(case)[:7]
        need(isinstance(a, Tensor) and isinstance(b, Tensor), "operands that are no tensors")
        need(case.args[0].dtype == case.args[1].dtype and case.args[0].dtype in KERNEL_DTYPES, "dtypes")
        need(algorithm in ALGORITHMS, "algorithm")
        need(all(isinstance(i, int) for i in (*stride, *padding, *dilation, groups)), "numbers")
        window = (stride, padding, dilation, groups)
        if name.startswith("convolution_input"):
            windows = conv_windows(third, b.shape, *window)
            need(list(a.shape) == [third[0], b.shape[0], *windows.outputs], "a gradient that does not fit")
            return _near(case, got, conv_input_grad(a, b, windows, groups), "input_grad", algorithm, a, b)
        if name.startswith("convolution_weight"):
            windows = conv_windows(b.shape, third, *window)
            need(list(a.shape) == [b.shape[0], third[0], *windows.outputs], "a gradient that does not fit")
            return _near(case, got, conv_weight_grad(a, b, third, windows, groups), "weight_grad", algorithm, a, b)
        y = conv(a, b, conv_windows(a.shape, b.shape, *window), groups)
        if third is not None:
            need(third.shape == (y.shape[1],) and case.args[2].dtype == case.args[0].dtype, "bias")
            y = y + third.reshape(1, -1, *[1] * (y.dim() - 2))
        return _near(case, got, y.relu() if name.endswith("relu") else y, "forward", algorithm, a, b)

    return verdict(result, error, case.spoilt, expected)


def draw_bias(name: str, d: Draw) -> Case:
    shape, dtype = Shape(d, d.choice((1, 2, 2, 3))), d.kernel_dtype()
    operands = [d.tensor(shape.output, dtype) for _ in range(1 + (name == "relu_bias_grad"))]
    return Case(f"ops.{name}", tuple(operands))


def check_bias(case: Case) -> str | None:
    if any(t.count > LARGEST for t in case.tensors()):
        return None  # sums so many, and has no copy of them that memory would refuse
    name, args = case.operator[4:], [made(a) for a in case.args]
    result, error = answer(lambda: getattr(ops, name)(*args))
    if meta(args):
        return None

    def expected(got: Any) -> str | None:
        operands = widened(case)
        need(all(isinstance(t, Tensor) for t in operands), "operands that are no tensors")
        need(all(t.dtype == case.args[0].dtype and t.dtype in KERNEL_DTYPES for t in case.args), "dtypes")
        grad = operands[0]
        need(grad.dim() >= 2 and all(t.shape == grad.shape for t in operands), "shapes")
        let = grad if len(operands) == 1 else grad.where(operands[1] > 0, 0.0)
        sums = let.sum([0, *range(2, let.dim())])
        if len(operands) == 1:
            return differ(got, sums)
        if not isinstance(got, tuple):
            return "no pair"
        return differ(got[0], let) or differ(got[1], sums)

    return verdict(result, error, case.spoilt, expected)


def draw_explain(d: Draw) -> Case:
    shape = Shape(d, d.choice((1, 2, 2, 3)))
    direction = d.choice(("forward", "input_grad", "weight_grad"))
    window = shape.window()
    args = (direction, shape.input, shape.weight, *window, d.kernel_dtype(), d.chance(0.5), d.choice(ALGORITHMS))
    return Case("ops._explain", args)


def check_explain(case: Case) -> str | None:
    args = list(case.args)
    args[7] = getattr(torch, str(args[7]), args[7])
    result, error = answer(lambda: ops._explain(*args))
    if error is not None and "cannot run this convolution" in str(error):
        return None

    def expected(got: Any) -> str | None:
        need(args[0] in ("forward", "input_grad", "weight_grad") and args[-1] in ALGORITHMS, "words")
        need(isinstance(args[7], torch.dtype) and case.args[7] in KERNEL_DTYPES, "dtype")
        conv_windows(*args[1:7])
        if not isinstance(got, tuple):
            return "no tuple"
        if args[-1] not in ("auto", got[0]) or not 0 <= got[2] < 1 << 62 or not got[3] >= 0:
            return f"{got[0]}, {got[2]} bytes, cost {got[3]}"
        return None

    return verdict(result, error, case.spoilt, expected)


OPERATORS = {
    **{f"conv{n}d": (partial(draw_conv, n), check_functional) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (partial(draw_conv_transpose, n), check_functional) for n in (1, 2, 3)},
    **{
        f"ops.{name}": (partial(draw_op, name), check_op)
        for name in (
            "convolution",
            "convolution_relu",
            "convolution_input_grad",
            "convolution_weight_grad",
            "_prepare_convolution",
        )
    },
    **{f"ops.{name}": (partial(draw_bias, name), check_bias) for name in ("convolution_bias_grad", "relu_bias_grad")},
    "ops._explain": (draw_explain, check_explain),
}
