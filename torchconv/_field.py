"""A layer's receptive field, computed along the graph of the layers before it."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

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


def axes(value: Any, dims: int) -> tuple[Any, ...]:
    """A layer's argument as a value an axis."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims


class _Unknown(Exception):
    """What hinders the computation."""


class _Traced(NamedTuple):
    """The field of a node of the graph, and its spatial size."""

    field: Field
    spatial: tuple[int, ...]


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


def along_graph(model: torch.nn.Module, name: str, spatial: tuple[int, ...]) -> tuple[Field | None, str]:
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
    kernel, stride = axes(module.kernel_size, dims), axes(module.stride, dims)
    dilation = axes(getattr(module, "dilation", 1), dims)
    padding = getattr(module, "padding", 0)
    if padding == "same":
        sides = same_padding(given.spatial, kernel, stride, dilation, "receptive_field")
    else:
        each = axes(0 if padding == "valid" else padding, dims)
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
