"""The data sets that there are, and how each is read: bytes and labels, split into what to train and to test on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Generator, Tensor

from train.errors import InputError
from train.pictures import find_pictures, read_pictures
from train.scenes import Scene
from train.spoken import FRAMES, MELS, read_welcome
from train.torchvision_sets import read_torchvision

SIDE = 32  # pixels of each image along each axis, but of a folder's
FOLDER = "folder"  # the data set of any pictures
TEST_SHARE = 5  # one of so many is for the test where a folder is not divided
SPLIT_SEED = 0  # Not the run's seed: runs with other seeds are to be compared on the same images.

Images = tuple[Tensor, Tensor]  # uint8 images [N, C, 32, 32] and int64 labels [N]


@dataclass(frozen=True)
class Source:
    """What there is to know of a data set before it is read.

    ``read(root, download)`` gives all images outside the test set, then the test set; ``validation`` of the former are
    put aside. ``mean`` and ``std`` are per channel, of pixels in 0..1, and empty where they are still to be measured.
    Unless asked for otherwise, augmentation moves an image by up to ``shift`` pixels along each axis and, where
    ``flip``, mirrors every other one. With a ``scene`` the images are pasted: anew each epoch to train on; for
    validation and test there are always the same ``copies`` pictures of each.
    """

    read: Callable[[str, bool], tuple[Images, Images]]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    shift: int
    flip: bool
    classes: tuple[str, ...] = tuple("0123456789")
    size: tuple[int, int] = (SIDE, SIDE)  # of an image, or of the scene that it is in: height and width
    recordings: bool = False  # whose spectrograms the images are
    scene: Scene | None = None
    copies: int = 1

    @property
    def num_classes(self) -> int:
        """The number of different labels, counted from 0."""
        return len(self.classes)


def read_digits(root: str, download: bool) -> tuple[Images, Images]:
    """scikit-learn's 1,797 digits of 8x8 pixels, enlarged to 32x32; one in five is for the test. Needs no files."""
    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None]  # [1797, 1, 8, 8], 0..16
    large = F.interpolate(small, size=32, mode="bilinear", align_corners=False)
    return split((large.mul_(255 / 16).round_().byte(), torch.from_numpy(bunch.target).long()), 360)


def read_mnist(root: str, download: bool) -> tuple[Images, Images]:
    """MNIST's 60,000 and 10,000 digits of 28x28 pixels with a black margin of 2."""
    train, test = read_torchvision("MNIST", "MNIST/raw", root, download)
    return (F.pad(train[0][:, None], [2] * 4), train[1]), (F.pad(test[0][:, None], [2] * 4), test[1])


def read_rotated_mnist(root: str, download: bool) -> tuple[Images, Images]:
    """12,000 and 50,000 of MNIST's digits, each turned by an angle of its own between 0° and 360°, bilinearly; the same
    ones every time. The protocol is that of Larochelle et al., 2007."""
    (train, train_labels), (test, test_labels) = read_mnist(root, download)
    images, labels = torch.cat([train, test]), torch.cat([train_labels, test_labels])
    generator = Generator().manual_seed(SPLIT_SEED)
    chosen = torch.randperm(len(labels), generator=generator)[:62_000]
    angles = 2 * math.pi * torch.rand(len(chosen), generator=generator)
    turned, labels = rotate(images[chosen], angles), labels[chosen]
    return (turned[:12_000], labels[:12_000]), (turned[12_000:], labels[12_000:])


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Turns each image of [N, C, H, H], bytes, by its angle, in radians and counter-clockwise, black moving in."""
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)  # where each pixel comes from, y down
    out = torch.empty_like(images)
    for some, maps, result in zip(theta.split(1000), images.split(1000), out.split(1000), strict=True):
        grid = F.affine_grid(some, list(maps.shape), align_corners=False)
        result.copy_(F.grid_sample(maps.float(), grid, align_corners=False).round_())
    return out


def read_cifar10(root: str, download: bool) -> tuple[Images, Images]:
    """CIFAR-10's 50,000 and 10,000 colour images of 32x32 pixels."""
    return _channels_first(*read_torchvision("CIFAR10", "cifar-10-batches-py", root, download))


