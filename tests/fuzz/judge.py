"""What is right: convolution and pooling by their definitions, in exact integers and float64; and the verdicts.

The definitions share nothing with the library: each reads its input through a table of indices, built axis by axis.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchconv.explain import error_bound

from .draw import LARGEST, Case, made

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


# ---- verdicts ----


def rounding(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding to dtype."""
    return torch.finfo(dtype).eps / 2


def differ(got: Any, want: Any, allowed: float = 0.0, each: float = 0.0) -> str | None:
    """How `got` differs from `want`, a float64 tensor or one of integers, or None.

    `allowed`: on the L2 norm of the difference. `each`: on each element, relative; an element is rounded to got's dtype
    once in any case. NaNs and infinities have to be where they should.
    """
    if not isinstance(got, Tensor) or got.shape != want.shape:
        return f"a result of shape {list(getattr(got, 'shape', []))} where {list(want.shape)} is right"
    if not got.dtype.is_floating_point:
        return None if torch.equal(got.to(want.dtype), want) else _where(got, want)
    if allowed == 0 and each == 0:
        rounded = want.to(got.dtype)
        same = torch.equal(got, rounded) or (
            torch.equal(got.isnan(), rounded.isnan())
            and torch.equal(got.nan_to_num(0.0, 1e30, -1e30), rounded.nan_to_num(0.0, 1e30, -1e30))
        )
        return None if same else _where(got.double(), rounded.double())
    mine = got.double()
    if _within(mine - want, want, allowed, each):
        return None
    finite = want.isfinite()
    if not torch.equal(mine.isfinite(), finite) or not torch.equal(mine.isnan(), want.isnan()):
        return _where(mine, want)
    if _within((mine - want)[finite], want[finite], allowed, each):
        return None
    error = float((mine - want)[finite].norm())
    return f"an L2 error of {error:.3g} where {allowed:.3g} and {each:.3g} of each are allowed; {_where(mine, want)}"


def _within(error: Tensor, want: Tensor, allowed: float, each: float) -> bool:
    """Whether an error without NaN is within what is allowed."""
    if not each:
        return float(error.norm()) <= allowed
    bound = each * want.abs() + allowed / max(error.numel(), 1) ** 0.5
    return bool((error.abs() <= bound).all())


def _where(got: Tensor, want: Tensor) -> str:
    """The element furthest off."""
    off = (got.double() - want.double()).abs().nan_to_num(nan=float("inf")).flatten()
    off[(got == want).flatten() | (got.isnan() & want.isnan()).flatten()] = 0
    if not off.numel() or not bool(off.max() > 0):
        return "signs of infinity"
    at = int(off.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(at), got.shape)] if got.dim() else []
    return f"{got.flatten()[at].item()!r} at {place} where {want.flatten()[at].item()!r} is right"


def conv_allowed(want: Tensor, terms: int, direction: str, algorithm: str, a: Tensor, b: Tensor) -> float:
    """What the algorithm's bound allows on the L2 norm of a result that sums `terms` products of a's and b's elements.

    The bound is relative to ‖y‖ for operands that do not cancel; where they do, to the norm that independent terms of
    their size have.
    """
    names = ("direct", "fft", "winograd") if algorithm == "auto" else (algorithm,)
    bound = max(error_bound(name, direction, want.dtype) for name in names)
    size = [float(t.double().square().mean()) if t.numel() else 0.0 for t in (a, b)]
    return bound * (float(want.double().norm()) + (size[0] * size[1] * terms * want.numel()) ** 0.5)


def huge(case: Case) -> bool:
    """Whether an operand, empty or not, has an axis longer than what is stored."""
    return any(max(t.count, *t.shape, 0) > LARGEST for t in case.tensors())


def widened(case: Case) -> list[Any]:
    """The call's arguments in float64, as its own dtypes round them. Huge where an operand is, or where a number is
    beyond float32: there the built-in in float64 is another thing."""
    if huge(case):
        raise Huge
    floats = [abs(a) for a in (*case.args, *case.kwargs.values()) if isinstance(a, float) and math.isfinite(a)]
    if any(a > 1e30 or 0 < a < 1e-30 for a in floats):
        raise Huge  # what float32 cannot hold
    return [made(a, torch.float64) for a in case.args]


# From inside the library or PyTorch, not from a check of arguments.
INNER = re.compile(
    r"INTERNAL ASSERT|bad_alloc|bad_array|vector::|std::|basic_string|\bselect\(\)|\bnarrow\(\)|CHECK failed"
)
MEMORY = re.compile(
    r"allocate memory|not enough memory|bad_alloc|bad_array|Storage size calculation overflow|MemoryError"
)
# What a call may raise: an attribute or a division is what is left where an operand is no tensor.
ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    MemoryError,
    AttributeError,
    ZeroDivisionError,
)


def answer(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except ERRORS as error:
        return None, error


def _unless_memory_ends(expected: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """`expected`, of which nothing is known where it, or the built-in that it asks, takes more memory than there is."""

    def tried(result: Any) -> str | None:
        try:
            return expected(result)
        except (MemoryError, RuntimeError, Illegal) as error:
            if isinstance(error, MemoryError) or MEMORY.search(str(error)):
                raise Huge from error
            raise

    return tried


def verdict(result: Any, error: Exception | None, spoilt: bool, expected: Callable[[Any], str | None]) -> str | None:
    """The finding about a call that gave `result` or raised `error`, or None.

    `expected` says how a result differs from what is right, and raises Illegal or Huge where nothing is. A spoilt call
    may be refused even so.
    """
    expected = _unless_memory_ends(expected)
    if error is None:
        try:
            difference = expected(result)
        except Huge:
            return None
        except Illegal as why:
            return f"answers what has no answer ({why}): {_short(result)}"
        return f"differs: {difference}" if difference else None
    message = str(error).split("\nException raised from")[0]
    text = f"{type(error).__name__}: {message}"
    memory = isinstance(error, MemoryError) or MEMORY.search(message) is not None
    if memory or not spoilt:
        try:
            expected(None)
            return f"refuses what is legal: {text}"
        except Huge:
            return None
        except Illegal as why:
            if memory:
                return f"takes memory instead of refusing ({why}): {text}"
    return f"refuses from inside: {text}" if INNER.search(message) else None


def _short(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"{result.dtype} {list(result.shape)}"
    return str([_short(r) for r in result]) if isinstance(result, (tuple, list)) else repr(result)[:80]
