"""What the times are to be read against: the machine, its arithmetic and its memory, measured in the same run."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

import torchconv

CAPS = ("TORCHCONV_CPU_CAPABILITY", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "GLIBC_TUNABLES", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class Machine:
    """The two floors under every time are multiplications over `peak` and bytes over `copy`."""

    cpu: str
    cores: int
    capability: str  # torchconv's
    torch: str
    torch_capability: str
    dtype: str
    environment: dict[str, str]  # what of CAPS is set
    peak: dict[int, float]  # GFLOP/s by number of threads
    copy: dict[int, float]  # GB/s read and written, by number of threads

    def __str__(self) -> str:
        rates = [
            f"{threads} thread{'s' * (threads > 1)}: peak {self.peak[threads]:.0f} GFLOP/s, copy "
            f"{self.copy[threads]:.1f} GB/s"
            for threads in self.peak
        ]
        return "\n".join(
            [
                f"{self.cpu}, {self.cores} cores, torchconv on {self.capability}, torch {self.torch} on "
                f"{self.torch_capability}, {self.dtype}",
                *rates,
                *(f"{name}={value}" for name, value in self.environment.items()),
            ]
        )


def describe(threads: Iterable[int], dtype: torch.dtype) -> Machine:
    counts = tuple(threads)
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        capability=torchconv.cpu_capability(),
        torch=torch.__version__,
        torch_capability=torch.backends.cpu.get_cpu_capability(),
        dtype=str(dtype).removeprefix("torch."),
        environment={name: os.environ[name] for name in CAPS if name in os.environ},
        peak={count: peak(count, dtype) for count in counts},
        copy={count: copy_rate(count) for count in counts},
    )


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak(threads: int, dtype: torch.dtype) -> float:
    """GFLOP/s of fused multiply-adds: the fastest of some dense products that skip no multiplication.

    Nothing here may be compiled, so this is what the best kernels at hand reach: a matrix product, and the built-in's
    direct convolution in channels-last without padding (with padding it skips zeros), which stays within 3% of one FMA
    a cycle in every lane. A lower bound of the true peak, so shares of it are upper bounds.
    """
    rates = []
    for maps, side in [(64, 34), (128, 18), (256, 10)]:
        x = torch.randn(8 * threads, maps, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(maps, maps, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
        flops = 2 * x.shape[0] * (side - 2) ** 2 * 9 * maps**2
        rates.append(flops / _fastest("torch.conv2d(x, w)", threads, x=x, w=w))
    a, b = torch.randn(2, 1024, 1024).to(dtype)
    rates.append(2 * 1024**3 / _fastest("a @ b", threads, a=a, b=b))
    return max(rates) / 1e9


def copy_rate(threads: int) -> float:
    """GB/s of a copy of 64 MiB, counting what is read and what is written."""
    source, target = torch.randn(2, 1 << 24)
    return 2 * source.nbytes / _fastest("target.copy_(source)", threads, source=source, target=target) / 1e9


def _fastest(statement: str, threads: int, repeats: int = 20, **tensors: torch.Tensor) -> float:
    """Seconds of the fastest of several calls: what the machine can do, not what it does on average."""
    timer = Timer(statement, globals={"torch": torch, **tensors}, num_threads=threads)
    return min(timer.timeit(1).mean for _ in range(repeats))
