"""What is left of a run for people to look at: the learning curve as a picture, and a summary of a few lines."""

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.throughput import Throughput


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


def summary(
    accuracy: float, throughput: Throughput, checkpoint: str, curve: Path | None, target: float | None = None
) -> str:
    """The lines that end a run; ``accuracy`` and ``target`` are from 0 to 1.

    The time is that of the training alone: loading and steps, neither the start, nor validation, nor checkpoints.
    """
    lines = [
        f"test accuracy   {accuracy:.2%}",
        f"training speed  {throughput.images_per_second:,.0f} images/s",
        f"training time   {duration(throughput.seconds)}",
        f"checkpoint      {checkpoint or 'none'}",
        f"learning curve  {curve or 'none'}",
    ]
    if target is not None:
        reached = f"in {duration(throughput.seconds)} of training" if accuracy >= target else "not reached"
        lines.insert(1, f"{f'{target:.2%}':16}{reached}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``"61 min 40 s"``, or ``"8.3 s"`` where it is less than a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
