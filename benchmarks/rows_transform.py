"""Rows of filters under transforms: beside them the built-in convolution of as many maps, its copies made by rot90."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import torchconv
from torchconv.nn.group import regular_map
from torchconv.transforms import dihedral, rotations

from .row import Row


@dataclass(frozen=True)
class TransformRow(Row):
    """A 2-D layer whose filters are tried under quarter turns, with their mirror images or not. Its maps are as many as
    the filters by the transforms, or with `reduce` the filters. `regular`: its input are regular maps of p4 too, and
    the weight [O, 4·C, K, K] holds four for each channel, neighbours."""

    mirrors: bool = False
    reduce: str | None = None
    regular: bool = False

    @property
    def transforms(self) -> int:
        return 8 if self.mirrors else 4

    def multiply_adds(self, output: torch.Size) -> int:
        return super().multiply_adds(output) * (1 if self.reduce is None else self.transforms)

    def call(self, library: Any) -> Callable[..., Tensor]:
        return self._ours() if library is torchconv.functional else self._built_in

    def _ours(self) -> Callable[..., Tensor]:
        assert self.weight is not None
        group, kernel = dihedral(4) if self.mirrors else rotations(4), self.weight[2:]
        plain, whole = group.filter_map(kernel), regular_map(group, kernel) if self.regular else None

        def run(x: Tensor, w: Tensor) -> Tensor:
            if whole is None:
                return torchconv.functional.transform_conv2d(x, w, plain, reduce=self.reduce, **self.options)
            copies = torchconv.functional.transform_filters(w.unflatten(1, (-1, 4)), whole).flatten(1, 2)
            return torchconv.functional.conv2d(x, copies, **self.options)

        return run

    def _built_in(self, x: Tensor, w: Tensor) -> Tensor:
        if self.regular:
            channels = w.unflatten(1, (-1, 4))
            copies = [channels.roll(k, 2).rot90(k, (3, 4)).flatten(1, 2) for k in range(4)]
        else:
            copies = [w.rot90(k, (2, 3)) for k in range(4)]
        copies += [copy.flip(3) for copy in copies] if self.mirrors else []
        z = torch.nn.functional.conv2d(x, torch.stack(copies, 1).flatten(0, 1), **self.options)
        return z if self.reduce is None else z.unflatten(1, (-1, self.transforms)).square().sum(2).sqrt()

    def layer(self) -> torch.nn.Module:
        assert self.weight is not None
        filters, kernel = self.weight[0], (self.weight[2], self.weight[3])
        if self.regular:
            return torchconv.nn.GroupConv2d(self.input[1] // 4, filters, kernel, "p4", bias=False, **self.options)
        group = dihedral(4) if self.mirrors else rotations(4)
        options = {"bias": False, "reduce": self.reduce, **self.options}
        return torchconv.nn.TransformInvariantConv2d(self.input[1], filters, kernel, group, **options)


def transform_rows() -> list[Row]:
    """One number for each transform is a plain convolution's cost; a norm over them shows the reduction's. A maximum is
    not among them: where two maps are equal but for rounding, its gradient is not float64's."""
    table: list[tuple[str, int, int, int, int, int, dict[str, Any]]] = [
        ("p4", 16, 64, 28, 16, 3, {}), ("p4", 16, 64, 14, 64, 3, {}), ("p4", 16, 32, 28, 32, 5, {}),
        ("p4m", 16, 64, 28, 16, 3, {"mirrors": True}), ("p4.norm", 16, 32, 28, 32, 3, {"reduce": "norm"}),
        ("p4m.norm", 8, 64, 28, 16, 3, {"mirrors": True, "reduce": "norm"}),
        ("regular", 16, 64, 28, 16, 3, {"regular": True}), ("regular", 16, 128, 14, 32, 3, {"regular": True}),
        ("regular", 8, 256, 14, 64, 3, {"regular": True}), ("regular", 16, 64, 14, 16, 5, {"regular": True}),
    ]  # fmt: skip
    return [
        TransformRow(
            f"transform.{name}.{k}x{k}.{c}-{d}@{side}",
            "conv2d",
            (batch, c, side, side),
            (d, c, k, k),
            options={"padding": k // 2},
            **more,
        )
        for name, batch, c, side, d, k, more in table
    ]
