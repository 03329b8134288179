"""What ``python -m train fit --help`` shows: two screens, a sentence for each option that a run is usually given."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from train.networks import NETWORKS, PIXEL_NETWORKS

WIDTH, COLUMN = 100, 30  # of a line, and where its words begin
# Of Lightning's own options, those that are told of; --print_config has all. Its help is several paragraphs long.
TRAINER = {
    "max_epochs": "Epochs to train for, 30 by default.",
    "max_time": "Ends the training after DD:HH:MM:SS.",
    "accelerator": "cpu, gpu or auto.",
    "devices": "Processes, each on a share of every batch.",
    "num_nodes": "Machines, each with so many processes.",
    "precision": "32-true, or bf16-mixed for bfloat16 where it is sooner.",
    "gradient_clip_val": "Largest norm of all gradients; larger ones are scaled down.",
    "accumulate_grad_batches": "Batches whose gradients are summed for one step.",
    "limit_train_batches": "Batches of an epoch, or their share: for a trial.",
    "enable_progress_bar": "A bar, as in a terminal; else a line for each epoch.",
    "default_root_dir": "Where the folders of runs are, runs by default.",
}
CHECKPOINT = {
    "dirpath": "Where checkpoints are written, instead of the run's folder.",
    "monitor": "What the best checkpoint is chosen by: val/accuracy, or what the task watches.",
    "every_n_train_steps": "Steps after which one is written, besides at the end of an epoch.",
}
OWN = {
    "--config": "A file of options: train/recipes/NAME.yaml, or of --print_config.",
    "--ckpt_path": "A checkpoint to go on from, or last, or best.",
    "--seed_everything": "Of all random numbers, 0 by default.",
    "--print_config": "Writes all options, Lightning's too, with their values, and ends.",
}


def first_sentence(text: str) -> str:
    """Of a docstring's paragraph; where it goes on with a colon, the whole."""
    plain = " ".join(text.replace("``", "").split())
    end = re.search(r"[.;](?= |$)", plain)
    return plain[: end.start()] + "." if end else plain


def _line(option: str, words: str) -> str:
    return textwrap.fill(f"  {option:<{COLUMN - 3}} {words}", WIDTH, subsequent_indent=" " * COLUMN)


def _names(title: str, names: Iterable[str]) -> str:
    return textwrap.fill(f"{title}: {', '.join(names)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def short_help(actions: Sequence[argparse.Action], command: str, data: Iterable[str]) -> str:
    """A sentence for each option of ours, and for some of Lightning's."""
    groups: dict[str, list[str]] = {"model": [], "data": []}
    for action in actions:
        name = action.option_strings[-1] if action.option_strings else ""
        group, _, rest = name.removeprefix("--").partition(".")
        if name.startswith("--") and group in groups and rest and action.help not in (None, argparse.SUPPRESS):
            default = "" if action.default in (None, argparse.SUPPRESS) else f" [{action.default}]"
            groups[group].append(_line(name, first_sentence(str(action.help)) + default))
    recipes = sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))
    lines = [
        f"usage: python -m train {command} [--config FILE] [--OPTION VALUE]...   (in brackets: the default)",
        *(_line(option, words) for option, words in OWN.items()),
        "",
        "The network and how it learns:",
        *groups["model"],
        "",
        "The data:",
        *groups["data"],
        "",
        "Lightning's trainer and checkpoints, the usual ones:",
        *(_line(f"--trainer.{name}", words) for name, words in TRAINER.items()),
        *(_line(f"--checkpoint.{name}", words) for name, words in CHECKPOINT.items()),
        "",
        _names("recipes", recipes),
        _names("networks", [*NETWORKS, *PIXEL_NETWORKS, "torchvision/NAME", "timm/NAME"]),
        _names("data", data),
        "",
    ]
    return "\n".join(lines)


def suggested(message: str, actions: Sequence[argparse.Action]) -> str:
    """The message, with the option that was probably meant where it speaks of one that does not exist."""
    unknown = re.search(r"[Uu]nrecognized arguments: (--[\w.]+)", message)
    known = [option for action in actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[1], known, 1) if unknown else []
    return f"{message}: did you mean {near[0]}?" if near else message
