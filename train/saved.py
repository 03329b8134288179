"""What a checkpoint of this program says of itself, and where the runs have left theirs."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.errors import InputError

DEFAULT_TASK, DEFAULT_NETWORK, DEFAULT_DATA = "classification", "lenet5", "digits"


def read_checkpoint(path: str) -> dict[str, Any]:
    """The checkpoint at ``path``, read as weights alone; an `InputError` says why it cannot be."""
    try:
        open(path, "rb").close()
    except OSError as error:
        raise InputError(f"cannot read checkpoint '{path}': {error.strerror}") from error
    damaged = InputError(f"'{path}' is damaged, or not a checkpoint of this program")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # What unpickling raises on bytes that are no checkpoint could be anything.
        raise damaged from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("network"), dict):
        raise damaged
    if not {"name", "in_channels", "num_classes"} <= checkpoint["network"].keys() or "state_dict" not in checkpoint:
        raise damaged
    return checkpoint


def data_of(checkpoint: dict[str, Any], path: str) -> str:
    """The name of the data set that the network of a checkpoint was trained on."""
    if "data" not in checkpoint:
        raise InputError(f"checkpoint '{path}' does not say what it was trained on: an older version wrote it")
    return str(checkpoint["data"])


def describe(network: dict[str, Any]) -> str:
    """One phrase for the network of a checkpoint."""
    options = [f"{name}={value}" for name, value in network.items() if name != "name"]
    return f"{network['name']} with {', '.join(options[:-1])} and {options[-1]}"


def find_checkpoint(which: str, root: str, run: str = "*") -> str:
    """The ``last`` or ``best`` checkpoint of the newest of the runs named ``run`` under ``root``."""
    pattern = "last.ckpt" if which == "last" else "best-*.ckpt"
    found = list(Path(root).glob(f"{run}/version_*/checkpoints/{pattern}"))
    if not found:
        raise InputError(f"no run '{run}' under '{root}' has a checkpoint '{pattern}': give its path with --ckpt_path")
    return str(max(found, key=lambda path: (path.stat().st_mtime, _version(path))))


def _version(path: Path) -> int:
    return int(re.sub(r"\D", "", path.parents[1].name) or 0)


def start_from(network: nn.Module, path: str) -> None:
    """Copies the weights of the checkpoint at ``path`` that have the names and shapes of ``network``'s own."""
    prefix, own = "network.", network.state_dict()
    saved = {key.removeprefix(prefix): value for key, value in read_checkpoint(path)["state_dict"].items()}
    same = {key: value for key, value in saved.items() if key in own and own[key].shape == value.shape}
    if not same:
        raise InputError(f"no weight of '{path}' has the name and shape of one of this network")
    network.load_state_dict(same, strict=False)


def check_resumed(checkpoint: dict[str, Any], path: str, options: dict[str, Any], max_epochs: int | None) -> None:
    """Raises `InputError` unless a run with these ``options`` can go on from the checkpoint at ``path``."""
    for name, saved in checkpoint.get("options", {}).items():
        if name in options and options[name] != saved:
            raise InputError(
                f"the run of '{path}' has {name} {saved}, but --model.{name} is {options[name]}: give the same to go "
                "on, or --model.init_from to start anew from its weights"
            )
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs is not None and 0 < max_epochs <= done:
        raise InputError(f"the run of '{path}' has had its {done} epochs: give a larger --trainer.max_epochs to go on")
