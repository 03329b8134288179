"""What belongs to the quick suite, `make test`, and what to the whole one, `make test-all`."""

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

ALL = os.environ.get("TORCHCONV_TESTS") == "all"
slow = pytest.mark.slow


def examples(number: int) -> settings:
    """The decorator of a property that is tried on `number` examples, or a fifth of them; always the same ones."""
    return settings(max_examples=number if ALL else -(-number // 5))


def first_quick(values: Iterable[Any]) -> list[Any]:
    """A parameter's values, of which the first is in the quick suite and the others are slow."""
    first, *others = values
    return [first, *(pytest.param(*v, marks=slow) if type(v) is tuple else pytest.param(v, marks=slow) for v in others)]
