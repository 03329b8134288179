"""Recipes of tensors and of calls, and the generator that draws them.

A recipe's repr is Python: what the fuzzer prints about a call is what `--case` runs again.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

# Around what 8, 16, 31, 32 and 64 bits hold, where products of two or three of them wrap round, and primes.
WILD = (
    *(0, -1, -2, 127, 65_536, 2**21, 2**30, 2**31 - 1, 2**31, 2**32 + 1, 10**9 + 7, 2**40, 2**61, 2**62, 2**62 + 1),
    *(2**63 - 1, 2**63, -(2**31), -(2**63), -(2**63) - 1),
)
NOT_INTEGERS = (None, True, 1.5, "3", [], (1,), (1, 1), (1, 1, 1), [0], "same", float("nan"))
KERNEL_DTYPES = ("float32", "float64", "bfloat16")
OTHER_DTYPES = ("float16", "complex64", "complex128", "int64", "int32", "uint8", "bool")
# Lengths below, at and above whole vectors of 4, 8, 16 and 32 elements, one to four of them.
SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 96, 130)
LAYOUTS = ("contiguous", "channels_last", "transposed", "expanded", "overlapping", "offset", "strided", "permuted")

_VALUES = 1 << 20  # numbers drawn once; a tensor's are a stretch of them
LARGEST = 1 << 22  # elements of a tensor that are stored; larger ones are one element, expanded


torch.set_num_threads(1)  # before any is started: a pool of threads does not survive a fork


def _numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(_VALUES, generator=generator, dtype=torch.float64)
    whole = torch.randint(-4, 5, (_VALUES,), generator=generator).double()
    special = whole.clone()
    for stride, value in ((7, math.nan), (5, math.inf), (11, -math.inf), (3, -0.0)):
        special[torch.randperm(_VALUES, generator=generator)[: _VALUES // (stride * 4)]] = value
    return {"whole": whole, "normal": normal, "special": special, "positive": normal.abs() + 0.25}


NUMBERS = _numbers()


@dataclass(frozen=True, repr=False)
class T:
    """A tensor to make: shape, dtype, layout, device, and which numbers, from where on.

    `numbers` is a key of NUMBERS, or an int n for integers of 0 <= i < n, of which any n in a row differ.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    numbers: str | int = "whole"
    start: int = 0
    device: str = "cpu"

    def __repr__(self) -> str:
        rest = (self.dtype, self.layout, self.numbers, self.start, self.device)
        while rest and rest[-1] == ("float32", "contiguous", "whole", 0, "cpu")[len(rest) - 1]:
            rest = rest[:-1]
        return f"T({', '.join(map(repr, (self.shape, *rest)))})"

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def make(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor; of another dtype than its own if asked, with the values its own rounds to."""
        own: torch.dtype = getattr(torch, self.dtype)
        if self.device == "meta" or max(self.count, *self.shape, 0) > LARGEST:
            flat = torch.zeros(1, dtype=dtype or own, device=self.device)
            return flat.as_strided(self.shape, [0] * len(self.shape))
        out = _laid_out(self).to(own)
        return out if dtype is None or dtype == own else out.to(dtype)

    def values(self, count: int) -> Tensor:
        """So many numbers of the recipe's kind, from its start on."""
        if isinstance(self.numbers, int):
            step = next(s for s in (self.start % 31 + 1, *range(1, 99)) if math.gcd(s, self.numbers) == 1)
            flat = (self.start + step * torch.arange(count)) % self.numbers  # as few alike as can be
        else:
            flat = NUMBERS[self.numbers][self.start : self.start + count]
        if len(flat) < count:
            flat = flat.repeat(count // max(len(flat), 1) + 1)[:count]
        if self.dtype == "bool":
            return flat > 0
        return flat.abs() if self.dtype == "uint8" else flat


def _laid_out(t: T) -> Tensor:
    """A float64 (or bool) tensor of t's shape whose strides t.layout names; where it cannot have them, contiguous."""
    shape, axes, count = t.shape, len(t.shape), t.count
    own: torch.dtype = getattr(torch, t.dtype)
    if t.layout == "channels_last" and axes in (4, 5):
        memory_format = torch.channels_last if axes == 4 else torch.channels_last_3d
        return t.values(count).reshape(shape).to(own).contiguous(memory_format=memory_format)
    if t.layout == "transposed" and axes >= 2:
        return t.values(count).to(own).reshape(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    if t.layout == "expanded" and axes >= 1 and count:
        axis = t.start % axes
        return t.values(count // shape[axis]).to(own).reshape([*shape[:axis], 1, *shape[axis + 1 :]]).expand(shape)
    if t.layout == "overlapping" and axes >= 1 and count:
        strides = [1 + (t.start >> a) % 3 for a in range(axes)]
        room = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        return t.values(room).to(own).as_strided(shape, strides)
    if t.layout == "offset":
        return t.values(count + 3).to(own)[3:].reshape(shape)
    if t.layout == "strided" and axes >= 1:
        return t.values(2 * count).to(own).reshape([*shape[:-1], 2 * shape[-1]])[..., ::2]
    if t.layout == "permuted" and axes >= 2:
        order = list(range(axes))
        random.Random(t.start).shuffle(order)
        inside = t.values(count).to(own).reshape([shape[a] for a in order])
        return inside.permute([order.index(a) for a in range(axes)])
    return t.values(count).to(own).reshape(shape)


@dataclass(frozen=True, repr=False)
class Case:
    """A call: an operator's name, its arguments with recipes in place of tensors, and what is done besides.

    `spoilt`: whether it may be illegal. `backward`: whether gradients are compared too.
    """

    operator: str
    args: tuple = ()
    kwargs: dict = field(default_factory=dict)
    spoilt: bool = False
    backward: bool = False

    def __repr__(self) -> str:
        rest = f", {self.kwargs}" if self.kwargs or self.spoilt or self.backward else ""
        flags = "".join(f", {name}=True" for name in ("spoilt", "backward") if getattr(self, name))
        return f"Case({self.operator!r}, {self.args}{rest}{flags})"

    def tensors(self) -> list[T]:
        return [a for a in (*self.args, *self.kwargs.values()) if isinstance(a, T)]


def of_one_kernel(recipes: Sequence[Any]) -> bool:
    """Whether all recipes among these are of one dtype, which has kernels."""
    dtypes = {t.dtype for t in recipes if isinstance(t, T)}
    return len(dtypes) == 1 and dtypes <= set(KERNEL_DTYPES)


def integers(value: Any) -> list[int]:
    """All integers in nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return [i for v in value for i in integers(v)]
    return [value] if isinstance(value, int) else []


def made(value: Any, dtype: torch.dtype | None = None) -> Any:
    """`value` with recipes replaced by tensors, in `dtype` where they are of numbers with fractions."""
    if isinstance(value, T):
        whole = isinstance(value.numbers, int) or dtype is None or not getattr(torch, value.dtype).is_floating_point
        return value.make(None if whole else dtype)
    return value


class Draw(random.Random):
    """The generator of recipes. `room`: how much larger than most its tensors may be, for there to be work for several
    threads."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.room = 16 if self.chance(0.03) else 1

    def chance(self, share: float) -> bool:
        return self.random() < share

    def side(self, most: int = 130) -> int:
        return self.choice([s for s in SIDES if s <= most])

    def dtype(self) -> str:
        roll = self.random()
        if roll < 0.55:
            return "float32"
        if roll < 0.75:
            return "bfloat16"
        return "float64" if roll < 0.92 else self.choice(OTHER_DTYPES)

    def kernel_dtype(self) -> str:
        return self.choices(KERNEL_DTYPES, (6, 2, 2))[0]

    def layout(self) -> str:
        return self.choice(LAYOUTS) if self.chance(0.4) else self.choice(("contiguous", "channels_last"))

    def tensor(self, shape: Sequence[int], dtype: str, numbers: str | int = "whole") -> T:
        return T(tuple(shape), dtype, self.layout(), numbers, self.randrange(_VALUES - 4096))

    def per_axis(self, values: list[int]) -> int | list[int] | tuple[int, ...]:
        """`values` as a functional may be given them: one number where all are equal, a list or a tuple."""
        if len(set(values)) == 1 and self.chance(0.5):
            return values[0]
        return tuple(values) if self.chance(0.7) else values

    def spoil(self, case: Case) -> Case:
        """The call with one argument, or two, made strange."""
        args, kwargs = list(case.args), dict(case.kwargs)
        # An operator takes True for 1, as PyTorch's own do.
        self.strange = (
            NOT_INTEGERS if not case.operator.startswith("ops.") else [v for v in NOT_INTEGERS if v is not True]
        )
        for _ in range(1 if self.chance(0.7) else 2):
            at: Any = self.choice([*range(len(args)), *kwargs])
            to: Any = args if isinstance(at, int) else kwargs
            to[at] = self._spoilt(to[at])
        return replace(case, args=tuple(args), kwargs=kwargs, spoilt=True)

    def _spoilt(self, value: Any) -> Any:
        if isinstance(value, T):
            return self._spoilt_tensor(value)
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return self.choice(WILD) if self.chance(0.9) else self.choice(self.strange)
        if isinstance(value, float):
            return self.choice((0.0, -1.0, 1e300, math.inf, math.nan, 1e-300))
        if isinstance(value, str):
            return self.choice(("nonsense", "", "auto", *torch.ops.torchconv._algorithms()))
        if isinstance(value, (list, tuple)):
            values = list(value)
            roll = self.random()
            if values and roll < 0.75:
                at = self.randrange(len(values))
                values[at] = self._spoilt(values[at]) if isinstance(values[at], int) else self.choice(WILD)
            elif values and roll < 0.85:
                values.pop()
            elif roll < 0.95:
                values.append(1)
            else:
                values = []
            return type(value)(values)
        return value if self.chance(0.5) else self.choice(self.strange)

    def _spoilt_tensor(self, t: T) -> T | None:
        shape = list(t.shape)
        kinds: list[Callable[[], T | None]] = [
            lambda: replace(t, dtype=self.choice((*KERNEL_DTYPES, *OTHER_DTYPES))),
            lambda: replace(t, device="meta"),
            lambda: replace(t, shape=(*t.shape, 1)),
            lambda: replace(t, shape=t.shape[1:]),
            lambda: replace(t, shape=()),
            lambda: replace(t, layout=self.choice(LAYOUTS)),
            lambda: None,
        ]
        if shape:
            at = self.randrange(len(shape))
            huge = self.choice((2**31, 2**40))
            for n in (0, shape[at] + 1, max(shape[at] - 1, 0), 2 * shape[at], huge):
                kinds.append(lambda n=n: replace(t, shape=(*shape[:at], n, *shape[at + 1 :])))
            kinds.append(
                lambda: replace(t, shape=tuple(huge if a == at else n * (a != 0) for a, n in enumerate(shape)))
            )
        spoilt = self.choice(kinds)()
        return spoilt if spoilt is None or spoilt.count < 2**62 else t  # more elements than PyTorch counts
