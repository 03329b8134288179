"""Pooling of all kinds: maxima, means, powers, to a given size, unpooling, and the operators under them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF

from .conv import moderate, trusted
from .definitions import Huge, Illegal, Windows, adaptive_index, each_axis, gathered, need, scattered
from .draw import KERNEL_DTYPES, LARGEST, Case, Draw, T, made
from .judge import ERRORS, answer, differ, gradients, meta, rounding, verdict, widened

F = torch.nn.functional
ops = torch.ops.torchconv
Check = Callable[[Any], str | None]
MOST = 1 << 12  # elements of a drawn input


class Shape:
    """A legal pooling."""

    def __init__(self, d: Draw, dims: int, dilated: bool = True):
        self.dims, most = dims, (130, 33, 13)[dims - 1]
        while True:
            self.kernel = [d.choice((1, 2, 2, 3, 3, 4, 5, 7, 16)) for _ in range(dims)]
            if d.chance(0.6):
                self.kernel = [d.choice((2, 2, 3, 3))] * dims
            self.stride = list(self.kernel) if d.chance(0.4) else [d.choice((1, 2, 2, 3, 5)) for _ in range(dims)]
            self.dilation = [d.choice((1, 2, 3)) if dilated and d.chance(0.15) else 1 for _ in range(dims)]
            reach = [g * (k - 1) + 1 for k, g in zip(self.kernel, self.dilation, strict=True)]
            self.padding = [d.randrange(r // 2 + 1) if d.chance(0.4) else 0 for r in reach]
            sides = [max(d.side(most), r - 2 * p, 1) for r, p in zip(reach, self.padding, strict=True)]
            self.input = [d.choice((1, 1, 2, 3)), d.side(33), *sides]
            if math.prod(self.input) <= MOST * d.room:
                break
        self.ceil = d.chance(0.3)
        self.output = [*self.input[:2]]
        for n, k, s, p, g in zip(sides, self.kernel, self.stride, self.padding, self.dilation, strict=True):
            room = n + 2 * p - g * (k - 1) - 1
            side = (room + (s - 1 if self.ceil else 0)) // s + 1
            self.output.append(side - (self.ceil and (side - 1) * s >= n + p))

    def window(self) -> tuple:
        return self.kernel, self.stride, self.padding, self.dilation


def numbers(d: Draw) -> str:
    return d.choice(("whole", "normal", "special", "whole"))


def _unbatched(d: Draw, shape: list[int]) -> list[int]:
    if d.chance(0.1):
        return shape[1:]
    return [0, *shape[1:]] if d.chance(0.05) else shape


# ---- functionals ----


def draw_window(name: str, dims: int, d: Draw) -> Case:
    """max_pool, avg_pool and lp_pool."""
    s = Shape(d, dims, dilated="max" in name)
    x = d.tensor(_unbatched(d, s.input), d.dtype(), "positive" if "lp" in name else numbers(d))
    stride = None if d.chance(0.2) else d.per_axis(s.stride)
    kernel, padding = d.per_axis(s.kernel), d.per_axis(s.padding)
    full, backward = f"{name}{dims}d", d.chance(0.4)
    if name == "max_pool":
        dilation = d.per_axis(s.dilation)
        kwargs = {"activation": "relu"} if d.chance(0.2) else {"return_indices": d.chance(0.5)}
        return Case(full, (x, kernel, stride, padding, dilation, s.ceil), kwargs, backward=backward)
    if name == "lp_pool":
        return Case(full, (x, d.choice((1.0, 2.0, 3.0, 2.5, math.inf)), kernel, stride, s.ceil), backward=backward)
    divisor = {"divisor_override": d.choice((1, 2, 3, 7, -2))} if dims > 1 and d.chance(0.2) else {}
    return Case(full, (x, kernel, stride, padding, s.ceil, d.chance(0.6)), divisor, backward=backward)


def draw_indices(dims: int, d: Draw) -> Case:
    case = draw_window("max_pool", dims, d)
    return replace(case, operator=f"{case.operator}_with_indices", kwargs={})


def draw_adaptive(name: str, dims: int, d: Draw) -> Case:
    s = Shape(d, dims)
    sizes: list[Any] = [d.choice((1, 2, 3, n, n // 2 + 1, 2 * n, 7)) for n in s.input[2:]]
    if dims > 1 and d.chance(0.1):
        sizes[d.randrange(dims)] = None
    size = sizes if None in sizes else d.per_axis(sizes)
    x = d.tensor(_unbatched(d, s.input), d.dtype(), numbers(d))
    kwargs = {"return_indices": d.chance(0.5)} if "max" in name else {}
    return Case(f"{name}{dims}d", (x, size), kwargs, backward=d.chance(0.4))


def draw_unpool(dims: int, d: Draw) -> Case:
    s = Shape(d, dims, dilated=False)
    sides = [(n - 1) * t + k - 2 * p for n, t, k, p in zip(s.output[2:], s.stride, s.kernel, s.padding, strict=True)]
    sides = [max(n, 1) for n in sides]
    size = _unbatched(d, s.output)
    x, indices = d.tensor(size, d.dtype(), "whole"), d.tensor(size, "int64", max(math.prod(sides), 1))
    output_size = None if d.chance(0.6) else [n + d.randrange(t) for n, t in zip(sides, s.stride, strict=True)]
    window = (d.per_axis(s.kernel), d.per_axis(s.stride), d.per_axis(s.padding))
    return Case(f"max_unpool{dims}d", (x, indices, *window, output_size))


def check_functional(case: Case) -> str | None:
    """Against the built-in in float64; beyond what that can be trusted with, an answer has to be a refusal."""
    name, args, kwargs = case.operator, [made(a) for a in case.args], dict(case.kwargs)
    x = args[0]
    kernel = isinstance(x, Tensor) and str(x.dtype).removeprefix("torch.") in KERNEL_DTYPES
    if any(t.count > LARGEST for t in case.tensors()) or (not kernel and not moderate(case)):
        return None  # takes the time of so many elements
    backward = kernel and case.backward and x.device.type == "cpu" and x.numel() > 0
    if backward:
        x.requires_grad_()
    result, error = answer(lambda: getattr(TF, name)(*args, **kwargs))
    if not kernel or meta(args):
        return None
    known = moderate(case) and x.numel() <= 1 << 20

    def expected(got: Any) -> str | None:
        wide = widened(case)
        if not known:
            if name.startswith(("max_pool", "avg_pool")):
                return _by_definition(case, got, wide)
            small = isinstance(got, Tensor) and 0 < got.numel() < 1 << 16
            raise Illegal("wild numbers") if small and name.startswith("adaptive") else Huge
        wide[0].requires_grad_(backward)
        try:
            want = _built_in(name, list(wide), kwargs)
        except Illegal as why:
            # Padding: up to half the dilated window, as documented. Formats: unbatched, the built-in mistakes the axes.
            if "half of kernel size" in str(why) and name.startswith("max_pool"):
                return _by_definition(case, got, wide)
            raise Huge if "Unsupported memory format" in str(why) else why from None
        if "unpool" in name and not _distinct(wide[1], int(name[-2])):
            raise Huge  # of values for one place any may win
        values, mine = (want[0], got[0]) if isinstance(want, tuple) and isinstance(got, tuple) else (want, got)
        if not isinstance(mine, Tensor) or not isinstance(values, Tensor):
            return f"{type(got)} where {type(want)} is right"
        problem = _near(name, case, mine.detach(), values.detach())
        if problem is None and isinstance(want, tuple):
            problem = differ(got[1], want[1])
        return problem or (_gradient(case, x, mine, wide[0], values) if backward and values.numel() else None)

    return verdict(result, error, case.spoilt and not (known and trusted(case)), expected)


def _distinct(indices: Tensor, dims: int) -> bool:
    """Whether no place of a map is named twice."""
    return bool((indices.flatten(-dims).sort(-1).values.diff() != 0).all())


def _built_in(name: str, args: list[Any], kwargs: dict) -> Any:
    kwargs = dict(kwargs)
    relu = kwargs.pop("activation", None)
    if name.startswith("lp_pool"):  # whose built-in takes fewer forms of an integer an axis
        dims = int(name[-2])
        sizes = [None if a in (None, (), []) else each_axis(a, dims) for a in args[2:4]]
        args[2:4] = sizes if dims > 1 else [a and a[0] for a in sizes]
    if name.startswith("max_unpool"):  # whose built-in takes more integers than axes, and not one for all
        dims = int(name[-2])
        sizes = [each_axis(args[2], dims), args[3] and each_axis(args[3], dims, 0), each_axis(args[4], dims, 0)]
        args[2:5] = sizes
    if name.startswith("max_pool3d") and isinstance(args[0], Tensor):
        args[0] = args[0].contiguous()  # in channels-last it numbers windows without an element otherwise
    if name.startswith("adaptive_avg"):  # whose built-in takes any axes where the output is one element
        need(args[0].dim() - int(name[-2]) in (1, 2), "axes")
    sequences = [a for a in args[1:] if isinstance(a, (tuple, list))]  # of which it looks at the first number alone
    need(not any(isinstance(number, bool) for numbers in sequences for number in numbers), "booleans")
    try:
        if name.endswith("_with_indices"):
            out = getattr(F, name.removesuffix("_with_indices"))(*args, return_indices=True)
        else:
            need(relu in (None, "relu"), "activation")
            out = getattr(F, name)(*args, **kwargs)
        return out if relu is None else out.relu()
    except ERRORS as error:
        raise Illegal(f"{type(error).__name__}: {error}") from None


def _near(name: str, case: Case, got: Tensor, want: Tensor) -> str | None:
    if "max" in name or not want.numel():
        return differ(got, want)
    values = made(case.args[0], torch.float64).nan_to_num(posinf=0, neginf=0).abs()
    # A sum over a window is as large as its elements together, where its divisor is not their number.
    most = float(values.amax()) if values.numel() else 0.0
    size = max(most, float(want.nan_to_num(posinf=0, neginf=0).abs().amax()))
    eps = torch.finfo(got.dtype).eps
    if "lp" in name:
        # The power of each value, of the sum, and in bfloat16 each step between: roundings of a few units each.
        return differ(got, want, 1e-300, 32 * eps)
    # A sum in float32 of up to a window's values, rounded at each addition, then a quotient.
    fine = torch.finfo(torch.float64 if got.dtype == torch.float64 else torch.float32).eps
    return differ(got, want, 64 * fine * size * want.numel() ** 0.5, 2 * eps)


def _gradient(case: Case, x: Tensor, y: Tensor, wide_x: Tensor, wide_y: Tensor) -> str | None:
    if case.args[0].numbers == "special" or not bool(y.isfinite().all()):
        return None  # a maximum of no elements is of none
    if "activation" in case.kwargs and case.args[0].numbers != "whole":
        return None

    def close(_: int, got: Tensor, want: Tensor, g: Tensor) -> str | None:
        if "max" in case.operator:
            return differ(got, want)
        eps = torch.finfo(x.dtype).eps * (64 if "lp" in case.operator else 16)
        shares = max(1, g.numel() // max(x.numel(), 1))  # summed in an input's gradient, each addition rounded
        return differ(got, want, eps * 4 * (max(want.numel(), 1) * shares) ** 0.5, eps)

    return gradients(case, (y, [x]), (wide_y, [wide_x]), close)


def _by_definition(case: Case, got: Any, args: list[Any]) -> str | None:
    """max_pool and avg_pool with integers that the built-in cannot be trusted with."""
    name, x = case.operator, args[0]
    dims = int(name[name.index("d") - 1]) if "_with" not in name else int(name[8])
    need(isinstance(x, Tensor) and x.dim() in (dims + 1, dims + 2), "axes")
    average = name.startswith("avg")
    kernel = each_axis(args[1], dims)
    stride = kernel if args[2] in (None, [], ()) else each_axis(args[2], dims)
    padding = each_axis(args[3], dims, 0)
    dilation = [1] * dims if average else each_axis(args[4], dims)
    ceil = args[4 if average else 5]
    need(all(2 * p <= g * (k - 1) + 1 for p, g, k in zip(padding, dilation, kernel, strict=True)), "padding")
    sides = []
    for n, k, s, p, g in zip(x.shape[-dims:], kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - g * (k - 1) - 1
        side = (room + (s - 1 if ceil else 0)) // s + 1
        side -= bool(ceil and (side - 1) * s >= n + p)
        need(side >= 1, "an empty output")
        sides.append(side)
    if average:
        raise Huge  # the divisor is the built-in's own affair
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    windows = Windows(batched.shape[2:], kernel, stride, [p for p in padding for _ in (0, 1)], dilation, sides)
    want = gathered(batched, windows.index(), -math.inf).amax(-1).reshape(*batched.shape[:2], *sides)
    want = want if x.dim() == dims + 2 else want.squeeze(0)
    want = want.relu() if case.kwargs.get("activation") else want
    return differ(got[0] if isinstance(got, tuple) else got, want)


# ---- operators called directly ----


def draw_op(name: str, d: Draw) -> Case:
    dims = d.choice((1, 2, 2, 3))
    s, dtype = Shape(d, dims, dilated=name.startswith("max")), d.kernel_dtype()
    adaptive = d.chance(0.2)
    if adaptive:
        s.output = [*s.input[:2], *(d.choice((1, 2, n, n // 2 + 1)) for n in s.input[2:])]
    window = ([], [], [], []) if adaptive else s.window()
    x, g = d.tensor(s.input, dtype), d.tensor(s.output, dtype)
    if name in ("max_pool", "max_pool_relu"):
        return Case(f"ops.{name}", (x, *window, s.output[2:]))
    if name.startswith("avg_pool"):
        rest = (d.chance(0.5), d.choice((None, None, 3, -1)))
        if name == "avg_pool":
            return Case(f"ops.{name}", (x, *window[:3], s.output[2:], *rest))
        memory_format = d.choice(("contiguous_format", {2: "channels_last", 3: "channels_last_3d"}.get(dims)))
        return Case(f"ops.{name}", (g, list(s.input), *window[:3], *rest, memory_format or "contiguous_format"))
    if adaptive:
        widest = [(n + o - 2) // o + 1 for n, o in zip(s.input[2:], s.output[2:], strict=True)]
        taps = 1  # of adaptive windows of several sizes, only the first is in each
    else:
        widest, taps = s.kernel, math.prod(s.kernel)
    count = math.prod(widest)
    kind = "uint8" if count <= 256 else "int16" if count <= 32768 else "int32"
    # Positions of windows that hang over the edge may lie outside of the map: the first tap of a window without padding
    # never does.
    inside = taps if not any(s.padding) and not s.ceil and not adaptive else 1
    safe = d.tensor(s.output, kind, inside if not any(s.padding) else count)
    if name == "max_pool_scatter":
        return Case(f"ops.{name}", (g, safe, list(s.input), *window))
    if name == "max_pool_gather":
        return Case(f"ops.{name}", (x, safe, *window))
    return Case(f"ops.{name}", (safe, list(s.input), *window))


def check_op(case: Case) -> str | None:
    name, args = case.operator[4:], [made(a) for a in case.args]
    if name == "avg_pool_spread":
        args[-1] = getattr(torch, str(args[-1]), args[-1])
    result, error = answer(lambda: getattr(ops, name)(*args))
    if meta(args):
        return None
    return verdict(result, error, case.spoilt, partial(_expected_op, name, case))


def _expected_op(name: str, case: Case, got: Any) -> str | None:
    args = widened(case)
    first = args[0]
    need(isinstance(first, Tensor) and first.dim() in (3, 4, 5), "axes")
    floats = [t for t in case.args if isinstance(t, T) and not isinstance(t.numbers, int)]
    need(all(t.dtype in KERNEL_DTYPES for t in floats), "dtype")
    if name.startswith("avg_pool"):
        return _expected_avg(name, case, args, got)
    with_positions = name in ("max_pool_scatter", "max_pool_gather")
    if name == "max_pool_scatter":
        g, positions, size = args[:3]
        window, output = args[3:7], positions.shape
        need(g.shape == positions.shape and len(size) == g.dim() and list(size[:2]) == list(g.shape[:2]), "shapes")
    elif name == "max_pool_gather":
        x, positions = args[:2]
        size, window, output = x.shape, args[2:6], positions.shape
        need(isinstance(positions, Tensor) and positions.shape[:2] == x.shape[:2], "shapes")
    elif name == "max_pool_indices":
        positions, size = args[:2]
        window, output = args[2:6], positions.shape
        need(len(size) == positions.dim() and list(size[:2]) == list(positions.shape[:2]), "shapes")
    else:
        size, window, output = first.shape, args[1:5], [*first.shape[:2], *args[5]]
    need(len(size) == len(output) and min(size[2:]) >= 1, "an empty input")
    index, taps = _pool_index(size[2:], window, list(output[2:]))
    # Positions count the taps of a window cut down to those that meet the input: all, where the last window's first
    # tap and the first window's last do.
    axes = zip(*window, size[2:], output[2:], strict=False)
    cut = any(k and ((o - 1) * s < p or (k - 1) * d - p >= n) for k, s, p, d, n, o in axes)
    if name in ("max_pool", "max_pool_relu"):
        seen = gathered(first, index, -math.inf).reshape(*output, index.shape[1])
        want = seen.amax(-1)
        if not isinstance(got, tuple):
            return "no pair"
        if cut:
            return differ(got[0], want.relu() if name.endswith("relu") else want)
        chosen = (
            seen.gather(-1, got[1].long().clamp(0, index.shape[1] - 1)[..., None])[..., 0] if seen.numel() else want
        )
        if not torch.equal(chosen, want):
            return f"positions that are not of the maxima: {got[1].flatten()[:8].tolist()}"
        return differ(got[0], want.relu() if name.endswith("relu") else want)
    if cut:
        raise Huge
    need(positions.dtype == _position_dtype(taps), "positions' dtype")
    at = positions.long()
    need(not with_positions or not at.numel() or 0 <= int(at.min()), "positions")
    if at.numel() and int(at.max()) >= math.prod(taps):
        raise Huge  # outside of the window: undefined, and has to be survived
    flat = index[torch.arange(len(index)), at.flatten(2)] if at.numel() else at.flatten(2)
    pixels = math.prod(size[2:])
    if at.numel() and int(flat.max()) >= pixels:
        raise Huge  # in the padding: likewise
    if name == "max_pool_indices":
        return differ(got, flat.reshape(tuple(output)))
    if name == "max_pool_gather":
        return differ(got, first.flatten(2).gather(-1, flat).reshape(tuple(output)))
    want = first.new_zeros((*size[:2], pixels)).scatter_add(-1, flat, first.flatten(2))
    return differ(got, want.reshape(tuple(size)))


def _position_dtype(taps: list[int]) -> torch.dtype:
    count = math.prod(taps)
    return torch.uint8 if count <= 256 else torch.int16 if count <= 32768 else torch.int32


def _pool_index(sides: Sequence[int], window: Sequence[Any], outputs: list[int]) -> tuple[Tensor, list[int]]:
    """The table of indices of windows, or of adaptive ones where there are no sizes, and the taps of each axis."""
    kernel, stride, padding, dilation = window
    need(len(outputs) == len(sides), "numbers an axis")
    if all(k == 0 for k in kernel):  # or none
        sizes = {len(values) for values in window if values is not dilation or len(kernel) == len(dilation)}
        need(sizes <= {len(kernel)} and len(kernel) in (0, len(sides)), "numbers of adaptive windows")
        return adaptive_index(sides, outputs)
    need(all(isinstance(v, int) for values in window for v in values), "numbers")
    need(len(padding) == len(kernel) == len(dilation) == len(stride) == len(sides), "numbers an axis")
    need(all(o >= 1 for o in outputs), "an empty output")
    need(all(0 <= 2 * p <= g * (k - 1) + 1 for p, g, k in zip(padding, dilation, kernel, strict=True)), "padding")
    for n, o, s, p in zip(sides, outputs, stride, padding, strict=True):
        need((o - 1) * s < n + p, "a window past the input")
    windows = Windows(sides, kernel, stride, [p for p in padding for _ in (0, 1)], dilation, outputs)
    return windows.index(), list(kernel)


def _expected_avg(name: str, case: Case, args: list[Any], got: Any) -> str | None:
    forward, first = name == "avg_pool", args[0]
    if forward:
        size, window, outputs, (include, override) = first.shape, args[1:4], args[4], args[5:7]
    else:
        size, window, outputs, (include, override) = args[1], args[2:5], list(first.shape[2:]), args[5:7]
        need(len(size) == first.dim() and list(size[:2]) == list(first.shape[:2]), "shapes")
    need(override is None or override != 0, "divisor")
    need(min(size[2:]) >= 1, "an empty input")
    kernel, stride, padding = window
    index, _ = _pool_index(size[2:], (*window, [1] * len(kernel)), outputs)
    real = index < math.prod(size[2:])
    divisor = real.sum(1).clamp(min=1).double()
    if include and any(kernel):
        each = torch.ones(1)
        for n, o, k, s, p in zip(size[2:], outputs, kernel, stride, padding, strict=True):
            within = torch.tensor([float(max(min(k, n + p - (t * s - p)), 1)) for t in range(o)])
            each = (each[:, None] * within).flatten()
        divisor = each.double()
    if override is not None:
        divisor = torch.full_like(divisor, float(override))
    if forward:
        want = (gathered(first, index).sum(-1) / divisor).reshape(*size[:2], *outputs)
    else:
        share = (first.flatten(2) / divisor).unsqueeze(-1).expand(*size[:2], *index.shape)
        if share.numel() > 1 << 22:
            raise Huge
        want = scattered(share, index, size[2:])
    if not isinstance(got, Tensor):
        return "no tensor"
    fine = torch.finfo(torch.float64 if got.dtype == torch.float64 else torch.float32).eps
    return differ(got, want, 1e-300 + 64 * fine * 4 * want.numel() ** 0.5, 2.01 * rounding(got.dtype))


_WINDOWS = ("max_pool", "avg_pool", "lp_pool")
_ADAPTIVE = ("adaptive_max_pool", "adaptive_avg_pool")
_OPS = ("max_pool", "max_pool_relu", "max_pool_scatter", "max_pool_gather", "max_pool_indices", "avg_pool")

OPERATORS = {
    **{f"{name}{n}d": (partial(draw_window, name, n), check_functional) for name in _WINDOWS for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": (partial(draw_indices, n), check_functional) for n in (1, 2, 3)},
    **{f"{name}{n}d": (partial(draw_adaptive, name, n), check_functional) for name in _ADAPTIVE for n in (1, 2, 3)},
    **{f"max_unpool{n}d": (partial(draw_unpool, n), check_functional) for n in (1, 2, 3)},
    **{f"ops.{name}": (partial(draw_op, name), check_op) for name in (*_OPS, "avg_pool_spread")},
}
