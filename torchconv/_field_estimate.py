"""A layer's receptive field, estimated by differentiating single outputs to the input."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ._field import Field, axes
from .functional._window import flat, pad_amounts


class _Reached(Exception):
    """The layer has run: the rest of the network need not."""


def derivatives(
    model: torch.nn.Module, name: str, x: Tensor, middle_only: bool = False, channel: int | None = None
) -> tuple[list[Tensor], Any]:
    """|derivatives| to the input, summed over its maps, of the middle output and of its neighbour along each axis; and
    the shape of the output. With a `channel`, those of this map's outputs alone, signed, a map for each of the input's.
    """
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
    if channel is not None:
        if y.dim() < 2 or not 0 <= channel < y.shape[1]:
            raise ValueError(f"receptive_field: layer '{name}' answers with shape {list(y.shape)}, no map {channel}")
        y = y[:, channel : channel + 1]
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
    found_grads = [(torch.zeros_like(x) if g is None else g).detach() for g in grads]
    return [g[0] if channel is not None else g.abs().sum((0, 1)) for g in found_grads], y.shape


def connections(model: torch.nn.Module) -> torch.nn.Module:
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
            axes(getattr(self.pool, what), dims) for what in ("kernel_size", "stride", "padding", "dilation")
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


def support(gradient: Tensor) -> tuple[tuple[int, int], ...]:
    """The box around what is not zero: (begin, end) along each axis."""
    where = gradient.nonzero()
    if where.numel() == 0:
        return ((0, 0),) * gradient.dim()
    return tuple((int(low), int(high) + 1) for low, high in zip(where.amin(0), where.amax(0), strict=True))


def estimated(boxes: list[Any], output_size: tuple[int, ...], input_size: tuple[int, ...]) -> Field | None:
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
