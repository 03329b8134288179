"""Operators in Python: each has a fake kernel, whose signature is its schema's, and takes its arguments by position."""

import inspect
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from torchconv.autograd._common import FAKES

TYPES = {
    "Tensor": (Tensor,),
    "Optional[Tensor]": (Tensor | None,),
    "List[int]": (Sequence[int],),
    "int": (int, torch.memory_format),
    "Optional[int]": (int | None,),
    "bool": (bool,),
    "float": (float,),
    "str": (str,),
}


PREPARED = [
    "_prepare_convolution",
    "_prepare_avg_pool",
    "_prepare_linear",
    "_prepare_max_pool",
    "_run_prepared",
    "_same_states",
    "_states",
]  # what they pass is of this process: no program has them


def test_every_operator_on_tensors_has_a_fake_kernel() -> None:
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torchconv::")]
    on_tensors = [
        name.removeprefix("torchconv::")
        for name in names
        if "Tensor" in str(getattr(torch.ops.torchconv, name.removeprefix("torchconv::")).default._schema)
    ]
    assert sorted(on_tensors) == sorted([*FAKES, *PREPARED])


@pytest.mark.parametrize("name", FAKES)
def test_a_fake_kernels_signature_is_its_schemas(name: str) -> None:
    schema = getattr(torch.ops.torchconv, name).default._schema
    parameters = inspect.signature(FAKES[name]).parameters.values()
    assert [p.name for p in parameters] == [argument.name for argument in schema.arguments]
    for p, argument in zip(parameters, schema.arguments, strict=True):
        assert p.annotation in TYPES[str(argument.type)], p
        assert p.kind is p.POSITIONAL_ONLY, p
    results = (Tensor,) if len(schema.returns) == 1 else (tuple[(Tensor,) * len(schema.returns)],)
    assert inspect.signature(FAKES[name]).return_annotation in results
