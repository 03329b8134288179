"""`python -m train`: networks, recipes, checkpoints, report, and what it refuses."""

import csv
import inspect
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from suite import first_quick, slow
from torch import nn

from train.data import Data
from train.module import Learner
from train.networks import NETWORKS, OWN_NETWORKS, PIXEL_NETWORKS, build, initialise
from train.networks.rotated import PLAIN
from train.optim import cosine, one_cycle
from train.report import duration, learning_curve, read_metrics, results, summary
from train.saved import DEFAULT_DATA, DEFAULT_NETWORK
from train.sources import SOURCES
from train.tasks import TASKS
from train.throughput import Throughput

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))
# One epoch of training without the bar, and without drawing from a machine's accelerator.
SHORT = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain little from a second thread, and lose much where another process has its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


# ---------------------------------------------------------------------------------------------------------- networks


def conv(inputs: int, maps: int, side: int, bias: bool = True) -> int:
    return maps * (inputs * side**2 + bias)


def dense(*sizes: int) -> int:
    return sum(b * (a + 1) for a, b in itertools.pairwise(sizes))


def vgg_parameters(channels: int) -> int:
    maps = [channels, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    pairs = itertools.pairwise(maps)
    return sum(conv(a, b, 3, bias=False) + 2 * b for a, b in pairs) + dense(512, 512, 512, 10)


PARAMETERS: dict[str, Callable[[int], int]] = {
    "lenet5": lambda c: conv(c, 6, 5) + conv(6, 16, 5) + dense(400, 120, 84, 10),
    "alexnet": lambda c: (
        conv(c, 96, 5)
        + conv(96, 256, 5)
        + conv(256, 384, 3)
        + conv(384, 384, 3)
        + conv(384, 256, 3)
        + dense(256 * 3 * 3, 1024, 1024, 10)
    ),
    "vgg16": vgg_parameters,
    "speedrun": lambda c: (
        conv(c, 8 * c, 2)
        + sum(conv(a, b, 3, bias=False) + conv(b, b, 3, bias=False) + 4 * b for a, b in [(8 * c, 64), (64, 256)])
        + 2 * (conv(256, 256, 3, bias=False) + 2 * 256)
        + 256 * 10
    ),
    "z2cnn": lambda c: (
        sum(conv(a, b, 3, bias=False) + 2 * b for a, b in itertools.pairwise((c, *PLAIN))) + conv(22, 10, 4)
    ),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_and_parameters(name: str, channels: int) -> None:
    model = build(name, "torch", channels)
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name](channels)


def test_lenet_has_the_published_number_of_parameters() -> None:
    assert PARAMETERS["lenet5"](1) == 61_706


def test_networks_for_rotated_digits() -> None:
    """As many parameters within 1%, drawn by `initialise`, and answers that quarter turns do not change."""
    sizes = {name: sum(p.numel() for p in build(name, in_channels=1).parameters()) for name in ("z2cnn", *OWN_NETWORKS)}
    assert sizes == {"z2cnn": 24_785, "ticnn": 24_785, "p4cnn": 24_620}
    images = torch.randn(3, 1, 32, 32)
    for name in OWN_NETWORKS:
        model = build(name, in_channels=1).eval()
        assert model(images).shape == (3, 10)
        torch.testing.assert_close(model(images.rot90(1, (2, 3))), model(images), rtol=1e-3, atol=1e-3)
        first = next(m for m in model.modules() if hasattr(m, "convolution_size"))
        with torch.no_grad():
            first.weight.fill_(7)
        initialise(model)
        assert first.weight.detach().std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.25)


@pytest.mark.parametrize("name", PARAMETERS)
def test_backends_are_the_same_network(name: str) -> None:
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)
    results = {}
    for backend in ("torch", "torchconv"):
        torch.manual_seed(1)
        model = build(name, backend, 3).double()
        loss = nn.functional.cross_entropy(model(images), labels)  # The same seed: dropout drops the same.
        loss.backward()
        results[backend] = model, loss
    (builtin, expected), (ours, loss) = results["torch"], results["torchconv"]
    assert [type(m).__module__ for m in ours if isinstance(m, nn.Conv2d | nn.MaxPool2d)] != [
        type(m).__module__ for m in builtin if isinstance(m, nn.Conv2d | nn.MaxPool2d)
    ]
    assert list(ours.state_dict()) == list(builtin.state_dict())
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for (key, a), b in zip(ours.named_parameters(), builtin.parameters(), strict=True):
        assert torch.equal(a, b), key
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")


# ---------------------------------------------------------------------------------------------------------- training


