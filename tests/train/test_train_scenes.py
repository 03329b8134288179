"""Pictures of pasted digits: what is said to be known of them holds of their pixels."""

from collections.abc import Callable

import pytest
import torch
from test_train import check_one_sentence
from torch import Generator, Tensor

from train.augment import warp
from train.data import Data
from train.scenes import INK, JOINTS, PIECE, Scene, Targets, landmarks
from train.sources import SOURCES, read_digits

SCENE = Scene()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return read_digits("", False)[1]


@pytest.fixture(scope="module")
def drawn(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Targets]:
    return SCENE(*digits, digits[0], Generator().manual_seed(0))


def in_pixels(points: Tensor) -> Tensor:
    """From the top left corner of the picture, where a pixel's centre is at a half."""
    return (points + 1) * SCENE.side / 2


def along_the_box(targets: Targets, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the mask's pixels [P, 2] how far they are along the box's sides, in pixels; those sides; the box's axes."""
    corners = in_pixels(targets.boxes[index])
    sides = torch.stack([corners[1] - corners[0], corners[3] - corners[0]])
    axes = sides / sides.norm(dim=1, keepdim=True)
    centres = targets.masks[index].nonzero().flip(1) + 0.5
    return (centres - corners[0]) @ axes.T, sides.norm(dim=1), axes


def test_landmarks_of_a_drawing() -> None:
    image = torch.zeros(2, 1, 20, 30, dtype=torch.uint8)
    image[0, 0, 5:15, 8:12] = 200  # a bar of 4x10
    image[0, 0, 13:15, 8:20] = INK  # with a foot, in the last of five slices alone
    image[0, 0, 0, 0] = INK - 1  # no ink
    image[1, 0, 2, 3] = image[1, 0, 11, 3] = 255  # two dots: nothing in the slices between
    corners, joints = (landmarks(image) + torch.tensor([15.0, 10.0])).split([4, JOINTS], 1)
    assert corners[0].tolist() == [[8, 5], [20, 5], [20, 15], [8, 15]]
    assert joints[0].tolist() == [[10, 6], [10, 8], [10, 10], [10, 12], [14, 14]]
    assert corners[1].tolist() == [[3, 2], [4, 2], [4, 12], [3, 12]]
    assert joints[1].tolist() == [[3.5, 2.5], [3.5, 5], [3.5, 7], [3.5, 9], [3.5, 11.5]]


def test_the_box_is_that_of_the_digit(drawn: tuple[Tensor, Targets]) -> None:
    """It holds all of the digit, and the digit comes near each side: by less than a pixel of the enlarged digit's."""
    for index in range(100):
        places, sides, _ = along_the_box(drawn[1], index)
        slack = 0.5 + 2**-0.5 + max(sides) / 32  # half a pixel of the picture, of its diagonal, and one of the digit
        assert (places > -slack).all()
        assert (places < sides + slack).all()
        assert (places.amin(0) < slack).all()
        assert (places.amax(0) > sides - slack).all()


def test_joints_are_the_slices_centres_of_mass(drawn: tuple[Tensor, Targets]) -> None:
    distances = []
    for index in range(100):
        places, sides, axes = along_the_box(drawn[1], index)
        corner, joints = in_pixels(drawn[1].boxes[index, 0]), in_pixels(drawn[1].joints[index])
        slices = (places[:, 1] / sides[1] * JOINTS).long().clamp(0, JOINTS - 1)
        for number, joint in enumerate(joints):
            if (slices == number).any():
                distances.append((corner + places[slices == number].mean(0) @ axes - joint).norm())
    assert len(distances) > 95 * JOINTS
    assert torch.stack(distances).mean() < 0.5
    assert torch.stack(distances).max() < 2.5


def test_places_sizes_and_angles(drawn: tuple[Tensor, Targets]) -> None:
    boxes = drawn[1].boxes
    assert boxes.abs().max() <= 1 + 1e-5
    sides = (boxes[:, 1:3] - boxes[:, :2]).norm(dim=2) * SCENE.side / 2
    longer = sides.amax(1)
    assert SCENE.smallest - 1e-3 <= longer.min() < SCENE.smallest + 1
    assert SCENE.largest - 1 < longer.max() <= SCENE.largest + 1e-3
    top = boxes[:, 1] - boxes[:, 0]
    angles = torch.atan2(-top[:, 1], top[:, 0]).rad2deg()
    assert angles.abs().max() <= SCENE.angle + 1e-3
    assert angles.min() < -0.9 * SCENE.angle
    assert angles.max() > 0.9 * SCENE.angle
    # Nowhere on the left or right, say, is there a part that boxes never reach.
    assert (boxes.amin((0, 1)) < -0.95).all()
    assert (boxes.amax((0, 1)) > 0.95).all()


def test_digit_and_clutter(drawn: tuple[Tensor, Targets], digits: tuple[Tensor, Tensor]) -> None:
    images, targets = drawn
    assert (images.dtype, images.shape) == (torch.uint8, (len(digits[0]), 1, SCENE.side, SCENE.side))
    assert torch.equal(targets.labels, digits[1])
    assert images[:, 0][targets.masks].min() > INK - 6 * SCENE.noise
    bright = (images[:, 0] > INK + 4 * SCENE.noise) & ~targets.masks
    assert (bright.sum((1, 2)) > PIECE).float().mean() > 0.95
    dark = images[:, 0][(images[:, 0] < 4 * SCENE.noise) & ~targets.masks].float()
    assert dark.std() > SCENE.noise / 3  # what of the noise is above zero


def test_pictures_are_a_function_of_the_seed(digits: tuple[Tensor, Tensor]) -> None:
    few = digits[0][:7], digits[1][:7]
    (first, known), (again, _), (other, _) = (SCENE.pictures(*few, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(known.labels, digits[1][:7].repeat(3))
    assert not torch.equal(first[:7], first[7:14])  # each copy elsewhere


def test_a_picture_warped_onto_a_larger_one() -> None:
    image = torch.zeros(1, 1, 8, 10, dtype=torch.uint8)
    image[0, 0, 4, 7] = 200  # its centre (2.5, 0.5) from the image's
    double = warp(image, torch.eye(2)[None] * 2, shifts=torch.tensor([[3.0, -4.0]]), side=32)
    ys, xs = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    mass = double[0, 0].float()
    centre = torch.stack([(mass * xs).sum(), (mass * ys).sum()]) / mass.sum() - 16
    # Each of the 16 pixels, 2 from the centre at most, is rounded by a half, of 800 together.
    torch.testing.assert_close(centre, torch.tensor([2 * 2.5 + 3, 2 * 0.5 - 4]), rtol=0, atol=16 * 2 * 0.5 / 800)
    assert mass.sum() / 200 == pytest.approx(4, rel=0.02)


def epoch(data: Data, number: int) -> tuple[Tensor, Tensor]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    images, targets = next(iter(loader))
    return images, targets.boxes


@pytest.mark.parametrize("augment", [True, False])
def test_training_pictures_are_drawn_anew_each_epoch(augment: bool, few_scenes: None) -> None:
    data, again = (Data("pasted", augment=augment, batch_size=500) for _ in range(2))
    data.setup()
    again.setup()
    (first, boxes), (second, others) = epoch(data, 0), epoch(data, 1)
    torch.testing.assert_close((first, boxes), epoch(again, 0), rtol=0, atol=0)
    assert torch.equal(boxes.sort(0).values, others.sort(0).values) != augment  # in another order each time
    # Of 340 pictures the mean is known to 0.01, a picture's own having a deviation of 0.2.
    assert first.mean().abs() < 0.04
    assert abs(first.std() - 1) < 0.04
    assert not torch.equal(first, second)


def test_parts_of_the_data() -> None:
    data = Data("pasted", validation=10)
    data.setup()
    assert (data.size, data.in_channels, data.num_classes) == ((64, 64), 1, 10)
    for part, count in (("validation", 50), ("test", 1800)):
        images, targets = data.splits[part]
        assert images.shape == (count, 1, 64, 64)
        assert isinstance(targets, Targets)
        assert [known.shape[0] for known in targets] == [count] * 4
    images, targets = data.pictures("train", 5)
    assert isinstance(targets, Targets)
    assert images.shape == (5, 1, 64, 64)
    assert data.sample(2).shape == (2, 1, 64, 64)
    assert not torch.equal(data.pictures("test", 5)[0], images)
    none = Data("pasted", validation=0)
    none.setup()
    assert len(none.splits["validation"][0]) == 0
    assert none.val_dataloader() == []


@pytest.mark.parametrize("option", ["rotate", "scale", "shear", "stretch", "cutout", "shift"])
def test_other_augmentation_is_refused(
    option: str, train: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("fit", "--data.name", "pasted", f"--data.{option}", 2) == 2
    check_one_sentence(capfd, f"the digits of 'pasted' are turned, sized and placed anyway: no --data.{option}")


def test_sources_share_the_digits() -> None:
    for name, of in (("pasted", "digits"), ("pasted_mnist", "mnist")):
        assert SOURCES[name].read is SOURCES[of].read
        assert SOURCES[name].size == (64, 64)
        assert SOURCES[of].size == (32, 32)
