"""Pictures, by matplotlib, of what a network has learned and sees: filters, maps, what a neuron responds to.

Every function returns a matplotlib figure; save it with ``figure.savefig("filters.png")``.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import functional

__all__ = ["HAND_MADE", "activations", "filtered", "filters", "preferred_input", "responds_to"]

# Filters of 3×3 made by hand, of correlation as every layer computes it.
HAND_MADE: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "edges, diagonal": ((1, 0, -1), (0, 0, 0), (-1, 0, 1)),
    "edges, of four": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "edges, of eight": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "box blur": ((1 / 9,) * 3,) * 3,
    "Gaussian blur": ((1 / 16, 2 / 16, 1 / 16), (2 / 16, 4 / 16, 2 / 16), (1 / 16, 2 / 16, 1 / 16)),
}


def _grid(count: int, side: float = 1.0) -> tuple[Any, list[Any]]:
    """A figure with `count` axes without ticks, about as wide as high."""
    from matplotlib.figure import Figure

    columns = max(1, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(side * columns + 0.5, side * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    return figure, axes[:count]


def _signed(ax: Any, picture: Tensor, most: float) -> None:
    """A signed picture [C, H, W]: of three maps in colour, grey standing for 0; of others the mean map, red above 0."""
    if picture.shape[0] == 3:
        ax.imshow((0.5 + picture / (2 * most)).clamp(0, 1).permute(1, 2, 0).numpy())
    else:
        ax.imshow(picture.mean(0).numpy(), cmap="RdBu_r", vmin=-most, vmax=most)


def _layer(model: torch.nn.Module, layer: str | torch.nn.Module) -> torch.nn.Module:
    modules = dict(model.named_modules())
    found = modules.get(layer) if isinstance(layer, str) else layer
    if found is None or found not in modules.values():
        raise ValueError(f"show: the model has no layer {layer!r}")
    return found


def _answer(model: torch.nn.Module, layer: torch.nn.Module, x: Tensor) -> Tensor:
    """What `layer` answers when the model is given x."""
    answers: list[Any] = []
    handle = layer.register_forward_hook(lambda module, args, output: answers.append(output))
    try:
        model(x)
    finally:
        handle.remove()
    if not answers or not isinstance(answers[0], Tensor):
        raise RuntimeError(f"show: {type(layer).__name__} gives no tensor on an input of shape {list(x.shape)}")
    return answers[0]


def filters(layer: torch.nn.Module, most: int = 64) -> Any:
    """The filters of a two-dimensional convolution, each as a picture; all on one scale, on which grey or white is 0.

    Args:
        layer: a layer with a weight [D, C, H, W]; those of three input maps are shown in colour, others by their mean.
        most: how many, the first ones.

    Raises:
        ValueError: the layer has no weight of four axes.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        shape = list(weight.shape) if isinstance(weight, Tensor) else None
        raise ValueError(
            f"show.filters takes a layer with a weight of four axes, got {type(layer).__name__} of {shape}"
        )
    shown = weight.detach().float().cpu()[:most]
    figure, axes = _grid(len(shown), 0.6)
    largest = max(shown.abs().max().item(), 1e-30)
    for ax, picture in zip(axes, shown, strict=True):
        _signed(ax, picture, largest)
    return figure


@torch.no_grad()
def activations(model: torch.nn.Module, layer: str | torch.nn.Module, image: Tensor, most: int = 36) -> Any:
    """The maps that `layer` answers to one image with, bright where the answer is large, each on a scale of its own.

    Args:
        model: any module; run in evaluation mode, and left as it was.
        layer: a layer in it, or its name in ``named_modules()``.
        image: [C, H, W].
        most: how many maps, the first ones.

    Raises:
        ValueError: a layer that is not in the model, or an image of another form.
        RuntimeError: a layer that does not run, or whose answer is no stack of maps.
    """
    found = _layer(model, layer)
    if image.dim() != 3:
        raise ValueError(f"show.activations takes one image [C, H, W], got shape {list(image.shape)}")
    training = [(m, m.training) for m in model.modules()]
    try:
        answer = _answer(model.eval(), found, image[None])
    finally:
        for module, flag in training:
            module.training = flag
    if answer.dim() != 4:
        raise RuntimeError(f"show.activations: the layer answers with shape {list(answer.shape)}, not with maps")
    maps = answer[0, :most].float().cpu()
    figure, axes = _grid(len(maps))
    for ax, picture in zip(axes, maps, strict=True):
        ax.imshow(picture.numpy(), cmap="gray")
    return figure


