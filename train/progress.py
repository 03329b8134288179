"""What a run says on its way: a line on what is trained, then a bar on a terminal, or else a line an epoch."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from train.report import NAMES, duration
from train.throughput import Throughput

SHORT = {"loss": "loss", "accuracy": "acc", "iou": "iou", "pck": "pck"}
SHORT_NAMES = {f"{part}/{name}": of + SHORT[name] for name in SHORT for part, of in (("train", ""), ("val", "val_"))}


class Bar(TQDMProgressBar):
    """Lightning's, with names so short that a terminal of 80 columns shows them."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        return {short: metrics[name] for name, short in SHORT_NAMES.items() if name in metrics}


class Lines(Callback):
    """Prints what is trained on what, and where there is no bar a line at the end of each epoch."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, module = cast(Any, trainer).datamodule, cast(Any, pl_module)  # the command line's own
        parameters = sum(p.numel() for p in module.parameters())
        sizes = ", ".join(f"{len(images):,} {part}" for part, (images, _) in data.splits.items())
        print(
            f"{module.network_args['name']} of {parameters:,} parameters by {module.backend}, "
            f"{module.device.type} with {torch.get_num_threads()} threads; {data.name}: {sizes} images; "
            f"{trainer.num_training_batches} steps an epoch",
            flush=True,
        )

    # What an epoch has logged is all there when the next one begins.
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._line(trainer)

    @rank_zero_only
    def _line(self, trainer: Trainer) -> None:
        metrics, epochs = trainer.callback_metrics, trainer.max_epochs
        if trainer.progress_bar_callback is not None or "train/loss" not in metrics:
            return
        done = trainer.current_epoch
        parts = [f"epoch {done}/{epochs}" if epochs and epochs > 0 else f"epoch {done}"]
        for quantity in ("loss", *(name for name in NAMES if f"train/{name}" in metrics)):
            both = [f"{metrics[name]:.4g}" for part in ("train", "val") if (name := f"{part}/{quantity}") in metrics]
            parts.append(f"{NAMES.get(quantity, quantity)} {', validation '.join(both)}")
        parts.append(f"{self.throughput.images_per_second:,.0f} images/s")
        steps, step = trainer.estimated_stepping_batches, trainer.global_step
        if step and steps != float("inf"):
            left = self.throughput.seconds / max(step - self.throughput.first_step, 1) * (steps - step)
            parts.append(f"about {duration(max(left, 0.0))} left")
        print("; ".join(parts), flush=True)
