"""``python -m train predict --ckpt_path C FILES...``: what a trained network says of pictures.

The likeliest classes, after them the points that the task locates, in shares of the width and height; of a segmentation
each class's share of the pixels.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from train.data import SOURCES, Source
from train.errors import InputError, one_line
from train.module import Learner, load
from train.networks import SIDES
from train.saved import data_of, read_checkpoint


class Parser(argparse.ArgumentParser):
    """Reports an error as one sentence."""

    def error(self, message: str) -> Any:
        raise InputError(message)


def read_picture(path: str, source: Source, side: int) -> Tensor:
    """The picture at ``path``, grey or in colour as the data set is, resized to ``side`` pixels: bytes [C, H, W]."""
    try:
        with Image.open(path) as image:
            resized = image.convert("L" if source.channels == 1 else "RGB").resize(
                (side, side), Image.Resampling.BILINEAR
            )
    except OSError as error:
        raise InputError(f"cannot read picture '{path}': {error.strerror or one_line(error)}") from error
    pixels = torch.from_numpy(numpy.array(resized))  # [H, W] or [H, W, 3]
    return pixels.view(side, side, -1).permute(2, 0, 1).contiguous()


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


def load_module(path: str, backend: str) -> tuple[Learner, Source, int]:
    """The network in the checkpoint at ``path``, what it was trained on, and the side of the pictures it takes."""
    checkpoint = read_checkpoint(path)
    source = SOURCES[data_of(checkpoint, path)]
    return load(checkpoint, backend), source, SIDES.get(checkpoint["network"]["name"], source.side)


def predict(arguments: list[str]) -> None:
    """Prints what is seen on the pictures that the command line names, a line each."""
    parser = Parser(prog="python -m train predict", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture of any size and format that Pillow reads")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint that `python -m train fit` wrote")
    parser.add_argument("--backend", default="torchconv", help="whose convolutions: torchconv or torch")
    parser.add_argument("--most", type=int, default=5, help="how many classes of each picture")
    options = parser.parse_args(arguments)
    if options.most < 1:
        raise InputError(f"--most must be at least 1, got {options.most}")
    module, source, side = load_module(options.ckpt_path, options.backend)
    images = torch.stack([read_picture(path, source, side) for path in options.files])
    for path, line in zip(options.files, told(module, images, source, options.most), strict=True):
        print(f"{Path(path).name}: {line}")