@torch.inference_mode(False)
@torch.enable_grad()
def preferred_input(
    model: torch.nn.Module,
    layer: str | torch.nn.Module,
    channel: int,
    input_size: Sequence[int],
    position: Sequence[int] | None = None,
    steps: int = 100,
    norm: float = 1.0,
) -> Tensor:
    """The input [C, H, W] that a neuron responds to, found by gradient ascent from small noise::

        x ← x + ∂a/∂x · (size of x) / ‖∂a/∂x‖,   then   x ← x · r / ‖x‖,   r = norm · √(elements of x)

    a: the answer of the neuron at `position` of map `channel` of the layer (the middle one), or with ``position=()``
    the mean of the whole map. The result is signed.

    Args:
        model: any module, used in evaluation mode as a copy.
        layer: a layer in it, or its name in ``named_modules()``.
        channel: the map.
        input_size: (C, H, W).
        position: of the neuron in its map. Default: the middle.
        steps: of the ascent.
        norm: the root mean square that the input is held to.

    Raises:
        ValueError: a layer that is not in the model, a map or position that it has not.
        RuntimeError: a layer that does not run.
    """
    modules = dict(model.named_modules())
    name = layer if isinstance(layer, str) else next((n for n, m in modules.items() if m is layer), None)
    if name is None or name not in modules:
        raise ValueError(f"show: the model has no layer {layer!r}")
    frozen = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    found = frozen.get_submodule(name)
    x = 1e-2 * torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0))
    radius = norm * math.sqrt(x.numel())
    for _ in range(steps):
        x.requires_grad_(True)
        answer = _answer(frozen, found, x)
        if not 0 <= channel < answer.shape[1]:
            raise ValueError(f"show: the layer has {answer.shape[1]} maps, not one of number {channel}")
        at = tuple(n // 2 for n in answer.shape[2:]) if position is None else tuple(position)
        if at and (
            len(at) != answer.dim() - 2 or any(not 0 <= p < n for p, n in zip(at, answer.shape[2:], strict=True))
        ):
            raise ValueError(f"show: maps of {list(answer.shape[2:])} have no position {list(at)}")
        (grad,) = torch.autograd.grad(answer[0, channel][at].mean(), x)
        with torch.no_grad():
            x = x + grad * (radius / 10 / grad.norm().clamp_min(1e-20))
            x = x * (radius / x.norm().clamp_min(1e-20)).clamp_max(1)
    return x.detach()[0]


def responds_to(
    model: torch.nn.Module,
    layer: str | torch.nn.Module,
    channels: Sequence[int],
    input_size: Sequence[int],
    **options: Any,
) -> Any:
    """`preferred_input` of several maps of a layer, as pictures: signed, in colour where the input has three maps."""
    figure, axes = _grid(len(channels), 1.5)
    for ax, channel in zip(axes, channels, strict=True):
        picture = preferred_input(model, layer, channel, input_size, **options)
        _signed(ax, picture, max(picture.abs().max().item(), 1e-30))
        ax.set_title(str(channel), fontsize=8)
    return figure


def filtered(image: Tensor, kernels: Mapping[str, Sequence[Sequence[float]]] = HAND_MADE) -> Any:
    """One picture [C, H, W] of values in 0..1, and what each of the named filters makes of it, map by map."""
    if image.dim() != 3:
        raise ValueError(f"show.filtered takes one image [C, H, W], got shape {list(image.shape)}")
    maps = image.float()[:, None]  # a batch of single maps
    figure, axes = _grid(1 + len(kernels), 2)
    results = {"the picture": image.float()}
    for name, kernel in kernels.items():
        weight = torch.tensor(kernel, dtype=torch.float32)[None, None]
        results[name] = functional.conv2d(maps, weight, padding="same")[:, 0]
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        shown = result.clamp(0, 1)
        ax.imshow(shown.permute(1, 2, 0).numpy() if len(shown) == 3 else shown.mean(0).numpy(), cmap="gray")
        ax.set_title(name, fontsize=8)
    return figure
