"""Calls that the fuzzer once found something wrong with, of each kind one, stay right.

They are in tests/fuzz/found.txt, a line each as a finding prints it; a new one is added there with what mends it.
"""

import subprocess
import sys
from pathlib import Path

from suite import slow

ROOT = Path(__file__).parent.parent
AGAIN = """
from tests.fuzz import registry
from tests.fuzz.__main__ import warm
from tests.fuzz.batches import Batches
from tests.fuzz.draw import Case, T

lines = open("tests/fuzz/found.txt").read().splitlines()
names = {"Case": Case, "T": T, "inf": float("inf"), "nan": float("nan")}
warm()
batches = Batches(registry.check)
batches.run([eval(line, names) for line in lines])
print(*batches.tally.findings, sep="\\n")
print(f"{sum(batches.tally.calls.values())} of {len(lines)} calls, {len(batches.tally.findings)} findings")
"""


@slow
def test_calls_that_were_wrong() -> None:
    run = subprocess.run([sys.executable, "-c", AGAIN], cwd=ROOT, capture_output=True, text=True, timeout=600)
    count = len((ROOT / "tests/fuzz/found.txt").read_text().splitlines())
    assert count > 70
    assert run.stdout.splitlines()[-1:] == [f"{count} of {count} calls, 0 findings"], run.stdout + run.stderr
