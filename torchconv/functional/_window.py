"""Where a convolution's filters lie on its maps: `Window`, padding in its several forms, and the sizes that follow.

The operators take padding flat: (before, after) of the first axis, then of the next. torch.nn.functional.pad takes the
last axis first.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ..ops import output_sides
from ._arguments import LARGEST, check_fits, integer, per_axis

Padding: TypeAlias = str | int | Sequence[int] | Sequence[Sequence[int]]


class Window(NamedTuple):
    """What the operators of a convolution take beside its operands and the algorithm."""

    stride: list[int]
    padding: list[int]  # flat
    dilation: list[int]
    groups: int

    def output_sides(self, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """The sides of the output of an input of this spatial size."""
        return output_sides(size, kernel, self.stride, self.padding, self.dilation)


def flat(pairs: Iterable[Sequence[int]]) -> list[int]:
    """Padding as the operators take it, of a (before, after) for each axis."""
    return [side for pair in pairs for side in pair]


def is_pairs(padding: Any) -> bool:
    """Whether padding as a caller gives it has a (before, after) for some axis."""
    return isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding)


def pad_amounts(padding: Sequence[int]) -> list[int]:
    """Flat padding as torch.nn.functional.pad takes it, and the other way round."""
    return [side for axis in range(len(padding) - 2, -1, -2) for side in padding[axis : axis + 2]]


def plain_padding(padding: Any, dims: int) -> list[int] | None:
    """Padding, flat, where a caller gives it as most do: as an integer, or as a tuple with one for each axis."""
    if type(padding) is int:
        return [padding] * (2 * dims) if 0 <= padding <= LARGEST else None
    if type(padding) is not tuple or len(padding) != dims:
        return None
    for v in padding:
        if type(v) is not int or not 0 <= v <= LARGEST:
            return None
    return [v for v in padding for _ in (0, 1)]


def both_sides(
    padding: Padding,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    name: str,
) -> list[int]:
    """Padding as a caller gives it, flat."""
    dims = len(kernel)
    plain = plain_padding(padding, dims)
    if plain is not None:
        return plain
    if padding == "valid":
        return [0] * (2 * dims)
    if padding == "same":
        return same_padding(size, kernel, stride, dilation, name)
    if isinstance(padding, str):
        raise RuntimeError(f"{name}: padding must be 'same', 'valid' or integers, got '{padding}'")
    if is_pairs(padding):
        pairs: Any = [p if isinstance(p, (tuple, list)) else (p, p) for p in padding]  # type: ignore[union-attr]
        if len(pairs) != dims or any(len(p) != 2 for p in pairs):
            raise RuntimeError(f"{name}: padding by side must be {dims} pairs (before, after), got {padding}")
        values = [integer(v, "padding", name) for v in flat(pairs)]
        check_fits(values, "padding", name)
        _check_padding(values, padding, name)
        return values
    given = padding if isinstance(padding, (tuple, list)) else (padding,)
    _check_padding([integer(v, "padding", name) for v in given], padding, name)
    return flat((v, v) for v in per_axis(padding, dims, "padding", name, 0))  # type: ignore[arg-type]


def _check_padding(values: Sequence[int], padding: Padding, name: str) -> None:
    if any(v < 0 for v in values):
        raise RuntimeError(f"{name}: negative padding is not supported, got {padding}")


def same_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], name: str
) -> list[int]:
    """The zeros, flat, that make the output's side ``⌈size/stride⌉``, the odd one at the end."""
    padding = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        padding += [total // 2, total - total // 2]
    check_fits(padding, "padding", name)
    return padding


def transposed_sides(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """A transposed convolution's output: ``(side − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1``
    along each axis."""
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, extra, d in zip(size, kernel, stride, padding, output_padding, dilation, strict=True)
    ]


def transposed_window(
    input: Tensor,
    kernel: Sequence[int],
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    name: str,
    least: int = 1,
) -> tuple[list[int], Window]:
    """A transposed convolution's output's spatial size, of `least` or more, and the window with which a convolution of
    that has the input's size: its padding crops what output_padding added."""
    if any(extra >= s and extra >= d for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise RuntimeError(
            f"{name}: output_padding must be smaller than either stride or dilation, got "
            f"output_padding {output_padding}, stride {stride}, dilation {dilation}"
        )
    size = transposed_sides(input.shape[-len(kernel) :], kernel, stride, padding, output_padding, dilation)
    check_fits(size, "the output's side", name)
    if any(n < least for n in size):
        raise RuntimeError(f"{name}: input of shape {list(input.shape)} gives an output of spatial size {size}")
    cropped = flat((p, p - extra) for p, extra in zip(padding, output_padding, strict=True))
    return size, Window(stride, cropped, dilation, groups)
