"""Who computes a call: this package's kernels, PyTorch's own operators, or whatever overrides torch's functions.

Kernels take plain strided tensors on the CPU. Everything else goes to PyTorch's own operators, which know what else
there is: other devices and dtypes, sparse, oneDNN's and nested tensors, subclasses such as DTensor. So do calls that
are recorded to be run where this package is not: by TorchScript's tracer and by the exporter to ONNX.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn import Parameter
from torch.overrides import handle_torch_function

KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)

_disabled: list[None] = []  # an element for each `disabled` that is open
_tracing_state = torch._C._get_tracing_state
_strided = torch.strided


@contextmanager
def disabled() -> Iterator[None]:
    """PyTorch's own operators in place of this package's: in its functions, its layers and converted models.

    A context manager and a decorator. What is recorded inside needs no torchconv to run::

        with torchconv.disabled():
            program = torch.export.export(model, (x,))  # aten operators only

    It holds for the whole process, nests, and wins over `enabled`. A backward belongs to its forward, wherever it is
    called; a compiled model is compiled anew. Layers that torch.nn lacks become compositions of PyTorch's operators, as
    they are off the CPU. An algorithm asked for by name is not looked at.
    """
    _disabled.append(None)
    try:
        yield
    finally:
        _disabled.pop()


def built_in_wanted() -> bool:
    """Whether PyTorch's own operators were asked for, or are what is recorded, whatever the operands."""
    return bool(_disabled) or _tracing_state() is not None or _exporting_to_onnx()


def _exporting_to_onnx() -> bool:
    onnx = sys.modules.get("torch.onnx")
    return onnx is not None and onnx.is_in_onnx_export()


def has_kernel(*tensors: Tensor | None) -> bool:
    """Whether a call with these operands goes to this package's kernels."""
    if _disabled or _tracing_state() is not None:
        return False
    for t in tensors:
        if t is None:
            continue
        if not (t.is_cpu and t.dtype in KERNEL_DTYPES and t.layout is _strided):
            return False
        cls = type(t)
        if cls is not Tensor and cls is not Parameter and not _takes_any_operator(cls):
            return False
    return True


def _takes_any_operator(cls: type) -> bool:
    """Whether tensors of a subclass can be given operators that it has never heard of."""
    if cls is FakeTensor:  # as torch.export has them, on which torch.onnx.export stands
        return not _exporting_to_onnx()
    return cls is FunctionalTensor or cls.__torch_dispatch__ is Tensor.__torch_dispatch__  # type: ignore[attr-defined]


def overridden(name: str, operands: Sequence[Any], *args: Any, **keywords: Any) -> Any:
    """What the first of the operands that overrides torch's functions, or a mode that does, makes of a call of
    ``torchconv.functional``'s function `name`."""
    function: Callable[..., Any] = getattr(sys.modules["torchconv.functional"], name)
    return handle_torch_function(function, operands, *args, **keywords)
