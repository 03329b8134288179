"""The data sets: read once into memory as bytes, split, cut into batches, augmented batch by batch.

No worker processes and no Python per sample: an epoch is a permutation, a batch is one indexing of a tensor.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from train.augment import BORDERS, FLIPS, Augmentation
from train.errors import InputError
from train.pictures import find_pictures, mean_and_std, read_pictures
from train.saved import DEFAULT_DATA
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
    ``flip``, mirrors every other one.
    """

    read: Callable[[str, bool], tuple[Images, Images]]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    shift: int
    flip: bool
    classes: tuple[str, ...] = tuple("0123456789")
    size: tuple[int, int] = (SIDE, SIDE)  # of an image, height and width
    recordings: bool = False  # whose spectrograms the images are

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


class EvenBatches(Sampler[Tensor]):
    """Indices of 0..n-1 batch by batch, each exactly once an epoch, over all processes together.

    The batches are as equal as can be, none larger than ``batch_size`` and none tiny (which batch norm would suffer
    from), and there are equally many in every process (which waits for the others at each). With a ``generator`` the
    order is random, a function of ``seed`` and the epoch alone.
    """

    def __init__(
        self, n: int, batch_size: int, generator: Generator | None = None, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.n, self.batch_size, self.generator, self.seed = n, batch_size, generator, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, so that each has an order of its own, after a resume too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n // (self.world * self.batch_size))

    @property
    def draws(self) -> Generator:
        """Where the augmentation of the batches takes its random numbers."""
        assert self.generator is not None
        return self.generator

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.n)
        if self.generator is not None:
            epoch_seed = (self.seed * 10_007 + self.epoch) * self.world
            # All processes draw one order; then each augments its share with random numbers of its own.
            order = torch.randperm(self.n, generator=self.generator.manual_seed(epoch_seed))
            self.generator.manual_seed(epoch_seed + self.rank)
        yield from order[self.rank :: self.world].tensor_split(len(self))


