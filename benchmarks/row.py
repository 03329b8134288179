"""One row of the benchmarks: a layer, the operands it runs on, and the two libraries that it is timed in."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import torchconv
import torchconv.functional

LIBRARIES: dict[str, Any] = {"built-in": torch.nn.functional, "torchconv": torchconv.functional}
LAYOUTS = ("contiguous", "channels-last")


def memory_format(layout: str, dims: int) -> torch.memory_format:
    """The layout of tensors with `dims` spatial axes."""
    if layout == "contiguous":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


@dataclass(frozen=True)
class Row:
    """One layer: the same call on the built-in operator and on ours, with the sizes of its operands."""

    name: str
    operator: str  # "conv2d", "max_pool2d", "avg_pool2d", ...
    input: tuple[int, ...]  # [N, C, *]
    weight: tuple[int, ...] | None = None  # [O, C/groups, *]
    bias: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        return len(self.input) - 2

    @property
    def layouts(self) -> tuple[str, ...]:
        """PyTorch has no channels-last layout in one dimension."""
        return LAYOUTS[:1] if self.dims == 1 else LAYOUTS

    @property
    def directions(self) -> dict[str, tuple[int, ...]]:
        """What is timed, with the places of the operands whose gradients it takes."""
        directions: dict[str, tuple[int, ...]] = {"forward": (), "input grad": (0,)}
        return directions if self.weight is None else {**directions, "weight grad": (1, 2) if self.bias else (1,)}

    def multiply_adds(self, output: torch.Size) -> int:
        """Those of the definition, zeros of the padding included; 0 for a pooling."""
        return output.numel() * math.prod(self.weight[1:]) if self.weight else 0

    def bytes_moved(self, direction: str, output: torch.Size, size: int) -> int | None:
        """What a direction must read and write once each, of elements of `size` bytes, where memory alone limits it:
        poolings, a byte an output for the position of a maximum, and depth-wise convolutions."""
        if self.weight is not None and self.options.get("groups", 1) != self.input[1]:
            return None
        maps = math.prod(self.input) + output.numel()
        positions = output.numel() if self.operator.startswith("max") else 0
        return maps * size + positions + (math.prod(self.weight) * size if self.weight else 0)

    def call(self, library: Any) -> Callable[..., Tensor]:
        """The layer as a function of its operands."""
        function = getattr(library, self.operator)
        return lambda *operands: function(*operands, **self.options)

    def operands(self, layout: str, dtype: torch.dtype) -> list[Tensor]:
        """Input and, where there are any, weight and bias."""
        generator = torch.Generator().manual_seed(0)
        operands = [torch.randn(self.input, generator=generator)]
        if self.weight is not None:
            operands.append(torch.randn(self.weight, generator=generator) * math.prod(self.weight[1:]) ** -0.5)
            operands[1:] += [torch.randn(self.weight[0], generator=generator)] if self.bias else []
        form = memory_format(layout, self.dims)
        return [t.to(dtype).contiguous(memory_format=form) if t.dim() > 1 else t.to(dtype) for t in operands]

    def layer(self) -> torch.nn.Module:
        """The same as a module of ours, for torchconv.explain."""
        module = getattr(torchconv.nn, "".join(word.capitalize() for word in self.operator.split("_")))
        if self.weight is None:
            return module(**self.options)
        return module(self.input[1], self.weight[0], self.weight[2:], bias=self.bias, **self.options)
