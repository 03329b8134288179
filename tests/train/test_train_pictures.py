"""A folder of pictures as a data set: what is read and measured, what a checkpoint keeps of it, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from test_train import SHORT, check_one_sentence, checkpoint

from train.data import Data
from train.errors import InputError
from train.module import Learner
from train.pictures import mean_and_std, read_picture

Train = Callable[..., int]


def paint(root: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """So many pictures of each class under `root`, of 36 x 24 pixels, each class of its own brightness."""
    random = numpy.random.default_rng(seed)
    for level, (name, many) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(many):
            pixels = random.integers(60 * level, 60 * level + 60, (24, 36, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(root / name / (f"{i}.png" if i % 2 else f"{i}.JPG"))
    return root


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    paint(tmp_path / "pictures" / "train", {"ant": 20, "bee": 12, "wasp": 10})
    paint(tmp_path / "pictures" / "test", {"ant": 3, "bee": 2}, seed=1)
    return tmp_path / "pictures"


def sizes(data: Data) -> list[int]:
    data.setup()
    return [len(data.splits[part][1]) for part in ("train", "validation", "test")]


def test_divided_pictures(divided: Path) -> None:
    data = Data("folder", str(divided), side=16, augment=False)
    assert (data.in_channels, data.num_classes, data.side) == (3, 3, 16)
    assert data.source.classes == ("ant", "bee", "wasp")
    assert sizes(data) == [38, 4, 5]
    images, labels = (torch.cat([data.splits[part][i] for part in ("train", "validation")]) for i in (0, 1))
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (3, 16, 16)
    assert labels.bincount().tolist() == [20, 12, 10]
    assert data.splits["test"][1].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(data.splits["test"][0][4], read_picture(str(divided / "test" / "bee" / "1.png"), 3, 16))
    brightness = images.float().mean((1, 2, 3))  # tells the classes apart, so that each label is its picture's
    assert (brightness / 60).long().tolist() == labels.tolist()
    pixels = data.normaliser()(images)  # measured on just these
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_undivided_pictures(tmp_path: Path) -> None:
    """One in five for the test, always the same ones, each class in proportion; a class of few has no validation."""
    root = paint(tmp_path / "pictures", {"ant": 25, "bee": 15})
    data = Data("folder", str(root), seed=1)
    assert sizes(data) == [29, 3, 8]
    assert data.splits["test"][1].bincount().tolist() == [5, 3]
    again = Data("folder", str(root), seed=2)
    again.setup()
    assert torch.equal(data.splits["test"][0], again.splits["test"][0])
    rows = [bytes(image.numpy()) for images, _ in data.splits.values() for image in images]
    assert len(set(rows)) == 40  # no picture in two parts
    assert sizes(Data("folder", str(paint(tmp_path / "few", {"ant": 25, "bee": 5})))) == [24, 0, 6]


def test_mean_and_std() -> None:
    images = torch.randint(256, (5, 2, 7, 3), dtype=torch.uint8)
    mean, std = mean_and_std(images)
    by_channel = images.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor([mean, std]).double(), torch.stack(
        [by_channel.mean(1), by_channel.std(1, correction=0)]
    ), rtol=1e-6, atol=0)  # fmt: skip
    assert mean_and_std(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == ((0.2,), (1 / 255,))


def test_a_checkpoint_names_the_classes(
    divided: Path, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """To `predict`, which has nothing else of them; `test` on other pictures goes by the first ones' mean."""
    folder = ["--data.name", "folder", "--data.root", divided, "--trainer.enable_progress_bar", "false"]
    assert train("fit", *SHORT, *folder, "--data.batch_size", 8, "--model.activation", "tanh") == 0
    last = tmp_path / "runs" / "lenet5-folder" / "version_0" / "checkpoints" / "last.ckpt"
    kept = checkpoint(last)["kept"]
    assert (kept["classes"], kept["side"]) == (["ant", "bee", "wasp"], 32)
    shutil.copytree(divided, tmp_path / "others")
    shutil.rmtree(tmp_path / "others" / "train" / "ant")
    paint(tmp_path / "others" / "train", {"ant": 1}, seed=2)
    capfd.readouterr()
    assert train("predict", "--ckpt_path", last, divided / "test" / "ant" / "0.JPG") == 0
    told = capfd.readouterr().out
    module = Learner("lenet5", in_channels=3, num_classes=3, activation="tanh")
    module.load_state_dict(checkpoint(last)["state_dict"])
    data = Data("folder", str(tmp_path / "others"))
    data.take(kept, str(last))
    data.setup()
    shares = module.eval()(data.normaliser()(data.splits["test"][0][:1])).softmax(1)[0].topk(3)
    names = [kept["classes"][i] for i in shares.indices.tolist()]
    pairs = zip(names, shares.values.tolist(), strict=True)
    assert told == "0.JPG: " + ", ".join(f"{name} {share:.1%}" for name, share in pairs) + "\n"
    assert train("test", "--ckpt_path", last, *folder, "--data.root", tmp_path / "others") == 0
    (tmp_path / "others" / "train" / "bee").rename(tmp_path / "others" / "train" / "cow")
    (tmp_path / "others" / "test" / "bee").rename(tmp_path / "others" / "test" / "cow")
    capfd.readouterr()
    assert train("test", "--ckpt_path", last, *folder, "--data.root", tmp_path / "others") == 2
    check_one_sentence(capfd, f"others' are ant, cow, wasp, but those of checkpoint '{last}' are ant, bee, wasp")


