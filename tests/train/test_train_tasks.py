"""Localisation, pose and segmentation: the boxes' IoU, losses, metrics, networks, and runs of two steps."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from suite import first_quick, slow
from test_train import SHORT, check_one_sentence, checkpoint, conv, dense
from torch import Tensor
from torch.nn import functional as F

import torchconv
from train.boxes import area, iou
from train.data import Data
from train.module import Learner
from train.networks import build
from train.networks.detector import MAPS as DETECTOR_MAPS
from train.networks.unet import MAPS, unet
from train.run_report import task_sections
from train.scenes import JOINTS, Targets
from train.tasks import TASKS, Localisation, Pose, Segmentation

Train = Callable[..., int]
# Two batches to train on, and one to validate and to test.
FEW = [*SHORT, "--data.batch_size", 8, "--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1]
FEW += ["--trainer.limit_test_batches", 1]


@pytest.fixture(autouse=True)
def few(few_scenes: None) -> None:
    """In all tests here."""


# ------------------------------------------------------------------------------------------------------------- boxes


def square(side: float = 2.0, turn: float = 0.0, at: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """[1, 4, 2], its centre at ``at``."""
    angles = math.radians(turn) + torch.tensor([5, 7, 1, 3], dtype=torch.float64) * math.pi / 4
    return (torch.stack([angles.cos(), angles.sin()], 1) * side / 2**0.5 + torch.tensor(at))[None]


PAIRS = {
    "the same": (square(), square(), 1.0),
    "half beside": (square(), square(at=(1, 0)), 1 / 3),
    "by an eighth of a turn": (square(), square(turn=45), 1 / (2**0.5)),  # an octagon of 8 (√2 − 1), of 4 + 4 less it
    "inside": (square(), square(1), 1 / 4),
    "inside and turned": (square(1, 30), square(), 1 / 4),
    "a corner in": (square(), square(at=(1, 1)), 1 / 7),
    "side by side": (square(), square(at=(2, 0)), 0.0),
    "corner to corner": (square(), square(at=(2, 2)), 0.0),
    "far": (square(), square(at=(9, 0)), 0.0),
    "a line": (square() * torch.tensor([1, 0]), square(), 0.0),
    "a point": (square(0), square(0), 0.0),
    "crossing itself": (square()[:, [0, 2, 1, 3]], square(), 0.0),
    "not convex": (torch.cat([square()[:, :3], torch.tensor([[[0.5, -0.5]]])], 1), square(), 0.0),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_iou_of_known_boxes(pair: str) -> None:
    first, second, expected = PAIRS[pair]
    for rolled, flipped in itertools.product(range(4), (False, True)):  # corners in any order round the box
        other = second.roll(rolled, 1).flip(1) if flipped else second.roll(rolled, 1)
        assert iou(first, other).item() == pytest.approx(expected, abs=1e-5)
        assert iou(first * 0.03 + 7, other * 0.03 + 7).item() == pytest.approx(expected, abs=1e-4)  # of larger numbers


def test_iou_is_that_of_rasters() -> None:
    """Of any convex quadrilaterals. A raster of p pixels along an axis of 2 is out by at most a pixel's area for each
    pixel's length along an edge: here by 8 sides of at most 2√2, of areas of 0.2 at least."""
    generator, pixels = torch.Generator().manual_seed(0), 400
    angles = torch.rand(2, 60, 4, generator=generator, dtype=torch.float64).mul(2 * math.pi).sort(2).values
    corners = torch.stack([angles.cos(), angles.sin()], 3)
    corners = corners * torch.rand(2, 60, 1, 2, generator=generator) * 0.4 + 0.6 * corners  # ellipses, so convex
    corners = corners + torch.rand(2, 60, 1, 2, generator=generator) * 0.6 - 0.3
    first, second = corners[:, (area(corners.flatten(0, 1)).view(2, 60) > 0.2).all(0)]
    assert len(first) > 30
    axis = (torch.arange(pixels) + 0.5) * 4 / pixels - 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), 2).view(-1, 2)

    def inside(quadrilaterals: Tensor) -> Tensor:
        sides = quadrilaterals.roll(-1, 1) - quadrilaterals  # [N, 4, 2]
        to = grid[None, None] - quadrilaterals[:, :, None]  # [N, 4, P, 2]
        return (sides[:, :, None, 0] * to[..., 1] - sides[:, :, None, 1] * to[..., 0] >= 0).all(1)

    for one, other in zip(first.split(8), second.split(8), strict=True):
        a, b = inside(one), inside(other)
        expected = (a & b).sum(1) / (a | b).sum(1)
        torch.testing.assert_close(iou(one, other), expected, rtol=0, atol=8 * 2 * 2**0.5 * (4 / pixels) / 0.2 / 10)


# ---------------------------------------------------------------------------------------------------- losses, metrics


@pytest.fixture
def targets() -> Targets:
    boxes = torch.cat([square(0.8, 20), square(0.4, at=(0.3, -0.2))]).float()
    joints = boxes.mean(1, keepdim=True).expand(-1, JOINTS, -1).clone()
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 1:3], masks[1, 0, 0] = True, True
    return Targets(torch.tensor([3, 1]), boxes, joints, masks)


