"""The data sets: read once into memory as bytes, split, cut into batches, augmented or pasted batch by batch.

No worker processes and no Python per sample: an epoch is a permutation, a batch is one indexing of a tensor.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from train.augment import BORDERS, FLIPS, Augmentation
from train.errors import InputError, one_line
from train.saved import DEFAULT_DATA
from train.scenes import Scene, Targets, chosen

SIDE = 32  # pixels of each image along each axis
SPLIT_SEED = 0  # Not the run's seed: runs with other seeds are to be compared on the same images.

Images = tuple[Tensor, Tensor]  # uint8 images [N, C, 32, 32] and int64 labels [N]
Known = tuple[Tensor, Tensor | Targets]  # pictures, and their labels or, where they are scenes, all that is known


@dataclass(frozen=True)
class Source:
    """What there is to know of a data set before it is read.

    ``read(root, download)`` gives all images outside the test set, then the test set; ``validation`` of the former are
    put aside. ``mean`` and ``std`` are per channel, of pixels in 0..1. Unless asked for otherwise, augmentation moves
    an image by up to ``shift`` pixels along each axis and, where ``flip``, mirrors every other one. With a ``scene``
    the images are pasted: anew each epoch to train on; for validation and test there are always the same ``copies``
    pictures of each.
    """

    read: Callable[[str, bool], tuple[Images, Images]]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    shift: int
    flip: bool
    classes: tuple[str, ...] = tuple("0123456789")
    scene: Scene | None = None
    copies: int = 1

    @property
    def side(self) -> int:
        """Pixels of a picture along each axis."""
        return self.scene.side if self.scene else SIDE

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
    train, test = _read_torchvision("MNIST", "MNIST/raw", root, download)
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
    return _channels_first(*_read_torchvision("CIFAR10", "cifar-10-batches-py", root, download))


def read_cifar100(root: str, download: bool) -> tuple[Images, Images]:
    """CIFAR-100's: as many images as CIFAR-10's, of a hundred classes."""
    return _channels_first(*_read_torchvision("CIFAR100", "cifar-100-python", root, download))


def _channels_first(train: Images, test: Images) -> tuple[Images, Images]:
    """Of torchvision's height, width, channel."""
    return (train[0].permute(0, 3, 1, 2).contiguous(), train[1]), (test[0].permute(0, 3, 1, 2).contiguous(), test[1])


# What torchvision does not check itself: MD5 of the files that it reads, as its own are of what they are unpacked from.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _check_mnist(folder: Path) -> None:
    """Raises an `InputError` unless the files of MNIST are those."""
    packed = [name for name in MNIST_FILES if not (folder / name).exists() and (folder / f"{name}.gz").exists()]
    if packed:
        raise InputError(f"the MNIST data in '{folder}' is still compressed: unpack it by gunzip -k {folder}/*.gz")
    for name, digest in MNIST_FILES.items():
        if not (folder / name).exists():
            raise InputError(f"the MNIST data is incomplete: there is no '{folder / name}'")
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != digest:
            raise InputError(f"the MNIST data is damaged: '{folder / name}' has the checksum {found}, not {digest}")


