"""Times of the two sides, interleaved in one process, and the check that they compute the same."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from .rows import LIBRARIES, Row

DIRECTIONS = ("forward", "input grad", "weight grad")
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@dataclass
class Result:
    """One row in one layout and direction, milliseconds; `ratio` is built-in over ours, `error` relative to float64."""

    name: str
    layout: str
    direction: str
    threads: int
    built_in: float
    torchconv: float
    ratio: float
    better_ratio: float  # against the faster of the built-in's two layouts
    gflops: float
    error: float

    def as_dict(self) -> dict:
        return asdict(self)


def multiply_adds(row: Row, output: Tensor) -> int:
    return output.numel() * row.weight[1] * row.weight[2] * row.weight[3] if row.weight else 0


def jobs(row: Row, library, memory_format: torch.memory_format) -> dict[str, Callable[[], Tensor]]:
    """What each direction runs: the forward, or the backward of a graph in which one operand needs its gradient."""
    call = row.call(library)
    constants = [operand.detach() for operand in row.operands(memory_format)]
    out = {"forward": lambda: call(*constants)}
    for direction, index in zip(DIRECTIONS[1:], range(len(constants)), strict=False):
        operands = [t.clone().requires_grad_() if i == index else t for i, t in enumerate(constants)]
        output = call(*operands)
        generator = torch.Generator().manual_seed(1)
        grad = torch.randn(output.shape, generator=generator).contiguous(memory_format=memory_format)
        out[direction] = partial(_backward, output, operands[index], grad)
    return out


def _backward(output: Tensor, operand: Tensor, grad: Tensor) -> Tensor:
    return torch.autograd.grad(output, operand, grad, retain_graph=True)[0]


def exact(row: Row) -> dict[str, Tensor]:
    """Each direction's result by the built-in operator in float64."""
    operands = [t.detach().double().requires_grad_() for t in row.operands(torch.contiguous_format)]
    output = row.call(LIBRARIES["built-in"])(*operands)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    return dict(
        zip(DIRECTIONS, [output.detach(), *torch.autograd.grad(output, operands, grad)], strict=False)
    )  # fmt: skip


def interleaved(
    functions: dict[str, Callable[[], Tensor]], threads: int, repeats: int, least: float
) -> dict[str, float]:
    """Median milliseconds a call of each; every repeat runs each side for at least `least` seconds."""
    timers = {name: Timer("f()", globals={"f": f}, num_threads=threads) for name, f in functions.items()}
    counts = {name: max(1, int(least / max(timer.timeit(1).mean, 1e-7))) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.timeit(counts[name]).mean)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def measure(row: Row, threads: int, repeats: int, least: float) -> list[Result]:
    """Every layout and direction of the row.

    Raises:
        AssertionError: ours is further than 1e-4 from the float64 result, relative to its norm.
    """
    expected = exact(row)
    results = []
    for layout, memory_format in FORMATS.items():
        sides = {name: jobs(row, library, memory_format) for name, library in LIBRARIES.items()}
        for direction, truth in expected.items():
            functions = {name: side[direction] for name, side in sides.items()}
            error = ((functions["torchconv"]().double() - truth).norm() / truth.norm().clamp_min(1e-30)).item()
            assert error < 1e-4, f"{row.name}, {layout}, {direction}: relative error {error:.1e}"
            times = interleaved(functions, threads, repeats, least)
            theirs, ours = times["built-in"], times["torchconv"]
            rate = 2e-6 * multiply_adds(row, expected["forward"]) / ours
            results.append(Result(row.name, layout, direction, threads, theirs, ours, theirs / ours, 0, rate, error))
    for result in results:
        better = min(r.built_in for r in results if r.direction == result.direction)
        result.better_ratio = better / result.torchconv
    return results
