"""``python -m benchmarks.escnn``: layers equivariant to quarter turns, beside escnn's of as many maps.

escnn is no dependency of this project; where it cannot be imported, this is one sentence on stderr and exit status 2.
Both sides get the same filters, ours being set from those that escnn expands its basis to, and must give the same
maps. Then a table of training steps (forward and the gradients of input and parameters) of regular layers: the two,
and the built-in convolution of as many maps with filters at hand, interleaved in one process; and of the memory that a
step holds at its peak beside the layer and its input, each in a fresh process.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.benchmark import Timer

from torchconv.nn import GroupConv2d

from .machine import describe
from .row import LAYOUTS, memory_format
from .steps import in_a_fresh_process, peak_of

MODULE = "benchmarks.escnn"
SIDES = ("escnn", "built-in", "torchconv")
MAPS = (16, 32, 64, 128)  # channels by the four quarter turns, of input and output
PICTURES = ((14, 64), (28, 32), (56, 16))  # side and batch
# The same sums in another order, of up to 128 · 25 products: within the bound of the project's table for either side.
TOLERANCE = 1e-5


def fields(maps: int, lifted: bool) -> Any:
    """escnn's type of `maps` plain maps, or of regular ones, a fourth as many channels."""
    from escnn import gspaces, nn

    space = gspaces.rot2dOnR2(4)
    return nn.FieldType(space, maps // 4 * [space.regular_repr] if lifted else maps * [space.trivial_repr])


def pair(inputs: int, maps: int, kernel: int, lifting: bool = False) -> tuple[Any, GroupConv2d]:
    """escnn's layer and ours with the same filters and biases, of [N, inputs, H, W] to [N, maps, H, W].

    A channel's maps are in both the quarter turns in their order, counter-clockwise, so the filters of the first of
    each four output maps are ours, and the other three must be its turns.
    """
    from escnn import nn

    torch.manual_seed(0)
    theirs = nn.R2Conv(fields(inputs, not lifting), fields(maps, True), kernel, padding=kernel // 2)
    ours = GroupConv2d(inputs // (1 if lifting else 4), maps // 4, kernel, "p4", padding=kernel // 2, lifting=lifting)
    with torch.no_grad():
        torch.nn.init.normal_(theirs.bias)
        assert ours.bias is not None
        weight, bias = theirs.expand_parameters()
        ours.weight.copy_(weight[::4])
        ours.bias.copy_(bias[::4])
    return theirs, ours


def differences(inputs: int, maps: int, kernel: int, lifting: bool) -> tuple[float, float]:
    """The largest between the layers' filters, and the relative one (L2) between their outputs."""
    theirs, ours = pair(inputs, maps, kernel, lifting)
    x = torch.randn(2, inputs, 15, 15)
    with torch.no_grad():
        expected = theirs(theirs.in_type(x)).tensor
        of_filters = (ours.expanded() - theirs.expand_parameters()[0]).abs().max()
        return of_filters.item(), ((ours(x) - expected).norm() / expected.norm()).item()


def step(side: str, layout: str, maps: int, size: int, batch: int, kernel: int) -> Callable[[], Any]:
    """A training step of one side's layer."""
    theirs, ours = pair(maps, maps, kernel)
    if side == "escnn":
        call, parameters = (lambda x: theirs(theirs.in_type(x)).tensor), list(theirs.parameters())
    elif side == "torchconv":
        call, parameters = ours, list(ours.parameters())
    else:
        plain = torch.nn.Conv2d(maps, maps, kernel, padding=kernel // 2)
        call, parameters = plain, list(plain.parameters())
    x, grad = (torch.randn(batch, maps, size, size).to(memory_format=memory_format(layout, 2)) for _ in range(2))
    x.requires_grad_()
    return lambda: torch.autograd.grad(call(x), [x, *parameters], grad)


def times(jobs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """The fastest milliseconds of each job, run in turn."""
    timers = {
        key: Timer("job()", globals={"job": job}, num_threads=torch.get_num_threads()) for key, job in jobs.items()
    }
    counts = {key: max(1, int(0.02 / timer.timeit(1).mean)) for key, timer in timers.items()}
    rounds = [{key: timer.timeit(counts[key]).mean for key, timer in timers.items()} for _ in range(repeats)]
    return {key: 1e3 * min(taken[key] for taken in rounds) for key in jobs}


def table(kernel: int, repeats: int) -> list[str]:
    """The lines of the table, in Markdown: contiguous, channels-last."""
    lines = [
        "| maps | pictures | escnn | built-in | torchconv | escnn / torchconv | memory: escnn | torchconv |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for maps in MAPS:
        for size, batch in PICTURES:
            shape = (maps, size, batch, kernel)
            took = times({(s, form): step(s, form, *shape) for s in SIDES for form in LAYOUTS}, repeats)
            cells = [", ".join(f"{took[side, form]:.3g}" for form in LAYOUTS) + " ms" for side in SIDES]
            cells.append(", ".join(f"{took['escnn', form] / took['torchconv', form]:.2f}" for form in LAYOUTS))
            for side in ("escnn", "torchconv"):
                held = [in_a_fresh_process(MODULE, side, form, *map(str, shape)) for form in LAYOUTS]
                cells.append(", ".join("–" if number is None else f"{number / 1e6:.3g}" for number in held) + " MB")
            lines.append(f"| {maps} | {batch} of {size}×{size} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernel", type=int, default=3, help="side of the filters")
    parser.add_argument("--repeats", type=int, default=9, help="of which the fastest is taken")
    parser.add_argument("--no-times", action="store_true", help="whether the outputs are the same, and no more")
    parser.add_argument("memory", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="escnn")  # what it says of packages that none of this needs
    try:
        import escnn.nn  # noqa: F401
    except ImportError as error:
        print(f"{parser.prog}: needs escnn, which cannot be imported ({error})", file=sys.stderr)
        return 2
    torch.set_num_threads(given.threads)
    if given.memory:  # one side's step, in this fresh process
        side, layout, *shape = given.memory
        step(side, layout, 8, 8, 2, 3)()  # libraries' code and threads are not the step's memory
        print(peak_of(step(side, layout, *map(int, shape))))
        return 0
    print(describe([given.threads], torch.float32), "", sep="\n")
    for lifting in (True, False):
        for kernel in (3, 5, 7):
            inputs = 3 if lifting else 16
            of_filters, of_outputs = differences(inputs, 32, kernel, lifting)
            kind = "lifting" if lifting else "regular"
            print(f"{kind}, {inputs} to 32 maps, {kernel}x{kernel}: filters differ by {of_filters:.1e}, "
                  f"outputs by {of_outputs:.1e} of their norm")  # fmt: skip
            if not max(of_filters, of_outputs) <= TOLERANCE:
                print(f"{parser.prog}: at most {TOLERANCE:.0e} is rounding", file=sys.stderr)
                return 1
    if not given.no_times:
        print("", *table(given.kernel, given.repeats), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