@pytest.mark.parametrize("kind", [Localisation, Pose])
def test_located_points(kind: type[Localisation] | type[Pose], targets: Targets) -> None:
    """The loss is that of two heads, whose outputs are side by side."""
    task = kind(10, coordinate_weight=3.0)
    logits, points = torch.randn(2, 10), task.true(targets) + 0.5
    outputs = torch.cat([logits, points.flatten(1)], 1)
    assert outputs.shape[1] == task.outputs == 10 + 2 * kind.points
    torch.testing.assert_close(task.located(outputs), points)
    expected = F.cross_entropy(logits, targets.labels) + 3.0 * 0.25
    torch.testing.assert_close(task.loss(outputs, targets), expected)
    assert set(task.metrics("test")) == set(task.measured(outputs, targets)) == {"accuracy", task.watched}


def test_localisation_measures_boxes(targets: Targets) -> None:
    task = Localisation(10)
    moved = targets.boxes.clone()
    moved[1] += torch.tensor([0.2, 0.0])  # half a side
    (given,) = task.measured(torch.cat([torch.zeros(2, 10), moved.flatten(1)], 1), targets)["iou"]
    torch.testing.assert_close(given, torch.tensor([1, 1 / 3]), rtol=0, atol=1e-4)


def test_pose_measures_joints_by_their_box(targets: Targets) -> None:
    """A tenth of the longer side is near."""
    task = Pose(10)
    found = targets.joints.clone()
    found[0, :2, 0] += torch.tensor([0.079, 0.081])
    found[1, :2, 1] += torch.tensor([0.039, 0.041])
    (given,) = task.measured(torch.cat([torch.zeros(2, 10), found.flatten(1)], 1), targets)["pck"]
    assert given.tolist() == [[1, 0, 1, 1, 1]] * 2


def test_segmentation_measures_pixels(targets: Targets) -> None:
    task = Segmentation(10)
    true = task.true(targets)
    assert true.flatten().bincount(minlength=11).tolist() == [32 - 9, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0]
    right = 20.0 * F.one_hot(true, 11).permute(0, 3, 1, 2).float()
    assert task.loss(right, targets) < 1e-6
    metric = task.metrics("test")["iou"]
    wrong = right.clone()
    wrong[0, :, 1] = 0
    wrong[0, 0, 1] = 1  # four of the eight pixels of the 3 are background
    metric.update(*task.measured(wrong, targets)["iou"])
    assert metric.compute().item() == pytest.approx((23 / 27 + 1 + 4 / 8) / 3)
    assert task.shares(right)[1].tolist() == pytest.approx([15 / 16, 0, 1 / 16, *[0] * 8])


# ------------------------------------------------------------------------------------------------------------ networks


def two(inputs: int, maps: int, norm: bool) -> int:
    return sum(conv(channels, maps, 3, not norm) + 2 * maps * norm for channels in (inputs, maps))


def unet_parameters(inputs: int, maps: tuple[int, ...], classes: int, norm: bool) -> int:
    down = sum(two(a, b, norm) for a, b in itertools.pairwise((inputs, *maps)))
    up = sum(4 * b * a + a + two(2 * a, a, norm) for a, b in itertools.pairwise(maps))
    return down + up + conv(maps[0], classes, 1)


def test_parameters() -> None:
    def parameters(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert parameters(build("unet", "torch", 3, 11)) == unet_parameters(3, MAPS, 11, True)
    paper = (64, 128, 256, 512, 1024)
    with torch.device("meta"):
        published = unet(torch.nn, 1, 2, paper, norm=False)  # type: ignore[arg-type]
    assert parameters(published) == unet_parameters(1, paper, 2, False) == 31_030_658
    blocks = sum(two(a, b, True) for a, b in itertools.pairwise((1, *DETECTOR_MAPS)))
    assert parameters(build("detector", "torch", 1, 18)) == blocks + dense(16 * 128, 256, 18)


def test_networks_of_both_backends() -> None:
    images = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    for name, shape in (("unet", (2, 11, 64, 64)), ("detector", (2, 11))):
        results = []
        for backend in ("torch", "torchconv"):
            torch.manual_seed(1)
            model = build(name, backend, 1, 11).double()
            out = model(images)
            out.square().mean().backward()
            results.append([out, *(p.grad for p in model.parameters())])
        assert results[0][0].shape == shape
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)
    kinds = [type(module) for module in build("unet", "torchconv", 1, 11).modules()]
    assert kinds.count(torchconv.nn.ConvTranspose2d) == len(MAPS) - 1


# ----------------------------------------------------------------------------------------------------------- the runs


