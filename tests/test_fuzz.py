"""The fuzzer: a fixed number of calls from a fixed seed finds nothing, and what is planted is found."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from suite import first_quick

import torchconv  # noqa: F401  registers the operators

ROOT = Path(__file__).parent.parent
PLANTED = """
import ctypes, sys
import torch
from tests.fuzz.batches import Batches
from tests.fuzz.draw import Case
from tests.fuzz.judge import answer, verdict

def check(case):
    kind = case.args[0]
    if kind == "crash":
        ctypes.string_at(0)
    while kind == "hang":
        pass
    if kind == "memory":
        torch.empty(1 << 31)
    if kind == "armed":
        torch.set_grad_enabled(False)
    if kind == "armed crash" and not torch.is_grad_enabled():
        ctypes.string_at(0)
    if kind == "threads":
        torch.set_num_threads(2)
        return verdict(*answer(lambda: torch.tensor(1.0 + (torch.get_num_threads() > 2))), False, lambda _: None)
    return "a difference" if kind == "difference" else None

kinds = ["well"] * 20
for at, kind in ((3, "crash"), (7, "hang"), (8, "difference"), (11, "memory"), (13, "threads"), (15, "armed"),
                 (17, "armed crash")):
    kinds[at] = kind
batches = Batches(check, hang=0.2)
batches.run([Case("planted", (kind,)) for kind in kinds])
print(sum(batches.tally.calls.values()))
for finding in batches.tally.findings:
    print(finding.case.args[0], "|", finding.what.splitlines()[0][:60])
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    # A process of its own: it forks, which one that has started threads may not.
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_what_is_planted_is_found() -> None:
    result = run("-c", PLANTED)
    assert result.returncode == 0, result.stderr
    calls, *found = result.stdout.splitlines()
    assert calls == "20"
    assert sorted(found) == [
        'armed crash | crashes: SIGSEGV after 2 other calls: [Case("planted", ("arm',
        "crash | crashes: SIGSEGV",
        "difference | a difference",
        "hang | hangs: more processor time than a call may take",
        "memory | stops the fuzzer itself: Traceback (most recent call last):",
        "threads | is other on 3 threads than on 2",
    ]


def test_every_operator_is_drawn() -> None:
    asked = {f"{verb}_{what}" for verb in ("get", "set") for what in ("conv_precision", "batch_invariant")}
    asked |= {"cpu_capability", "_swap_thread_precision"}
    second = {"_run_prepared", "_prepare_max_pool", "_prepare_avg_pool", "_prepare_linear", "_states", "_same_states"}
    tables = {"_algorithms", "_error_bounds"}
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torchconv::")]
    drawn = run("-c", "from tests.fuzz.registry import OPERATORS; print(*OPERATORS)").stdout.split()
    operators = {name.removeprefix("torchconv::") for name in names} - asked - tables - second
    assert operators == {name.removeprefix("ops.") for name in drawn if name.startswith("ops.")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--operators", "nothing"], "no operator's name matches 'nothing': they are conv1d, "),
        (["--calls", "-1"], "--calls must not be negative, got -1"),
        (["--case", "Case("], "--case is not a call as a finding prints it: "),
    ],
)
def test_bad_arguments_end_with_a_sentence(arguments: list[str], message: str) -> None:
    result = run("-m", "tests.fuzz", *arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_case_that_is_printed_runs_again() -> None:
    case = 'Case("ops.avg_pool", (T((1, 1, 4)), [2], [2], [0], [2], True, None))'
    result = run("-m", "tests.fuzz", "--case", case)
    assert (result.returncode, result.stdout) == (0, "nothing is wrong\n"), result.stderr


@pytest.mark.parametrize("calls", first_quick([1500, 4000]))
def test_a_fixed_number_of_calls_finds_nothing(calls: int) -> None:
    result = run("-m", "tests.fuzz", "--seed", "1", "--calls", str(calls))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-1000:]
    assert f"{calls} calls of" in result.stdout
