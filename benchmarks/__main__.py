"""``python -m benchmarks``: verifies, times, prints a table and a summary; JSON, Markdown and a chart where asked for.

What the user must mend is one sentence on stderr and exit status 2; a result that is wrong is one and exit status 1.
"""

import argparse
import fnmatch
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch

from .machine import describe
from .measure import Plan, Result, Wrong, measure
from .report import ROWS, STEPS, SUMMARY, markdown, plot
from .row import LAYOUTS
from .rows import rows
from .steps import NETWORKS, StepResult, measure_steps
from .summary import summarise

# Freed memory stays with the process: else whether a result of 25 MB comes on fresh pages, which can cost more than its
# computation, is a matter of what was freed before it, and falls on either side by chance.
ALLOCATOR = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=17179869184"
QUICK = {"repeats": 3, "least": 0.002, "seconds": 0.1, "batch": 16, "threads": "all"}


class Parser(argparse.ArgumentParser):
    """Reports an error as one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def keep_freed_memory() -> None:
    """Starts this program over with an allocator that does so, unless the environment already says what it does."""
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = ALLOCATOR
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def thread_counts(text: str) -> tuple[int, ...]:
    """ "1,all" -> (1, 2) where there are two."""
    counts = [torch.get_num_threads() if part == "all" else int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise ValueError
    return tuple(dict.fromkeys(counts))


def options(arguments: Sequence[str] | None) -> tuple[Parser, argparse.Namespace]:
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rows", nargs="+", default=["*"], metavar="PATTERN", help="names, such as '3x3.*' step.vgg16_bn")
    add("--threads", default="1,all", help="numbers of threads; training steps take the largest (default: 1,all)")
    add("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS, help="ours; the built-in is timed in both")
    add("--dtype", default="float32", choices=("float32", "float64", "bfloat16"))
    add("--steps", action=argparse.BooleanOptionalAction, default=True, help="whole training steps too")
    add("--compiled", action="store_true", help="compare the steps with torch.compile's as well, which takes minutes")
    add("--batch", type=int, help="for every row; by default each has its own, and the steps 64")
    add("--repeats", type=int, default=9, help="interleaved repeats a median is taken of, at most")
    add("--least", type=float, default=0.01, metavar="SECONDS", help="shortest run of one repeat")
    add("--seconds", type=float, default=0.6, help="aimed at for a row, a direction and a number of threads")
    add("--quick", action="store_true", help="a look in some five minutes: batch 16, few repeats, all threads alone")
    add("--json", type=Path, metavar="FILE", help="everything, for programs")
    add("--markdown", type=Path, metavar="FILE", help="everything, for people, as in benchmarks/RESULTS.md")
    add("--plot", type=Path, metavar="FILE", help="a bar chart of the ratios; needs matplotlib")
    if "--quick" in (sys.argv[1:] if arguments is None else arguments):
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    try:
        given.threads = thread_counts(given.threads)
    except ValueError:
        parser.error(f"--threads takes numbers from 1 and 'all', such as 1,all; got {given.threads}")
    for name in ("batch", "repeats"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if given.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not installed")
    return parser, given


def main(arguments: Sequence[str] | None = None) -> int:
    parser, given = options(arguments)
    networks = list(NETWORKS) if given.steps else []
    table = [row for row in rows(given.batch) if set(row.layouts) & set(given.layouts)]
    names = [*(row.name for row in table), *(f"step.{name}" for name in networks)]
    chosen = {name for pattern in given.rows for name in fnmatch.filter(names, pattern)}
    if not chosen:
        groups = dict.fromkeys(name.partition(".")[0] for name in names)
        parser.error(f"no row matches {' or '.join(given.rows)}: names begin with {', '.join(groups)}")

    dtype = getattr(torch, given.dtype)
    machine = describe(given.threads, dtype)
    layouts = tuple(dict.fromkeys(given.layouts))
    plan = Plan(layouts, given.threads, dtype, given.repeats, given.least, given.seconds, machine.peak)
    results: list[Result] = []
    steps: list[StepResult] = []
    print(machine, "", sep="\n")
    try:
        table = [row for row in table if row.name in chosen]
        if table:
            print(ROWS.head(), flush=True)
        for row in table:
            results += (found := measure(row, plan))
            print(*map(ROWS.line, found), sep="\n", flush=True)
        networks = [name for name in networks if f"step.{name}" in chosen]
        if networks:
            print("", STEPS.head(), sep="\n", flush=True)
        for name in networks:
            steps += (took := measure_steps(name, plan, given.batch or 64, given.compiled))
            print(*map(STEPS.line, took), sep="\n", flush=True)
    except Wrong as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1

    lines = summarise(results, steps)
    print("", SUMMARY.text(lines), sep="\n")
    if given.json:
        everything = {"machine": machine, "rows": results, "steps": steps, "summary": lines}
        given.json.write_text(json.dumps(everything, indent=1, default=asdict) + "\n")
    if given.markdown:
        command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
        given.markdown.write_text(markdown(command, machine, results, steps, lines))
    if given.plot:
        plot(given.plot, machine, results, steps)
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
