"""The data of `python -m train`: splits, batches, augmentation, and the sets themselves.

Those that are not in a package are tested where the environment variable TORCHCONV_DATA names the directory that holds
them, as torchvision lays them out.
"""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from train._torchvision import torchvision
from train.augment import Augmentation, mixup, random_cutout, random_flip, random_shift, warp
from train.data import Data, EvenBatches, ImageBatches
from train.errors import InputError
from train.sources import SOURCES, rotate, split

FULL_DATA = os.environ.get("TORCHCONV_DATA")


def numbered(n: int) -> tuple[Tensor, Tensor]:
    """n one-channel images that each hold their own number in two bytes, in three classes."""
    images = torch.zeros(n, 1, 32, 32, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(n) // 256, torch.arange(n) % 256
    return images, torch.arange(n) % 3


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


def test_split_is_disjoint_stratified_and_always_the_same() -> None:
    rest, aside = split(numbered(900), 300)
    assert sorted(numbers(rest[0]) + numbers(aside[0])) == list(range(900))
    assert aside[1].bincount().tolist() == [100, 100, 100]
    assert all(n % 3 == label for n, label in zip(numbers(aside[0]), aside[1].tolist(), strict=True))
    torch.manual_seed(123)
    assert numbers(split(numbered(900), 300)[1][0]) == numbers(aside[0])


def test_digits() -> None:
    data = Data("digits")
    data.setup()
    assert {part: tuple(images.shape) for part, (images, _) in data.splits.items()} == {
        "train": (1257, 1, 32, 32),
        "validation": (180, 1, 32, 32),
        "test": (360, 1, 32, 32),
    }
    rows = [bytes(image.numpy()) for images, _ in data.splits.values() for image in images]
    assert len(set(rows)) == 1797  # no image in two parts
    check_normalised(data)


def check_normalised(data: Data) -> None:
    data.augment = False
    images, labels = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(10))
    if data.name in ("mnist", "rotmnist"):
        images = images[:, :, 2:-2, 2:-2]  # Its mean and deviation are those without the margin.
    assert images.mean((0, 2, 3)).abs().max() < 0.005
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.005


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (12, 4), (13, 4), (100, 7), (3, 1)])
def test_each_index_once_an_epoch_over_all_processes(n: int, batch_size: int, world: int) -> None:
    shares = [list(EvenBatches(n, batch_size, Generator(), 5, rank, world)) for rank in range(world)]
    lengths = {len(share) for share in shares}
    assert lengths == {len(EvenBatches(n, batch_size, None, 0, 0, world))}
    assert sorted(i for share in shares for batch in share for i in batch.tolist()) == list(range(n))
    sizes = [len(batch) for share in shares for batch in share]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EvenBatches(50, 8, Generator(), seed)
        sampler.set_epoch(epoch)
        return torch.cat(list(sampler)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_evaluation_is_in_order() -> None:
    assert torch.cat(list(EvenBatches(50, 8))).tolist() == list(range(50))


def test_loader_covers_each_image_once_with_its_label() -> None:
    images = numbered(700)
    batches = ImageBatches(images, SOURCES["digits"])
    (mean,), (std,) = SOURCES["digits"].mean, SOURCES["digits"].std
    seen = []
    for index in EvenBatches(700, 64, Generator()):
        pixels, labels = batches[index]
        restored = (pixels * std + mean).mul(255).round()
        seen += list(zip(numbers(restored), labels.tolist(), strict=True))
    assert sorted(seen) == [(n, n % 3) for n in range(700)]


def test_shift_moves_each_image_by_a_draw_of_its_own() -> None:
    images = torch.zeros(500, 2, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 7
    moved = random_shift(images, 2, Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert (moved.flatten(1).sum(1) == 14).all()
    places = moved[:, 0].nonzero()[:, 1:].unique(dim=0)
    assert places.tolist() == [[y, x] for y in range(2, 7) for x in range(2, 7)]


def test_shift_brings_in_black_at_the_edge() -> None:
    images = torch.full((200, 1, 4, 4), 9, dtype=torch.uint8)
    sums = random_shift(images, 1, Generator().manual_seed(0)).flatten(1).sum(1).unique()
    assert sums.tolist() == [9 * 9, 9 * 12, 9 * 16]


def test_shift_reflects_at_the_edge() -> None:
    images = torch.arange(6 * 6 * 2, dtype=torch.uint8).view(1, 2, 6, 6)
    padded = torch.nn.functional.pad(images.float(), [2] * 4, "reflect").byte()
    windows = {bytes(padded[..., y : y + 6, x : x + 6].flatten().tolist()) for y in range(5) for x in range(5)}
    moved = random_shift(images.expand(500, -1, -1, -1), 2, Generator().manual_seed(0), "reflect")
    assert {bytes(image.flatten().tolist()) for image in moved} == windows


def test_alternate_flip_mirrors_each_image_every_other_epoch() -> None:
    images, labels = numbered(100)
    images[:, 0, 5, 0] = 1
    data = Data("digits", batch_size=7, shift=0, flip="alternate")
    data.splits = {"train": (images, labels)}
    loader, sides = data.train_dataloader(), []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        seen = torch.cat([pixels for pixels, _ in loader])
        left = seen[:, 0, 5, 0] > seen[:, 0, 5, -1]
        upright = torch.where(left[:, None, None, None], seen, seen.flip(-1))
        restored = numbers((upright * data.source.std[0] + data.source.mean[0]).mul(255).round())
        sides.append([at_left for _, at_left in sorted(zip(restored, left.tolist(), strict=True))])
    assert 30 < sum(sides[0]) < 70
    assert sides[1] == [not side for side in sides[0]]
    assert sides[2:] == sides[:2]


def test_no_validation_images() -> None:
    data = Data("digits", validation=0)
    data.setup()
    assert [len(labels) for _, labels in data.splits.values()] == [1437, 0, 360]
    assert data.val_dataloader() == []


@pytest.mark.parametrize(("at", "label", "part"), [(0, 10, "training"), (1, -1, "test")])
def test_labels_out_of_range_are_refused(at: int, label: int, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(root: str, download: bool) -> list[tuple[Tensor, Tensor]]:
        sets = [numbered(30), numbered(30)]
        sets[at][1][7] = label
        return sets

    monkeypatch.setitem(SOURCES, "digits", replace(SOURCES["digits"], read=read, validation=3))
    with pytest.raises(InputError, match=f"the {part} labels of 'digits' reach from .*{label}"):
        Data("digits").setup()


def test_flip_mirrors_about_half() -> None:
    images = torch.randint(255, (1000, 3, 4, 4), dtype=torch.uint8)
    flipped = random_flip(images, Generator().manual_seed(0))
    assert flipped.dtype == torch.uint8
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 400 < mirrored.sum() < 600


def test_rotation() -> None:
    images = torch.randint(255, (3, 2, 8, 8), dtype=torch.uint8)
    angles = torch.tensor([0, 1, 2]) * torch.pi / 2
    turned = rotate(images, angles)
    assert turned.dtype == torch.uint8
    assert torch.equal(turned, torch.stack([image.rot90(k, (1, 2)) for k, image in enumerate(images)]))
    disc = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    disc[:, :, 12:20, 12:20] = 200
    turned = rotate(disc, torch.tensor([0.7]))
    assert abs(turned.float().mean() / disc.float().mean() - 1) < 0.02
    assert not torch.equal(turned, disc)


def test_warp_by_a_quarter_turn_a_mirror_and_a_factor() -> None:
    """Maps that lead pixels to pixels are exact, of maps that are no squares too."""
    generator = Generator().manual_seed(0)
    square = torch.randint(256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # of (x, y), y looking down: counter-clockwise
    assert torch.equal(warp(square, turn.expand(2, 2, 2)), square.rot90(1, (2, 3)))
    wide = torch.randint(256, (2, 1, 4, 10), generator=generator, dtype=torch.uint8)
    mirror = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(warp(wide, mirror.expand(2, 2, 2)), wide.flip(3))
    assert torch.equal(warp(wide, torch.eye(2).expand(2, 2, 2)), wide)
    dot = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    dot[0, 0, 4, 6] = 200  # two to the right of the centre
    assert warp(dot, torch.eye(2)[None] * 0.5)[0, 0, 4, 5] == 200
    sheared = warp(wide, torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(2, 2, 2), "reflect")
    assert sheared.shape == wide.shape


def test_warp_maps_first_and_then_moves() -> None:
    images = torch.randint(256, (2, 3, 4, 10), generator=Generator().manual_seed(0), dtype=torch.uint8)
    shifts = (3, -1), (-2, 2)  # right and down
    for sign, mapped in ((1, images), (-1, images.flip(3))):
        padded = torch.nn.functional.pad(mapped, [3] * 4)
        expected = torch.stack([padded[i, :, 3 - y : 7 - y, 3 - x : 13 - x] for i, (x, y) in enumerate(shifts)])
        maps = torch.tensor([[float(sign), 0.0], [0.0, 1.0]]).expand(2, 2, 2)
        assert torch.equal(warp(images, maps, "black", torch.tensor(shifts)), expected)


def test_drawn_maps_keep_to_their_ranges() -> None:
    many, generator = 2000, Generator().manual_seed(0)
    turned = Augmentation(rotate=20).maps(many, generator)
    angles = torch.atan2(turned[:, 0, 1], turned[:, 0, 0]).rad2deg()
    assert angles.abs().max() <= 20
    assert angles.min() < -18
    assert angles.max() > 18
    scaled = Augmentation(scale=1.6).maps(many, generator)
    factors = scaled.det().sqrt()
    assert (factors.min(), factors.max()) >= (1 / 1.6, 1.55)
    assert factors.max() <= 1.6 + 1e-5
    assert factors.log().mean().abs() < 0.02
    stretched = Augmentation(stretch=1.3).maps(many, generator)
    torch.testing.assert_close(stretched.det(), torch.ones(many))
    ratio = stretched[:, 0, 0] / stretched[:, 1, 1]
    assert 1 / 1.3 - 1e-5 <= ratio.min() <= ratio.max() <= 1.3 + 1e-5
    slanted = Augmentation(shear=20).maps(many, generator)
    assert slanted[:, 0, 1].abs().max() <= math.tan(math.radians(20)) + 1e-6


def test_cutout_covers_a_square_or_what_of_it_is_inside() -> None:
    images = torch.full((200, 3, 16, 16), 10, dtype=torch.uint8)
    images[0] = 250  # the mean differs from every pixel
    covered = (random_cutout(images, 4, Generator().manual_seed(0)) != images).sum((1, 2, 3)) // 3
    assert covered.max() == 16
    assert covered.min() >= 4
    assert len(set(covered.tolist())) > 3


def test_mixup_is_of_pairs() -> None:
    images, labels = torch.arange(8.0)[:, None], torch.arange(8)
    mixed, others, share = mixup(images, labels, 0.4, Generator().manual_seed(3))
    assert sorted(others.tolist()) == labels.tolist()
    assert 0 <= share <= 1
    torch.testing.assert_close(mixed[:, 0], share * labels + (1 - share) * others)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.mean])
def test_augmented_batch(name: str) -> None:
    source = SOURCES[name]
    images = torch.randint(255, (20, source.channels, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
    index = torch.tensor([3, 1, 17])
    plain, labels = ImageBatches(images, source)[index]
    sampler = EvenBatches(20, 3, Generator().manual_seed(1))
    varied, same_labels = ImageBatches(images, source, Augmentation(source.shift, flip="random"), sampler)[index]
    assert labels.tolist() == same_labels.tolist() == [3, 1, 7]
    assert varied.shape == plain.shape == (3, source.channels, 32, 32)
    assert varied.dtype == plain.dtype == torch.float32
    assert not torch.equal(varied, plain)


@pytest.mark.skipif(not FULL_DATA, reason="TORCHCONV_DATA does not name a directory with the full data sets")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mnist", [55_000, 5000, 10_000]), ("cifar10", [45_000, 5000, 10_000]), ("rotmnist", [10_000, 2000, 50_000])],
)
def test_full_data(name: str, sizes: list[int]) -> None:
    data = Data(name, root=FULL_DATA or "")
    data.setup()
    assert {part: tuple(images.shape[2:]) for part, (images, _) in data.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), (32, 32)
    )
    assert [len(data.splits[part][1]) for part in ("train", "validation", "test")] == sizes
    check_normalised(data)


def test_a_hundred_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision gives CIFAR-100: height, width, channel, and a list of labels."""

    class Half:
        def __init__(self, root: str, train: bool) -> None:
            self.targets = [*range(100)] * (60 if train else 1)
            self.data = torch.arange(len(self.targets)).remainder(256).byte().view(-1, 1, 1, 1).expand(-1, 32, 32, 3)

    (tmp_path / "cifar-100-python").mkdir()
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Half)
    data = Data("cifar100", root=str(tmp_path))
    data.setup()
    assert (data.num_classes, data.in_channels) == (100, 3)
    assert {part: tuple(images.shape) for part, (images, _) in data.splits.items()} == {
        "train": (1000, 3, 32, 32),
        "validation": (5000, 3, 32, 32),
        "test": (100, 3, 32, 32),
    }
    assert data.source.classes[int(data.splits["test"][1][-1])] == "worm"


def test_torchvision_is_whole_but_for_its_operators() -> None:
    assert torchvision.models.resnet18(weights=None)(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    assert hasattr(torch.ops.torchvision, "nms")
