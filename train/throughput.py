"""How fast the network trains."""

from time import perf_counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Counts training images and the seconds they take: loading included, validation and checkpoints not.

    Logs ``train/images_per_second`` for each epoch; `images_per_second` is over all of them.
    """

    def __init__(self) -> None:
        self.images, self.seconds, self.first_step = 0, 0.0, 0
        self._before = 0, 0.0

    @property
    def images_per_second(self) -> float:
        """Over the whole training so far; 0 before it."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_step = trainer.global_step
        self._mark = perf_counter()  # Resumed in the middle of an epoch, a run has no start of that one.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = self.images, self.seconds
        self._mark = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = perf_counter()
        self.images += len(batch[0]) * trainer.world_size
        self.seconds += now - self._mark
        self._mark = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images, seconds = self._before
        if self.seconds > seconds:  # Resumed after an epoch's last step, there is none left.
            speed = (self.images - images) / (self.seconds - seconds)
            pl_module.log("train/images_per_second", speed)  # Each process's own: to ask the others is to wait.
