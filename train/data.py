"""The data sets: read once into memory as bytes, split, cut into batches, augmented or pasted batch by batch.

No worker processes and no Python per sample: an epoch is a permutation, a batch is one indexing of a tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from train.augment import BORDERS, FLIPS, Augmentation
from train.errors import InputError
from train.pictures import mean_and_std
from train.saved import DEFAULT_DATA
from train.scenes import Scene, Targets, chosen
from train.sources import FOLDER, SIDE, SOURCES, SPLIT_SEED, Images, Source, as_kept, of_folder, split

Known = tuple[Tensor, Tensor | Targets]  # pictures, and their labels or, where they are scenes, all that is known


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
        # Whole rows at once; by [indices] it is byte by byte.
        images, targets = self.images.index_select(0, indices), chosen(self.targets, indices)
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
    """Images of 32x32 pixels, or of a source's or folder's own size, or pictures that they are pasted in.

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
