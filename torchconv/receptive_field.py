"""Receptive fields: computed along a network's layers, and estimated by differentiating one output to the input."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._draw import draw_receptive_field
from ._field import Field, along_graph
from ._field_estimate import connections, derivatives, estimated, support


@dataclass(frozen=True)
class ReceptiveField:
    """What `receptive_field` returns; `size`, `stride` and `offset` are the computed ones where there are any."""

    layer: str
    input_size: tuple[int, ...]  # spatial
    output_size: tuple[int, ...]  # spatial, () where the layer's output has no positions
    computed: Field | None
    reason: str  # why nothing could be computed, or ""
    estimated: Field | None  # None where the field meets the input's edge, or an axis has a single position
    position: tuple[int, ...]  # the output in the middle
    estimated_box: tuple[tuple[int, int], ...]  # what that one sees
    # [*input_size], |derivative| of its maps' sum, summed over the input's maps, by the actual weights; of one channel
    # [C, *input_size], the derivative with its sign
    gradient: Tensor = field(repr=False)

    @property
    def field(self) -> Field:
        found = self.computed or self.estimated
        if found is None:
            raise ValueError(f"the receptive field of '{self.layer}' is only known as estimated_box: {self.reason}")
        return found

    @property
    def size(self) -> tuple[int, ...]:
        return self.field.size

    @property
    def stride(self) -> tuple[int, ...]:
        return self.field.stride

    @property
    def offset(self) -> tuple[int, ...]:
        return self.field.offset

    def box(self, position: Sequence[int] | None = None) -> tuple[tuple[int, int], ...]:
        """What the output at `position` (the middle one) sees of the input: (begin, end) along each axis."""
        return self.field.box(self.position if position is None else position, self.input_size)

    def draw(self, ax: Any = None) -> Any:
        """The gradient as a picture, with the field of the middle output as a frame; needs matplotlib.

        Args:
            ax: matplotlib axes to draw into. Default: those of a new figure.

        Returns:
            The axes.
        """
        return draw_receptive_field(self, ax)


@torch.inference_mode(False)
@torch.enable_grad()
def receptive_field(
    model: torch.nn.Module, layer: str | torch.nn.Module, input_size: Sequence[int], channel: int | None = None
) -> ReceptiveField:
    """Which inputs an output of `layer` depends on, found in two ways.

    Computed: along the layers, from ``size 1, stride 1, offset 0`` at the input, by a layer of kernel k, stride s,
    dilation d and p zeros before the first element::

        size += d·(k − 1)·stride        offset −= p·stride        stride *= s

    so that L layers of side K at stride 1 see ``1 + L·(K − 1)``. Where branches meet, the union. This takes a model
    that torch.fx can trace, of convolutions, poolings, zero padding and what works position by position.

    Estimated: one output of the layer, the one in the middle of its map, is set to 1 and the derivative taken back to
    the input; what is not zero is the field. Since ReLU and maximum pooling hide some inputs at any one time, this is
    done on a copy that shows the connections alone: its weights are positive, its biases zero, its maxima means. On
    plain networks both agree. `gradient` is the derivative by the model's actual weights at a random input, which shows
    how much each input counts.

    Args:
        model: any module; it is not changed.
        layer: a layer in it, or its name in ``named_modules()``.
        input_size: (C, L), (C, H, W) or (C, D, H, W), of one input.
        channel: one map of the layer, whose middle neuron `gradient` is then of, signed. Default: all maps together.

    Returns:
        A `ReceptiveField`: size, stride and offset along each axis, what the middle output sees, and ``draw()``.

    Raises:
        TypeError: `model` is not a Module.
        ValueError: a layer that is not in the model, a map that it has not, or an input size of another form.
        RuntimeError: a layer that this input does not reach, or whose output is no tensor.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"receptive_field takes a torch.nn.Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    name = layer if isinstance(layer, str) else next((n for n, m in modules.items() if m is layer), None)
    if name is None or name not in modules:
        raise ValueError(f"receptive_field: the model has no layer {layer!r}")
    shown = name or type(model).__name__
    if not name:
        model, name = torch.nn.Sequential(model), "0"
    input_size = tuple(input_size)
    if len(input_size) not in (2, 3, 4) or any(n < 1 for n in input_size):
        raise ValueError(f"receptive_field: input_size must be (C, L), (C, H, W) or (C, D, H, W), got {input_size}")

    seed = torch.Generator().manual_seed(0)
    positive, anything = (
        draw(1, *input_size, dtype=torch.float64, generator=seed) for draw in (torch.rand, torch.randn)
    )
    gradients, shape = derivatives(connections(model), name, positive + 0.5)
    output_size = tuple(shape[2:]) if len(shape) == len(input_size) + 1 else ()
    boxes = [support(g) for g in gradients]
    actual = copy.deepcopy(model).cpu().eval().double()
    computed, reason = along_graph(model, name, input_size[1:])
    return ReceptiveField(
        shown,
        input_size[1:],
        output_size,
        computed,
        reason,
        estimated(boxes, output_size, input_size[1:]),
        tuple(n // 2 for n in output_size),
        boxes[0],
        derivatives(actual, name, anything, middle_only=True, channel=channel)[0][0],
    )
