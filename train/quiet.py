"""Silences what Lightning says that does not concern this program, each piece for its reason; nothing else."""

import logging
import warnings

IRRELEVANT = (
    # Batches are cut from tensors in memory: worker processes would only slow this down.
    "The '.*_dataloader' does not have many workers",
    # Nothing is logged by step, so the interval between logged steps does not matter.
    "The number of training batches .* is smaller than the logging interval",
    # Metrics sum over the processes themselves.
    "It is recommended to use `self.log",
    # All images may be asked for to train on.
    "Total length of `list` across ranks is zero",
    # Lightning's own use of a deprecated class of PyTorch.
    ".*LeafSpec.* is deprecated",
    # Each run has a directory of its own; a resumed one starts its list of best checkpoints afresh there.
    "The dirpath has changed from",
)


def silence_irrelevant() -> None:
    """Call before the trainer is made, in every process."""
    for message in IRRELEVANT:
        warnings.filterwarnings("ignore", message=message)
    # At the level INFO these repeat the options (seed, devices, paths) and advertise other products.
    for module in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{module}").setLevel(logging.WARNING)
