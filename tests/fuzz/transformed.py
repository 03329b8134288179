"""Filters under transforms, convolutions whose maps are reduced, and convolutions as matrices."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import torchconv.functional as TF
from torchconv.transforms import FilterMap

from .conv import ALGORITHMS, EXACT, Shape, numbers
from .definitions import Huge, conv, conv_input_grad, conv_weight_grad, conv_windows, need, product
from .draw import KERNEL_DTYPES, Case, Draw, T, made
from .judge import answer, conv_allowed, differ, gradients, meta, norm_of_terms, verdict, widened

ops = torch.ops.torchconv


# ---- filters ----


def draw_filters(name: str, d: Draw) -> Case:
    dims, dtype = d.choice((1, 2, 3)), d.kernel_dtype()
    kernel = [d.choice((1, 2, 3, 5)) for _ in range(dims)]
    support = [d.choice((k, k, k + 2)) for k in kernel]
    transforms, filters, channels = d.choice((1, 2, 4, 8)), d.choice((1, 2, 3, 5)), d.choice((1, 2, 3, 17))
    rows = transforms * product(support)
    # Rising pointers: as many entries in each row, the same number.
    each = d.choice((0, 1, 1, 2, 4))
    weight = d.tensor([filters, channels, *kernel], dtype)
    grad = d.tensor([filters * transforms, channels, *support], dtype)
    columns, values = d.tensor([rows * each], "int64", product(kernel)), d.tensor([rows * each], dtype)
    pointers = (rows, each)  # made into a tensor: see _pointers
    if name == "transform_values_grad":
        return Case(f"ops.{name}", (grad, weight, pointers, columns))
    if name == "transform_filters":
        return Case(f"ops.{name}", (weight, pointers, columns, values, support))
    return Case(f"ops.{name}", (grad, pointers, columns, values, kernel))


def _pointers(value: Any) -> Any:
    """A map's row pointers from (rows, entries a row), the two numbers that stand for them in a call."""
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int) and abs(v) < 2**20 for v in value):
        return torch.arange(max(value[0], 0) + 1) * value[1]
    return torch.tensor([0, 5, 3, 7]) if isinstance(value, tuple) else value


