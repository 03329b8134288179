"""Runs calls in forked processes, many to each, and finds the one that crashed, hung, or took too much memory.

A child writes the number of the call it begins to memory that its parent shares, so a dead child names its call; that
call is then run alone, and with those before it where alone it does no harm.
"""

import json
import mmap
import os
import re
import resource
import shlex
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .draw import Case

BATCH = 400
HANG = 10  # seconds of a processor that a call may take
STALL = 120  # seconds without a new call, at no processor's cost: a deadlock
MEMORY = 1 << 30  # bytes a call may add to the address space
PAGE = os.sysconf("SC_PAGE_SIZE")
# How a build with a sanitizer ends where memory is refused to `new`, which elsewhere raises. That is no finding.
REFUSED = re.compile(
    "(Address|Thread)Sanitizer.*(out of memory|out-of-memory|failed to allocate|exceeds maximum)|Failed to mmap"
)

Check = Callable[[Case], str | None]


@dataclass
class Finding:
    case: Case
    what: str

    def __str__(self) -> str:
        return f"{self.case.operator}: {self.what}\n    python -m tests.fuzz --case {shlex.quote(text(self.case))}"

    @property
    def kind(self) -> tuple[str, str]:
        """What findings of one fault have in common, mostly."""
        return self.case.operator, re.sub(r"[\d.e+-]+", "#", self.what)[:60]


def text(cases: Case | list[Case]) -> str:
    """Cases as Python without apostrophes, for a shell."""
    return repr(cases).replace("'", '"')


@dataclass
class Tally:
    calls: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest: list[tuple[float, Case]] = field(default_factory=list)


class Batches:
    """Runs cases through `check` and gathers what is found."""

    def __init__(self, check: Check, hang: float = HANG, threads: int = 1):
        self.check, self.hang, self.threads = check, hang, threads
        self.tally = Tally()
        self._at = mmap.mmap(-1, 8)

    def run(self, cases: list[Case]) -> None:
        """All cases, in as many children as it takes."""
        begin = 0
        while begin < len(cases):
            status, wrong, times, said = self._fork(cases[begin:])
            self.tally.findings += [Finding(cases[begin + i], what) for i, what in wrong]
            ran = len(cases) - begin if status == 0 else self._index() + 1
            self.tally.calls.update(case.operator for case in cases[begin : begin + ran])
            slow = [(seconds, cases[begin + i]) for i, seconds in times]
            self.tally.slowest = sorted([*self.tally.slowest, *slow], key=lambda s: -s[0])[:5]
            if status != 0:
                last = begin + ran - 1
                found = self._culprit(cases[max(last - 64, begin) : last + 1], status, said)
                self.tally.findings += [] if REFUSED.search(found.what) else [found]
            begin += ran

    def _index(self) -> int:
        return int.from_bytes(self._at[:8], "little")

    def _culprit(self, cases: list[Case], status: int, said: str) -> Finding:
        """What the last of `cases` did: alone, or after as few of those before it as it takes; or what it did once."""
        for before in (0, 1, 2, 4, 8, 16, 32, 64):
            tried = cases[max(len(cases) - 1 - before, 0) :]
            again, _, _, says = self._fork(tried)
            if again == 0:
                continue
            what = _named(again) + (
                f" after {len(tried) - 1} other calls: {text(tried[:-1])}" if len(tried) > 1 else ""
            )
            return Finding(tried[-1], what + (f"\n{says}" if says else ""))
        return Finding(cases[-1], f"{_named(status)}, once; not when run again" + (f"\n{said}" if said else ""))

    def _fork(self, cases: list[Case]) -> tuple[int, list[tuple[int, str]], list[tuple[int, float]], str]:
        """Runs cases in a child: its wait status, findings and slow calls by index, and the end of what it said."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
            self._at[:8] = bytes(8)
            pid = os.fork()
            if pid == 0:
                self._work(cases, out.fileno(), said.fileno())
            status = self._wait(pid)
            out.seek(0)
            said.seek(0)
            lines = [json.loads(line) for line in out.read().splitlines() if line.endswith("]")]
            found = [(i, what) for i, what, _ in lines if what]
            slow = [(i, seconds) for i, what, seconds in lines if not what]
            return status, found, slow, said.read()[-6000:] if status else ""

    def _wait(self, pid: int) -> int:
        """The child's wait status; a child that makes no progress is killed."""
        at, since = -1, time.monotonic()
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            if self._index() != at:
                at, since = self._index(), time.monotonic()
            elif time.monotonic() - since > STALL:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def _work(self, cases: list[Case], out: int, said: int) -> None:
        """The child's life."""
        os.dup2(said, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        torch.set_num_threads(self.threads)
        code = 1
        try:
            for i, case in enumerate(cases):
                self._at[:8] = i.to_bytes(8, "little")
                # Its signal ends the process wherever it is.
                signal.setitimer(signal.ITIMER_PROF, self.hang)
                begin = time.process_time()
                try:
                    what = self.check(case)
                except Exception:
                    what = f"stops the fuzzer itself: {traceback.format_exc(limit=-3)}"
                seconds = time.process_time() - begin
                if what or seconds > 0.3:
                    os.write(out, (json.dumps([i, what, seconds]) + "\n").encode())
            code = 0
        finally:
            os._exit(code)


def _named(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGPROF:
            return "hangs: more processor time than a call may take"
        if number == signal.SIGKILL:
            return "hangs: waits and does not go on"
        return f"crashes: {signal.Signals(number).name}"
    return f"ends the process with status {os.waitstatus_to_exitcode(status)}"
