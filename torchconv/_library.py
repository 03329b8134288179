"""Loads the compiled library, torchconv._C, which registers the operators; importing this module is all there is to do.

The library uses LibTorch's stable ABI (csrc/torch.h): one build serves every release of torch from OLDEST on, whatever
accelerator that was built for, and every Python.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

OLDEST = (2, 10)  # TORCH_TARGET_VERSION of csrc/torch.h

BUILD = (
    "run `pip install .` or, to use the checkout as it stands, `python setup.py build_ext --inplace` in torchconv's "
    "checkout"
)


def release(version: str) -> tuple[int, int]:
    """Major and minor of a torch version: "2.13.0+cpu" -> (2, 13)."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def load(package: str, directory: Path) -> ModuleType:
    """Imports `package`._C from `directory`.

    Raises:
        ImportError: a torch older than OLDEST, no compiled library there, or one that does not load.
    """
    if release(torch.__version__) < OLDEST:
        raise ImportError(f"torchconv needs torch {'.'.join(map(str, OLDEST))} or later, got torch {torch.__version__}")
    if importlib.util.find_spec(f"{package}._C") is None:
        raise ImportError(f"torchconv has no compiled library in {directory}: {BUILD}")
    try:
        library = importlib.import_module(f"{package}._C")
        if not hasattr(library, "as_they_were"):
            raise ImportError("it is of another version of these sources")
    except ImportError as error:
        message = f"torchconv's compiled library does not load ({error}): to build it again, {BUILD}"
        raise ImportError(message) from error
    return library


_library = load(__package__, Path(__file__).parent)
as_they_were: Callable[..., bool] = _library.as_they_were
