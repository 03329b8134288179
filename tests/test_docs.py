"""The examples in docs/ are run, and print what stands there."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if ">>> " in page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path) -> None:
    failed, tried = doctest.testfile(str(page), module_relative=False, verbose=False)
    assert tried > 0
    assert failed == 0


def test_there_are_examples() -> None:
    assert PAGES
