"""What the whole process shares: the instruction set in use and how exact convolution must be."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def cpu_capability() -> str:
    """The instruction set the kernels run on: ``"default"``, ``"avx2"``, ``"avx512"`` or ``"avx512_bf16"``.

    Picked when the library loads; the environment variable ``TORCHCONV_CPU_CAPABILITY`` caps it. ``"avx512_bf16"``,
    which convolves bfloat16 by the processor's dot product, is picked where that is fast (AMD's processors) or asked
    for; it takes denormal numbers for zeros, as PyTorch's own operators on bfloat16 do there.
    """
    return torch.ops.torchconv.cpu_capability()


def set_conv_precision(precision: str) -> None:
    """How exact a convolution must be, process-wide.

    Args:
        precision: ``"high"`` (the default) allows every algorithm: float64 never takes Winograd's, and FFT is taken
            only where it is estimated to save half of the time. ``"highest"`` forbids both: every output is then a sum
            of its own products. Zeros, whole numbers, signs and quiet passages beside loud ones are then as exact as
            summation makes them; ``"winograd"`` or ``"fft"`` by name is an error.

    Raises:
        ValueError: any other value.
    """
    torch.ops.torchconv.set_conv_precision(precision)


def get_conv_precision() -> str:
    """What holds in this thread: :func:`precision`'s inside of one, else what :func:`set_conv_precision` last set."""
    return torch.ops.torchconv.get_conv_precision()


@contextmanager
def precision(precision: str) -> Iterator[None]:
    """How exact the convolutions must be that the calling thread runs inside; also a decorator.

    Each direction is chosen when it runs: a backward is exact where it is run inside too. Where that is not at hand,
    ``torchconv.convert(model, precision="highest")`` or ``algorithm="highest"`` bind a layer, or a call, and its
    backward.

    Args:
        precision: ``"high"`` or ``"highest"``, see :func:`set_conv_precision`.

    Raises:
        ValueError: any other value.
    """
    before = torch.ops.torchconv._swap_thread_precision(precision)
    try:
        yield
    finally:
        torch.ops.torchconv._swap_thread_precision(before)