def check_filters(case: Case) -> str | None:
    name = case.operator[4:]
    at = 2 if name == "transform_values_grad" else 1
    args = [_pointers(a) if i == at else made(a) for i, a in enumerate(case.args)]
    result, error = answer(lambda: getattr(ops, name)(*args))
    if meta(args):
        return None

    def expected(got: Any) -> str | None:
        wide = widened(case)
        pointers, columns = args[at], wide[at + 1]
        floats = [t for t in case.args if isinstance(t, T) and t.numbers == "whole"]
        need(len({t.dtype for t in floats}) == 1 and floats[0].dtype in KERNEL_DTYPES, "dtypes")
        tensors = [pointers, columns, *(t for t in wide if isinstance(t, Tensor))]
        need(all(isinstance(t, Tensor) for t in tensors), "operands that are no tensors")
        need(pointers.dim() == columns.dim() == 1 and columns.dtype == torch.int64, "a map")
        if name == "transform_values_grad":
            grad, weight = wide[:2]
            kernel, support, channels = list(weight.shape[2:]), list(grad.shape[2:]), weight.shape[1:2]
            need(weight.dim() >= 3 and grad.dim() >= 3 and grad.shape[1:2] == channels, "shapes")
        else:
            first, values, sizes = wide[0], wide[3], wide[4]
            need(isinstance(values, Tensor) and values.shape == columns.shape, "values")
            need(first.dim() >= 3 and len(sizes) >= 1 and all(isinstance(n, int) for n in sizes), "shapes")
            kernel, support = list(first.shape[2:]), list(sizes)
            if name == "transform_filters_transpose":
                kernel, support = support, kernel
        need(min(*kernel, *support, 1) >= 1 and max(*kernel, *support) < 2**31, "sizes")
        rows, taps, points = pointers.numel() - 1, product(kernel), product(support)
        need(rows > 0 and rows % points == 0, "rows")
        need(bool((pointers.diff() >= 0).all()) and int(pointers[0]) == 0, "pointers")
        need(int(pointers[-1]) == columns.numel(), "entries")
        need(columns.numel() == 0 or (0 <= int(columns.min()) and int(columns.max()) < taps), "columns")
        if rows * taps > 1 << 20:
            raise Huge
        row = torch.repeat_interleave(torch.arange(rows), pointers.diff())
        transforms = rows // points
        if name == "transform_values_grad":
            need(grad.shape[0] == weight.shape[0] * transforms, "filters")
            g = grad.reshape(weight.shape[0], transforms, grad.shape[1], points).transpose(1, 2).flatten(2)
            return differ(got, (g[..., row] * weight.flatten(2)[..., columns]).sum([0, 1]))
        matrix = torch.zeros(rows, taps, dtype=torch.float64).index_put_((row, columns), values, accumulate=True)
        if name == "transform_filters":
            out = (first.flatten(2) @ matrix.T).reshape(*first.shape[:2], transforms, points).transpose(1, 2)
            return differ(got, out.reshape(first.shape[0] * transforms, first.shape[1], *support))
        need(first.shape[0] % transforms == 0, "filters")
        g = first.reshape(first.shape[0] // transforms, transforms, first.shape[1], points).transpose(1, 2)
        return differ(got, (g.reshape(*g.shape[:2], rows) @ matrix).reshape(*g.shape[:2], *kernel))

    return verdict(result, error, case.spoilt, expected)


# ---- reduced convolutions ----


def draw_reduced(name: str, d: Draw) -> Case:
    dims = d.choice((1, 2, 2, 3))
    s, dtype, kind, transforms = Shape(d, dims), d.kernel_dtype(), numbers(d), d.choice((1, 2, 3, 4, 8))
    filters = s.weight[0]
    weight, output = [filters * transforms, *s.weight[1:]], [s.output[0], filters, *s.output[2:]]
    x, w, g = (d.tensor(size, dtype, kind) for size in (s.input, weight, output))
    winners, window = d.tensor(output, "uint8", transforms), (*s.window(), d.choice(ALGORITHMS))
    bias, norms = d.tensor([filters], dtype, kind) if d.chance(0.5) else None, d.tensor(output, dtype, "positive")
    args = {
        "convolution_max": (x, w, bias, transforms, *window),
        "convolution_norm": (x, w, bias, transforms, *window),
        "convolution_select": (x, w, winners, *window),
        "convolution_select_input_grad": (g, winners, w, s.input, *window),
        "convolution_select_weight_grad": (g, winners, x, weight, *window),
        "convolution_norm_grad": (g, d.choice((g, norms)), x, w, bias, True, d.chance(0.7), d.chance(0.7), *window),
    }[name]
    return Case(f"ops.{name}", args)


def check_reduced(case: Case) -> str | None:
    name, args = case.operator[4:], [made(a) for a in case.args]
    result, error = answer(lambda: getattr(ops, name)(*args))
    if meta(args):
        return None
    algorithm = case.args[-1]
    if error is not None and algorithm != "auto" and "cannot run this convolution" in str(error):
        return None
    return verdict(result, error, case.spoilt, partial(_expected_reduced, name, case))


def _expected_reduced(name: str, case: Case, got: Any) -> str | None:
    wide, algorithm = widened(case), case.args[-1]
    *_, stride, padding, dilation, groups, _ = wide
    need(algorithm in ALGORITHMS, "algorithm")
    need(all(isinstance(i, int) for v in (stride, padding, dilation, [groups]) for i in v), "numbers")
    floats = [t for t in case.args if isinstance(t, T) and not isinstance(t.numbers, int)]
    need(len({t.dtype for t in floats}) == 1 and floats[0].dtype in KERNEL_DTYPES, "dtypes")
    window = (stride, padding, dilation, groups)
    whole = all(t.numbers == "whole" for t in floats) and algorithm in EXACT
    if name == "convolution_norm_grad":
        return _expected_norm_grad(wide, window, algorithm, got)
    if name.startswith("convolution_select_"):
        g, winners, other, size = wide[:4]
        need(all(isinstance(t, Tensor) for t in (g, winners, other)), "operands that are no tensors")
        forward = name.endswith("input_grad")
        windows = conv_windows(size if forward else other.shape, other.shape if forward else size, *window)
        maps = other.shape[0] if forward else size[0]
        z = _spread(g, winners, maps, groups, (size[0] if forward else other.shape[0]), windows.outputs)
        want = (
            conv_input_grad(z, other, windows, groups) if forward else conv_weight_grad(z, other, size, windows, groups)
        )
        return _close(got, want, whole)
    x, w, third = wide[:3]
    need(isinstance(x, Tensor) and isinstance(w, Tensor), "operands that are no tensors")
    windows = conv_windows(x.shape, w.shape, *window)
    z = conv(x, w, windows, groups)
    if name == "convolution_select":
        need(isinstance(third, Tensor) and third.dim() == z.dim() and third.dtype == torch.uint8, "winners")
        filters = third.shape[1]
        need(filters > 0 and z.shape[1] % filters == 0, "filters")
        each = z.unflatten(1, (filters, -1))
        need(third.shape == each[:, :, 0].shape and filters % groups == 0 and each.shape[2] <= 256, "winners")
        need(not third.numel() or int(third.max()) < each.shape[2], "winners beyond the transforms")
        return _close(got, each.gather(2, third.long().unsqueeze(2)).squeeze(2), whole)
    transforms = wide[3]
    need(isinstance(transforms, int) and 0 < transforms <= 256 and w.shape[0] % transforms == 0, "transforms")
    filters = w.shape[0] // transforms
    need(filters % groups == 0, "filters in groups")
    if third is not None:
        need(isinstance(third, Tensor) and third.shape == (filters,), "bias")
        z = z + third.repeat_interleave(transforms).reshape(1, -1, *[1] * (z.dim() - 2))
    each = z.unflatten(1, (filters, transforms))
    if name == "convolution_norm":
        return _close(got, each.square().sum(2).sqrt(), False)
    need(isinstance(got, tuple), "no pair")
    if whole and each.numel():
        if getattr(torch, floats[0].dtype) == torch.bfloat16:
            each = each.to(torch.bfloat16).double()  # the maps are rounded before they are compared
        chosen = each.gather(2, got[1].long().clamp(max=transforms - 1).unsqueeze(2)).squeeze(2)
        if not torch.equal(chosen, each.amax(2)):
            return "winners that are not the maxima"
    return _close(got[0], each.amax(2), whole)


def _expected_norm_grad(wide: list[Any], window: tuple, algorithm: str, got: Any) -> str | None:
    """Of √Σ_t z[t]² = `output`, whatever is given as that: the gradient of z[t] is z[t] · grad / output, or 0 / 0."""
    grad, output, x, w, bias, *asked = wide[:8]
    need(all(isinstance(t, Tensor) for t in (grad, output, x, w)), "operands that are no tensors")
    windows, groups = conv_windows(x.shape, w.shape, *window), window[3]
    z = conv(x, w, windows, groups)
    need(output.dim() == x.dim() and output.shape[1] > 0 and z.shape[1] % output.shape[1] == 0, "filters")
    filters, count = output.shape[1], z.shape[1] // output.shape[1]
    need(filters % groups == 0 and count <= 256, "filters")
    need(grad.shape == output.shape == (z.shape[0], filters, *z.shape[2:]), "maps that do not fit")
    if bias is not None:
        need(isinstance(bias, Tensor) and bias.shape == (filters,), "bias")
        z = z + bias.repeat_interleave(count).reshape(1, -1, *[1] * (z.dim() - 2))
    need(isinstance(got, tuple) and len(got) == 3, "three gradients")
    scale = torch.where(output == 0, 0.0, grad / output).repeat_interleave(count, 1)
    gz = z * scale
    # z's error is relative to all of z, so that gz's is to all of z under its scale.
    level = float(z.square().mean().sqrt()) if z.numel() else 0.0
    if algorithm in ("fft", "auto") and z.numel():  # FFT's is to what it transforms, also where every sum of it is 0
        level += float(x.square().mean().sqrt() * w.square().mean().sqrt()) * w[0].numel() ** 0.5
    typical = gz.abs() + scale.abs() * level
    right = [
        (conv_input_grad(gz, w, windows, groups), "input_grad", w),
        (conv_weight_grad(gz, x, w.shape, windows, groups), "weight_grad", x),
        (gz.unflatten(1, (filters, count)).sum([0, *range(2, gz.dim() + 1)]), "weight_grad", torch.ones(())),
    ]
    for mine, (want, direction, other), to in zip(got, right, asked, strict=True):
        if not to:
            need(mine.numel() == 0, "nothing")
            continue
        eps = 2 * torch.finfo(mine.dtype).eps  # of z and of gz, which are rounded
        allowed = 2 * conv_allowed(want.to(mine.dtype), direction, algorithm, typical, other)
        problem = differ(mine, want, allowed + 4 * eps * norm_of_terms(want, typical, other) + 1e-300)
        if problem:
            return f"{direction}: {problem}"
    return None


def _spread(g: Tensor, winners: Tensor, maps: int, groups: int, batch: int, outputs: list[int]) -> Tensor:
    """The gradient of all maps: g at the winners, zero elsewhere."""
    need(winners.dtype == torch.uint8 and g.shape == winners.shape and g.dim() == len(outputs) + 2, "winners")
    filters = g.shape[1]
    need(filters > 0 and maps % filters == 0 and filters % groups == 0 and maps // filters <= 256, "filters")
    need(g.shape[0] == batch and list(g.shape[2:]) == outputs, "a gradient that does not fit")
    need(not winners.numel() or int(winners.max()) < maps // filters, "winners beyond the transforms")
    z = g.new_zeros(batch, filters, maps // filters, *outputs)
    return z.scatter_(2, winners.long().unsqueeze(2), g.unsqueeze(2)).flatten(1, 2)


def _close(got: Any, want: Tensor, whole: bool) -> str | None:
    """Exact for whole numbers summed directly; else within what the loosest algorithm's bound allows on values that do
    not cancel (each has at most some thousands of terms, of size 1)."""
    if not isinstance(got, Tensor):
        return "no tensor"
    if whole:
        return differ(got, want)
    eps = torch.finfo(got.dtype).eps
    fine = torch.finfo(torch.float64 if got.dtype == torch.float64 else torch.float32).eps
    return differ(got, want, (2 * eps + 256 * fine) * float(want.norm() + 16 * want.numel() ** 0.5) + 1e-300)


# ---- functionals ----


def draw_transform_conv(dims: int, d: Draw) -> Case:
    while True:
        s = Shape(d, dims)
        if product(s.weight[2:]) <= 125 and min(s.padding) >= 0:
            break
    dtype, kind = d.kernel_dtype(), numbers(d)
    pairs = list(zip(s.padding[::2], s.padding[1::2], strict=True))
    bias = d.tensor(s.weight[:1], dtype, kind) if d.chance(0.5) else None
    args = (d.tensor(s.input, dtype, kind), d.tensor(s.weight, dtype, kind), d.choice((1, 2, 4)), bias)
    window = (d.per_axis(s.stride), pairs, d.per_axis(s.dilation), s.groups, d.choice((None, "max", "mean", "norm")))
    kwargs = {"algorithm": d.choice(ALGORITHMS)}
    return Case(f"transform_conv{dims}d", (*args, *window), kwargs, backward=d.chance(0.4))


def filter_map(weight: Any, transforms: Any) -> Any:
    """A map of so many transforms that roll a filter's taps by 0, 1, 2 places."""
    if not isinstance(weight, T) or type(transforms) is not int or not 0 < transforms <= 64:
        return transforms
    kernel = tuple(weight.shape[2:])
    taps = product(kernel)
    if not 0 < taps <= 4096:
        return transforms
    columns = torch.cat([torch.arange(taps).roll(t) for t in range(transforms)])
    return FilterMap(torch.arange(len(columns) + 1), columns, torch.ones(len(columns)).double(), kernel, kernel)


def check_transform_conv(case: Case) -> str | None:
    dims, args = int(case.operator[-2]), [made(a) for a in case.args]
    fmap = filter_map(case.args[1], case.args[2])
    leaves = [t for t in args if isinstance(t, Tensor)]
    plain = case.backward and isinstance(fmap, FilterMap) and not meta(args)
    if plain and all(t.dtype in KERNEL_DTYPES for t in case.tensors()):
        leaves = [t.requires_grad_() for t in leaves]
    else:
        leaves = []
    call = [*args[:2], fmap, *args[3:8]]
    result, error = answer(lambda: getattr(TF, case.operator)(*call, reduce=args[8], **case.kwargs))
    algorithm = case.kwargs["algorithm"]
    if error is not None and algorithm != "auto" and "cannot run this convolution" in str(error):
        return None
    if meta(args) or not isinstance(fmap, FilterMap):
        return None
    if any(t.dtype not in KERNEL_DTYPES for t in case.tensors()):
        return None

    def expected(got: Any) -> str | None:
        wide = widened(case)
        operands = [t for t in wide if isinstance(t, Tensor)]
        for t in operands:
            t.requires_grad_(bool(leaves))
        each, want = _expected_transform_conv(dims, case, wide, fmap)
        whole = algorithm in EXACT and all(t.numbers == "whole" for t in case.tensors())
        reduce, bfloat16 = wide[8], getattr(torch, case.args[0].dtype) == torch.bfloat16
        if reduce == "mean" and not whole and bfloat16:
            raise Huge  # the mean filter is rounded before the sums
        problem = _close(got, want.detach(), whole and reduce in (None, "max"))
        if problem or not leaves or not got.numel():
            return problem

        def close(i: int, mine: Tensor, right: Tensor, g: Tensor) -> str | None:
            if whole and reduce in (None, "max") and not bfloat16:
                return differ(mine, right)
            other, maps = (wide[1], wide[0], g)[i], g.repeat_interleave(each.shape[2], 1 if got.dim() > dims + 1 else 0)
            eps, direction = torch.finfo(mine.dtype).eps, "input_grad" if i == 0 else "weight_grad"
            allowed = conv_allowed(right.to(mine.dtype), direction, algorithm, maps, other.detach())
            return differ(mine, right, 4 * allowed + 4 * eps * norm_of_terms(right, maps, other.detach()) + 1e-300)

        return gradients(case, (got, leaves), (want, operands), close, _clear(each.detach(), reduce, got.shape))

    return verdict(result, error, case.spoilt, expected)


def _clear(each: Tensor, reduce: str | None, shape: torch.Size) -> Tensor | None:
    """Where a reduction of maps [N, D, T, *] can be differentiated, and rounding does not decide how."""
    size = float(each.square().mean().sqrt())
    if reduce == "max" and each.shape[2] > 1:
        first, second = each.topk(2, dim=2).values.unbind(2)
        return (first - second > 0.05 * (size + first.abs())).reshape(shape)
    return (each.norm(dim=2) > 0.25 * size).reshape(shape) if reduce == "norm" else None


def _expected_transform_conv(dims: int, case: Case, wide: list[Any], fmap: FilterMap) -> tuple[Tensor, Tensor]:
    """All maps [N, D, T, *], and the result."""
    x, w, count, bias, stride, padding, dilation, groups, reduce = wide
    need(case.kwargs["algorithm"] in ALGORITHMS and reduce in (None, "max", "mean", "norm"), "words")
    need(len({t.dtype for t in case.tensors()}) == 1, "dtypes")
    need(isinstance(x, Tensor) and x.dim() in (dims + 1, dims + 2) and w.dim() == dims + 2, "axes")
    if not isinstance(padding, list) or not all(isinstance(p, tuple) and len(p) == 2 for p in padding):
        raise Huge
    flat = [side for pair in padding for side in pair]
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    steps, gaps = (list(v) if isinstance(v, (list, tuple)) else [v] * dims for v in (stride, dilation))
    steps, gaps = (v * dims if len(v) == 1 else v for v in (steps, gaps))
    need(all(type(i) is int for i in (*flat, *steps, *gaps, groups)), "numbers")
    need(all(side >= 0 for side in flat), "padding")
    copies = w.flatten(2)[..., fmap.columns.reshape(count, -1)].movedim(2, 1).reshape(-1, *w.shape[1:])
    conv_windows(batched.shape, w.shape, steps, flat, gaps, groups)
    z = conv(batched, copies, conv_windows(batched.shape, copies.shape, steps, flat, gaps, groups), groups)
    need(bias is None or (isinstance(bias, Tensor) and bias.shape == w.shape[:1]), "bias")
    if bias is not None:
        z = z + bias.repeat_interleave(count).reshape(1, -1, *[1] * dims)
    each = z.unflatten(1, (w.shape[0], count))
    want = {
        None: lambda: z,
        "max": lambda: each.amax(2),
        "mean": lambda: each.mean(2),
        "norm": lambda: each.norm(dim=2),
    }[reduce]()
    return each, want if x.dim() == dims + 2 else want.squeeze(0)


def draw_matrix(d: Draw) -> Case:
    while True:
        s = Shape(d, d.choice((1, 2)))
        if product(s.input[1:]) * product(s.output[1:]) <= 1 << 18 and min(s.padding) >= 0:
            break
    pairs = list(zip(s.padding[::2], s.padding[1::2], strict=True))
    args = (d.tensor(s.weight, "float64"), s.input[2:], d.per_axis(s.stride), pairs, d.per_axis(s.dilation), s.groups)
    return Case("conv_matrix", args)


def check_matrix(case: Case) -> str | None:
    args = [made(a) for a in case.args]
    result, error = answer(lambda: TF.conv_matrix(*args))
    if meta(args):
        return None

    def expected(got: Any) -> str | None:
        if case.spoilt:
            raise Huge  # forms of its arguments are many: that it answers or refuses is all that is asked
        w, size, stride, padding, dilation, groups = widened(case)
        steps, gaps = (v if isinstance(v, (list, tuple)) else [v] * len(size) for v in (stride, dilation))
        x = T((1, w.shape[1] * groups, *size), "float64", start=case.args[0].start).make()
        windows = conv_windows(x.shape, w.shape, steps, [side for pair in padding for side in pair], gaps, groups)
        want = conv(x, w, windows, groups)
        if not isinstance(got, Tensor):
            return "no tensor"
        return differ((got @ x.flatten()).reshape(want.shape), want)

    return verdict(result, error, case.spoilt, expected)


_FILTERS = ("transform_filters", "transform_filters_transpose", "transform_values_grad")
_REDUCED = (
    *("convolution_max", "convolution_norm", "convolution_norm_grad", "convolution_select"),
    *("convolution_select_input_grad", "convolution_select_weight_grad"),
)

OPERATORS = {
    **{f"ops.{name}": (partial(draw_filters, name), check_filters) for name in _FILTERS},
    **{f"ops.{name}": (partial(draw_reduced, name), check_reduced) for name in _REDUCED},
    **{f"transform_conv{n}d": (partial(draw_transform_conv, n), check_transform_conv) for n in (1, 2, 3)},
    "conv_matrix": (draw_matrix, check_matrix),
}
