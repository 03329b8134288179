"""Results for people to read: tables as text, a Markdown file, a bar chart."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from .machine import Machine
from .measure import BOTH, Result
from .steps import StepResult
from .summary import Line


class Column(NamedTuple):
    heading: str
    spec: str  # "<24" or ">8.2f"
    value: str | Callable[[Any], Any]  # an attribute, or what computes the value

    def cell(self, item: Any) -> str:
        value = getattr(item, self.value) if isinstance(self.value, str) else self.value(item)
        return self.head("–") if value is None else format(value, self.spec)

    def head(self, text: str | None = None) -> str:
        return format(self.heading if text is None else text, self.spec.partition(".")[0])


class Table:
    """Columns of fixed width, so that a line can be printed as soon as it is known."""

    def __init__(self, *columns: Column) -> None:
        self.columns = columns

    def head(self) -> str:
        return " ".join(column.head() for column in self.columns).rstrip()

    def line(self, item: Any) -> str:
        return " ".join(column.cell(item) for column in self.columns).rstrip()

    def text(self, items: Iterable[Any]) -> str:
        return "\n".join([self.head(), *map(self.line, items)])


def _megabytes(attribute: str) -> Callable[[Any], float | None]:
    def value(item: Any) -> float | None:
        number = getattr(item, attribute)
        return None if number is None else number / 1e6

    return value


_RATIOS = (Column("ratio", ">6.2f", "ratio"), Column("best", ">6.2f", "better_ratio"))
_WHERE = (Column("layout", "<13", "layout"), Column("threads", ">7", "threads"))
ROWS = Table(
    Column("row", "<31", "name"),
    *_WHERE,
    Column("direction", "<18", "direction"),
    Column("built-in ms", ">11.3f", "built_in"),
    Column("ours ms", ">9.3f", "torchconv"),
    *_RATIOS,
    Column("GFLOP/s", ">7.1f", "gflops"),
    Column("peak", ">5.0%", "peak_share"),
    Column("of the floor", ">12.0%", "floor_share"),
    Column("workspace MB", ">12.2f", _megabytes("workspace")),
    Column("error", ">7.1e", "error"),
    Column("algorithm", "<9", "algorithm"),
)
STEPS = Table(
    Column("step", "<15", "name"),
    *_WHERE,
    Column("batch", ">5", "batch"),
    Column("built-in ms", ">11.2f", "built_in"),
    Column("compiled ms", ">11.2f", "compiled"),
    Column("ours ms", ">9.2f", "torchconv"),
    *_RATIOS,
    Column("built-in MB", ">11.0f", _megabytes("built_in_memory")),
    Column("ours MB", ">8.0f", _megabytes("memory")),
    Column("error", ">7.1e", "error"),
    Column("built-in's", ">10.1e", "built_in_error"),
    Column("", "<1", "note"),
)
SUMMARY = Table(
    Column("group", "<14", "group"),
    Column("direction", "<18", "direction"),
    *reversed(_WHERE),
    Column("rows", ">4", "rows"),
    Column("mean", ">5.2f", "mean"),
    Column("worst", ">6.2f", "worst"),
    Column("worst row", "<31", "worst_row"),
    Column("contiguous", ">10.2f", "contiguous"),
    Column("floor", ">5.0%", "floor"),
    Column("target", "<37", "target"),
    Column("met", "<3", "met"),
)

LEGEND = """
`ratio` is the built-in's time over ours in the same layout, `best` over the faster of the built-in's two layouts; above
1 torchconv is faster. `forward + backward` is the sum of the three directions, its ratio that of the sums. GFLOP/s
counts the multiply-adds of the definition, zeros of the padding included, so an algorithm that multiplies less may pass
the peak, which is the rate below. Where memory is the limit, `of the floor` is the time in which what must be read
and written once each could be copied, at the rate of a copy of the input in the same rounds, over ours. Workspace is
for one thread, beside operands and result; `error` is relative to float64 (L2) and was checked against its bound
before the
row was timed. Times are medians of interleaved repeats in one
process.""".strip()
SUMMARY_LEGEND = """
Ratios to the better of the built-in's layouts; `contiguous` is the geometric mean of those to its contiguous one,
`floor` that of the shares of the floor.""".strip()
STEP_LEGEND = """
Forward, cross-entropy, backward and SGD, 32×32 pixels. `best` is over the fastest of the built-in's modes: eager or
compiled (– where not asked for, or where it did not run), contiguous or channels-last. Memory is what three steps hold
at their peak beside model and batch, each side in a process of its own; `error` is that of the outputs before
training, relative to float64.""".strip()


def markdown(
    command: str, machine: Machine, rows: Sequence[Result], steps: Sequence[StepResult], lines: Sequence[Line]
) -> str:
    """The whole of RESULTS.md: the machine, the summary, the steps, and every row."""
    parts = ["# A run of the benchmarks", f"`{command}`", LEGEND, _block(str(machine))]
    parts += ["## Summary", SUMMARY_LEGEND, _block(SUMMARY.text(lines))]
    if steps:
        parts += ["## Training steps", STEP_LEGEND, _block(STEPS.text(steps))]
    if rows:
        parts.append("## Rows")
        ordered = sorted(rows, key=lambda r: r.threads)  # stable: by group within
        for (threads, group), some in groupby(ordered, key=lambda r: (r.threads, r.group)):
            parts += [f"### {group}, {threads} thread{'s' * (threads > 1)}", _block(ROWS.text(some))]
    return "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    return f"```\n{text}\n```"


def plot(path: Path, machine: Machine, rows: Sequence[Result], steps: Sequence[StepResult]) -> None:
    """Bars of the ratio to the better of the built-in's layouts, with the most threads, a panel for each group."""
    from matplotlib.figure import Figure

    most = max(machine.peak)
    bars: dict[str, dict[str, dict[str, float]]] = {}  # group, series, row: ratio
    for r in rows:
        if r.threads == most and r.direction in ("forward", BOTH):
            bars.setdefault(r.group, {}).setdefault(f"{r.direction}, {r.layout}", {})[r.name] = r.better_ratio
    for s in steps:
        bars.setdefault(s.group, {}).setdefault(f"step, {s.layout}", {})[s.name] = s.better_ratio
    names = {group: list(dict.fromkeys(chain(*series.values()))) for group, series in bars.items()}
    heights = [len(names[group]) + 2 for group in bars]
    figure = Figure(figsize=(10, 0.45 * sum(heights) + 1), layout="constrained")
    panels = figure.subplots(len(bars), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (group, series) in zip(panels, bars.items(), strict=True):
        place = {name: -i for i, name in enumerate(names[group])}
        for i, (label, ratios) in enumerate(series.items()):
            y = [place[name] + 0.4 - 0.8 * (i + 0.5) / len(series) for name in ratios]
            axes.barh(y, list(ratios.values()), height=0.8 / len(series), label=label)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(list(place.values()), list(place), fontsize=7)
        axes.set_title(group)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize=7)
    panels[-1].set_xlabel(f"speed over the better of the built-in's layouts, {most} threads, {machine.dtype}")
    figure.savefig(path, dpi=110)
