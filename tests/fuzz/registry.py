"""All operators that are drawn, and how a call is drawn and judged."""

from fnmatch import fnmatch

from . import conv, local, norm, pool, transformed
from .draw import Case, Draw

OPERATORS = {**conv.OPERATORS, **pool.OPERATORS, **norm.OPERATORS, **local.OPERATORS, **transformed.OPERATORS}
SPOILT = 0.35  # share of calls


def chosen(pattern: str) -> list[str]:
    """The operators whose names match `pattern`, several of which commas part."""
    return [name for name in OPERATORS if any(fnmatch(name, part) for part in pattern.split(","))]


def drawn(names: list[str], seed: int, index: int) -> Case:
    """Call `index` of a seed: the same in every process."""
    d = Draw(seed << 32 | index)
    case = OPERATORS[d.choice(names)][0](d)
    return d.spoil(case) if d.chance(SPOILT) else case


def check(case: Case) -> str | None:
    """The finding about a call, or None."""
    return OPERATORS[case.operator][1](case)
