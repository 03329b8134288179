"""Receptive fields: computed along a network's layers, and estimated by differentiating one output to the input."""

import copy
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import nn
from .functional._window import flat, pad_amounts, same_padding
from .ops import output_sides
from .scan import _ELEMENTWISE


class Field(NamedTuple):
    """Along each axis, output i sees the inputs ``offset + i·stride`` to ``offset + i·stride + size``, end excluded."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]  # below zero where the first output also sees padding

    def box(self, position: Sequence[int], input_size: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """What the output at `position` sees of an input of this spatial size: (begin, end) along each axis."""
        return tuple(
            (max(o + i * s, 0), min(o + i * s + k, n))
            for k, s, o, i, n in zip(*self, position, input_size, strict=True)
        )


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
    # [*input_size], |derivative| of its maps' sum, summed over the input's maps, by the actual weights
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
        if len(self.input_size) > 2:
            raise ValueError(f"draw: an input of {len(self.input_size)} spatial axes is no picture")
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure().add_subplot()
        rows = self.gradient.reshape(-1, self.input_size[-1])
        ax.imshow((rows / rows.max().clamp_min(1e-300)).sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
        box = self.estimated_box if self.computed is None else self.box()
        (top, bottom), (left, right) = box if len(box) == 2 else ((0, 1), *box)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        ax.plot([x - 0.5 for x, _ in corners], [y - 0.5 for _, y in corners], color="cyan")
        ax.set_title(f"{self.layer}, output {self.position}: {' × '.join(str(e - b) for b, e in box)}")
        return ax


def receptive_field(model: torch.nn.Module, layer: str | torch.nn.Module, input_size: Sequence[int]) -> ReceptiveField:
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

    Returns:
        A `ReceptiveField`: size, stride and offset along each axis, what the middle output sees, and ``draw()``.

    Raises:
        TypeError: `model` is not a Module.
        ValueError: a layer that is not in the model, or an input size of another form.
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
    gradients, shape = _derivatives(_connections(model), name, positive + 0.5)
    output_size = tuple(shape[2:]) if len(shape) == len(input_size) + 1 else ()
    boxes = [_support(g) for g in gradients]
    actual = copy.deepcopy(model).cpu().eval().double()
    computed, reason = _computed(model, name, input_size[1:])
    return ReceptiveField(
        shown,
        input_size[1:],
        output_size,
        computed,
        reason,
        _estimated(boxes, output_size, input_size[1:]),
        tuple(n // 2 for n in output_size),
        boxes[0],
        _derivatives(actual, name, anything, middle_only=True)[0][0],
    )


# ---- estimated ----


class _Reached(Exception):
    """The layer has run: the rest of the network need not."""


def _derivatives(model: torch.nn.Module, name: str, x: Tensor, middle_only: bool = False) -> tuple[list[Tensor], Any]:
    """|derivatives| to the input, summed over its maps, of the middle output and of its neighbour along each axis; and
    the shape of the output."""
    found: list[Any] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        found.append(output)
        raise _Reached

    x = x.requires_grad_()
    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            model(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not found or not isinstance(found[0], Tensor):
        raise RuntimeError(
            f"receptive_field: layer '{name}' "
            + (f"gives a {type(found[0]).__name__}, not a tensor" if found else "does not run on this input")
        )
    y = found[0]
    spatial = y.shape[2:] if y.dim() == x.dim() else ()
    middle = [n // 2 for n in spatial]
    positions = [middle]
    if not middle_only:  # the last position has its neighbour before it
        positions += [
            [m + (i == a) * (1 if m + 1 < n else -1) for i, m in enumerate(middle)] for a, n in enumerate(spatial)
        ]
    sums = []
    for p in positions:
        index: tuple[Any, ...] = (0, slice(None), *p)
        sums.append(y[index].sum() if spatial and min(p) >= 0 else y.sum())
    grads = [torch.autograd.grad(s, x, retain_graph=True, allow_unused=True)[0] for s in sums]
    return [(torch.zeros_like(x) if g is None else g).abs().sum((0, 1)).detach() for g in grads], y.shape


def _connections(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in float64 with positive weights that average, no biases, and means for maxima."""
    model = copy.deepcopy(model).cpu().eval().double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d)):
                setattr(module, name, _SumPool(child))
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            bias = name.rpartition(".")[2] == "bias"
            parameter.fill_(0 if bias else 1 / math.prod(parameter.shape[1:]))
    return model


