"""What the whole process shares: the instruction set in use and how exact convolution must be."""

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
    """What :func:`set_conv_precision` last set."""
    return torch.ops.torchconv.get_conv_precision()
