"""Fused modules beside tracers, compilers, registries of classes, their own pickles, parametrizations and autocast."""

import copy

import pytest
import torch
from fuse_rewrite_cases import CASES, Base
from torch.nn import BatchNorm2d, Conv2d, Identity, ReLU, Sequential

import torchconv


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_tracers(training):
    """Dynamo runs layers as one, and sees an edit; other tracers see the layers themselves."""
    torch.manual_seed(0)
    stock = Sequential(CASES["functions"][0](), Conv2d(4, 4, 1), BatchNorm2d(4)).train(training)
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = torch.randn(2, 4, 6, 6)
    graphs = []
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(compiled(x), stock(x), rtol=1e-4, atol=1e-5)
    ours[1], stock[1] = Identity(), Identity()
    torch.testing.assert_close(compiled(x), stock(x), rtol=1e-4, atol=1e-5)
    targets = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert targets.count("torchconv.convolution_relu.default") == (1 if training else 2)
    program = torch.export.export(copy.deepcopy(ours), (x,))
    torch.testing.assert_close(program.module()(x), stock(x), rtol=1e-4, atol=1e-5)


def test_other_tracers():
    """torch.fx records the layers, TorchScript's tracer PyTorch's own operators, and its compiler says what to do."""
    torch.manual_seed(0)
    stock = Sequential(CASES["functions"][0](), BatchNorm2d(4), ReLU()).eval()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = torch.randn(2, 4, 6, 6)
    graphs = [torch.fx.symbolic_trace(model) for model in (ours, stock)]
    nodes = [[(node.op, node.name) for node in graph.graph.nodes] for graph in graphs]
    assert nodes[0] == nodes[1]
    torch.testing.assert_close(graphs[0](x), stock(x))
    traced = torch.jit.trace(ours, x)
    assert "torchconv::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), stock(x))
    with pytest.raises(RuntimeError, match=r"cannot compile .*: call torchconv.revert\(model\)"):
        torch.jit.script(ours)


class Registered(Base):
    names = []

    def __init_subclass__(cls):
        if cls.__name__ in Registered.names:
            raise KeyError(f"{cls.__name__} is there")
        Registered.names.append(cls.__name__)


class OfARegistry(Registered):
    def forward(self, x):
        return self.relu(self.conv(x))


class PickledItsWay(Base):
    def forward(self, x):
        return self.relu(self.conv(x))

    def __reduce__(self):
        return PickledItsWay, ()


@pytest.mark.parametrize("cls", [OfARegistry, PickledItsWay])
def test_classes_that_cannot_be_derived_from(cls):
    torchconv.convert(model := cls(), fuse=True, report=(left := []))
    assert type(model) is cls
    assert "no class can be derived" in str(left[0]) or "its own way of being pickled" in str(left[0])


def test_a_class_derived_from_a_fused_one():
    class Further(type(torchconv.convert(CASES["nested"][0](), fuse=True))):
        pass

    model = Further()
    torch.testing.assert_close(copy.deepcopy(model)(x := torch.randn(1, 4, 5, 5)), model(x))


def test_a_parametrization_is_asked_once():
    """As torch.nn's layer asks, with the convolution in training and the batch norm not."""

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, weight):
            self.calls += 1
            return weight

    model = torchconv.convert(Sequential(Conv2d(4, 4, 3), BatchNorm2d(4), ReLU()), fuse=True)
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", counted := Counted())
    for side, norm_training in ((3, False), (30, False), (30, True)):
        model[1].train(norm_training)
        counted.calls = 0
        model(torch.randn(2, 4, side, side))
        assert counted.calls == 1


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_autocast(training):
    torch.manual_seed(0)
    stock = CASES["nested"][0]().train(training)
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        one, other = ours(x), stock(x)
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_forward_replaced_after_compiling(at: int) -> None:
    """Is run, as torch.compile runs it for a model whose layers are called one by one."""
    torch._dynamo.reset()
    layers = [torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU()]
    model = torchconv.convert(torch.nn.Sequential(*layers)).eval()
    compiled, x = torch.compile(model, backend="eager", fullgraph=True), torch.randn(1, 3, 5, 5)
    compiled(x)
    layers[at].forward = torch.sigmoid
    torch.testing.assert_close(compiled(x), model(x))
