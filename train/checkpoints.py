"""Checkpoints that are whole or not there, and what a run that is resumed from one draws at random."""

import contextlib
import io
import os
import random
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from train.errors import InputError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, waits for the disk, then renames: a kill or a full disk leaves the file that was there.

    Lightning's own writes in the folder for temporary files, which may be on another disk, and copies over the target.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_whole(checkpoint, Path(path), "checkpoint")


def write_whole(content: Any, target: Path, what: str) -> None:
    """``content``, a ``what``, as torch.save writes it: whole, or the file that was there before."""
    part = target.with_name(target.name + ".part")
    written = io.BytesIO()
    torch.save(content, written)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(written.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"cannot write {what} '{target}': {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Puts a renaming on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(folder: str) -> None:
    """Makes ``folder`` if it is not there; raises `InputError` where no file can be made in it."""
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot write to '{folder}': {error.strerror}") from error


def generator_states() -> dict[str, Any]:
    """Of every global generator that a layer or Lightning may draw from, of types that are loaded as weights are."""
    kind, keys, *rest = cast(tuple[Any, ...], numpy.random.get_state())
    version, state, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(numpy.int64)), *rest],
        "python": [version, torch.tensor(state), gauss],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """What `generator_states` gave holds again."""
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), *rest))
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state.tolist()), gauss))