def _read_torchvision(dataset: str, folder: str, root: str, download: bool) -> tuple[Images, Images]:
    """Both halves of a torchvision data set, in its own shape, or an `InputError` that says what is wrong."""
    try:
        from train._torchvision import torchvision
    except ModuleNotFoundError as error:
        raise InputError(f"the data set {dataset} is read by torchvision, which is not installed") from error
    read = getattr(torchvision.datasets, dataset)
    if download:
        try:
            read(root, download=True)
        except Exception as error:  # Of networks and of disks.
            raise InputError(f"the {dataset} data could not be fetched into '{root}': {one_line(error)}") from error
    try:
        if not Path(root, folder).is_dir():
            raise InputError(
                f"no {dataset} data in '{root}' (looked for '{folder}' there): "
                "name its directory with --data.root, or fetch it with --data.download true"
            )
        if dataset == "MNIST":
            _check_mnist(Path(root, folder))
        halves = [read(root, train=train) for train in (True, False)]
        images = [torch.as_tensor(half.data) for half in halves]
        labels = [torch.as_tensor(half.targets) for half in halves]
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"the {dataset} data cannot be read: no permission to open '{error.filename}'") from error
    except Exception as error:  # What a reader raises on bytes that are not what it expects could be anything.
        raise InputError(f"the {dataset} data in '{root}' is incomplete or damaged: {one_line(error)}") from error
    for some, their in zip(images, labels, strict=True):
        if len(some) != len(their):
            raise InputError(f"the {dataset} data in '{root}' is damaged: {len(some)} images but {len(their)} labels")
    return (images[0], labels[0]), (images[1], labels[1])


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
}
SOURCES["pasted"] = replace(SOURCES["digits"], mean=(0.154,), std=(0.269,), shift=0, scene=Scene(), copies=5)
SOURCES["pasted_mnist"] = replace(SOURCES["mnist"], mean=(0.124,), std=(0.269,), shift=0, scene=Scene())


def split(images: Images, held_out: int) -> tuple[Images, Images]:
    """Puts ``held_out`` images aside, the same ones every time, each class in proportion; (the rest, these)."""
    pixels, labels = images
    if not held_out:
        return images, (pixels[:0], labels[:0])
    rest, aside = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=held_out, random_state=SPLIT_SEED, stratify=labels.numpy()
    )
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


