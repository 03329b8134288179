"""The command line of the benchmarks: a table, and JSON where asked for."""

import argparse
import fnmatch
import json
import os
import sys

import torch

import torchconv

from .measure import measure
from .rows import networks

HEADER = (
    f"{'layer':22} {'layout':14} {'direction':12} {'built-in ms':>11} {'ours ms':>9} {'ratio':>6} {'best':>6} "
    f"{'GFLOP/s':>8} {'error':>8}"
)


# Freed memory stays with the process: else whether a result of 25 MB comes on fresh pages, which can cost more than its
# computation, is a matter of what was freed before it, and falls on either side by chance.
ALLOCATOR = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=17179869184"


def keep_freed_memory() -> None:
    """Starts this program over with an allocator that does so, unless the environment already says what it does."""
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = ALLOCATOR
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="layers whose name matches, such as 'vgg.*'")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats a median is taken of")
    parser.add_argument("--least", type=float, default=0.02, metavar="SECONDS", help="shortest run of one repeat")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    for name in ("batch", "threads", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    rows = [row for row in networks(options.batch) if fnmatch.fnmatch(row.name, options.rows)]
    if not rows:
        parser.error(f"no layer matches '{options.rows}': there are {', '.join(r.name for r in networks(1))}")

    print(
        f"torch {torch.__version__}, {torchconv.cpu_capability()}, {options.threads} threads, batch {options.batch}, "
        "float32; ratio: built-in time over ours in the same layout; best: over the built-in's better layout"
    )
    print(HEADER)
    results = []
    for row in rows:
        for r in measure(row, options.threads, options.repeats, options.least):
            results.append(r.as_dict())
            print(
                f"{r.name:22} {r.layout:14} {r.direction:12} {r.built_in:11.3f} {r.torchconv:9.3f} {r.ratio:6.2f} "
                f"{r.better_ratio:6.2f} {r.gflops:8.1f} {r.error:8.1e}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