class ImageBatches(Dataset[Images]):
    """Maps a tensor of indices to a normalised float32 batch [B, C, 32, 32] and its labels [B].

    With an ``augmentation`` the images are varied by it, with draws of the ``sampler``'s generator and in its epoch.
    """

    def __init__(
        self,
        images: Images,
        source: Source,
        augmentation: Augmentation | None = None,
        sampler: EvenBatches | None = None,
    ) -> None:
        self.images, self.labels = images
        self.augmentation, self.sampler = augmentation, sampler
        if sampler is not None:
            self.coins = torch.rand(len(self.labels), generator=Generator().manual_seed(sampler.seed)) < 0.5
        self.mean = 255 * torch.tensor(source.mean)[:, None, None]
        self.std = 255 * torch.tensor(source.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Images:
        images = self.images.index_select(0, indices)  # whole rows at once; by [indices] it is byte by byte
        if self.augmentation is not None:
            assert self.sampler is not None
            images = self.augmentation(images, indices, self.sampler.epoch, self.coins, self.sampler.draws)
        return self.normalised(images), self.labels[indices]

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes as float32 of mean 0 and deviation 1."""
        return images.float().sub_(self.mean).div_(self.std)


class Data(LightningDataModule):
    """Images of 32x32 pixels, or of a source's or folder's own size, split into training, validation and test set.

    Args:
        name: The data set, or folder: pictures in a folder for each class; by default a checkpoint's, or digits.
        root: Where MNIST, CIFAR (torchvision's layout) and recordings lie, or a folder's train/CLASS/* and
            test/CLASS/*, or CLASS/*.
        download: Fetch them into ``root`` where it is not there.
        batch_size: The most images in a batch, in each process.
        augment: Vary the training images at random.
        seed: Of the order and the augmentation of the training images.
        validation: Training images put aside for validation; by default as many as is usual for the data set.
        shift: The most pixels an image is moved by along each axis; by default the data set's.
        border: What moves in: black or reflect.
        flip: Mirror images: none, random (every other one) or alternate (each in every other epoch); by default random
            where the data set's images may be mirrored.
        rotate: Largest angle in degrees that an image is turned by, either way; 180: any.
        scale: Largest factor that an image is enlarged or reduced by, say 1.6.
        shear: Largest angle in degrees that an image is slanted by, either way.
        stretch: Largest factor that an image is stretched by, along either axis.
        cutout: The side in pixels of the square that covers a part of an image.
        side: Pixels that a folder's pictures are resized to along each axis; by default the network's.
    """

    def __init__(
        self,
        name: str | None = None,
        root: str = "data",
        download: bool = False,
        batch_size: PositiveInt = 64,
        augment: bool = True,
        seed: int = 0,
        validation: NonNegativeInt | None = None,
        shift: NonNegativeInt | None = None,
        border: str = "black",
        flip: str | None = None,
        rotate: NonNegativeFloat = 0.0,
        scale: PositiveFloat = 1.0,
        shear: NonNegativeFloat = 0.0,
        stretch: PositiveFloat = 1.0,
        cutout: NonNegativeInt = 0,
        side: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        name = name or DEFAULT_DATA
        if name not in SOURCES:
            raise InputError(f"unknown data set '{name}': there are {', '.join(SOURCES)}")
        if side is not None and name != FOLDER:
            raise InputError(f"--data.side is of a folder's pictures, but the data set is '{name}'")
        for option, value, known in (("border", border, BORDERS), ("flip", flip or "none", FLIPS)):
            if value not in known:
                raise InputError(f"unknown {option} '{value}': there are {', '.join(known)}")
        self.name, self.root, self.download = name, root, download
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.side = int(side or SIDE)
        source = of_folder(SOURCES[name], root, self.side) if name == FOLDER else SOURCES[name]
        self.source = source
        self.validation = source.validation if validation is None else validation
        shift, flip = source.shift if shift is None else shift, flip or ("random" if source.flip else "none")
        for option, factor in (("scale", scale), ("stretch", stretch)):
            if factor < 1:
                raise InputError(f"--data.{option} must be at least 1, got {factor:g}")
        if shear >= 90:
            raise InputError(f"--data.shear must be less than 90 degrees, got {shear:g}")
        self.augmentation = Augmentation(
            shift, border, flip, float(rotate), float(scale), float(shear), float(stretch), int(cutout)
        )
        self.splits: dict[str, Images] = {}

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.source.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.side, self.side) if self.name == FOLDER else self.source.size

    @property
    def num_classes(self) -> int:
        """The number of different labels, counted from 0."""
        return self.source.num_classes

    @property
    def kept(self) -> dict[str, Any] | None:
        """What a checkpoint has to say of a folder's pictures; of the other data sets it is known."""
        if self.name != FOLDER:
            return None
        mean, std, classes = map(list, (self.source.mean, self.source.std, self.source.classes))
        return {"mean": mean, "std": std, "classes": classes, "side": self.side}

    def take(self, kept: dict[str, Any], path: str) -> None:
        """Normalises as the network of the checkpoint at ``path`` was trained; refuses other classes than it knows."""
        if list(self.source.classes) != kept["classes"]:
            ours, theirs = (", ".join(names) for names in (self.source.classes, kept["classes"]))
            raise InputError(f"the classes in '{self.root}' are {ours}, but those of checkpoint '{path}' are {theirs}")
        self.source = as_kept(self.source, kept)

    def prepare_data(self) -> None:
        """Downloads what is to be downloaded; Lightning calls it in one process only."""
        if self.download:
            self.source.read(self.root, True)

    def setup(self, stage: str | None = None) -> None:
        """Reads all three splits into memory, once."""
        if not self.splits:
            train, test = self.source.read(self.root, False)
            if not self.source.mean:
                mean, std = mean_and_std(train[0])
                self.source = replace(self.source, mean=mean, std=std)
            for part, (_, labels) in (("training", train), ("test", test)):
                if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                    raise InputError(
                        f"the {part} labels of '{self.name}' reach from {labels.min()} to {labels.max()}: "
                        f"expected 0 to {self.num_classes - 1}"
                    )
            if self.validation >= len(train[1]):
                raise InputError(f"no training images are left of {len(train[1])}: --data.validation {self.validation}")
            train, validation = split(train, self.validation)
            self.splits = {"train": train, "validation": validation, "test": test}

    def sample(self, most: int = 5000) -> Tensor:
        """The first ``most`` training images, normalised, not augmented: float32 [N, C, 32, 32]."""
        return self.normaliser()(self.splits["train"][0][:most])

    def normaliser(self) -> Callable[[Tensor], Tensor]:
        """What makes of bytes [N, C, H, W] the float32 that a network is given."""
        return ImageBatches(self.splits["train"], self.source).normalised

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True, augment=self.augment)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader("validation") if self.validation else []

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False, augment: bool = False) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        images = self.splits[part]
        generator = Generator() if shuffle else None
        sampler = EvenBatches(len(images[1]), self.batch_size, generator, self.seed, rank, world)
        batches = ImageBatches(images, self.source, self.augmentation if augment else None, sampler)
        # None: the sampler's batches as they are. With a generator of its own it draws nothing from the global one.
        return DataLoader(batches, sampler=sampler, batch_size=None, generator=Generator())
