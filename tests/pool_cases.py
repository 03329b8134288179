"""Named poolings, each chosen to hurt, and what the pooling tests share.

The names say where a shape stands relative to the kernels' loops (channels in vectors of up to 16 and fours of them;
contiguous planes in blocks of 16, cut into strips of some 512 pixels; outputs by fours), or what is unusual about it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class PoolCase:
    name: str
    input: tuple[int, ...]  # [N, C, *] or [C, *]
    kernel: int | tuple[int, ...]
    stride: int | tuple[int, ...] | None = None
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    ceil_mode: bool = False
    dims: int = 2

    def __str__(self) -> str:
        return self.name

    @property
    def batched(self) -> bool:
        return len(self.input) == self.dims + 2

    @property
    def window(self) -> int:
        """Elements in a window."""
        return math.prod(self.kernel) if isinstance(self.kernel, tuple) else self.kernel**self.dims

    def max_pool(self, functions, x: Tensor, **options):
        function = getattr(functions, f"max_pool{self.dims}d")
        return function(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, **options)

    def avg_pool(self, functions, x: Tensor, count_include_pad: bool = True, **options):
        """Without the dilation, which a mean does not have."""
        function = getattr(functions, f"avg_pool{self.dims}d")
        stride = self.kernel if self.stride is None else self.stride
        return function(x, self.kernel, stride, self.padding, self.ceil_mode, count_include_pad, **options)


CASES = [
    PoolCase("plain", (2, 3, 10, 12), 2),
    PoolCase("equal", (2, 3, 6, 32), 2),  # 16 outputs a row
    PoolCase("multiple", (1, 2, 5, 65), 3, 2),  # 32 outputs a row
    PoolCase("tail", (2, 3, 7, 41), 3, 2),  # 20 outputs a row
    PoolCase("long_row", (1, 2, 3, 530), 2, 1),  # 529 outputs a row
    PoolCase("short_rows", (3, 11, 9, 8), 3, 2),  # 33 planes
    PoolCase("channels_multiple", (2, 64, 6, 6), 2),
    PoolCase("channels_tail", (2, 37, 6, 5), 3, 2, 1),
    PoolCase("many_channels", (1, 300, 4, 5), 2, 1),
    PoolCase("overlapping", (2, 3, 11, 21), 3, 1, 1),
    PoolCase("one_channel", (3, 1, 13, 15), 2, 2, 0, 1, True),
    PoolCase("six_channels", (3, 6, 13, 15), 2, 2, 0, 1, True),
    PoolCase("six_overlapping", (3, 6, 9, 11), 3, 2, 1, 1, True),
    PoolCase("vector_of_channels", (2, 16, 13, 15), 3, 2, 0, 1, True),
    PoolCase("fours_of_vectors", (1, 144, 6, 7), 3, 1, 1),
    PoolCase("triples", (2, 20, 9, 7), 3, 1, 1),  # rows of outputs by fours, and one
    PoolCase("triples_tiny", (2, 17, 2, 2), 3, 1, 1),
    PoolCase("blocks_of_planes", (4, 16, 8, 8), 2),
    PoolCase("tiny_planes", (5, 7, 2, 2), 2),
    # Windows of 2 x 2 side by side: planes one after the other fill vectors, or end in the middle of one.
    *(PoolCase(f"pairs_{side}", (3, 7, side, side), 2) for side in (4, 6, 8, 10, 14, 16, 18, 28, 30, 32, 34)),
    PoolCase("pairs_tiny", (1, 1, 2, 2), 2),
    PoolCase("pairs_short", (1, 1, 2, 6), 2),
    PoolCase("pairs_strips", (3, 11, 46, 36), 2),  # 33 planes, cut into strips
    PoolCase("strips", (1, 18, 40, 43), 3, 2, 1),
    PoolCase("strips_overlapping", (1, 17, 41, 40), 3, 1, 1),
    PoolCase("much_overlapping", (1, 17, 12, 12), 7, 1, 3),
    PoolCase("strided_past_window", (2, 3, 13, 40), 2, 3),
    PoolCase("unequal_axes", (2, 3, 12, 19), (3, 2), (2, 1), (1, 0), (1, 2)),
    PoolCase("dilated", (2, 3, 13, 30), 3, 2, 1, 3),
    PoolCase("padded", (2, 3, 9, 17), 4, 2, 2),
    PoolCase("ceil", (2, 3, 10, 22), 3, 2, 0, 1, True),
    PoolCase("ceil_over_padding", (2, 3, 8, 23), 4, 3, 2, 1, True),
    PoolCase("ceil_dilated", (2, 3, 12, 25), 3, 2, 1, 2, True),
    PoolCase("one_element", (2, 3, 5, 9), 1),
    PoolCase("one_element_strided", (2, 3, 5, 19), 1, 2),
    PoolCase("whole_input", (2, 3, 5, 6), (5, 6)),
    PoolCase("one_pixel", (2, 3, 1, 1), 1),
    PoolCase("byte_window", (1, 2, 20, 20), 16, 1),  # 256 elements
    PoolCase("short_window", (1, 2, 20, 20), 17, 1),  # 289
    PoolCase("unbatched", (3, 10, 18), 3, 2, 1),
    PoolCase("empty_batch", (0, 3, 8, 8), 2),
    PoolCase("plain_1d", (2, 3, 40), 2, dims=1),
    PoolCase("dilated_1d", (2, 5, 33), 3, 2, 1, 3, True, dims=1),
    PoolCase("unbatched_1d", (4, 21), 3, 1, 1, dims=1),
    PoolCase("int_window_1d", (1, 2, 33000), 32900, 7, dims=1),
    PoolCase("plain_3d", (2, 3, 6, 4, 20), 2, dims=3),
    PoolCase("overlapping_3d", (2, 5, 5, 6, 7), 3, 2, 1, 1, True, dims=3),
    PoolCase("dilated_3d", (1, 2, 9, 7, 21), (2, 3, 2), (1, 2, 2), (1, 1, 0), (3, 2, 2), dims=3),
    PoolCase("unbatched_3d", (3, 4, 5, 6), 2, 1, dims=3),
]


@dataclass(frozen=True)
class AdaptiveCase:
    name: str
    input: tuple[int, ...]
    output: int | tuple[int | None, ...]
    dims: int = 2

    def __str__(self) -> str:
        return self.name

    def pool(self, functions, kind: str, x: Tensor, **options):
        return getattr(functions, f"adaptive_{kind}_pool{self.dims}d")(x, self.output, **options)


ADAPTIVE = [
    AdaptiveCase("dividing", (2, 3, 12, 32), (4, 16)),
    AdaptiveCase("same_size", (2, 3, 7, 9), (7, 9)),
    AdaptiveCase("kept_axis", (2, 3, 7, 9), (None, 4)),
    AdaptiveCase("alternating", (2, 3, 5, 53), (3, 20)),  # widths 2 3 2, and 3 and 4
    AdaptiveCase("short_rows", (3, 11, 13, 13), 6),
    AdaptiveCase("growing", (2, 3, 3, 5), (7, 11)),
    AdaptiveCase("whole", (2, 37, 7, 7), 1),
    AdaptiveCase("whole_large", (1, 2, 40, 50), 1),  # 2,000 elements a window
    AdaptiveCase("unbatched", (3, 10, 11), 4),
    AdaptiveCase("empty_batch", (0, 3, 8, 8), 2),
    AdaptiveCase("one_dimension", (2, 3, 50), 19, dims=1),
    AdaptiveCase("unbatched_1d", (3, 50), 7, dims=1),
    AdaptiveCase("three_dimensions", (2, 3, 5, 6, 7), (2, None, 3), dims=3),
    AdaptiveCase("unbatched_3d", (3, 5, 6, 7), 2, dims=3),
]


def layouts(x: Tensor, dims: int = 2) -> dict[str, Tensor]:
    """The same values in each memory format that an input with so many spatial axes has."""
    if dims == 1:
        return {"contiguous": x}
    batch = x if x.dim() == dims + 2 else x.unsqueeze(0)
    batch = batch.contiguous(memory_format=CHANNELS_LAST[batch.dim()])
    return {"contiguous": x, "channels_last": batch if x.dim() == dims + 2 else batch.squeeze(0)}


def integers(size, dtype: torch.dtype = torch.float64, low: int = -4, high: int = 5) -> Tensor:
    """Small whole numbers: with many ties, and sums of them exact in every dtype."""
    return torch.randint(low, high, size).to(dtype)


def distinct(size) -> Tensor:
    """Float64 values with no two closer than 1/7, for finite differences of a maximum."""
    count = torch.Size(size).numel()
    return torch.randperm(count).double().reshape(size) / 7


def assert_same(a: Tensor, b: Tensor) -> None:
    """The same dtype, shape, strides and, but for the payload of a NaN, bits."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    if a.is_floating_point():
        assert torch.equal(a.nan_to_num().signbit(), b.nan_to_num().signbit())


def gradients(function, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """(output, gradient of x) for the gradient `grad` of the output."""
    x = x.detach().requires_grad_()
    out = function(x)
    return out.detach(), torch.autograd.grad(out, x, grad)[0]
