"""What is said, and left behind, when a run does not come to its end."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Ending(Callback):
    """Tells ``say`` one sentence where a run was stopped by Ctrl-C or SIGTERM; calls ``leave`` for any exception."""

    def __init__(self, last: Callable[[], str], say: Callable[[str], None], leave: Callable[[], object]) -> None:
        self.last, self.say, self.leave = last, say, leave

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.leave()
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        stopped = "Ctrl-C" if isinstance(exception, KeyboardInterrupt) else "SIGTERM"
        checkpoint = self.last()
        where = f"resume with --ckpt_path {checkpoint}" if checkpoint else "no checkpoint was written yet"
        self.say(f"stopped by {stopped} in epoch {trainer.current_epoch}, step {trainer.global_step}: {where}")
