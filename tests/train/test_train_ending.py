"""Runs of `python -m train` that are stopped, go wrong, or cannot write; and what a resumed one draws."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from test_train import SHORT, check_one_sentence, checkpoint

from train.checkpoints import WholeFiles, generator_states, restore_generators
from train.errors import InputError
from train.module import Learner
from train.networks import NETWORKS


def test_generators_go_on_where_they_stood() -> None:
    random.gauss(0, 1)  # leaves a second number for the next call

    def drawn() -> list[float]:
        return [torch.rand(()).item(), numpy.random.rand(), numpy.random.randn(), random.random(), random.gauss(0, 1)]

    states = generator_states()
    expected = drawn()
    torch.save(states, "/dev/null")
    restore_generators(states)
    assert drawn() == expected


def test_dropout_resumes_bit_for_bit(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(nn, in_channels: int = 1, num_classes: int = 10) -> torch.nn.Sequential:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(1024, num_classes))

    monkeypatch.setitem(NETWORKS, "small", small)
    options = [*SHORT, "--model.name", "small", "--model.schedule", "constant", "--trainer.limit_train_batches", "3"]
    runs = tmp_path / "runs" / "small-digits"
    assert train("fit", *options, "--trainer.max_epochs", 2) == 0
    assert train("fit", *options) == 0
    last = runs / "version_1" / "checkpoints" / "last.ckpt"
    torch.rand(7)
    assert train("fit", *options, "--trainer.max_epochs", 2, "--ckpt_path", last) == 0
    whole, resumed = (checkpoint(runs / f"version_{v}" / "checkpoints" / "last.ckpt") for v in (0, 2))
    assert torch.equal(whole["state_dict"]["network.2.weight"], resumed["state_dict"]["network.2.weight"])


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, target)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        WholeFiles().save_checkpoint({"step": 2}, target)
    assert checkpoint(target) == {"step": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_unwritable_folder_is_said_before_training(
    train: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert train("fit", "--checkpoint.dirpath", "/sys") == 2  # there, but no one can make a file in it
    check_one_sentence(capfd, "cannot write to '/sys'")
    assert not (tmp_path / "runs" / "lenet5-digits").exists()


def test_a_loss_that_is_not_finite_ends_the_run(
    train: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert train("fit", *SHORT, "--model.lr", "1e30", "--model.schedule", "constant") == 1
    check_one_sentence(capfd, "with a learning rate of 1e+30: try a smaller --model.lr", began=True)


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_stopped(
    number: int,
    code: int,
    name: str,
    train: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """In the second epoch; what is said names the checkpoint of the first."""
    assert threading.current_thread() is threading.main_thread()
    step = Learner.training_step

    def signalled(self: Learner, batch: tuple, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", signalled)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us in the background
    try:
        assert train("fit", *SHORT, "--trainer.max_epochs", 3, "--trainer.limit_train_batches", 2) == code
    finally:
        signal.signal(signal.SIGINT, before)
    run = "runs/lenet5-digits/version_0"
    check_one_sentence(capfd, f"stopped by {name} in epoch 1, step ", began=True)
    assert (tmp_path / run / "learning_curve.png").exists()
    assert checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["epoch"] == 0


def test_trainers_are_given_whole_files(train: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    monkeypatch.setattr(
        WholeFiles, "save_checkpoint", lambda self, state, path, storage_options=None: saved.append(path)
    )
    assert train("fit", *SHORT, "--trainer.limit_train_batches", "2") == 0
    assert {Path(path).name for path in saved} == {"best-epoch=000.ckpt", "last.ckpt"}
