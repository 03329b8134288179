"""How many examples a property is tried on: a fifth of them in the quick suite, all with ``TORCHCONV_TESTS=all``."""

import os

from hypothesis import settings

ALL = os.environ.get("TORCHCONV_TESTS") == "all"


def examples(number: int) -> settings:
    """The decorator of a property that is tried on `number` examples, or a fifth of them; always the same ones."""
    return settings(max_examples=number if ALL else -(-number // 5))
