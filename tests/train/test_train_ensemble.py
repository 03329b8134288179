"""What is said of trained networks that are tested: errors of one and of several together, and the confusion matrix."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from test_train import check_one_sentence, checkpoint
from torch import Tensor

from train.data import Data
from train.ensemble import errors
from train.module import Learner

Train = Callable[..., int]


def test_errors_are_of_the_mean_of_probabilities() -> None:
    """Two networks that are each wrong of another image, surely and unsurely; logits would be averaged otherwise."""
    labels = torch.tensor([0, 1, 5])
    sure, unsure = torch.zeros(3, 7), torch.zeros(3, 7)
    sure[0, 0], sure[1, 2], sure[2, :5] = 20, 9, torch.arange(5.0, 0, -1)
    unsure[0, 3], unsure[1, 1], unsure[2, 5] = 1, 30, 0.1
    images = torch.arange(3.0).view(3, 1, 1, 1)

    def network(logits: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda some: logits[some.flatten().long()]

    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    found = errors([network(sure), network(unsure)], batches, 7, views=1)
    mean = (sure.softmax(1) + unsure.softmax(1)) / 2
    together = (mean.argmax(1) != labels).float().mean().item(), (mean.topk(5).indices != labels[:, None]).all(1)
    assert found[0] == pytest.approx((2 / 3, 2 / 3))
    assert found[1] == pytest.approx((1 / 3, 0))
    assert found[2] == pytest.approx((together[0], together[1].float().mean().item()))
    assert found[2][0] == pytest.approx(1 / 3)


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    """Checkpoints of three untrained networks: of two seeds, and of another kind."""
    paths = []
    for i, name in enumerate(("lenet5", "lenet5", "scanned_mlp")):
        torch.manual_seed(i)
        module = Learner(name)
        content = {"network": module.network_args, "data": "digits", "kept": None, "state_dict": module.state_dict()}
        paths.append(tmp_path / f"{i}.ckpt")
        torch.save({**content, "pytorch-lightning_version": version("lightning")}, paths[-1])
    return paths


def test_an_ensemble(saved: list[Path], train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("ensemble", *saved) == 0
    head, *lines = capfd.readouterr().out.splitlines()
    assert head.split() == ["top-1", "error", "top-5", "error"]
    data = Data("digits")
    data.setup()
    images, labels = data.splits["test"]
    answers = []
    for path in saved:
        module = Learner(checkpoint(path)["network"]["name"])
        module.load_state_dict(checkpoint(path)["state_dict"])
        answers.append(module.eval()(data.normaliser()(images)).softmax(1))
    answers.append(torch.stack(answers).mean(0))
    for line, name, answer in zip(lines, [*map(str, saved), "average of 3"], answers, strict=True):
        wrong = (answer.topk(5).indices != labels[:, None]).cumprod(1).float().mean(0)
        assert line.split() == [*name.split(), f"{wrong[0]:.2%}", f"{wrong[4]:.2%}"]


def test_what_is_no_ensemble(saved: list[Path], train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = saved[:2]
    content = checkpoint(second)
    kept = {"mean": [0.5], "std": [0.25], "classes": ["ant", "bee"], "side": 32}
    for name, change in (("others.ckpt", {"data": "mnist"}), ("folder.ckpt", {"data": "folder", "kept": kept})):
        torch.save({**content, **change}, name)
    pose = Learner("detector", task="pose")
    torch.save(
        {**content, "network": pose.network_args, "state_dict": pose.state_dict(), "data": "pasted"}, "pose.ckpt"
    )
    for arguments, said in (
        (["pose.ckpt", first], "an ensemble is of classifiers, but checkpoint 'pose.ckpt' is of the task 'pose'"),
        ([first, "others.ckpt"], f"'others.ckpt' was trained on mnist, but '{first}' on digits"),
        (["folder.ckpt", first], f"'{first}' was trained on digits, but 'folder.ckpt' on a folder of ant, bee (32x32"),
        ([first, "missing.ckpt"], "cannot read checkpoint 'missing.ckpt'"),
        ([first, "--views", 3], "there are no 3 views of an image, but 1, 2, 6, 10"),
        ([], "CHECKPOINT"),
    ):
        assert train("ensemble", *arguments) == 2
        check_one_sentence(capfd, said)


def test_of_ten_views(saved: list[Path], train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.enable_progress_bar", "false", "--trainer.limit_test_batches", 2]
    assert train("test", "--ckpt_path", saved[0], *few, "--model.views", 10) == 0
    out = capfd.readouterr().out
    first, five, matrix = [line.split()[-1] for line in out.splitlines()[-3:]]
    found = {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if line.strip().startswith("test/")}
    assert first == f"{1 - found['test/accuracy']:.2%}"
    assert five == f"{1 - found['test/top5_accuracy']:.2%}"
    assert Path(matrix) == Path("runs/lenet5-digits/version_0/confusion_matrix.png")
    assert (tmp_path / matrix).read_bytes().startswith(b"\x89PNG")
