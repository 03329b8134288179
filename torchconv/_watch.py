"""What `explain` sees of one run of a model: which layers are called, on what, and what they keep for the backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .fuse.plan import name_of


@dataclass
class _Call:
    """A call of a layer that is running."""

    first: int  # where its rows belong, before those of the layers in it
    own: set[int]  # addresses of its parameters and buffers
    kept: dict[tuple[int, torch.Size], int] = field(default_factory=dict)  # by address and shape, each tensor once


class Watch:
    """Follows one run of the model through hooks and gathers the rows that `describe` gives for a call of a layer: by
    its name, the layer, its input, its output, and the bytes kept for the backward."""

    def __init__(self, describe: Callable[[str, Any, Any, Any, int], list[Any]]) -> None:
        self.describe = describe
        self.rows: list[Any] = []
        self.calls: dict[str, int] = {}
        self.running: list[_Call] = []  # the innermost last
        self.hooks: set[Any] = {self.enters}
        self.leavers: dict[torch.nn.Module, Any] = {}

    def enters(self, module: torch.nn.Module, args: Any) -> None:
        own = {t.data_ptr() for t in (*module.parameters(), *module.buffers())}
        self.running.append(_Call(len(self.rows), own))

    def saves(self, tensor: Tensor) -> Tensor:
        if self.running and tensor.data_ptr() not in self.running[-1].own:
            self.running[-1].kept[tensor.data_ptr(), tensor.shape] = tensor.numel() * tensor.element_size()
        return tensor

    def ran(self, layers: Sequence[Any], run: Callable[[], Tensor], x: Tensor) -> Tensor:
        """Runs layers as one; the one that is watched stands for all."""
        layer = next((layer for layer in layers if layer in self.leavers), None)
        if layer is None:
            return run()
        first = len(self.rows)
        self.enters(layer, (x,))
        self.running[-1].own |= {t.data_ptr() for one in layers for t in (*one.parameters(), *one.buffers())}
        output = run()
        self.leavers[layer](layer, (x,), {}, output)
        title = " + ".join(map(name_of, layers))
        self.rows[first:] = [replace(row, layer=title) for row in self.rows[first:]]
        return output

    def leaver(self, name: str, layer: torch.nn.Module) -> Any:
        def leaves(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            call = self.running.pop()
            self.calls[name] = self.calls.get(name, 0) + 1
            title = name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"
            given = args[0] if args else kwargs["input"]
            self.rows[call.first : call.first] = self.describe(title, module, given, output, sum(call.kept.values()))

        self.leavers[layer] = leaves
        self.hooks.add(leaves)
        return leaves
