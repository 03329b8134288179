"""What the rows come to: geometric means and worst rows by group, against what this project wants to reach."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .measure import BOTH, Result
from .steps import StepResult

# The least geometric mean and the least single ratio to the better of the built-in's layouts, for float32 on an idle
# machine with all its threads.
TARGETS = {
    ("3x3", "forward"): (2.2, 1.4),
    ("3x3", BOTH): (2.0, 1.3),
    ("rest", "forward"): (1.2, 0.97),
    ("rest", BOTH): (1.4, 0.97),
}
STEP_TARGETS = {"step.vgg16_bn": 2.0, "step.alexnet": 1.8, "step.lenet5": 1.5}
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
    target: str = "–"
    met: str = "–"  # "yes" or "no"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summarise(results: Iterable[Result], steps: Iterable[StepResult] = ()) -> list[Line]:
    """A line for each group, direction (forward and the sum), number of threads and layout of ours."""
    gathered: dict[tuple[str, str, int, str], dict[str, float]] = {}
    for r in results:
        if r.direction in ("forward", BOTH):
            for layout in (r.layout, BETTER):
                ratios = gathered.setdefault((r.group, r.direction, r.threads, layout), {})
                ratios[r.name] = max(r.better_ratio, ratios.get(r.name, 0.0))
    groups = list(dict.fromkeys(key[0] for key in gathered))
    order = sorted(gathered, key=lambda key: (groups.index(key[0]), *key[1:]))
    lines = [_line(*key, gathered[key], *TARGETS.get(key[:2], (None, None))) for key in order]
    best: dict[tuple[str, str, int, str], float] = {}
    for s in steps:
        for layout in (s.layout, BETTER):
            key = (s.name, "step", s.threads, layout)
            best[key] = max(s.better_ratio, best.get(key, 0.0))
    return lines + [_line(*key, {key[0]: ratio}, STEP_TARGETS.get(key[0])) for key, ratio in best.items()]


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
    return Line(**{**vars(line), "target": target, "met": "yes" if met else "no"})
