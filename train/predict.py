"""``python -m train predict --ckpt_path C FILES...``: the likeliest classes of pictures, by a trained network."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.data import SIDE, SOURCES, Source, as_kept
from train.errors import InputError
from train.networks import SIDES, build
from train.pictures import read_picture
from train.saved import data_of, read_checkpoint


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
    kept = checkpoint.get("kept")
    if kept is None:
        return network, SOURCES[data], SIDES.get(arguments["name"], SIDE)
    return network, as_kept(SOURCES[data], kept), kept["side"]


def predict(arguments: list[str]) -> None:
    """Prints the classes of the pictures that the command line names, a line each."""
    parser = Parser(prog="python -m train predict", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture of any size and format that Pillow reads")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint that `python -m train fit` wrote")
    parser.add_argument("--backend", default="torchconv", help="whose convolutions: torchconv or torch")
    parser.add_argument("--most", type=int, default=5, help="how many classes of each picture")
    options = parser.parse_args(arguments)
    if options.most < 1:
        raise InputError(f"--most must be at least 1, got {options.most}")
    network, source, side = load_network(options.ckpt_path, options.backend)
    images = torch.stack([read_picture(path, source.channels, side) for path in options.files])
    for path, classes in zip(options.files, likeliest(network, images, source, options.most), strict=True):
        print(f"{Path(path).name}: " + ", ".join(f"{name} {share:.1%}" for name, share in classes))
