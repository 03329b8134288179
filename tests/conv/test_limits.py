"""Convolution at the limits: more elements than 32 bits count, thousands of calls, numbers close to zero."""

import ctypes
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conv_cases import DIRECTIONS, LAYOUTS, bound, chosen, exact, operands, relative_error, run
from shapes import case
from suite import slow

import torchconv.functional as TF

ops = torch.ops.torchconv
F = torch.nn.functional


def available_memory() -> int:
    """Bytes that can still be had, by the machine's count and the control group's."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and "MemAvailable:" in (text := meminfo.read_text()):
        free = int(text.split("MemAvailable:")[1].split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


@slow
@pytest.mark.parametrize(("algorithm", "layout"), [("direct", "contiguous"), ("winograd", "channels_last")])
def test_more_elements_than_32_bits_count(algorithm: str, layout: str) -> None:
    """An output of 64 maps of 5,800 × 5,800: 2,152,960,000 elements, 4.3 GB."""
    if (available := available_memory()) < 8 << 30:
        pytest.skip(f"needs 8 GiB of memory for an output of 4.3 GB, and {available / 2**30:.1f} GiB are available")
    side = 5800
    x = torch.empty(1, 2, side, side, dtype=torch.bfloat16, memory_format=LAYOUTS[layout]).normal_()
    w, b = torch.randn(64, 2, 3, 3).bfloat16(), torch.randn(64).bfloat16()
    y = ops.convolution(x, w, b, [1, 1], [1, 1, 1, 1], [1, 1], 1, algorithm)
    assert y.numel() > 2**31
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    padded, size = F.pad(x, [1, 1, 1, 1]), 40
    # The 2³¹st element lies in row 5,785 of all maps, channels-last, or in row 4,855 of the last map.
    for row, column in ((0, 0), (side // 2, 17), (4840, 300), (5770, 100), (side - size, side - size)):
        crop = padded[..., row : row + size + 2, column : column + size + 2]
        expected = F.conv2d(crop.double(), w.double(), b.double())
        ours = y[..., row : row + size, column : column + size]
        for maps in (slice(0, 32), slice(32, 63), slice(63, 64)):
            error = relative_error(ours[:, maps], expected[:, maps])
            assert error <= bound(algorithm, torch.bfloat16, "forward"), (row, column, maps, error)


# ---- memory ----


def trimmed_resident_memory() -> int:
    """Bytes resident, after the allocator gave back what it can."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def call_often(calls: int, first: int) -> None:
    """Prints the resident memory after `first` calls, forward and backward, of ever new shapes and after `calls`."""
    generator = random.Random(0)
    sizes = lambda *choices: generator.choice(choices)  # noqa: E731
    for call in range(1, calls + 1):
        groups, k, stride = sizes(1, 1, 1, 2), sizes(1, 3, 3, 3, 5), sizes(1, 1, 1, 2)
        c, o = (groups * generator.randint(1, 40) for _ in range(2))
        if call % 5 == 0:
            groups = o = c  # depth-wise
        sides = [generator.randint(k, 20) for _ in range(2)]
        shape = case("", (generator.randint(1, 3), c, *sides), (o, c // groups, k, k), stride, k // 2, 1, groups)
        x, w, b, g = operands(shape, sizes(torch.float32, torch.bfloat16), sizes(*LAYOUTS))
        by_name = call % 2 and chosen(shape, "forward", x, w, g, "winograd")[0]
        tensors = [t.requires_grad_() for t in (x, w, b)]
        y = TF.conv2d(x, w, b, stride, k // 2, 1, groups, algorithm=by_name or "auto")
        torch.autograd.grad(y, tensors, g)
        del x, w, b, g, y, tensors
        if call in (first, calls):
            print(trimmed_resident_memory())


@slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="reads memory through glibc and /proc")
def test_resident_memory_is_flat() -> None:
    """2,000 calls of all three directions and the bias gradient, in a process of their own.

    Between the readings lie 6,000 calls of operators. Had each lost 175 bytes, less than one tensor without its data,
    the process would have grown by a mebibyte. One arena: several share out what is free by chance.
    """
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here.parents[1], here.parent, here)))
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", "import test_limits; test_limits.call_often(2000, 500)"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    early, late = map(int, result.stdout.split())
    assert late - early < 1 << 20, (early, late)


# ---- numbers close to zero ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("factor", [1, 1e20])
def test_denormals(direction: str, layout: str, factor: float) -> None:
    """Activations are denormal, and the result where the other operand is not large.

    A sum below the smallest normal number is rounded to a multiple of 2⁻¹⁴⁹, by half of that at most, and direct
    summation has 180 sums to an output: 20 channels of 9 taps, or 2 · 90 positions. Winograd has 49 points of 20
    channels, or of 8 tiles; four steps (Bᵀx along two axes, the product, Aᵀ) round each, and what follows multiplies
    that by the other operand and by an entry of Aᵀ an axis, 16 at most: 2⁴, for tiles of five outputs. So many
    independent roundings add up as the square root of their number.
    """
    for algorithm, c in (
        ("direct", case("", (2, 20, 9, 10), (18, 20, 3, 3), padding=1)),
        ("gemm", case("", (2, 20, 9, 10), (18, 20, 3, 3), padding=1)),
        ("winograd", case("", (2, 20, 9, 10), (18, 20, 3, 3), padding=1)),
        ("depthwise", case("", (2, 20, 9, 10), (20, 1, 3, 3), padding=1, groups=20)),
    ):
        if algorithm == "gemm" and direction == "weight_grad":
            continue
        x, w, b, g = operands(c, torch.float32, layout)
        if direction == "forward":
            x, w, b, other = x * 1e-39, w * factor, b * 1e-39, w * factor
        elif direction == "input_grad":
            g, w, other = g * 1e-39, w * factor, w * factor
        else:
            x, g, other = x * 1e-39, g * factor, g * factor
        expected = exact(c, direction, x, w, b, g)
        result = run(c, direction, x, w, b, g, algorithm).double()
        roundings = (4 * 49 * 20) ** 0.5 * 16 * 16 * other.abs().max().double() if algorithm == "winograd" else 180
        allowed = bound(algorithm, torch.float32, direction) * expected.norm()
        allowed += roundings * 2.0**-150 * expected.numel() ** 0.5
        assert allowed < expected.norm() / 10
        assert (result - expected).norm() <= allowed, algorithm