class _SumPool(torch.nn.Module):
    """The sum of a maximum pooling's windows, over their number of elements."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Any:
        dims = x.dim() - 2
        kernel, stride, padding, dilation = (
            _axes(getattr(self.pool, what), dims) for what in ("kernel_size", "stride", "padding", "dilation")
        )
        reach = [(p, p) for p in padding]
        if self.pool.ceil_mode:
            pooled = self.pool(x)
            size = (pooled[0] if isinstance(pooled, tuple) else pooled).shape[2:]
            needed = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
            reach = [(p, max(w - n - p, p)) for p, w, n in zip(padding, needed, x.shape[2:], strict=True)]
        x = torch.nn.functional.pad(x, pad_amounts(flat(reach)))
        weight = torch.full((x.shape[1], 1, *kernel), 1 / math.prod(kernel), dtype=x.dtype)
        conv = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
        out = conv(x, weight, None, stride, 0, dilation, x.shape[1])
        return (out, None) if self.pool.return_indices else out


def _support(gradient: Tensor) -> tuple[tuple[int, int], ...]:
    """The box around what is not zero: (begin, end) along each axis."""
    where = gradient.nonzero()
    if where.numel() == 0:
        return ((0, 0),) * gradient.dim()
    return tuple((int(low), int(high) + 1) for low, high in zip(where.amin(0), where.amax(0), strict=True))


def _estimated(boxes: list[Any], output_size: tuple[int, ...], input_size: tuple[int, ...]) -> Field | None:
    """The field, from where the middle output's and its neighbours' begin and end."""
    sizes, strides, offsets = [], [], []
    for a, n in enumerate(output_size):
        (begin, end), (other, other_end), middle = boxes[0][a], boxes[1 + a][a], n // 2
        if n == 1 or min(begin, other) == 0 or max(end, other_end) == input_size[a]:
            return None
        stride = abs(other - begin)
        sizes.append(end - begin)
        strides.append(stride)
        offsets.append(begin - middle * stride)
    return Field(tuple(sizes), tuple(strides), tuple(offsets)) if output_size else None


# ---- computed ----


class _Unknown(Exception):
    """What hinders the computation."""


class _Traced(NamedTuple):
    """The field of a node of the graph, and its spatial size."""

    field: Field
    spatial: tuple[int, ...]


def _axes(value: Any, dims: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims


_WINDOWS = (
    *(torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, nn.LocallyConnected1d, nn.LocallyConnected2d),
    *(torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d),
    *(torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d),
    *(torch.nn.LPPool1d, torch.nn.LPPool2d, torch.nn.LPPool3d, nn.LearnedPool2d, nn.BlockPool2d),
)
_PADS = (
    *(torch.nn.ZeroPad1d, torch.nn.ZeroPad2d, torch.nn.ZeroPad3d),
    *(torch.nn.ConstantPad1d, torch.nn.ConstantPad2d, torch.nn.ConstantPad3d),
)
_BY_POSITION = (
    *_ELEMENTWISE,
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.LocalResponseNorm, torch.nn.PReLU),
    *(torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d, torch.nn.Softmax2d, torch.nn.ChannelShuffle),
)
_FUNCTIONS: set[Callable[..., Any] | str] = {
    *(operator.add, operator.sub, operator.mul, operator.iadd, torch.add, torch.sub, torch.mul, torch.maximum),
    *(torch.relu, torch.tanh, torch.sigmoid, torch.nn.functional.relu, torch.nn.functional.gelu),
    *(torch.nn.functional.silu, torch.nn.functional.relu6, torch.nn.functional.dropout, torch.cat),
    *("add", "sub", "mul", "add_", "relu", "relu_", "tanh", "sigmoid", "contiguous", "clone"),
}


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, (*_WINDOWS, *_PADS, *_BY_POSITION))
        return known or super().is_leaf_module(m, module_qualified_name)


def _computed(model: torch.nn.Module, name: str, spatial: tuple[int, ...]) -> tuple[Field | None, str]:
    """The field along the graph, or None and why not."""
    ones = (1,) * len(spatial)
    known: dict[Any, _Traced] = {}
    found = None
    try:
        for node in _Tracer().trace(model).nodes:
            inside = name in node.meta.get("nn_module_stack", ()) or (node.op, node.target) == ("call_module", name)
            if found is not None and not inside:  # the layer, of which there may be several nodes, has been called
                break
            given = [known[n] for n in node.all_input_nodes if n in known]
            if node.op == "placeholder" and not known:
                known[node] = _Traced(Field(ones, ones, (0,) * len(spatial)), spatial)
            elif given and node.op != "output":
                known[node] = _through(node, model, given)
                found = node if inside else None
        if found is None:
            raise _Unknown(f"layer '{name}' is not in the graph that torch.fx traced")
        return known[found].field, ""
    except _Unknown as error:
        return None, str(error)
    except Exception as error:  # whatever a forward does that torch.fx cannot follow
        return None, f"torch.fx cannot trace the model: {error}"


def _through(node: Any, model: torch.nn.Module, given: list[_Traced]) -> _Traced:
    """What comes out of a node whose inputs are these."""
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if isinstance(module, _WINDOWS):
            return _window(module, given[0])
        if isinstance(module, _PADS):
            return _pad(module, given[0])
        if isinstance(module, _BY_POSITION):
            return given[0]
        raise _Unknown(f"layer '{node.target}', {type(module).__name__}, has no receptive field known here")
    if node.target not in _FUNCTIONS:
        raise _Unknown(f"{node.op} {getattr(node.target, '__name__', node.target)} has no receptive field known here")
    if node.target is torch.cat and (*node.args[1:], *node.kwargs.values())[:1] != (1,):
        raise _Unknown("torch.cat along another axis than the maps'")
    return _union(given)


def _window(module: Any, given: _Traced) -> _Traced:
    dims = len(given.spatial)
    kernel, stride = _axes(module.kernel_size, dims), _axes(module.stride, dims)
    dilation = _axes(getattr(module, "dilation", 1), dims)
    padding = getattr(module, "padding", 0)
    if padding == "same":
        sides = same_padding(given.spatial, kernel, stride, dilation, "receptive_field")
    else:
        each = _axes(0 if padding == "valid" else padding, dims)
        sides = flat(p if isinstance(p, (tuple, list)) else (p, p) for p in each)
    size, step, offset = given.field
    field = Field(
        tuple(n + d * (k - 1) * s for n, d, k, s in zip(size, dilation, kernel, step, strict=True)),
        tuple(a * b for a, b in zip(step, stride, strict=True)),
        tuple(o - before * s for o, before, s in zip(offset, sides[::2], step, strict=True)),
    )
    if getattr(module, "ceil_mode", False):  # as if there were so many more zeros that a last step ends in them
        sides[1::2] = [after + s - 1 for after, s in zip(sides[1::2], stride, strict=True)]
    return _Traced(field, tuple(output_sides(given.spatial, kernel, stride, sides, dilation)))


def _pad(module: Any, given: _Traced) -> _Traced:
    sides = pad_amounts(module.padding)
    size, step, offset = given.field
    field = Field(size, step, tuple(o - before * s for o, before, s in zip(offset, sides[::2], step, strict=True)))
    spatial = zip(given.spatial, sides[::2], sides[1::2], strict=True)
    return _Traced(field, tuple(n + before + after for n, before, after in spatial))


def _union(given: list[_Traced]) -> _Traced:
    """Of branches that meet element by element: from the first beginning to the last end."""
    fields = [traced.field for traced in given]
    if any(field.stride != fields[0].stride for field in fields):
        raise _Unknown(f"branches of different strides meet: {[field.stride for field in fields]}")
    offset = tuple(map(min, zip(*(field.offset for field in fields), strict=True)))
    ends = [[o + k for o, k in zip(field.offset, field.size, strict=True)] for field in fields]
    last = map(max, zip(*ends, strict=True))
    return _Traced(
        Field(tuple(e - o for e, o in zip(last, offset, strict=True)), fields[0].stride, offset), given[0].spatial
    )
