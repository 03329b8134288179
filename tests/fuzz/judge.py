"""The verdicts: whether what a call gave or raised is right."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchconv.explain import error_bound

from .definitions import MOST, Huge, Illegal
from .draw import KERNEL_DTYPES, LARGEST, NUMBERS, Case, made


def meta(args: Sequence[Any]) -> bool:
    return any(isinstance(t, Tensor) and t.device.type == "meta" for t in args)


def leaves_of(values: Sequence[Any]) -> list[Tensor]:
    """The tensors of `values`, whose gradients are asked for from here on; none if one has no kernel."""
    tensors = [t for t in values if isinstance(t, Tensor)]
    if meta(tensors) or any(str(t.dtype).removeprefix("torch.") not in KERNEL_DTYPES for t in tensors):
        return []
    return [t.requires_grad_() for t in tensors]


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


def norm_of_terms(want: Tensor, a: Tensor, b: Tensor) -> float:
    """‖want‖, a result that sums products of a's and b's elements, and the norm it would have if these were
    independent, which is what errors are relative to where terms cancel.

    Each of a convolution's three operands has the axes of two of: batch and positions, channels, filters. So the
    product of two sizes over the third is the square of the terms, but for what taps and groups add.
    """
    terms = int((a.numel() * b.numel() / max(want.numel(), 1)) ** 0.5) + 1
    size = [float(t.double().square().mean()) if t.numel() else 0.0 for t in (a, b)]
    return float(want.double().norm()) + (size[0] * size[1] * terms * want.numel()) ** 0.5


def conv_allowed(want: Tensor, direction: str, algorithm: str, a: Tensor, b: Tensor) -> float:
    """What the algorithm's bound allows on the L2 norm of a result that sums products of a's and b's elements."""
    names = ("direct", "fft", "winograd") if algorithm == "auto" else (algorithm,)
    return max(error_bound(name, direction, want.dtype) for name in names) * norm_of_terms(want, a, b)


def gradients(
    case: Case,
    ours: tuple[Tensor, Sequence[Tensor]],  # a result, and the operands whose gradients are asked for
    right: tuple[Tensor, Sequence[Tensor]],  # the same of the definition, in float64
    close: Callable[[int, Tensor, Tensor, Tensor], str | None],
    clear: Tensor | None = None,
) -> str | None:
    """How the gradients of a case's operands differ from the definition's, for a gradient of whole numbers.

    `close(i, got, want, g)` says how that of operand i does; g is the result's. `clear`: where the result can be
    differentiated, if not everywhere.
    """
    (y, leaves), (wide_y, wide), start = ours, right, case.tensors()[0].start
    g = NUMBERS["whole"][start : start + y.numel()]
    if g.numel() < y.numel():
        return None
    g = g.reshape(y.shape) if clear is None else g.reshape(y.shape) * clear
    mine, error = answer(lambda: torch.autograd.grad(y, leaves, g.to(y.dtype), retain_graph=True))
    if error is not None:
        by_name = case.kwargs.get("algorithm", "auto") != "auto" and "cannot run this convolution" in str(error)
        return None if by_name else f"the gradient raises {type(error).__name__}: {error}"
    theirs = torch.autograd.grad(wide_y, wide, g)
    for i, (got, want) in enumerate(zip(mine, theirs, strict=True)):
        problem = close(i, got, want, g)
        if problem:
            return f"gradient of operand {i}: {problem}"
    return None


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


THREADS = (1, 2, 3, 7)  # more than cores there are, too: what matters is how the work is cut


class Unequal(RuntimeError):
    """A call's result is another on another number of threads."""


def answer(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What a call gives, or raises. Where it has several threads it is made on each number of THREADS, and all results
    have to be of the same bits; it must not change what it reads."""
    own = torch.get_num_threads()
    try:
        result = call()
        for threads in THREADS if own > 1 else ():
            torch.set_num_threads(threads)
            if not same_bits(result, call()):
                raise Unequal(f"is other on {threads} threads than on {own}")
        return result, None
    except ERRORS as error:
        return None, error
    finally:
        if own > 1:
            torch.set_num_threads(own)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two results are the same to the bit, and of the same strides; of NaNs only where they are counts."""
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if not isinstance(a, Tensor):
        return a == b
    if a.layout != torch.strided:
        return same_bits(a.to_dense(), b.to_dense())
    if (a.shape, a.dtype, a.stride()) != (b.shape, b.dtype, b.stride()):
        return False
    if a.device.type == "meta" or a.numel() > MOST:
        return True
    if a.is_complex():
        return same_bits(torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj()))
    if not a.is_floating_point():
        return torch.equal(a, b)
    nan, whole = a.isnan(), {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(nan, b.isnan()) and torch.equal(*(t.detach().masked_fill(nan, 0).view(whole) for t in (a, b)))


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
    if isinstance(error, Unequal):
        return str(error)
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
