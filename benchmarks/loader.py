"""``python -m benchmarks.loader``: images a second of the training platform's loader, and of the fastest network.

Each kind of images is loaded as its data set is by default and with every augmentation on, then LeNet-5, the fastest
network, is trained on a batch of them. Pixels are random: neither depends on them. Batches are made in the process that
trains, so a loader of three times the network's rate takes a quarter of the time.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from train.data import Data
from train.memory import keep_freed_memory
from train.networks import build

EVERY = {"shift": 10, "flip": "random", "rotate": 180.0, "scale": 1.6, "shear": 20.0, "stretch": 1.3, "cutout": 8}
AUGMENTATIONS: dict[str, dict[str, Any]] = {"default": {}, "every": EVERY}
KINDS = {"grey": "mnist", "colour": "cifar10"}
BATCH = 128


def rate(turn: Callable[[], object], turns: int) -> float:
    """Images a second of batches that each ``turn`` makes or trains on: the median."""
    times = []
    for _ in range(turns):
        start = perf_counter()
        turn()
        times.append(perf_counter() - start)
    return BATCH / median(times)


def loaded(name: str, batches: int, **options: Any) -> float:
    """Of the training loader of random pixels in the shape of the named data set's."""
    data = Data(name, batch_size=BATCH, **options)
    count = BATCH * batches
    pixels = torch.randint(256, (count, data.in_channels, 32, 32), dtype=torch.uint8)
    data.splits = {"train": (pixels, torch.arange(count) % 10)}
    loader = iter(data.train_dataloader())
    return rate(lambda: next(loader), batches)


def trained(channels: int, steps: int) -> float:
    """Of steps of LeNet-5 by SGD: forward, backward and update."""
    network = build("lenet5", in_channels=channels)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)
    images, labels = torch.randn(BATCH, channels, 32, 32), torch.arange(BATCH) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return rate(step, steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--batches", type=int, default=200, help="that a median is taken of")
    batches = parser.parse_args().batches
    keep_freed_memory()
    print(f"{'images':8}{'augmentation':14}{'loaded/s':>10}{'trained/s':>11}{'ratio':>7}")
    for kind, name in KINDS.items():
        network = trained(Data(name).in_channels, batches)
        for augmentation, options in AUGMENTATIONS.items():
            found = loaded(name, batches, **options)
            print(f"{kind:8}{augmentation:14}{found:10,.0f}{network:11,.0f}{found / network:7.1f}", flush=True)


if __name__ == "__main__":
    main()
