"""What the whole process shares: the instruction set in use and how exact convolution must be."""

import threading
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
    _changed()


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
    _thread.precision = precision
    try:
        yield
    finally:
        torch.ops.torchconv._swap_thread_precision(before)
        _thread.precision = before


def set_batch_invariant(invariant: bool) -> None:
    """Whether a sample's result may not depend on the batch that it is in, process-wide.

    Args:
        invariant: false (the default) lets the choice of a convolution's algorithm look at the batch, where that is
            faster: a sample's result is then the same for any number of threads, but may be rounded otherwise in
            another batch. True keeps it the same, to the bit, in every batch. ``torch.use_deterministic_algorithms``
            does as well.
    """
    torch.ops.torchconv.set_batch_invariant(invariant)
    _changed()


def get_batch_invariant() -> bool:
    """What :func:`set_batch_invariant` last set."""
    return torch.ops.torchconv.get_batch_invariant()


def is_batch_invariant() -> bool:
    """Whether a sample's result may not depend on the batch that it is in, for either reason."""
    return torch.are_deterministic_algorithms_enabled() or get_batch_invariant()


_process = object()  # another for every change of a process-wide setting
_thread = threading.local()


def _changed() -> None:
    global _process
    _process = object()


def in_force() -> tuple[object, str | None, bool]:
    """What the choice of an algorithm hangs on beside the convolution: equal as long as nothing of it changes."""
    return _process, getattr(_thread, "precision", None), torch.are_deterministic_algorithms_enabled()
