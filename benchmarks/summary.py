"""What the rows come to: geometric means and worst rows by group, against what this project wants to reach."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .measure import BOTH, Result
from .steps import StepResult

# The least geometric mean and the least single ratio to the better of the built-in's layouts, for float32 on an idle
# machine with all its threads.
TARGETS = {
    ("3x3", "forward"): (2.2, 1.4),
    ("3x3", BOTH): (2.0, 1.3),
    ("rest", "forward"): (1.2, 0.97),
    ("rest", BOTH): (1.4, 0.97),
    ("transposed", BOTH): (1.5, 1.0),
    ("pool", BOTH): (1.4, 1.0),
    ("mean", BOTH): (1.3, 1.0),
    ("depthwise", BOTH): (3.0, 1.0),
}
# Beside those, where memory is the limit: the least geometric means of the ratio to the built-in's contiguous layout
# and of the share of the floor; large depth-wise kernels are the arithmetic's, and have none.
MEMORY_TARGETS = {("pool", BOTH): (6.0, 0.6), ("mean", BOTH): (4.0, 0.6), ("depthwise", BOTH): (5.0, 0.0)}
STEP_TARGETS = {"step.vgg16_bn": 2.0, "step.alexnet": 1.8, "step.lenet5": 1.5, "step.mobilenet": 1.3}
BETTER = "the better"  # as a layout: for each row, whichever is faster


@dataclass(frozen=True)
class Line:
    """Ratios of one group to the better of the built-in's layouts; those of training steps to its fastest mode."""

    group: str
    layout: str
    direction: str
    threads: int
    rows: int
    mean: float  # geometric
    worst: float
    worst_row: str
    contiguous: float | None = None  # geometric mean of the ratios to the built-in's contiguous layout
    floor: float | None = None  # and of the shares of the floor
    target: str = "–"
    met: str = "–"  # "yes" or "no"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summarise(results: Iterable[Result], steps: Iterable[StepResult] = ()) -> list[Line]:
    """A line for each group, direction (forward and the sum), number of threads and layout of ours."""
    gathered: dict[tuple[str, str, int, str], dict[str, Result]] = {}
    for r in results:
        if r.direction in ("forward", BOTH):
            for layout in (r.layout, BETTER):
                found = gathered.setdefault((r.group, r.direction, r.threads, layout), {})
                if r.name not in found or r.better_ratio > found[r.name].better_ratio:
                    found[r.name] = r
    groups = list(dict.fromkeys(key[0] for key in gathered))
    order = sorted(gathered, key=lambda key: (groups.index(key[0]), *key[1:]))
    lines = [_of_rows(*key, list(gathered[key].values())) for key in order]
    best: dict[tuple[str, str, int, str], float] = {}
    for s in steps:
        for layout in (s.layout, BETTER):
            key = (s.name, "step", s.threads, layout)
            best[key] = max(s.better_ratio, best.get(key, 0.0))
    return lines + [_line(*key, {key[0]: ratio}, STEP_TARGETS.get(key[0])) for key, ratio in best.items()]


def _of_rows(group: str, direction: str, threads: int, layout: str, rows: Sequence[Result]) -> Line:
    shares = [r.floor_share for r in rows if r.floor_share is not None]
    contiguous = geometric_mean([r.contiguous_ratio for r in rows])
    floor = geometric_mean(shares) if shares else None
    line = _line(
        group, direction, threads, layout, {r.name: r.better_ratio for r in rows}, *TARGETS.get((group, direction), ())
    )
    line = replace(line, contiguous=contiguous, floor=floor)
    if (group, direction) not in MEMORY_TARGETS:
        return line
    least_contiguous, least_floor = MEMORY_TARGETS[group, direction]
    met = line.met == "yes" and contiguous >= least_contiguous and (floor or 0.0) >= least_floor
    target = f"{line.target}; ≥ {least_contiguous}; ≥ {least_floor:.0%}"
    return replace(line, target=target, met="yes" if met else "no")


def _line(
    group: str,
    direction: str,
    threads: int,
    layout: str,
    ratios: dict[str, float],
    least_mean: float | None = None,
    least: float | None = None,
) -> Line:
    mean, worst_row = geometric_mean(list(ratios.values())), min(ratios, key=lambda name: ratios[name])
    line = Line(group, layout, direction, threads, len(ratios), mean, ratios[worst_row], worst_row)
    if least_mean is None:
        return line
    met = mean >= least_mean and ratios[worst_row] >= (least or 0.0)
    target = f"≥ {least_mean}" + (f", none under {least}" if least else "")
    return replace(line, target=target, met="yes" if met else "no")