def read_cifar100(root: str, download: bool) -> tuple[Images, Images]:
    """CIFAR-100's: as many images as CIFAR-10's, of a hundred classes."""
    return _channels_first(*read_torchvision("CIFAR100", "cifar-100-python", root, download))


def _channels_first(train: Images, test: Images) -> tuple[Images, Images]:
    """Of torchvision's height, width, channel."""
    return (train[0].permute(0, 3, 1, 2).contiguous(), train[1]), (test[0].permute(0, 3, 1, 2).contiguous(), test[1])


def read_folder(root: str, download: bool, side: int = SIDE) -> tuple[Images, Images]:
    """The pictures in ``root``, as `find_pictures` has them; one in five is for the test where they are not divided."""
    found = find_pictures(root)
    images = read_pictures(found.train, 3, side)
    if found.test is None:
        return split(images, len(found.train) // TEST_SHARE)
    return images, read_pictures(found.test, 3, side)


CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""

# Means and deviations are those of the training images (of MNIST's, turned or not, before the margin).
SOURCES = {
    "digits": Source(read_digits, 1, (0.3049,), (0.3234,), validation=180, shift=2, flip=False),
    "mnist": Source(read_mnist, 1, (0.1307,), (0.3081,), validation=5000, shift=2, flip=False),
    "rotmnist": Source(read_rotated_mnist, 1, (0.1317,), (0.2912,), validation=2000, shift=2, flip=False),
    "cifar10": Source(
        read_cifar10,
        3,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        validation=5000,
        shift=4,
        flip=True,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Source(
        read_cifar100,
        3,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        validation=5000,
        shift=4,
        flip=True,
        classes=tuple(CIFAR100.split()),
    ),
    "welcome": Source(
        read_welcome,
        1,
        (0.3621,),
        (0.2098,),
        validation=600,
        shift=2,
        flip=False,
        classes=("other", "welcome"),
        size=(MELS, FRAMES),
        recordings=True,
    ),
    # Its classes are those of its directory, and the other figures too: see `of_folder`.
    FOLDER: Source(read_folder, 3, (), (), validation=0, shift=4, flip=True, classes=()),
}
PASTED: dict[str, Any] = {"shift": 0, "scene": Scene(), "size": (Scene().side, Scene().side), "std": (0.269,)}
SOURCES["pasted"] = replace(SOURCES["digits"], mean=(0.154,), copies=5, **PASTED)
SOURCES["pasted_mnist"] = replace(SOURCES["mnist"], mean=(0.124,), **PASTED)


def of_folder(source: Source, root: str, side: int) -> Source:
    """The ``source`` of the pictures in ``root``, resized to ``side``; what is measured of them is still to come.

    Of each ten that are not for the test one is put aside for validation, unless a class has fewer.
    """
    found = find_pictures(root)
    rest = len(found.train) - (len(found.train) // TEST_SHARE if found.test is None else 0)
    validation = rest // 10 if found.fewest * rest >= 10 * len(found.train) else 0
    read = partial(read_folder, side=side)
    return replace(source, read=read, validation=validation, shift=side // 8, classes=found.classes)


def as_kept(source: Source, kept: dict[str, Any]) -> Source:
    """The ``source`` of a folder's pictures with what a checkpoint says of them."""
    mean, std, classes = (tuple(kept[name]) for name in ("mean", "std", "classes"))
    return replace(source, mean=mean, std=std, classes=classes)


def split(images: Images, held_out: int) -> tuple[Images, Images]:
    """Puts ``held_out`` images aside, the same ones every time, each class in proportion; (the rest, these)."""
    pixels, labels = images
    if not held_out:
        return images, (pixels[:0], labels[:0])
    try:
        rest, aside = train_test_split(
            torch.arange(len(labels)).numpy(), test_size=held_out, random_state=SPLIT_SEED, stratify=labels.numpy()
        )
    except ValueError as error:
        classes = len(labels.unique())
        raise InputError(
            f"{held_out} of {len(labels)} images cannot be put aside with each of {classes} classes in proportion"
        ) from error
    return (pixels[rest], labels[rest]), (pixels[aside], labels[aside])
