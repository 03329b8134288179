"""One row: the check that both sides compute the same, and their times, interleaved in one process."""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

import torchconv
from torchconv.explain import Row as Explained
from torchconv.explain import error_bound

from .row import LIBRARIES, Row, memory_format

BOTH = "forward + backward"
COPY = ("copy", "contiguous")  # a side of its own among what is timed

_Side = TypeVar("_Side", bound=Hashable)


class Wrong(Exception):
    """Ours is further from float64 than its algorithm may be."""


@dataclass(frozen=True)
class Plan:
    """What is measured of every row, and for how long."""

    layouts: tuple[str, ...]  # ours; the built-in is timed in each it has
    threads: tuple[int, ...]
    dtype: torch.dtype
    repeats: int  # at most, of each side
    least: float  # seconds of one repeat
    seconds: float  # aimed at for all repeats of all sides; three repeats are taken however long they are
    peak: Mapping[int, float]  # GFLOP/s by number of threads


@dataclass(frozen=True)
class Result:
    """One row in one layout and direction. Times are in milliseconds a call, ratios the built-in's time over ours."""

    name: str
    layout: str
    direction: str  # "forward", "input grad", "weight grad", or the sum of all, "forward + backward"
    threads: int
    built_in: float
    torchconv: float
    ratio: float  # in the same layout
    better_ratio: float  # to the faster of the built-in's layouts
    gflops: float | None  # of the definition's multiply-adds, by which Winograd's algorithm may exceed the peak
    peak_share: float | None
    algorithm: str
    workspace: int  # bytes beside operands and result, with one thread
    error: float  # relative to the float64 result, L2
    contiguous_ratio: float  # to the built-in's contiguous layout
    # Of the time in which a copy at the rate of the input's, in the same rounds, would move what must be moved; None
    # where memory is not the limit.
    floor_share: float | None

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


def measure(row: Row, plan: Plan) -> list[Result]:
    """The row in each layout and direction of the plan, and with each number of threads.

    Raises:
        Wrong: ours is further from the float64 result than torchconv.explain says it is at most.
    """
    truth = exact(row, plan.dtype)
    layouts = [layout for layout in plan.layouts if layout in row.layouts]
    explained = {layout: explain(row, layout, plan.dtype) for layout in layouts}
    errors: dict[tuple[str, str], float] = {}
    times: dict[tuple[str, int], dict[tuple[str, str], float]] = {}
    for direction, expected in truth.items():
        sides = [("built-in", layout) for layout in row.layouts] + [("torchconv", layout) for layout in layouts]
        jobs = {(name, layout): job(row, LIBRARIES[name], layout, direction, plan.dtype) for name, layout in sides}
        for layout in layouts:
            error = relative_error(jobs["torchconv", layout](), expected)
            how = explained[layout][direction]
            bound = how.error_bound or error_bound("direct", how.direction, plan.dtype)
            if not error <= bound:  # a NaN is not
                where = f"{row.name}, {layout}, {direction} by {how.algorithm}"
                raise Wrong(f"{where}: relative error {error:.1e}, at most {bound:.1e} allowed")
            errors[layout, direction] = error
        if row.bytes_moved(direction, truth["forward"][0].shape, plan.dtype.itemsize):
            jobs[COPY] = copy(row, plan.dtype)
        for threads in plan.threads:
            times[direction, threads] = interleaved(jobs, threads, plan.repeats, plan.least, plan.seconds)

    shape = truth["forward"][0].shape
    macs = row.multiply_adds(shape)
    results = []
    for threads in plan.threads:
        for layout in layouts:
            for name, parts in {**{d: [d] for d in truth}, BOTH: list(truth)}.items():
                theirs = {one: sum(times[d, threads]["built-in", one] for d in parts) for one in row.layouts}
                ours = sum(times[d, threads]["torchconv", layout] for d in parts)
                how_each = [explained[layout][d] for d in parts]
                floor = sum(least_time(row, d, shape, plan.dtype, times[d, threads]) or math.nan for d in parts)
                gflops = 2e-6 * macs * len(parts) / ours if macs else None
                results.append(
                    Result(
                        row.name, layout, name, threads, theirs[layout], ours, *ratios(theirs, layout, ours), gflops,
                        gflops and gflops / plan.peak[threads],
                        "/".join(dict.fromkeys(how.algorithm for how in how_each)),
                        max(how.workspace_bytes or 0 for how in how_each),
                        max(errors[layout, d] for d in parts),
                        theirs["contiguous"] / ours,
                        None if math.isnan(floor) else floor / ours,
                    )
                )  # fmt: skip
    return results


