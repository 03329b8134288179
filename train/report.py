"""What is left of a run for people to look at: the learning curve as a picture, and a summary of four lines."""

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Lightning's metrics.csv, whose rows are mostly blank, as metric name -> [(epoch, value), ...]."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    metrics.setdefault(name, []).append((int(row["epoch"]), float(value)))
    return metrics


def learning_curve(log_dir: Path) -> Path:
    """Draws loss and accuracy by epoch, training and validation, from ``log_dir``/metrics.csv; where it put the PNG."""
    metrics = read_metrics(log_dir / "metrics.csv")
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, label in (("train", "training"), ("val", "validation")):
            points = metrics.get(f"{part}/{quantity}", [])
            axes.plot([epoch + 1 for epoch, _ in points], [value for _, value in points], ".-", label=label)
        for _, value in metrics.get(f"test/{quantity}", []):
            axes.axhline(value, color="black", linestyle="--", linewidth=1, label=f"test ({value:.4g})")
        axes.set(xlabel="epochs", ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle("/".join(log_dir.parts[-2:]))
    path = log_dir / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


def summary(accuracy: float, images_per_second: float, checkpoint: str, curve: Path | None) -> str:
    """The four lines that end a run; ``accuracy`` is from 0 to 1."""
    return "\n".join(
        (
            f"test accuracy   {accuracy:.2%}",
            f"training speed  {images_per_second:,.0f} images/s",
            f"checkpoint      {checkpoint or 'none'}",
            f"learning curve  {curve or 'none'}",
        )
    )
