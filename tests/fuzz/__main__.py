"""`python -m tests.fuzz`: draws calls until a number of them or a time is reached, and prints what is wrong."""

import argparse
import os
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read as torch loads: threads that spin starve who shares a core

import torch

import torchconv

from . import registry
from .batches import BATCH, HANG, Batches, Finding, Tally
from .draw import Case, T

MOST = 60  # kinds of findings after which a run stops
PROGRESS = 20_000  # calls after which a line says how far a run is


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the calls; default 0")
    parser.add_argument("--calls", type=int, help="how many; default 10000 where no time is given")
    parser.add_argument("--seconds", type=float, help="until when")
    parser.add_argument("--operators", default="*", metavar="PATTERN", help="names to draw, such as 'conv*,ops.*pool*'")
    parser.add_argument(
        "--threads", type=int, default=0, help="of each call; by default 1, and 2 in every fourth batch"
    )
    parser.add_argument(
        "--hang", type=float, default=HANG, help="seconds of a processor a call may take; default %(default)s"
    )
    parser.add_argument("--case", help="run this one call, as a finding prints it, here and now")
    options = parser.parse_args(argv)
    if not registry.chosen(options.operators):
        parser.error(f"no operator's name matches '{options.operators}': they are {', '.join(registry.OPERATORS)}")
    for name in ("seed", "calls", "seconds", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 0:
            parser.error(f"--{name} must not be negative, got {getattr(options, name)}")
    if options.calls is None and options.seconds is None:
        options.calls = 10_000
    return options


def warm() -> None:
    """Has what is imported at a first call imported before there are children, who would each do it again."""
    for device in ("cpu", "meta"):
        x, w = torch.ones(1, 1, 3, device=device), torch.ones(1, 1, 1, device=device)
        torch.nn.functional.conv1d(x, w)
        torch.nn.functional.max_unpool1d(x, torch.zeros(1, 1, 3, dtype=torch.int64, device=device), 1)
        torch.ops.torchconv.convolution(x, w, None, [1], [0, 0], [1], 1, "reference")


def fuzz(
    seed: int,
    calls: int | None = None,
    seconds: float | None = None,
    pattern: str = "*",
    threads: int = 0,
    hang: float = HANG,
) -> Tally:
    """Draws and runs calls; every fourth batch has two threads, unless `threads` says how many."""
    names, begin, done = registry.chosen(pattern), time.monotonic(), 0
    kinds: set[tuple[str, str]] = set()
    batches = Batches(registry.check, hang)
    warm()
    while (calls is None or done < calls) and (seconds is None or time.monotonic() - begin < seconds):
        count = BATCH if calls is None else min(BATCH, calls - done)
        batches.threads = threads or (2 if done // BATCH % 4 == 3 else 1)
        batches.run([registry.drawn(names, seed, done + i) for i in range(count)])
        done += count
        new = {finding.kind: finding for finding in batches.tally.findings if finding.kind not in kinds}
        kinds |= set(new)
        for finding in new.values():
            print(f"after {done} calls: {finding}", file=sys.stderr, flush=True)
        if done % PROGRESS < count:
            print(f"{done} calls, {len(batches.tally.findings)} findings", file=sys.stderr, flush=True)
        if len(kinds) >= MOST:
            break
    return batches.tally


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.case:
        try:
            case = eval(options.case, {"Case": Case, "T": T, "inf": float("inf"), "nan": float("nan")})
            found = registry.check(case)
        except (SyntaxError, NameError, KeyError, AttributeError) as error:
            print(f"--case is not a call as a finding prints it: {error}", file=sys.stderr)
            return 2
        print(Finding(case, found) if found else "nothing is wrong")
        return bool(found)
    begin = time.monotonic()
    tally = fuzz(options.seed, options.calls, options.seconds, options.operators, options.threads, options.hang)
    took, total = time.monotonic() - begin, sum(tally.calls.values())
    kinds = Counter(finding.kind for finding in tally.findings)
    for finding in {finding.kind: finding for finding in reversed(tally.findings)}.values():
        print(finding, f"    ({kinds[finding.kind]} of this kind)", "", sep="\n")
    for name, count in sorted(tally.calls.items()):
        print(f"{count:8d}  {name}")
    for slow, case in tally.slowest[:3]:
        print(f"slow: {slow:.2f} s  {case}")
    print(
        f"{total} calls of {len(tally.calls)} operators in {took:.0f} s, seed {options.seed}, "
        f"{torchconv.cpu_capability()}: {len(tally.findings)} findings"
    )
    return bool(tally.findings)


if __name__ == "__main__":
    sys.exit(main())
