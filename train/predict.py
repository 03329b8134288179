"""``python -m train predict --ckpt_path C FILES...``: the likeliest classes of pictures or recordings."""

import argparse
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from train.data import SIDE, SOURCES, Source
from train.errors import InputError, one_line
from train.networks import SIDES, build
from train.saved import data_of, read_checkpoint
from train.spoken import read_recording


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
def likeliest(network: nn.Module, images: Tensor, source: Source, most: int) -> list[list[tuple[str, float]]]:
    """Of each of the pictures [N, C, H, W], bytes, the ``most`` likeliest classes with their probabilities."""
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
    probabilities = network.eval()((images.float() - mean) / std).softmax(1)
    best = probabilities.topk(min(most, probabilities.shape[1]))
    return [
        [(source.classes[label], share) for label, share in zip(labels, shares, strict=True)]
        for labels, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def load_network(path: str, backend: str) -> tuple[nn.Module, Source, int]:
    """The network in the checkpoint at ``path``, what it was trained on, and the side of the pictures it takes."""
    checkpoint = read_checkpoint(path)
    arguments, data = checkpoint["network"], data_of(checkpoint, path)
    network = build(backend=backend, **arguments)
    network.load_state_dict(
        {
            key.removeprefix("network."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith("network.")
        }
    )
    return network, SOURCES[data], SIDES.get(arguments["name"], SIDE)


def predict(arguments: list[str]) -> None:
    """Prints the classes of the pictures or recordings that the command line names, a line each."""
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
    network, source, side = load_network(options.ckpt_path, options.backend)
    # Recordings may be of different lengths, and so are no batch.
    images = [read_recording(path) if source.recordings else read_picture(path, source, side) for path in options.files]
    answers = [likeliest(network, image[None], source, options.most)[0] for image in images]
    for path, classes in zip(options.files, answers, strict=True):
        print(f"{Path(path).name}: " + ", ".join(f"{name} {share:.1%}" for name, share in classes))