def test_biases_and_batch_norms_do_not_decay() -> None:
    module = Learner("vgg16", "torch", 3, schedule="constant")
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0, 0.0]
    assert [group["lr"] for group in groups] == [0.02] * 3
    assert [len(group["params"]) for group in groups] == [13 + 3, 3, 2 * 13]


def test_schedules() -> None:
    assert [cosine(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [one_cycle(p) for p in (0, 0.3, 0.65, 1)] == pytest.approx([0.04, 1, 0.5, 0])


@slow
def test_default_run(train: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`python -m train fit` alone learns the digits, and ends with what it says it ends with."""
    assert train("fit") == 0
    told = capsys.readouterr().out.splitlines()[-6:]
    run = tmp_path / "runs" / "lenet5-digits" / "version_0"
    with (run / "metrics.csv").open() as file:
        (accuracy,) = [float(row["test/accuracy"]) for row in csv.DictReader(file) if row["test/accuracy"]]
    assert accuracy >= 0.97
    assert f"{accuracy:.2%}" in told[0]
    assert checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 29
    assert "images/s" in told[1]
    assert Path(told[3].split()[-1]).resolve().parent == run / "checkpoints"
    assert Path(told[4].split()[-1]).resolve() == run / "learning_curve.png"
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_resumed_is_as_uninterrupted(optimizer: str, train: Callable[..., int], tmp_path: Path) -> None:
    # Options given as text, since the types that the command line makes of them must not get into a checkpoint.
    options = [*SHORT, "--model.schedule", "constant", "--model.lr", "0.02", "--model.momentum", "0.8"]
    options += ["--model.optimizer", optimizer]
    runs = tmp_path / "runs" / "lenet5-digits"
    assert train("fit", *options, "--trainer.max_epochs", 2) == 0
    assert train("fit", *options) == 0
    last = runs / "version_1" / "checkpoints" / "last.ckpt"
    assert train("fit", *options, "--trainer.max_epochs", 2, "--ckpt_path", last) == 0
    whole, resumed = (checkpoint(runs / f"version_{v}" / "checkpoints" / "last.ckpt") for v in (0, 2))
    assert whole["epoch"] == resumed["epoch"] == 1
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key


def test_a_schedule_by_step_resumes_to_another_length(train: Callable[..., int], tmp_path: Path) -> None:
    few = [*SHORT, "--trainer.limit_train_batches", "3"]
    assert train("fit", *few) == 0
    last = tmp_path / "runs" / "lenet5-digits" / "version_0" / "checkpoints" / "last.ckpt"
    assert train("fit", *few, "--trainer.max_epochs", 2, "--ckpt_path", last) == 0


def test_checkpoint_is_tested_from_the_runs_own_config(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("fit", *SHORT, "--trainer.limit_train_batches", 3) == 0
    run = tmp_path / "runs" / "lenet5-digits" / "version_0"
    capsys.readouterr()
    last = run / "checkpoints" / "last.ckpt"
    for subcommand in ("validate", "test"):
        assert train(subcommand, "--config", run / "config.yaml", "--ckpt_path", last) == 0
        assert "accuracy" in capsys.readouterr().out


@slow
@pytest.mark.parametrize("bar", [True, False], ids=["bar", "no bar"])
def test_two_processes(bar: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "fit", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    limits = ["--trainer.limit_train_batches", "3", "--trainer.default_root_dir", str(tmp_path)]
    limits += ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", str(bar).lower()]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *limits], cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    (path,) = tmp_path.rglob("last.ckpt")
    assert checkpoint(path)["global_step"] == 6


# ------------------------------------------------------------------------------------------- command line and report


@pytest.mark.parametrize("recipe", [None, *RECIPES], ids=lambda path: path.stem if path else "defaults")
def test_print_config(recipe: Path | None, train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        train("fit", *(["--config", recipe] if recipe else []), "--print_config")
    assert exit_info.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load((recipe or ROOT / "train" / "recipes" / "lenet5_digits.yaml").read_text())
    if recipe is None:  # Names that are left open are a checkpoint's, where one is given.
        config["model"]["name"], config["data"]["name"] = DEFAULT_NETWORK, DEFAULT_DATA
    for group, options in given.items():
        assert {name: config[group][name] for name in options} == options
    assert (config["model"]["backend"], config["seed_everything"]) == ("torchconv", 0)


REFUSED = {
    "no subcommand": ([], "fit,validate,test"),
    "subcommand": (["fight"], "'fight'"),
    "option": (["fit", "--model.depth", "3"], "model.depth"),
    "model": (
        ["fit", "--model.name", "lenet6"],
        "unknown model 'lenet6' (did you mean 'lenet5'?): there are lenet5, alexnet, vgg16",
    ),
    "data": (
        ["fit", "--data.name", "digit"],
        "unknown data set 'digit': there are digits, mnist, rotmnist, cifar10, cifar100, welcome, folder, pasted, "
        "pasted_mnist",
    ),
    "fuse": (
        ["fit", "--model.backend", "torch", "--model.fuse", "true"],
        "fuse is torchconv's, but the backend is 'torch'",
    ),
    "backend": (["fit", "--model.backend", "jax"], "unknown backend 'jax': there are torchconv, torch"),
    "optimizer": (["fit", "--model.optimizer", "lbfgs"], "unknown optimizer 'lbfgs'"),
    "schedule": (["fit", "--model.schedule", "step"], "unknown schedule 'step'"),
    "init": (["fit", "--model.init", "zero"], "unknown init 'zero': there are he, torch, dirac"),
    "views": (["fit", "--model.views", "3"], "there are no 3 views of an image, but 1, 2, 6, 10"),
    "nesterov": (["fit", "--model.nesterov", "true", "--model.optimizer", "adam"], "nesterov is of sgd"),
    "whiten": (["fit", "--model.whiten", "3"], "6 filters, but to whiten its patches takes 50"),
    "border": (["fit", "--data.border", "white"], "unknown border 'white': there are black, reflect"),
    "flip": (["fit", "--data.flip", "never"], "unknown flip 'never': there are none, random, alternate"),
    "no validation": (["fit", "--data.validation", "0", "--model.schedule", "plateau"], "--data.validation is 0"),
    "all aside": (["fit", "--data.validation", "1437"], "no training images are left of 1437"),
    "too few aside": (
        ["fit", "--data.validation", "9"],
        "9 of 1437 images cannot be put aside with each of 10 classes in proportion",
    ),
    "negative lr": (["fit", "--model.lr", "-1"], "-1"),
    "batch of none": (["fit", "--data.batch_size", "0"], "data.batch_size"),
    "not a number": (
        ["fit", "--trainer.max_epochs", "many"],
        "'many' is none of int, NoneType",
    ),
    "no such device": (["fit", "--trainer.accelerator", "abacus"], "abacus"),
    "no end": (["fit", "--trainer.max_epochs", "-1"], "schedule 'onecycle' needs an end"),
    "no recipe": (["fit", "--config", "missing.yaml"], "missing.yaml"),
    "no data": (["fit", "--data.name", "cifar10", "--data.root", "nowhere"], "no CIFAR10 data in 'nowhere'"),
    "nothing to test": (["test"], "--ckpt_path"),
    "no checkpoint": (["fit", "--ckpt_path", "missing.ckpt"], "'missing.ckpt': No such file"),
    "directory for checkpoint": (["fit", "--ckpt_path", "."], "'.': Is a directory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, train: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    args, named = REFUSED[case]
    assert train(*args) == 2
    check_one_sentence(capfd, named)


def check_one_sentence(capfd: pytest.CaptureFixture[str], named: str, began: bool = False) -> None:
    """An error of one line, and nothing else, but for what a run that `began` has said on its way."""
    out, err = capfd.readouterr()
    assert began or out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize("recipe", first_quick(RECIPES), ids=lambda path: path.stem)
def test_two_steps_of_a_recipe(recipe: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load(recipe.read_text())["data"]["name"]
    few = ["--data.name", given if given == "pasted" else "digits"]  # those that need no files
    few += ["--data.batch_size", "8", "--trainer.max_steps", "2"]
    few += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
    assert train("fit", "--config", recipe, *SHORT[2:], *few) == 0
    assert "training speed" in capsys.readouterr().out


def test_help_fits_two_screens(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for subcommand in ("fit", "test"):
        with pytest.raises(SystemExit) as ended:
            train(subcommand, "--help")
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        lines = shown.splitlines()
        assert len(lines) <= 100
        assert max(map(len, lines)) <= 100
        options = {*inspect.signature(Learner).parameters} - {"in_channels", "num_classes"}
        assert all(f"  --model.{option} " in shown for option in options)
        assert all(name in shown for name in (*NETWORKS, *PIXEL_NETWORKS, *SOURCES, *TASKS, "speedrun_cifar10"))


def test_an_option_that_was_probably_meant(train: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", "--model.momentun", "0.8") == 2
    check_one_sentence(capfd, "--model.momentun 0.8: did you mean --model.momentum?")


def test_refuses_a_damaged_archive(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x09" * 3 + b"cut short")
    assert train("fit", "--data.name", "mnist", "--data.root", tmp_path) == 2
    check_one_sentence(capfd, f"the MNIST data is damaged: '{raw}/train-images-idx3-ubyte' has the checksum ")
    (raw / "train-images-idx3-ubyte").unlink()
    assert train("fit", "--data.name", "rotmnist", "--data.root", tmp_path) == 2
    check_one_sentence(capfd, f"the MNIST data is incomplete: there is no '{raw}/train-images-idx3-ubyte'")
    (raw / "train-images-idx3-ubyte.gz").touch()
    assert train("fit", "--data.name", "mnist", "--data.root", tmp_path) == 2
    check_one_sentence(capfd, f"the MNIST data in '{raw}' is still compressed: unpack it by gunzip -k {raw}/*.gz")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"garbage")
    assert train("fit", "--data.name", "cifar10", "--data.root", tmp_path) == 2
    check_one_sentence(capfd, f"the CIFAR10 data in '{tmp_path}' is incomplete or damaged")


def test_what_keeps_data_from_being_read(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from train._torchvision import torchvision

    def offline(root: str, download: bool) -> None:
        raise OSError("Temporary failure in name resolution")

    def forbidden(root: str, train: bool) -> None:
        raise PermissionError(13, "Permission denied", "data_batch_1")

    cifar10 = "fit", "--data.name", "cifar10", "--data.root", tmp_path
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    assert train(*cifar10, "--data.download", "true") == 2
    check_one_sentence(capfd, f"the CIFAR10 data could not be fetched into '{tmp_path}': Temporary failure in name")
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", forbidden)
    assert train(*cifar10) == 2
    check_one_sentence(capfd, "the CIFAR10 data cannot be read: no permission to open 'data_batch_1'")


def test_only_some_data_sets_need_torchvision(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "train._torchvision", None)
    assert train("fit", "--data.name", "mnist") == 2
    check_one_sentence(capfd, "the data set MNIST is read by torchvision, which is not installed")
    Data("digits").setup()


def test_refuses_the_wrong_checkpoint(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("fit", *SHORT, "--trainer.limit_train_batches", 2) == 0
    last = shutil.copy(tmp_path / "runs" / "lenet5-digits" / "version_0" / "checkpoints" / "last.ckpt", "last.ckpt")
    capfd.readouterr()
    assert train("test", "--model.name", "alexnet", "--ckpt_path", last) == 2
    check_one_sentence(capfd, "checkpoint 'last.ckpt' is of lenet5 with in_channels=1")

    Path("cut.ckpt").write_bytes(Path(last).read_bytes()[:20_000])
    assert train("test", "--ckpt_path", "cut.ckpt") == 2
    check_one_sentence(capfd, "'cut.ckpt' is damaged, or not a checkpoint of this program")

    torch.save({"weights": torch.zeros(3)}, "other.ckpt")
    assert train("test", "--ckpt_path", "other.ckpt") == 2
    check_one_sentence(capfd, "'other.ckpt'")


def test_refuses_an_output_directory_that_cannot_be(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    for option in ("--trainer.default_root_dir", "--checkpoint.dirpath"):
        assert train("fit", option, "file/runs") == 2
        check_one_sentence(capfd, "cannot write to '")


def test_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss,test/loss,train/accuracy,val/accuracy\n"
        "0,9,,0.5,,,0.8\n"
        "0,9,0.7,,,0.6,\n"
        "1,19,,0.4,,,0.9\n"
        "2,20,,,0.3,,\n"
    )
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["val/loss"] == [(0, 0.5), (1, 0.4)]
    assert metrics["train/accuracy"] == [(0, 0.6)]
    assert learning_curve(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_summary() -> None:
    throughput = Throughput()
    throughput.images, throughput.seconds = 12345 * 119, 119.0
    accuracy = {"accuracy": 0.98765}
    lines = summary(accuracy, (0.98765, None), throughput, "last.ckpt", Path("curve.png")).splitlines()
    ends = (" 98.77%", " 12,345 images/s", " 1 min 59 s", " last.ckpt", " curve.png", " none")
    for line, end in zip(lines, ends, strict=True):
        assert line.endswith(end)
    for target, told in ((0.98, "98.00%          in 1 min 59 s of training"), (0.99, "99.00%          not reached")):
        assert summary(accuracy, (0.98765, target), throughput, "", None).splitlines()[1] == told
    located = results({"test/iou": 0.875, "test/loss": 0.1, "test/accuracy": 0.98765})
    assert summary(located, (0.875, None), throughput, "", None).splitlines()[:2] == [
        "test accuracy   98.77%",
        "test IoU        87.50%",
    ]


def test_duration() -> None:
    assert [duration(s) for s in (0, 59.94, 60, 3725.4)] == ["0.0 s", "59.9 s", "1 min 0 s", "62 min 5 s"]