class ImageBatches(Dataset[Known]):
    """Maps a tensor of indices to a normalised float32 batch [B, C, H, W] and its labels [B], or `Targets`.

    With an ``augmentation`` the images are varied by it, with draws of the ``sampler``'s generator and in its epoch; a
    ``scene`` pastes them likewise.
    """

    def __init__(
        self,
        images: Known,
        source: Source,
        augmentation: Augmentation | None = None,
        sampler: EvenBatches | None = None,
        scene: Scene | None = None,
    ) -> None:
        self.images, self.targets = images
        self.augmentation, self.sampler, self.scene = augmentation, sampler, scene
        if sampler is not None:
            self.coins = torch.rand(len(self.images), generator=Generator().manual_seed(sampler.seed)) < 0.5
        self.mean = 255 * torch.tensor(source.mean)[:, None, None]
        self.std = 255 * torch.tensor(source.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> Known:
        images, targets = self.images[indices], chosen(self.targets, indices)
        if self.augmentation is not None:
            assert self.sampler is not None
            images = self.augmentation(images, indices, self.sampler.epoch, self.coins, self.sampler.draws)
        if self.scene is not None:
            assert self.sampler is not None
            assert isinstance(targets, Tensor)
            images, targets = self.scene(images, targets, self.images, self.sampler.draws)
        return self.normalised(images), targets

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes as float32 of mean 0 and deviation 1."""
        return images.float().sub_(self.mean).div_(self.std)


class Data(LightningDataModule):
    """Images of 32x32 pixels, or larger pictures that they are pasted in: training, validation and test set.

    Args:
        name: The data set, one of ``SOURCES``; by default a checkpoint's, or digits.
        root: The directory that holds MNIST and CIFAR as torchvision lays them out.
        download: Fetch them into ``root`` where it is not there.
        batch_size: The most images in a batch, in each process.
        augment: Vary the training images at random.
        seed: Of the order and the augmentation of the training images.
        validation: Training images put aside for validation; by default as many as is usual for the data set.
        shift: The most pixels an image is moved by along each axis; by default the data set's.
        border: What moves in: black or reflect.
        flip: Mirror images: none, random (every other one) or alternate (each in every other epoch); by default random
            where the data set's images may be mirrored.
        rotate: The largest angle in degrees that an image is turned by, either way; 180: any.
        scale: The largest factor that an image is enlarged or reduced by, for instance 1.6.
        shear: The largest angle in degrees that an image is slanted by, either way.
        stretch: The largest factor that an image is stretched by, along either axis.
        cutout: The side in pixels of the square that covers a part of an image.
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
    ) -> None:
        super().__init__()
        name = name or DEFAULT_DATA
        if name not in SOURCES:
            raise InputError(f"unknown data set '{name}': there are {', '.join(SOURCES)}")
        for option, value, known in (("border", border, BORDERS), ("flip", flip or "none", FLIPS)):
            if value not in known:
                raise InputError(f"unknown {option} '{value}': there are {', '.join(known)}")
        self.name, self.root, self.download = name, root, download
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.source = source = SOURCES[name]
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
        if source.scene is not None:
            usual = asdict(Augmentation())
            for option, value in asdict(self.augmentation).items():
                if value != usual[option]:
                    raise InputError(f"the digits of '{name}' are turned, sized and placed anyway: no --data.{option}")
        # Where the training images are pasted anew each epoch, they are here as they were read.
        self.scene = source.scene if augment else None
        self.splits: dict[str, Known] = {}

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.source.channels

    @property
    def side(self) -> int:
        """Pixels of a picture along each axis."""
        return self.source.side

    @property
    def num_classes(self) -> int:
        """The number of different labels, counted from 0."""
        return self.source.num_classes

    def prepare_data(self) -> None:
        """Downloads what is to be downloaded; Lightning calls it in one process only."""
        if self.download:
            self.source.read(self.root, True)

    def setup(self, stage: str | None = None) -> None:
        """Reads all three splits into memory, once."""
        if not self.splits:
            train, test = self.source.read(self.root, False)
            for part, (_, labels) in (("training", train), ("test", test)):
                if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                    raise InputError(
                        f"the {part} labels of '{self.name}' reach from {labels.min()} to {labels.max()}: "
                        f"expected 0 to {self.num_classes - 1}"
                    )
            if self.validation >= len(train[1]):
                raise InputError(f"no training images are left of {len(train[1])}: --data.validation {self.validation}")
            if 0 < self.validation < self.num_classes:
                raise InputError(f"--data.validation {self.validation} is less than the {self.num_classes} classes")
            train, validation = split(train, self.validation)
            parts: dict[str, Images] = {"train": train, "validation": validation, "test": test}
            for seed, (part, images) in enumerate(parts.items()):
                self.splits[part] = images if part == "train" and self.scene else self._pasted(part, images, seed)

    def _pasted(self, part: str, images: Images, seed: int = SPLIT_SEED) -> Known:
        """``images`` in scenes, where the data set is of such; always the same ones."""
        if self.source.scene is None or not len(images[0]):
            return images
        return self.source.scene.pictures(*images, 1 if part == "train" else self.source.copies, seed)

    def pictures(self, part: str, most: int) -> Known:
        """The first ``most`` of a part, bytes [N, C, H, W] as a network is to see them, and what is known of them."""
        images, targets = (chosen(known, slice(most)) for known in self.splits[part])
        if part == "train" and self.scene is not None:
            return self._pasted(part, cast(Images, (images, targets)))
        return cast(Known, (images, targets))

    def sample(self, most: int = 5000) -> Tensor:
        """The first ``most`` training images, normalised, not augmented: float32 [N, C, H, W]."""
        return self.normaliser()(self.pictures("train", most)[0])

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
        sampler = EvenBatches(len(images[0]), self.batch_size, generator, self.seed, rank, world)
        augmentation, scene = (self.augmentation, self.scene) if augment else (None, None)
        batches = ImageBatches(images, self.source, augmentation, sampler, scene)
        # None: the sampler's batches as they are. With a generator of its own it draws nothing from the global one.
        return DataLoader(batches, sampler=sampler, batch_size=None, generator=Generator())
