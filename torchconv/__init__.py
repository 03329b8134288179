"""Convolution and pooling for PyTorch: faster on a CPU than the built-in ones, exact to every derivative.

    model = torchconv.convert(model)

replaces every stock convolution and pooling layer of a model by one of ours, sharing its parameters.
"""

__version__ = "0.1.0"

from . import _library, flops, ops  # isort: skip  (register the operators: everything below needs them)

from . import functional, nn, show, testing, transforms
from .convert import convert, enabled, revert
from .explain import explain
from .functional import conv_matrix
from .functional._route import disabled
from .nn._prepared import prepare
from .receptive_field import receptive_field
from .scan import scan
from .settings import (
    cpu_capability,
    get_batch_invariant,
    get_conv_precision,
    precision,
    set_batch_invariant,
    set_conv_precision,
)

__all__ = [
    "conv_matrix",
    "convert",
    "cpu_capability",
    "disabled",
    "enabled",
    "explain",
    "functional",
    "get_batch_invariant",
    "get_conv_precision",
    "nn",
    "precision",
    "prepare",
    "receptive_field",
    "revert",
    "scan",
    "set_batch_invariant",
    "set_conv_precision",
    "show",
    "testing",
    "transforms",
]
