"""Loads the compiled library, torchconv._C, which registers the operators; importing this module is all there is to do.

The library is compiled against one release of torch and may be loaded by that one only: built_with.txt, which setup.py
leaves beside it, says which, and is compared before the library is touched, since what happens otherwise is at best an
undefined symbol.
"""

import importlib
import importlib.util
from pathlib import Path

import torch

BUILD = (
    "run `pip install --no-build-isolation .` or, to use the checkout as it stands, "
    "`python setup.py build_ext --inplace` in torchconv's checkout"
)


def release(version: str) -> str:
    """The part of a torch version that a compiled library depends on: "2.13.0+cpu" -> "2.13.0".

    What follows the plus names the accelerator of a build. The operators link libtorch_cpu and libc10 only, whose
    binary interface the CPU, CUDA, ROCm and XPU builds of one release share.
    """
    return version.partition("+")[0]


def load(package: str, directory: Path) -> None:
    """Imports `package`._C from `directory`.

    Raises:
        ImportError: no compiled library there, one built for another release of torch, or one that does not load.
    """
    if importlib.util.find_spec(f"{package}._C") is None:
        raise ImportError(f"torchconv has no compiled library in {directory}: {BUILD}")
    built_with = directory / "built_with.txt"
    built = built_with.read_text().strip() if built_with.is_file() else "an unknown version"
    if release(built) != release(torch.__version__):
        raise ImportError(
            f"torchconv was built for torch {built} but torch {torch.__version__} is installed: "
            f"to build it again, {BUILD}"
        )
    try:
        importlib.import_module(f"{package}._C")
    except ImportError as error:
        message = f"torchconv's compiled library does not load ({error}): to build it again, {BUILD}"
        raise ImportError(message) from error


load(__package__, Path(__file__).parent)
