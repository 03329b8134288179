"""What the exporters to ONNX make of converted models and of the layers that torch lacks: standard operators."""

import io
import warnings

import pytest
import torch
from small_net import pair

import torchconv


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx_has_standard_operators(dynamo):
    ours, _, x = pair()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(ours, (x,), None if dynamo else file, dynamo=dynamo, verbose=False)
    if dynamo:
        nodes = [(node.domain, node.op_type) for node in program.model.graph]
    else:
        import onnx

        nodes = [(node.domain, node.op_type) for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert {domain for domain, _ in nodes} == {""}
    assert {"Conv", "MaxPool", "AveragePool", "ConvTranspose"} <= {kind for _, kind in nodes}


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(
            torchconv.nn.TransformInvariantConv2d(3, 4, 3, torchconv.transforms.rotations(4), reduce="norm"),
            id="transform",
        ),
        pytest.param(torchconv.nn.GroupConv2d(3, 2, 3, lifting=True), id="group"),
    ],
)
@pytest.mark.slow
def test_onnx_of_layers_that_torch_lacks(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(layer, (torch.randn(1, 3, 8, 8),), dynamo=True, verbose=False)
    assert {node.domain for node in program.model.graph} == {""}
    assert "Conv" in {node.op_type for node in program.model.graph}