@pytest.mark.parametrize("task", list(TASKS)[1:])
def test_a_run_goes_on_is_tested_and_predicts(
    task: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, constant = TASKS[task], ["--model.schedule", "constant"]
    run = tmp_path / "runs" / f"{kind.network}-pasted"
    last = run / "version_0" / "checkpoints" / "last.ckpt"
    assert train("fit", *FEW, *constant, "--model.task", task) == 0
    assert f"test {'PCK' if task == 'pose' else 'IoU'}" in capfd.readouterr().out
    assert list(last.parent.glob("best-*.ckpt"))
    assert train("fit", *FEW, *constant, "--ckpt_path", last, "--trainer.max_epochs", 2) == 0
    assert checkpoint(run / "version_1" / "checkpoints" / "last.ckpt")["network"]["task"] == task
    assert train("test", *FEW, "--ckpt_path", last) == 0
    data = Data("pasted")
    data.setup()
    Image.fromarray(data.splits["validation"][0][0, 0].numpy()).save("picture.png")
    capfd.readouterr()
    assert train("predict", "--ckpt_path", last, "picture.png", "--most", 2) == 0
    classes, *points = capfd.readouterr().out.strip().split("; ")
    assert len(classes.split(", ")) == 2
    assert [len(p.split()) for p in points] == {"localisation": [4], "pose": [JOINTS], "segmentation": []}[task]


def test_a_resumed_localisation_is_as_uninterrupted(train: Train, tmp_path: Path) -> None:
    options = [*FEW, "--model.task", "localisation", "--model.schedule", "constant"]
    runs = tmp_path / "runs" / "detector-pasted"
    assert train("fit", *options, "--trainer.max_epochs", 2) == 0
    assert train("fit", *options) == 0
    last = runs / "version_1" / "checkpoints" / "last.ckpt"
    assert train("fit", *options, "--trainer.max_epochs", 2, "--ckpt_path", last) == 0
    whole, resumed = (checkpoint(runs / f"version_{v}" / "checkpoints" / "last.ckpt") for v in (0, 2))
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key


def test_classification_of_scenes(train: Train) -> None:
    assert train("fit", *FEW, "--model.name", "scanned_mlp", "--data.name", "pasted", "--model.mixup", 0.3) == 0


TITLES = {
    "classification": ["Confusion matrix", "Test images and their likeliest classes"],
    "localisation": ["Confusion matrix", "Test images and their likeliest classes", "Test images and what was located"],
    "pose": ["Confusion matrix", "Test images and their likeliest classes", "Test images and what was located"],
    "segmentation": ["Test images and masks"],
}


@pytest.mark.parametrize("task", first_quick(TITLES))
def test_what_is_shown_of_test_images(task: str) -> None:
    data, made = Data("pasted"), TASKS[task](10)
    data.setup()
    images, targets = data.pictures("test", 5)
    outputs = torch.randn(5, *made.answer((64, 64)))
    sections = task_sections(made, images, outputs, targets, data.source.classes)
    assert [re.findall("<h2>(.*?)</h2>", text) for text in sections] == [[title] for title in TITLES[task]]
    assert all(text.count("data:image/png") == 1 for text in sections)


@slow
@pytest.mark.parametrize("task", ["localisation", "segmentation"])
def test_page(task: str, train_with_page: Train, tmp_path: Path) -> None:
    assert train_with_page("fit", *FEW, "--model.task", task) == 0
    (page,) = tmp_path.rglob("report.html")
    text = page.read_text()
    located = task == "localisation"
    assert ("<h2>Test images and what was located</h2>" in text) == located
    assert ("<h2>Confusion matrix</h2>" in text) == located
    assert ("<h2>Test images and masks</h2>" in text) != located
    assert "<th>test IoU</th>" in text
    assert ("<th>test accuracy</th>" in text) == located


REFUSED = {
    "task": (["--model.task", "sleep"], "unknown task 'sleep': there are classification, localisation, pose, segm"),
    "labels alone": (
        ["--model.task", "pose", "--data.name", "digits"],
        "task 'pose' needs more than the labels that 'digits' has: give --data.name pasted",
    ),
    "other side": (["--model.name", "lenet5", "--data.name", "pasted"], "'lenet5' takes no images of 64x64 pixels: "),
    "detector of 32": (["--model.name", "detector"], "takes images of 64x64 pixels, but the data's are 32x32"),
    "classes of pixels": (["--model.name", "unet"], "'unet' puts out [10, 32, 32] of an image, but classification"),
    "no pixels": (["--model.task", "segmentation", "--model.name", "resnet20"], "puts out [11] of an image"),
    "mixup": (["--model.task", "pose", "--model.mixup", "1"], "of classification, but the task is pose"),
    "views": (["--model.task", "segmentation", "--model.views", "2"], "but the task is segmentation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options, said = REFUSED[case]
    assert train("fit", *options) == 2
    check_one_sentence(capfd, said)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_task(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = Learner("detector", task="localisation")
    assert module.network_args["task"] == "localisation"
    with pytest.raises(Exception, match="task=localisation, but the model is"):
        Learner("detector", task="pose").check_network(module.network_args, "other.ckpt")


def test_plateau_watches_what_the_task_watches() -> None:
    for task, watched in (("classification", "accuracy"), ("localisation", "iou"), ("pose", "pck")):
        configured = Learner("detector", task=task, schedule="plateau").configure_optimizers()
        assert configured["lr_scheduler"]["monitor"] == f"val/{watched}"
