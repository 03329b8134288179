"""What the README says that the code can check."""

import re
from pathlib import Path

from tools.algorithm_table import algorithm_table

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_table_of_algorithms_is_the_code_s() -> None:
    (table,) = re.findall(r"<!-- algorithms -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert table == algorithm_table()


def test_files_it_names_are_there() -> None:
    root = Path(__file__).parents[1]
    for name in re.findall(r"(?:csrc|torchconv|tests|train|benchmarks)/[\w/]+\.\w+", README):
        assert (root / name).exists() or "NAME" in name, name
