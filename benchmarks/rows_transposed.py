"""Rows of transposed convolution, as decoders and generators have it: most double their maps' sides."""

import math
from dataclasses import dataclass
from typing import Any

import torch

import torchconv

from .row import Row


@dataclass(frozen=True)
class TransposedRow(Row):
    """A transposed convolution. Its weight is [C, O/groups, *], and each tap of it meets each position of the input."""

    def multiply_adds(self, output: torch.Size) -> int:
        return math.prod(self.input) * math.prod(self.weight[1:]) if self.weight else 0

    def layer(self) -> torch.nn.Module:
        assert self.weight is not None
        module: Any = getattr(torchconv.nn, f"ConvTranspose{self.dims}d")
        filters = self.weight[1] * self.options.get("groups", 1)
        return module(self.input[1], filters, self.weight[2:], bias=False, **self.options)


def transposed_rows() -> list[Row]:
    """U-Nets' doubling by filters of 2, encoder–decoders' by 3, generators' by 4; sides that are a multiple of no tile;
    and a few others: stride 1, one and three axes, groups."""
    two: dict[str, Any] = {"stride": 2}
    three, four = {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 2, "padding": 1}
    doubling = [
        *((two, 2, *row) for row in [(4, 512, 14, 256), (4, 256, 28, 128), (4, 128, 27, 64), (2, 64, 56, 32)]),
        *((three, 3, *row) for row in [(16, 512, 4, 256), (8, 256, 14, 128), (4, 128, 28, 64), (2, 64, 56, 32)]),
        *((three, 3, *row) for row in [(8, 200, 9, 100), (4, 96, 27, 96)]),
        *((four, 4, *row) for row in [(16, 512, 4, 256), (16, 256, 8, 128), (8, 128, 16, 64), (2, 64, 56, 32)]),
        *((four, 4, *row) for row in [(8, 200, 9, 100), (4, 128, 27, 96)]),
    ]
    rows = [_row(batch, c, side, o, k, options) for options, k, batch, c, side, o in doubling]
    return [
        *rows,
        _row(8, 128, 13, 64, 3, {"padding": 1}),
        _row(8, 128, 14, 128, 4, {**four, "groups": 2}),
        _row(16, 128, 200, 64, 4, four, dims=1),
        _row(2, 64, 10, 32, 2, two, dims=3),
        _row(2, 64, 8, 32, 4, four, dims=3),
    ]


def _row(batch: int, c: int, side: int, o: int, k: int, options: dict[str, Any], dims: int = 2) -> TransposedRow:
    """c to o maps of `side` pixels a side before they grow."""
    kernel = f"{k}x{k}" if dims == 2 else f"{dims}d{k}"
    groups = options.get("groups", 1)
    notes = [f"s{options.get('stride')}"] * ("stride" in options) + [f"g{groups}"] * (groups > 1)
    name = ".".join(["transposed", kernel, f"{c}-{o}@{side}", *notes])
    weight = (c, o // groups, *[k] * dims)
    return TransposedRow(name, f"conv_transpose{dims}d", (batch, c, *[side] * dims), weight, options=options)
