"""Every instruction set passes the kernels' tests: one build, capped in processes of their own."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from suite import slow

import torchconv

CAPABILITIES = ["default", "avx2", "avx512", "avx512_bf16"]
TESTS = Path(__file__).parent


def run(arguments: list[str], cap: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "TORCHCONV_CPU_CAPABILITY": cap}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=600
    )


@cache
def picked(cap: str) -> str:
    """What a process with this cap runs on."""
    return run(["-c", "import torchconv; print(torchconv.cpu_capability())"], cap).stdout.strip()


def test_the_widest_is_picked_and_a_cap_above_it_does_not_bind() -> None:
    seen = [picked(cap) for cap in CAPABILITIES]
    assert seen[0] == "default"
    assert [CAPABILITIES.index(s) for s in seen] == sorted(CAPABILITIES.index(s) for s in seen)
    assert all(CAPABILITIES.index(s) <= CAPABILITIES.index(cap) for s, cap in zip(seen, CAPABILITIES, strict=True))


def test_unknown_cap_is_refused() -> None:
    result = run(["-c", "import torchconv; torchconv.cpu_capability()"], "sse9")
    assert result.returncode != 0
    assert "TORCHCONV_CPU_CAPABILITY is 'sse9': expected default, avx2, avx512 or avx512_bf16" in result.stderr


def test_without_a_cap_the_dot_product_is_used_where_it_is_fast() -> None:
    """AMD's processors run it at twice the rate of float32's multiply-adds, Intel's at half."""
    free, widest = picked(""), picked(CAPABILITIES[-1])
    halved = widest == "avx512_bf16" and "AuthenticAMD" not in Path("/proc/cpuinfo").read_text()
    assert free == ("avx512" if halved else widest)


@slow
@pytest.mark.parametrize("cap", CAPABILITIES)
def test_kernels(cap: str) -> None:
    """The tests of the kernels' results again, in a process that runs on that instruction set."""
    if cap == torchconv.cpu_capability():
        pytest.skip(f"this very process runs on {cap}, and so do the tests themselves")
    if picked(cap) != cap:
        pytest.skip(f"this machine has no {cap}: the widest up to it is {picked(cap)}")
    names = ["conv", "bfloat16", "narrow", "depthwise", "winograd", "pool", "norm", "lrn", "local"]
    if cap == "avx512_bf16":
        names = ["conv", "bfloat16", "narrow"]  # all else is avx512's
    chosen = [str(path) for name in names for path in TESTS.glob(f"*/test_{name}.py")]
    assert len(chosen) == len(names)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = run(["-m", "pytest", *options, *chosen], cap)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
