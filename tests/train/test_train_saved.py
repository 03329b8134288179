"""What `python -m train` does with checkpoints: goes on, starts anew, tests, predicts, and what it refuses of them."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from test_train import SHORT, check_one_sentence, checkpoint

from train.data import Data
from train.module import Learner
from train.sources import SOURCES

Train = Callable[..., int]
CONSTANT = ["--model.schedule", "constant"]


@pytest.fixture
def last(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """The checkpoint of LeNet-5 after three steps."""
    assert train("fit", *SHORT, *CONSTANT, "--trainer.limit_train_batches", 3) == 0
    capfd.readouterr()
    return tmp_path / "runs" / "lenet5-digits" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("which", ["last", "best", "its path"])
def test_a_checkpoint_alone_is_tested(
    which: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ["--trainer.limit_train_batches", 2, "--model.name", "scanned_mlp"]
    assert train("fit", *SHORT, *few) == 0
    run = tmp_path / "runs" / "scanned_mlp-digits" / "version_0"
    path = run / "checkpoints" / "last.ckpt" if which == "its path" else which
    capfd.readouterr()
    assert train("test", "--ckpt_path", path, "--trainer.enable_progress_bar", "false") == 0
    with (run / "metrics.csv").open() as file:
        (accuracy,) = [row["test/accuracy"] for row in csv.DictReader(file) if row["test/accuracy"]]
    assert accuracy[:8] in capfd.readouterr().out


def test_no_run_yet(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", "--ckpt_path", "last", "--model.name", "alexnet") == 2
    check_one_sentence(capfd, "no run 'alexnet-*' under 'runs' has a checkpoint 'last.ckpt'")


def test_going_on_with_other_options_is_refused(last: Path, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    more = [*SHORT, "--trainer.max_epochs", 2, "--ckpt_path", last]
    for option, given, said in (
        ("lr", 0.5, "has lr 0.02, but --model.lr is 0.5"),
        ("optimizer", "adam", "has optimizer sgd, but --model.optimizer is adam"),
        ("schedule", "cosine", "has schedule constant, but --model.schedule is cosine"),
        ("lookahead", 3, "has lookahead 0, but --model.lookahead is 3"),
    ):
        assert train("fit", *more, *CONSTANT, f"--model.{option}", given) == 2
        check_one_sentence(capfd, said)


def test_a_finished_run_says_so(last: Path, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", *SHORT, *CONSTANT, "--ckpt_path", last) == 2
    check_one_sentence(capfd, "has had its 1 epochs: give a larger --trainer.max_epochs")


def test_a_resumed_run_has_the_rows_of_the_first(last: Path, train: Train, tmp_path: Path) -> None:
    more = [*SHORT, *CONSTANT, "--trainer.limit_train_batches", 3, "--trainer.max_epochs", 2]
    assert train("fit", *more, "--ckpt_path", last) == 0
    with (tmp_path / "runs" / "lenet5-digits" / "version_1" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows if row["train/loss"]] == [0, 1]
    assert len([row for row in rows if row["test/loss"]]) == 1
    assert (tmp_path / "runs" / "lenet5-digits" / "version_1" / "hparams.yaml").read_text().count("lr: 0.02") == 1


def test_a_warm_start_with_another_head(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Learner("lenet5", num_classes=7, init_from=str(last))
    saved = checkpoint(last)["state_dict"]
    for key, value in other.state_dict().items():
        same = key in saved and saved[key].shape == value.shape
        assert not same or torch.equal(value, saved[key]), key
    head = [key for key, value in other.state_dict().items() if key in saved and saved[key].shape != value.shape]
    assert len(head) == 2


def test_a_warm_start_from_nothing_of_the_kind(last: Path, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", "--model.name", "z2cnn", "--model.init_from", last) == 2
    check_one_sentence(capfd, f"no weight of '{last}' has the name and shape")


def test_pictures_are_predicted(last: Path, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = Data("digits")
    data.setup()
    images, _ = data.splits["test"]
    for i in range(3):
        Image.fromarray(images[i, 0].numpy()).save(tmp_path / f"{i}.png")
    Image.fromarray(numpy.zeros((11, 7, 3), dtype=numpy.uint8)).save(tmp_path / "small and in colour.jpg")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    assert train("predict", "--ckpt_path", last, *files, tmp_path / "small and in colour.jpg") == 0
    lines = capfd.readouterr().out.splitlines()
    module = Learner("lenet5")
    module.load_state_dict(checkpoint(last)["state_dict"], strict=False)
    source = SOURCES["digits"]
    pixels = (images[:3].float() / 255 - source.mean[0]) / source.std[0]
    expected = module.network.eval()(pixels).softmax(1).topk(5)
    for i, line in enumerate(lines[:3]):
        pairs = zip(expected.indices[i].tolist(), expected.values[i].tolist(), strict=True)
        assert line == f"{i}.png: " + ", ".join(f"{label} {share:.1%}" for label, share in pairs)
    assert len(lines) == 4


def test_what_cannot_be_predicted(last: Path, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for arguments, said in (
        (["--ckpt_path", last, "missing.png"], "cannot read picture 'missing.png': No such file"),
        (["--ckpt_path", last, "text.png"], "cannot read picture 'text.png'"),
        (["--ckpt_path", last, "--most", 0, "text.png"], "--most must be at least 1"),
        (["--ckpt_path", last], "FILE"),
        (["text.png"], "--ckpt_path"),
        (["--ckpt_path", "text.png", "text.png"], "'text.png' is damaged"),
    ):
        assert train("predict", *arguments) == 2
        check_one_sentence(capfd, said)


@pytest.mark.parametrize("content", [[1, 2], {"network": 3}, {"network": {"name": "lenet5"}}], ids=str)
def test_a_checkpoint_of_another_structure(
    content: object, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    for subcommand in ("fit", "test"):
        assert train(subcommand, "--ckpt_path", "other.ckpt") == 2
        check_one_sentence(capfd, "'other.ckpt' is damaged, or not a checkpoint of this program")


def test_other_input_that_is_none(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81\xff\x00")
    assert train("fit", "--config", "binary.yaml") == 2
    check_one_sentence(capfd, "what --config names is not text: invalid start byte at byte 0")
    assert train("fit", "--seed_everything", -1) == 2
    check_one_sentence(capfd, "--seed_everything must be at least 0, got -1")


def test_a_refused_run_leaves_no_folder(train: Train, tmp_path: Path) -> None:
    for arguments in (["--data.name", "cifar10"], ["--model.name", "lenet6"], ["--model.name", "vgg_a_full"]):
        assert train("fit", *arguments) == 2
    assert not list(tmp_path.iterdir())


def test_a_line_for_each_epoch(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    """Where standard output is no terminal, without being asked."""
    options = ["--trainer.limit_train_batches", 2, "--trainer.max_epochs", 2, "--trainer.accelerator", "cpu"]
    assert train("fit", *options) == 0
    out = capfd.readouterr().out
    assert "\r" not in out
    lines = out.splitlines()
    assert lines[0].startswith("lenet5 of 61,706 parameters by torchconv, cpu with 1 threads; digits: 1,257 train")
    assert [line.split(";")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert all("images/s" in line and "left" in line and "validation" in line for line in lines[1:3])


def test_without_the_library(train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Torch's layers are trained all the same, without a report; ours are refused in one sentence."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchconv"] + ["torchconv", "torchconv.nn"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "train.run_report", raising=False)
    monkeypatch.delitem(sys.modules, "train.page", raising=False)
    assert train("fit") == 2
    check_one_sentence(capfd, "backend 'torchconv' cannot be imported")
    assert train("fit", *SHORT, "--trainer.limit_train_batches", 2, "--model.backend", "torch") == 0
    assert "report          none" in capfd.readouterr().out
