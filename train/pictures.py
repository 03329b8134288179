"""Any pictures as a data set: a folder for each class. Read by Pillow, resized, into memory as bytes."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from train.errors import InputError, one_line

Files = Sequence[tuple[str, int]]  # paths with the numbers of their classes


@dataclass(frozen=True)
class Pictures:
    """What a directory holds, its classes by name in order; ``test`` is None where it is not divided."""

    classes: tuple[str, ...]
    train: Files
    test: Files | None

    @property
    def fewest(self) -> int:
        """Training pictures of the class with the fewest."""
        return int(torch.tensor([label for _, label in self.train]).bincount(minlength=len(self.classes)).min())


def find_pictures(root: str) -> Pictures:
    """The pictures in ``root``/train/CLASS and ``root``/test/CLASS or, undivided, in ``root``/CLASS.

    Raises:
        InputError: if there is no such directory, no class or no picture in it, or a class has none to train on.
    """
    try:
        from train._torchvision import torchvision
    except ModuleNotFoundError as error:
        raise InputError("a folder of pictures is listed by torchvision, which is not installed") from error
    folder = torchvision.datasets.folder

    def listed(directory: Path, numbers: dict[str, int]) -> Files:
        return folder.make_dataset(directory, numbers, folder.IMG_EXTENSIONS, allow_empty=True)

    train, test = Path(root, "train"), Path(root, "test")
    divided = train.is_dir()
    if divided and not test.is_dir():
        raise InputError(f"there is '{train}', but no '{test}' with the pictures to test on")
    held = train if divided else Path(root)
    names = {half: _names(half) for half in ([train, test] if divided else [held])}
    classes = sorted(set().union(*names.values()))
    if not classes:
        raise InputError(f"there are no folders of classes in '{held}', such as '{held / 'cat'}'")
    numbers = {name: number for number, name in enumerate(classes)}
    files = listed(held, numbers)
    if not files:
        raise InputError(f"there are no pictures in the folders of '{held}' ({', '.join(folder.IMG_EXTENSIONS)})")
    empty = set(range(len(classes))) - {label for _, label in files}
    if empty:
        raise InputError(f"class '{classes[min(empty)]}' has no training pictures in '{held}'")
    return Pictures(tuple(classes), files, listed(test, numbers) if divided else None)


def _names(directory: Path) -> set[str]:
    """Of the folders in ``directory``."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in entries if entry.is_dir()}
    except OSError as error:
        raise InputError(
            f"cannot read the folder of pictures '{directory}': {error.strerror}; name it with --data.root"
        ) from error


def read_picture(path: str, channels: int, side: int) -> Tensor:
    """The picture at ``path``, grey or in colour as ``channels`` says, resized to ``side`` pixels: bytes [C, H, W].

    A picture that is no square is stretched to one. An `InputError` names one that cannot be read.
    """
    try:
        with Image.open(path) as image:
            resized = image.convert("L" if channels == 1 else "RGB").resize((side, side), Image.Resampling.BILINEAR)
    except Exception as error:  # What a decoder raises on bytes that are no picture could be anything.
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"cannot read picture '{path}': {reason or one_line(error)}") from error
    pixels = torch.from_numpy(numpy.array(resized))  # [H, W] or [H, W, 3]
    return pixels.view(side, side, -1).permute(2, 0, 1).contiguous()


def read_pictures(files: Files, channels: int, side: int) -> tuple[Tensor, Tensor]:
    """All of them, on as many threads as there are processors: bytes [N, C, side, side] and labels [N]."""
    images = torch.empty(len(files), channels, side, side, dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, picture in enumerate(pool.map(lambda file: read_picture(file[0], channels, side), files)):
            images[i] = picture
    return images, torch.tensor([label for _, label in files], dtype=torch.int64)


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of bytes [N, C, H, W], as pixels in 0..1, exactly; no deviation is less than one byte's step."""
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])]).double()
    shares /= shares.sum(1, keepdim=True)
    mean = shares @ values
    std = ((shares * (values - mean[:, None]) ** 2).sum(1)).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
