"""``python -m train predict --ckpt_path C FILES...``: the likeliest classes of pictures or recordings."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train.data import SIDE, SOURCES, Source, as_kept
from train.errors import InputError
from train.networks import SIDES, build
from train.pictures import read_picture
from train.saved import data_of, read_checkpoint
from train.spoken import read_recording


class Parser(argparse.ArgumentParser):
    """Reports an error as one sentence."""

    def error(self, message: str) -> Any:
        raise InputError(message)


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


class Trained(NamedTuple):
    """The network of a checkpoint and the data that it was trained on; of a folder's pictures what is kept of them."""

    network: nn.Module
    data: str
    kept: dict[str, Any] | None
    side: int  # of the pictures it takes

    @property
    def source(self) -> Source:
        """The data's classes, mean and deviation."""
        return as_kept(SOURCES[self.data], self.kept) if self.kept else SOURCES[self.data]

    def told_data(self) -> str:
        """The data in a few words."""
        if not self.kept:
            return self.data
        mean = ", ".join(f"{value:.4f}" for value in self.kept["mean"])
        return f"a folder of {', '.join(self.kept['classes'])} ({self.side}x{self.side} pixels of mean {mean})"


def load_network(path: str, backend: str) -> Trained:
    """The network in the checkpoint at ``path``, its convolutions from ``backend``."""
    checkpoint = read_checkpoint(path)
    arguments, data, kept = checkpoint["network"], data_of(checkpoint, path), checkpoint.get("kept")
    network = build(backend=backend, **arguments)
    network.load_state_dict(
        {
            key.removeprefix("network."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith("network.")
        }
    )
    return Trained(network, data, kept, kept["side"] if kept else SIDES.get(arguments["name"], SIDE))


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
    trained = load_network(options.ckpt_path, options.backend)
    source = trained.source
    # Recordings may be of different lengths, and so are no batch.
    images = [
        read_recording(path) if source.recordings else read_picture(path, source.channels, trained.side)
        for path in options.files
    ]
    answers = [likeliest(trained.network, image[None], source, options.most)[0] for image in images]
    for path, classes in zip(options.files, answers, strict=True):
        print(f"{Path(path).name}: " + ", ".join(f"{name} {share:.1%}" for name, share in classes))
