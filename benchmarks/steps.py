"""Whole training steps: times of the two sides interleaved in one process, peak memory of each in one of its own.

``python -m benchmarks.steps NETWORK SIDE LAYOUT BATCH THREADS DTYPE`` prints the bytes that one side's step takes.
"""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import torchconv
from train.networks import alexnet, initialise, lenet5, mobilenet, vgg

from .measure import Plan, Wrong, interleaved, ratios, relative_error
from .row import LAYOUTS, LIBRARIES, memory_format

NETWORKS: dict[str, tuple[Callable[..., nn.Sequential], int]] = {  # with the number of input maps
    "vgg16_bn": (vgg, 3),
    "alexnet": (alexnet, 3),
    "lenet5": (lenet5, 1),
    "mobilenet": (mobilenet, 3),
}


@dataclass(frozen=True)
class StepResult:
    """A network's step in one layout. Milliseconds a step, bytes; ratios are the built-in's time over ours."""

    name: str
    layout: str
    threads: int
    batch: int
    built_in: float  # eager, in the same layout
    compiled: float | None  # torch.compile's, in the same layout; None where it was not asked for or did not run
    torchconv: float
    ratio: float  # to eager in the same layout
    better_ratio: float  # to the fastest of the built-in's modes and layouts
    error: float  # of the outputs before training, relative to float64
    built_in_error: float
    built_in_memory: int | None  # peak beside model and batch, eager, in the same layout
    memory: int | None
    note: str = ""

    group = "step"


class Step:
    """One training step, when called: forward, cross-entropy, backward, SGD."""

    def __init__(self, name: str, side: str, layout: str, batch: int, dtype: torch.dtype, dropout: bool = True) -> None:
        build, maps = NETWORKS[name]
        generator = torch.Generator().manual_seed(0)
        form = memory_format(layout, 2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: Any = build(nn, maps)
            initialise(model)
        model.to(dtype=dtype, memory_format=form)
        for module in model.modules():
            if isinstance(module, nn.Dropout) and not dropout:
                module.p = 0.0
        self.input = torch.randn(batch, maps, 32, 32, generator=generator).to(dtype).contiguous(memory_format=form)
        self.target = torch.randint(10, (batch,), generator=generator)
        self.parameters: list[Any] = list(model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=1e-3)
        self.model: Callable[[Tensor], Tensor] = model
        if side == "torchconv":
            self.model = torchconv.convert(model, fuse=True)
        if side == "compiled":
            self.model = torch.compile(model)

    def gradients(self) -> Tensor:
        """Leaves them in the parameters, and returns the model's output."""
        self.optimizer.zero_grad()
        output = self.model(self.input)
        nn.functional.cross_entropy(output, self.target).backward()
        return output

    def __call__(self) -> None:
        self.gradients()
        self.optimizer.step()


def check(name: str, layout: str, batch: int, dtype: torch.dtype) -> tuple[float, float]:
    """The errors of ours and of the built-in in a network's outputs, without dropout, relative to float64's.

    Gradients jump where rounding puts a ReLU or a maximum to the other side (by 1% where the last maps are of 2×2), so
    they are only checked for what is not rounding.

    Raises:
        Wrong: ours errs by more than 1e-3 in the outputs or 0.1 in the gradients, and 4 times more than the built-in.
    """
    outputs, gradients = {}, {}
    for who, side, kind in (("exact", "built-in", torch.float64), *((side, side, dtype) for side in LIBRARIES)):
        step = Step(name, side, layout, batch, kind, dropout=False)
        outputs[who] = (step.gradients().detach().double(),)
        gradients[who] = (torch.cat([p.grad.reshape(-1).double() for p in step.parameters]),)
    errors = {}
    for what, found, limit in (("gradients", gradients, 0.1), ("outputs", outputs, 1e-3)):
        errors = {side: relative_error(found[side], found["exact"]) for side in LIBRARIES}
        if not errors["torchconv"] <= max(limit, 4 * errors["built-in"]):
            ours, theirs = (f"{errors[side]:.1e}" for side in ("torchconv", "built-in"))
            raise Wrong(f"step.{name}, {layout}: {what} have relative error {ours}, the built-in's {theirs}")
    return errors["torchconv"], errors["built-in"]


def measure_steps(name: str, plan: Plan, batch: int, compiled: bool) -> list[StepResult]:
    """The network's step in each layout of the plan, with the most threads of the plan.

    Raises:
        Wrong: see `check`.
    """
    threads = max(plan.threads)
    errors = {layout: check(name, layout, min(batch, 8), plan.dtype) for layout in plan.layouts}
    sides = [("built-in", layout) for layout in LAYOUTS] + [("torchconv", layout) for layout in plan.layouts]
    steps = {(side, layout): Step(name, side, layout, batch, plan.dtype) for side, layout in sides}
    note = ""
    if compiled:
        torch.compiler.reset()
        try:
            made = {("compiled", layout): Step(name, "compiled", layout, batch, plan.dtype) for layout in LAYOUTS}
            interleaved(made, threads, repeats=1, least=0, seconds=0)  # compiles
            steps |= made
        except Exception as error:  # no compiler, or whatever else: the benchmark goes on without
            note = f"torch.compile did not run: {type(error).__name__}"
    times = interleaved(steps, threads, plan.repeats, plan.least, 8 * plan.seconds)
    theirs = {f"{side}, {layout}": time for (side, layout), time in times.items() if side != "torchconv"}
    results = []
    for layout in plan.layouts:
        ours = times["torchconv", layout]
        theirs_memory, memory = (
            peak_memory(name, side, layout, batch, threads, plan.dtype) for side in ("built-in", "torchconv")
        )
        results.append(
            StepResult(
                f"step.{name}", layout, threads, batch,
                times["built-in", layout], times.get(("compiled", layout)), ours,
                *ratios(theirs, f"built-in, {layout}", ours), *errors[layout],
                theirs_memory, memory, note,
            )
        )  # fmt: skip
    return results


def peak_memory(name: str, side: str, layout: str, batch: int, threads: int, dtype: torch.dtype) -> int | None:
    """Bytes that three steps hold at their peak beside model and batch, in a fresh process; None if that fails.

    There every block above 128 KiB goes back as soon as it is freed, so that the figure is what is held and not what
    the allocator keeps for later, which differs by a fifth from one run to the next.
    """
    arguments = map(str, (name, side, layout, batch, threads, str(dtype).removeprefix("torch.")))
    return in_a_fresh_process("benchmarks.steps", *arguments)


def in_a_fresh_process(module: str, *arguments: str) -> int | None:
    """The number that a module prints, its freed memory going back at once; None if that fails."""
    environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 17}"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def main(name: str, side: str, layout: str, batch: str, threads: str, dtype: str) -> None:
    torch.set_num_threads(int(threads))
    Step("lenet5", side, layout, 2, getattr(torch, dtype))()  # libraries' code and threads are not the step's memory
    step = Step(name, side, layout, int(batch), getattr(torch, dtype))
    print(peak_of(step))


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that three calls hold at their peak beside what this process holds already."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts over
    before = _status("VmRSS")
    for _ in range(3):
        call()
    return _status("VmHWM") - before


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main(*sys.argv[1:])
