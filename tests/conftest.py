"""Fixed seeds and hypothesis profiles for every test."""

import dataclasses

import hypothesis
import pytest
import torch

import torchconv

# A property's verdict may not depend on the clock or on chance.
hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """torch.set_num_threads, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def batch_invariant():
    """Samples' results that depend on no batch, for the test."""
    torchconv.set_batch_invariant(True)
    yield
    torchconv.set_batch_invariant(False)


@pytest.fixture
def train(train_with_page, monkeypatch):
    """`train_with_page` without the drawing of the page, which takes longer than a short run."""
    monkeypatch.setattr("train.run_report.report", lambda folders, *_: folders[0] / "report.html")
    return train_with_page


@pytest.fixture
def train_with_page(monkeypatch, tmp_path):
    """Runs `python -m train` in this process, in an empty directory, with the arguments it is called with; returns its
    exit status. On one thread: small networks gain little from a second, and lose much where another process has its
    core."""
    from train.__main__ import main

    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*args):
        monkeypatch.setattr("sys.argv", ["train", *map(str, args)])
        return main()

    yield run
    torch.set_num_threads(before)


@pytest.fixture
def few_scenes(monkeypatch):
    """400 digits to paste, 20 of them for the test, and one picture of each."""
    from train import sources

    def read(root, download):
        train, test = sources.read_digits(root, download)
        return (train[0][:380], train[1][:380]), (test[0][:20], test[1][:20])

    few = dataclasses.replace(sources.SOURCES["pasted"], read=read, validation=40, copies=1)
    monkeypatch.setitem(sources.SOURCES, "pasted", few)
