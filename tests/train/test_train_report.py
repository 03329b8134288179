"""The page that a run ends with: whole without a network, and of several runs."""

import base64
import html.parser
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_train import SHORT, check_one_sentence

Train = Callable[..., int]


@pytest.fixture
def page(train_with_page: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """That of LeNet-5 after three steps."""
    assert train_with_page("fit", *SHORT, "--trainer.limit_train_batches", 3) == 0
    path = tmp_path / "runs" / "lenet5-digits" / "version_0" / "report.html"
    assert f"report          {path.relative_to(tmp_path)}" in capfd.readouterr().out
    return path


class Pictures(html.parser.HTMLParser):
    """The sources of a page's pictures, and everything else that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "img":
            self.sources.append(named["src"] or "")
            assert named["alt"]
        else:
            self.fetched += [value for name in ("src", "href") if (value := named.get(name))]


def test_the_page_holds_all_that_it_shows(page: Path) -> None:
    text = page.read_text()
    pictures = Pictures(text)
    assert not pictures.fetched
    for source in pictures.sources:
        kind, content = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Runs",
        "Learning curves",
        "Layers",
        "First-layer filters",
        "First-layer activations",
        "Receptive fields",
        "Confusion matrix",
        "Test images and their likeliest classes",
        "Nearest training images",
    ]
    assert len(pictures.sources) == len(titles) - 2  # the runs and the layers are tables


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium on the path")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_pictures_are_there_and_nothing_is_cut_off(width: int, page: Path) -> None:
    """What would be wider than the window scrolls inside of its own box."""
    script = """<script>addEventListener("load", () => document.title = "found " + [
        [...document.images].filter(image => !image.complete || image.naturalWidth == 0).length,
        document.documentElement.scrollWidth <= innerWidth].join(" "))</script>"""
    copy = page.with_name("tried.html")
    copy.write_text(page.read_text() + script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--dump-dom"]
    command = ["chromium", *options, copy.resolve().as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>found 0 true</title>" in shown


def test_runs_side_by_side(page: Path, train_with_page: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train_with_page("fit", *SHORT, "--trainer.limit_train_batches", 3) == 0
    other = page.parents[1] / "version_1"
    capfd.readouterr()
    assert train_with_page("report", page.parent, other) == 0
    assert capfd.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert "lenet5-digits/version_0 and lenet5-digits/version_1" in text
    assert text.count("<td>lenet5-digits/version_") == 2


def test_what_is_no_run(page: Path, train_with_page: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train_with_page("report", "nowhere") == 2
    check_one_sentence(capfd, "'nowhere' is no run: it holds no metrics.csv")
    shutil.rmtree(page.parent / "checkpoints")
    assert train_with_page("report", page.parent) == 2
    check_one_sentence(capfd, "cannot read checkpoint '")
    assert train_with_page("report") == 2
    check_one_sentence(capfd, "RUN")
