"""The report of one or several runs: one HTML page that holds its pictures and needs no network to open."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from torchconv import receptive_field, show
from train.report import NAMES, confusion_figure, curves, read_metrics

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; color: #222; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; font-size: 0.8rem; line-height: 1.3; background: #f6f6f6; padding: 0.6rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.8rem; text-align: left; border-bottom: 1px solid #ddd; }
"""


@dataclass
class Seen:
    """What a network answers to the test images, and what the page shows of it."""

    images: Tensor  # bytes [N, C, H, W]
    labels: Tensor  # [N]
    probabilities: Tensor  # [N, classes]
    classes: Sequence[str]
    confusion: Tensor = field(init=False)  # [class, taken for]

    def __post_init__(self) -> None:
        count = len(self.classes)
        taken = self.probabilities.argmax(1)
        self.confusion = torch.bincount(self.labels * count + taken, minlength=count * count).view(count, count)


def bars_figure(seen: Seen, most: int = 12) -> Figure:
    """Test images with their five likeliest classes as bars, the worst mistakes first: those most sure of another."""
    right = seen.probabilities.gather(1, seen.labels[:, None])[:, 0]
    order = (seen.probabilities.max(1).values - right).argsort(descending=True)[:most]
    rows = -(-len(order) // 3)
    figure = Figure(figsize=(10, 1.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 6, squeeze=False, width_ratios=[1, 2] * 3)
    for ax in axes.flat:
        ax.set_axis_off()
    for place, index in enumerate(order.tolist()):
        picture, bars = axes[place // 3, place % 3 * 2 : place % 3 * 2 + 2]
        show_image(picture, seen.images[index])
        best = seen.probabilities[index].topk(min(5, len(seen.classes)))
        names = [seen.classes[i] for i in best.indices.tolist()]
        label = seen.classes[int(seen.labels[index])]
        bars.set_axis_on()
        bars.barh(names, best.values.numpy(), color=["seagreen" if name == label else "indianred" for name in names])
        bars.set(xlim=(0, 1), xticks=[])
        bars.invert_yaxis()
        bars.tick_params(labelsize=6, length=0)
        picture.set_title(label, fontsize=7)
    return figure


def neighbours_figure(features: Tensor, of: Tensor, images: Tensor, tests: Tensor, most: int = 5) -> Figure:
    """Test images, each with the training images nearest to it in the space of the last hidden layer.

    ``features`` [N, F] are those of the training ``images``, ``of`` [T, F] those of the test images ``tests``.
    """
    nearest = torch.cdist(of, features).topk(most, largest=False).indices
    figure = Figure(figsize=(6, 1.0 * len(tests)), layout="constrained")
    for row, (axes, image) in enumerate(zip(figure.subplots(len(tests), most + 1, squeeze=False), tests, strict=True)):
        for ax in axes:
            ax.set_axis_off()
        show_image(axes[0], image)
        for ax, index in zip(axes[1:], nearest[row].tolist(), strict=True):
            show_image(ax, images[index])
        if row == 0:
            axes[0].set_title("test", fontsize=8)
            axes[1].set_title("nearest in training", fontsize=8, loc="left")
    return figure


def receptive_fields(network: nn.Module, input_size: Sequence[int], most: int = 8) -> list[str]:
    """What the middle neurons of the last convolution's first maps depend on, with signs."""
    last = [name for name, m in network.named_modules() if getattr(m, "weight", torch.empty(0)).dim() == 4][-1]
    maps = dict(network.named_modules())[last].weight.shape[0]
    figure = Figure(figsize=(10, 3), layout="constrained")
    for channel, ax in enumerate(figure.subplots(2, most // 2, squeeze=False).flat):
        ax.set_axis_off()
        if channel < maps:
            found = receptive_field(network, last, input_size, channel=channel)
            found.draw(ax)
            ax.set_title(f"map {channel}", fontsize=8)
    text = f"<p>Of layer {html.escape(last)}: the derivative of the neuron in the middle, by the input.</p>"
    return [text, as_img(figure, "receptive fields")]


def show_image(ax: Any, image: Tensor, **options: Any) -> None:
    """Bytes [C, H, W], grey or in colour; the options are imshow's."""
    pixels = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    ax.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=255, **options)


def as_img(figure: Figure, alt: str) -> str:
    """The figure inside the page."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def section(title: str, *parts: str) -> str:
    """A heading and what is below it."""
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *parts])


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of text as a table."""
    lines = [(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += [(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in lines) + "</table>"


def runs_sections(folders: Sequence[Path]) -> list[str]:
    """Of the runs in ``folders``, side by side: their learning curves and a table of how they ended."""
    metrics = {"/".join(folder.parts[-2:]): read_metrics(folder / "metrics.csv") for folder in folders}
    shown = [measure for measure in NAMES if any(f"test/{measure}" in own for own in metrics.values())] or ["accuracy"]
    rows = []
    for name, own in metrics.items():
        speeds = [value for _, value in own.get("train/images_per_second", [])]
        measures: list[str] = []
        for measure in shown:
            best = max((value for _, value in own.get(f"val/{measure}", [])), default=None)
            test = own.get(f"test/{measure}", [])
            measures += [f"{test[-1][1]:.2%}" if test else "-", f"{best:.2%}" if best is not None else "-"]
        rows.append(
            [
                name,
                *measures,
                str(max((epoch for epoch, _ in own.get("train/loss", [])), default=-1) + 1),
                f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-",
            ]
        )
    told = [f"{of} {NAMES[measure]}" for measure in shown for of in ("test", "best validation")]
    head = ("run", *told, "epochs", "images/s")
    return [section("Runs", as_table(head, rows)), section("Learning curves", as_img(curves(metrics), "curves"))]


def network_sections(network: nn.Module, explained: str, image: Tensor) -> list[str]:
    """Of one trained network: its layers and filters, and what it makes of an image [C, H, W]."""
    sections = [section("Layers", f"<pre>{html.escape(explained)}</pre>")]
    first = next((m for m in network.modules() if getattr(m, "weight", torch.empty(0)).dim() == 4), None)
    if first is not None:
        sections.append(section("First-layer filters", as_img(show.filters(first), "filters of the first layer")))
        maps = as_img(show.activations(network, first, image), "maps of the first layer")
        sections.append(section("First-layer activations", "<p>Of the first test image.</p>", maps))
        sections.append(section("Receptive fields", *receptive_fields(network, tuple(image.shape))))
    return sections


def class_sections(seen: Seen) -> list[str]:
    """Confusions and mistakes."""
    figure = as_img(confusion_figure(seen.confusion, seen.classes), "which class was taken for which")
    worst = "<p>The worst mistakes first.</p>", as_img(bars_figure(seen), "worst")
    return [section("Confusion matrix", figure), section("Test images and their likeliest classes", *worst)]


def points_section(images: Tensor, true: Tensor, found: Tensor, closed: bool, most: int = 12) -> str:
    """Images, bytes [N, C, H, W], with ``true`` points [N, P, 2] and those ``found``: a polygon, or an open line."""
    figure, axes = _pictures(min(most, len(images)))
    for ax, image, *both in zip(axes, images, true, found, strict=False):
        show_image(ax, image, extent=(-1, 1, 1, -1))
        for points, color in zip(both, ("seagreen", "indianred"), strict=True):
            line = torch.cat([points, points[:1]]) if closed else points
            ax.plot(*line.T.numpy(), color=color, marker=None if closed else ".")
        ax.set(xlim=(-1, 1), ylim=(1, -1))
    told = "<p>Test images: where it is in green, where the network has it in red.</p>"
    return section("Test images and what was located", told, as_img(figure, "points on test images"))


def masks_section(images: Tensor, true: Tensor, found: Tensor, classes: int) -> str:
    """Images, bytes [N, C, H, W], each with its ``true`` mask [N, H, W], a class a pixel, and the one ``found``."""
    figure, axes = _pictures(3 * len(images))
    for place, (image, *both) in enumerate(zip(images, true, found, strict=True)):
        show_image(axes[3 * place], image)
        for ax, mask in zip(axes[3 * place + 1 :], both, strict=False):
            ax.imshow(mask.numpy(), cmap="tab20", vmin=0, vmax=max(classes - 1, 19), interpolation="nearest")
    told = "<p>Each test image, then its true mask and the network's, a colour for each class.</p>"
    return section("Test images and masks", told, as_img(figure, "masks of test images"))


def _pictures(number: int, across: int = 6) -> tuple[Figure, list[Any]]:
    """A figure with axes for as many pictures, ``across`` beside each other."""
    rows = -(-number // across)
    figure = Figure(figsize=(1.7 * across, 1.7 * rows), layout="constrained")
    axes = list(figure.subplots(rows, across, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    return figure, axes


def write_page(path: Path, title: str, sections: Sequence[str]) -> Path:
    """The page at ``path``; where it was put."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    path.write_text(
        f"<!DOCTYPE html><html lang='en'><head>{head}<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(sections)}</body></html>",
        encoding="utf-8",
    )
    return path