def test_the_side_is_the_networks(divided: Path, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    folder = ["--data.name", "folder", "--data.root", divided, "--data.batch_size", 8, *SHORT]
    assert train("fit", *folder, "--model.name", "resnet20", "--data.side", 20, "--trainer.limit_train_batches", 2) == 0
    capfd.readouterr()
    assert train("fit", *folder, "--data.side", 64) == 2
    check_one_sentence(capfd, "model 'lenet5' takes no images of 64x64 pixels")
    assert train("fit", *folder, "--model.name", "alexnet_full", "--data.side", 32) == 2
    check_one_sentence(capfd, "model 'alexnet_full' takes images of 227x227 pixels, but the data's are 32x32")
    assert train("fit", "--data.side", 64) == 2
    check_one_sentence(capfd, "--data.side is of a folder's pictures, but the data set is 'digits'")


def test_what_is_no_folder_of_pictures(divided: Path, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    root = divided / "train"
    text, alone = root / "bee" / "0.JPG", paint(divided.parent / "alone", {"ant": 9, "bee": 1})

    def refused(said: str, place: Path) -> None:
        assert train("fit", "--data.name", "folder", "--data.root", place) == 2
        check_one_sentence(capfd, said)

    refused("cannot read the folder of pictures 'nowhere': No such file or directory", Path("nowhere"))
    refused(f"there are no folders of classes in '{root / 'ant'}'", root / "ant")
    text.write_text("no picture")
    refused(f"cannot read picture '{text}': cannot identify image file", divided)
    text.write_bytes((root / "ant" / "0.JPG").read_bytes()[:200])
    refused(f"cannot read picture '{text}': ", divided)
    text.unlink()
    refused("2 of 10 images cannot be put aside with each of 2 classes in proportion", alone)
    (divided / "test" / "moth").mkdir()
    refused(f"class 'moth' has no training pictures in '{root}'", divided)
    shutil.rmtree(divided / "test")
    refused(f"there is '{root}', but no '{divided / 'test'}'", divided)
    shutil.rmtree(root)
    (root / "ant").mkdir(parents=True)
    refused(f"there are no pictures in the folders of '{root}' (.jpg, .jpeg, .png", root)


def test_images_that_cannot_be_put_aside() -> None:
    with pytest.raises(InputError, match="3 of 1437 images cannot be put aside with each of 10 classes in proportion"):
        Data("digits", validation=3).setup()
