"""``python -m train predict --ckpt_path C FILES...``: what a trained network says of pictures or recordings.

The likeliest classes, after them the points that the task locates, in shares of the width and height; of a segmentation
each class's share of the pixels.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from train.errors import InputError
from train.module import Learner, load
from train.networks import SIDES
from train.pictures import read_picture
from train.saved import data_of, read_checkpoint
from train.sources import SOURCES, Source, as_kept
from train.spoken import read_recording


class Parser(argparse.ArgumentParser):
    """Reports an error as one sentence."""

    def error(self, message: str) -> Any:
        raise InputError(message)


@torch.no_grad()
def told(module: Learner, images: Tensor, source: Source, most: int) -> list[str]:
    """What the network says of each of the pictures [N, C, H, W], bytes: of its classes the ``most`` likeliest."""
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
    outputs = module.eval()((images.float() - mean) / std)
    names, points = module.task.classes(source.classes), module.task.located(outputs)
    best = module.task.shares(outputs).topk(min(most, len(names)))
    lines = [
        ", ".join(f"{names[label]} {share:.1%}" for label, share in zip(*pair, strict=True))
        for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    if points is None:
        return lines
    places = ((points + 1) / 2).tolist()
    return [f"{line}; " + " ".join(f"{x:.3f},{y:.3f}" for x, y in of) for line, of in zip(lines, places, strict=True)]


class Trained(NamedTuple):
    """The network of a checkpoint and the data that it was trained on; of a folder's pictures what is kept of them."""

    module: Learner
    data: str
    kept: dict[str, Any] | None

    @property
    def source(self) -> Source:
        """The data's classes, mean and deviation."""
        return as_kept(SOURCES[self.data], self.kept) if self.kept else SOURCES[self.data]

    @property
    def side(self) -> int:
        """Of the pictures it takes."""
        return self.kept["side"] if self.kept else SIDES.get(str(self.module.network_args["name"]), self.source.size[0])

    def told_data(self) -> str:
        """The data in a few words."""
        if not self.kept:
            return self.data
        mean = ", ".join(f"{value:.4f}" for value in self.kept["mean"])
        return f"a folder of {', '.join(self.kept['classes'])} ({self.side}x{self.side} pixels of mean {mean})"


def load_trained(path: str, backend: str) -> Trained:
    """What is in the checkpoint at ``path``, its convolutions from ``backend``."""
    checkpoint = read_checkpoint(path)
    return Trained(load(checkpoint, backend), data_of(checkpoint, path), checkpoint.get("kept"))


def predict(arguments: list[str]) -> None:
    """Prints what is seen on the pictures, or heard in the recordings, that the command line names, a line each."""
    parser = Parser(prog="python -m train predict", description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a picture of any size and format that Pillow reads, or a recording as WAV file",
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint that `python -m train fit` wrote")
    parser.add_argument("--backend", default="torchconv", help="whose convolutions: torchconv or torch")
    parser.add_argument("--most", type=int, default=5, help="how many classes of each picture")
    options = parser.parse_args(arguments)
    if options.most < 1:
        raise InputError(f"--most must be at least 1, got {options.most}")
    trained = load_trained(options.ckpt_path, options.backend)
    source = trained.source
    # Recordings may be of different lengths, and so are no batch.
    images = [
        read_recording(path) if source.recordings else read_picture(path, source.channels, trained.side)
        for path in options.files
    ]
    lines = [told(trained.module, image[None], source, options.most)[0] for image in images]
    for path, line in zip(options.files, lines, strict=True):
        print(f"{Path(path).name}: {line}")