def copy(row: Row, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    """A copy of a tensor as large as the row's input."""
    source, target = torch.randn(2, math.prod(row.input)).to(dtype)
    return lambda: (target.copy_(source),)


def least_time(
    row: Row, direction: str, output: torch.Size, dtype: torch.dtype, times: Mapping[tuple[str, str], float]
) -> float | None:
    """Milliseconds to move what the direction must at the rate of the copy in `times`, which reads and writes the input
    once; None where memory is not the limit."""
    moved = row.bytes_moved(direction, output, dtype.itemsize)
    return moved and times[COPY] * moved / (2 * math.prod(row.input) * dtype.itemsize)


def ratios(theirs: Mapping[str, float], layout: str, ours: float) -> tuple[float, float]:
    """The built-in's time over ours: in the same layout, and in the built-in's faster one."""
    return theirs[layout] / ours, min(theirs.values()) / ours


def relative_error(results: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """‖y − y64‖/‖y64‖, the largest of several; NaN if any is."""
    pairs = zip(results, truth, strict=True)
    return torch.stack([(y.double() - t).norm() / t.norm().clamp_min(1e-30) for y, t in pairs]).max().item()


def job(row: Row, library: Any, layout: str, direction: str, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    """What a direction runs: the forward, or the backward of a graph in which its operands need their gradients."""
    places = row.directions[direction]
    operands = [t.requires_grad_(i in places) for i, t in enumerate(row.operands(layout, dtype))]
    call = row.call(library)
    if not places:
        return lambda: (call(*operands),)
    output = call(*operands)
    wanted = [operands[i] for i in places]
    grad = _grad(output, dtype).contiguous(memory_format=memory_format(layout, row.dims))
    return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)


def _grad(output: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def exact(row: Row, dtype: torch.dtype) -> dict[str, tuple[Tensor, ...]]:
    """Each direction's results by the built-in operator in float64, on operands rounded to `dtype`."""
    operands = [t.double().requires_grad_() for t in row.operands("contiguous", dtype)]
    output = row.call(LIBRARIES["built-in"])(*operands)
    grads = torch.autograd.grad(output, operands, _grad(output, dtype).double())
    return {d: tuple(grads[i] for i in places) or (output.detach(),) for d, places in row.directions.items()}


def explain(row: Row, layout: str, dtype: torch.dtype) -> dict[str, Explained]:
    """What torchconv.explain says of each direction of the row's whole batch, which decides the algorithm."""
    layer: Any = row.layer()
    layer.to(dtype=dtype, memory_format=memory_format(layout, row.dims))
    explanation = torchconv.explain(layer, row.operands(layout, dtype)[0])
    return {how.direction.replace("_", " "): how for how in explanation}


def interleaved(
    jobs: Mapping[_Side, Callable[[], object]], threads: int, repeats: int, least: float, seconds: float
) -> dict[_Side, float]:
    """Median milliseconds a call of each side; every round runs each in turn, for at least `least` seconds."""
    timers = {side: Timer("job()", globals={"job": job}, num_threads=threads) for side, job in jobs.items()}
    once = {side: timer.timeit(1).mean for side, timer in timers.items()}
    counts = {side: max(1, int(least / max(time, 1e-7))) for side, time in once.items()}
    # timeit calls twice beside what it counts, to warm up.
    rounds = int(seconds / max(sum(once[side] * (counts[side] + 2) for side in timers), 1e-7))
    times: dict[_Side, list[float]] = {side: [] for side in timers}
    for _ in range(min(repeats, max(rounds, 3))):
        for side, timer in timers.items():
            times[side].append(timer.timeit(counts[side]).mean)
    return {side: 1e3 * statistics.median(values) for side, values in times.items()}
