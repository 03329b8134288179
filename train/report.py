"""What is left of a run for people to look at: the learning curve as a picture, and a summary of a few lines."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from train.throughput import Throughput

NAMES = {"accuracy": "accuracy", "iou": "IoU", "pck": "PCK"}  # of what is measured, as people write them


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Lightning's metrics.csv, whose rows are mostly blank, as metric name -> [(epoch, value), ...]."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    metrics.setdefault(name, []).append((int(row["epoch"]), float(value)))
    return metrics


def earlier_rows(checkpoint: str, steps: int) -> list[dict[str, float]]:
    """The rows of metrics.csv that the run of the ``checkpoint`` had written when it had made ``steps`` steps."""
    path = Path(checkpoint).parents[1] / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{name: _number(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", 0) < steps and not any(name.startswith("test/") for name in row)]


def _number(text: str) -> float:
    """An int where it is one: an epoch or a step."""
    return int(text) if text.isdigit() else float(text)


def results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the test measured, by its name in `NAMES`, in that order."""
    return {name: metrics[f"test/{metric}"] for metric, name in NAMES.items() if f"test/{metric}" in metrics}


def curves(runs: Mapping[str, dict[str, list[tuple[int, float]]]]) -> Figure:
    """Loss and measures by epoch of each run: training dotted, validation whole, the test's as a level."""
    measures = [m for m in NAMES if any(f"{part}/{m}" in own for own in runs.values() for part in ("train", "val"))]
    quantities = ["loss", *(measures or ["accuracy"])]
    figure = Figure(figsize=(5 * len(quantities), 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, len(quantities)), quantities, strict=True):
        for i, (run, metrics) in enumerate(runs.items()):
            of = f"{run}: " if len(runs) > 1 else ""
            for part, label, style in (("train", "training", ".:"), ("val", "validation", ".-")):
                points = metrics.get(f"{part}/{quantity}", [])
                if points:
                    x, y = [epoch + 1 for epoch, _ in points], [value for _, value in points]
                    axes.plot(x, y, style, color=f"C{i}", label=f"{of}{label}")
            for _, value in metrics.get(f"test/{quantity}", []):
                axes.axhline(value, color=f"C{i}", linestyle="--", linewidth=1, label=f"{of}test ({value:.4g})")
        axes.set(xlabel="epochs", ylabel=NAMES.get(quantity, quantity))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=8)
    return figure


def learning_curve(log_dir: Path) -> Path:
    """Draws loss and measures by epoch, training and validation, from ``log_dir``/metrics.csv; where it put the PNG."""
    figure = curves({"run": read_metrics(log_dir / "metrics.csv")})
    figure.suptitle("/".join(log_dir.parts[-2:]))
    path = log_dir / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """How many test images of each class [row] were taken for which [column]."""
    count = len(classes)
    side = max(4.0, 0.45 * count)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="class", xticks=range(count), yticks=range(count))
    axes.set_xticklabels(classes, rotation=90)
    axes.set_yticklabels(classes)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{int(matrix[row, column])}", ha="center", va="center", color=color, fontsize=7)
    return figure


def draw_confusion(log_dir: Path, matrix: Tensor, classes: Sequence[str]) -> Path:
    """Draws the confusion ``matrix`` into ``log_dir``; where it put the PNG."""
    path = log_dir / "confusion_matrix.png"
    confusion_figure(matrix, classes).savefig(path, dpi=120)
    return path


def summary(
    measures: Mapping[str, float],
    watched: tuple[float, float | None],
    throughput: Throughput,
    checkpoint: str,
    curve: Path | None,
    page: Path | None = None,
) -> str:
    """The lines that end a run; ``measures``, and of the ``watched`` one value and target, are from 0 to 1.

    The time is that of the training alone: loading and steps, neither the start, nor validation, nor checkpoints.
    """
    lines = [f"{f'test {name}':16}{value:.2%}" for name, value in measures.items()]
    value, target = watched
    if target is not None:
        reached = f"in {duration(throughput.seconds)} of training" if value >= target else "not reached"
        lines.append(f"{f'{target:.2%}':16}{reached}")
    lines += [
        f"training speed  {throughput.images_per_second:,.0f} images/s",
        f"training time   {duration(throughput.seconds)}",
        f"checkpoint      {checkpoint or 'none'}",
        f"learning curve  {curve or 'none'}",
        f"report          {page or 'none'}",
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``"61 min 40 s"``, or ``"8.3 s"`` where it is less than a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
