"""``from train._torchvision import torchvision``: torchvision, also where its compiled library does not load.

torchvision's wheels are built against one build of PyTorch (on PyPI a CUDA one). Beside another, its library of C++
operators cannot be loaded, and ``import torchvision`` stops at "operator torchvision::nms does not exist", although
data sets, transforms and models need none of these operators. There, and only there, the two operators that the import
registers fake kernels for are declared. They are given no kernel: calling one remains an error.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

import torch


def _library_loads() -> bool:
    """Whether torchvision's own library of operators can be loaded, found the way torchvision finds it."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
    finder = FileFinder(package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    library = finder.find_spec("_C")
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


if "torchvision" not in sys.modules and not _library_loads() and not hasattr(torch.ops.torchvision, "nms"):
    # Kept in a module variable: the operators vanish with the Library object.
    _declarations = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declarations.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402

__all__ = ["torchvision"]
