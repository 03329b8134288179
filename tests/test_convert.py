"""convert and revert: what they change, what they leave alone and say so, and that nothing else changes."""

import copy
import pickle

import pytest
import torch
from convert_cases import Plain, classes, errors, picture, run, small
from suite import first_quick
from torch.nn.utils import parametrize

import torchconv
from torchconv import nn
from torchconv.convert import LeftAlone

torchvision = pytest.importorskip("train._torchvision", reason="torchvision is not installed").torchvision

NAMESAKES = [name for name in nn.__all__ if hasattr(torch.nn, name)]
KINDS = tuple(getattr(torch.nn, name) for name in NAMESAKES)
OURS = tuple(getattr(nn, name) for name in nn.__all__)

NETWORKS = {
    "resnet18": dict(),
    "mobilenet_v2": dict(),
    "googlenet": dict(init_weights=False),
    "densenet121": dict(),
}


class Doubled(torch.nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Standardized(torch.nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", first_quick(NETWORKS))
def test_networks_keep_their_outputs_and_gradients(name, training):
    torch.manual_seed(0)
    stock = getattr(torchvision.models, name)(num_classes=10, **NETWORKS[name]).train(training).double()
    # Apart, for a folded batch norm rounds elsewhere: in float32 a ReLU at zero may then fall to the other side,
    # and a gradient jump. test_fuse.py has fused networks in float64.
    ours = torchconv.convert(copy.deepcopy(stock), fuse=False, report=(left := []))
    assert not left
    assert not [m for m in ours.modules() if isinstance(m, KINDS) and not isinstance(m, OURS)]
    assert sum(isinstance(m, OURS) for m in ours.modules()) > 15
    torch.manual_seed(2)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    exact = run(stock, x)
    # In float64 both round at 1e-16 a layer; up to 121 layers and their batch norms leave this far below any mistake.
    assert errors(run(ours, x), exact).max() < 1e-9
    # In float32 neither is exact. What a network makes of rounding is in the built-in operators' own error: ours, with
    # the same bound a layer, stay within a small multiple of it, where a wrong layer is off by orders of magnitude.
    # Winograd's bound a layer is 2.5 times as large.
    theirs = errors(run(stock.float(), x.float()), exact)
    ours = ours.float()
    for precision, bounds in (("highest", 1.0), ("high", 2.5)):
        torchconv.set_conv_precision(precision)
        try:
            mine = errors(run(ours, x.float()), exact)
        finally:
            torchconv.set_conv_precision("high")
        assert mine.median() < 4 * bounds * theirs.median() + 1e-6
        assert mine.max() < 10 * bounds * theirs.max() + 1e-6


def test_layers_keep_everything_but_their_class():
    model, other = small(), small()
    model[3].eval()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    attributes = [set(vars(module)) for module in model.modules()]
    parameters, keys = [id(p) for p in model.parameters()], list(model.state_dict())
    flags, text = [m.training for m in model.modules()], repr(model)

    assert torchconv.convert(model) is model
    assert {name: id(module) for name, module in model.named_modules(remove_duplicate=False)} == before
    assert model[3].inner is model[3].again
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert [id(p) for p in model.parameters()] == parameters
    assert list(model.state_dict()) == keys
    assert [m.training for m in model.modules()] == flags
    assert repr(model) == text
    assert [type(model[i]) for i in (0, 1, 2, 4)] == [
        nn.Conv2d,
        torch.nn.BatchNorm2d,
        torch.nn.ReLU,
        nn.AdaptiveAvgPool2d,
    ]
    assert (type(model[3].inner), type(model[3].pool)) == (nn.Conv2d, nn.MaxPool2d)

    other[3].eval()
    x = picture(2, 3, 10, 10)
    assert errors(run(model, x), run(other, x)).max() < 1e-12
    assert calls == ["hook"]
    model(x).sum().backward()
    weight = model[0].weight.clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, weight)


def test_revert_is_exact_and_both_are_idempotent():
    model = small()
    before, state = classes(model), {k: v.clone() for k, v in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    converted = classes(torchconv.convert(model))
    assert converted != before
    assert classes(torchconv.convert(model)) == converted
    assert torchconv.revert(model) is model
    assert classes(model) == before
    assert classes(torchconv.revert(model)) == before
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NAMESAKES if "Lazy" not in name])
def test_a_layer_alone(name):
    arguments = (4, 4, 3) if name.startswith("Conv") else (2, 2) if name.startswith("LP") else (2,)
    layer = getattr(torch.nn, name)(*arguments)
    assert torchconv.convert(layer) is layer
    assert type(layer) is getattr(nn, name)
    operands = [torch.rand(2, 4, *[6] * (int(name[-2]) if name.endswith("d") else 2))]
    if "Unpool" in name:
        operands.append(torch.arange(operands[0][0, 0].numel()).view_as(operands[0][0, 0]).expand_as(operands[0]))
    assert torch.allclose(layer(*operands), getattr(torch.nn, name).forward(layer, *operands), atol=1e-5)
    assert type(torchconv.revert(layer)) is getattr(torch.nn, name)


def test_derived_class():
    layer = Plain(3, 4, 3, extra=7).double()
    x = picture(2, 3, 6, 6)
    expected, text = layer.twice(x), repr(layer)
    torchconv.convert(layer)
    assert isinstance(layer, Plain)
    assert isinstance(layer, nn.Conv2d)
    assert repr(layer) == text
    torch.testing.assert_close(layer.twice(x), expected)
    assert type(torchconv.convert(Plain(3, 4, 3))) is type(layer)  # one class, however many layers
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        assert other.extra == 7
        torch.testing.assert_close(other.twice(x), expected)
    assert type(torchconv.revert(layer)) is Plain


@pytest.mark.parametrize("base", [torch.nn.Conv2d, Plain])
def test_parametrized_layers(base):
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(base(3, 4, 3).double())
    sibling = copy.deepcopy(layer)  # shares the class that parametrize made
    x = picture(2, 3, 6, 6)
    expected = run(layer, x)
    torchconv.convert(layer)
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer, base)
    assert not isinstance(sibling, nn.Conv2d)
    assert errors(run(layer, x), expected).max() < 1e-12
    assert errors(run(copy.deepcopy(layer), x), expected).max() < 1e-12
    torchconv.convert(layer)
    torchconv.revert(layer)
    assert type(layer).__name__ == type(sibling).__name__
    assert type(layer).__mro__[1:] == type(sibling).__mro__[1:]
    assert errors(run(layer, x), expected).max() < 1e-12

    torchconv.convert(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer, nn.Conv2d)
    torch.testing.assert_close(layer(x), expected[0])
    assert type(torchconv.revert(layer)) is base

    torchconv.convert(layer)
    torch.nn.utils.parametrizations.spectral_norm(layer)  # put on one of ours
    assert type(parametrize.type_before_parametrizations(torchconv.revert(layer))) is type
    assert parametrize.type_before_parametrizations(layer) is base


def test_what_is_left_alone_is_reported():
    patched = torch.nn.MaxPool2d(2)
    patched.forward = lambda x: x
    named = torch.nn.Conv2d(3, 3, 3)
    named.algorithm = "mine"
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.AvgPool2d(2)))
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.Sequential(Doubled(3, 3, 3), torch.nn.Conv2d(3, 3, 3)),
            "standardized": Standardized(3, 3, 3),
            "patched": patched,
            "named": named,
            "scripted": scripted,
        }
    )
    before = classes(model)
    left = []
    torchconv.convert(model, report=left)
    assert list(map(str, left)) == [
        "encoder.0 (Doubled): overrides forward",
        "standardized (Standardized): overrides _conv_forward",
        "patched (MaxPool2d): its forward was replaced on the instance",
        "named (Conv2d): has an attribute algorithm='mine' of its own",
        "scripted.0 (AvgPool2d): compiled by TorchScript",
    ]
    assert left[0] == LeftAlone("encoder.0", "Doubled", "overrides forward")
    after = classes(model)
    assert [b is a for b, a in zip(before, after, strict=True)].count(False) == 1
    assert type(model["encoder"][1]) is nn.Conv2d


def test_without_a_report_a_warning_names_them():
    message = r"^not converted to torchconv: the model itself \(Doubled\): overrides forward$"
    with pytest.warns(UserWarning, match=message) as seen:
        torchconv.convert(Doubled(3, 3, 3))
    assert seen[0].filename == __file__


def test_quantized_layers_are_reported():
    quantized = pytest.importorskip("torch.ao.nn.quantized", reason="this torch has no eager quantization")
    if "none" == torch.backends.quantized.engine:
        pytest.skip("no quantized engine on this machine")
    model = torch.nn.Sequential(quantized.Conv2d(3, 3, 3), torch.nn.MaxPool2d(2))
    torchconv.convert(model, report=(left := []))
    assert list(map(str, left)) == ["0 (Conv2d): quantized"]
    assert type(model[1]) is nn.MaxPool2d


def test_a_class_with_no_room_for_another():
    class Slotted(torch.nn.MaxPool2d):
        __slots__ = ("more",)

        def __setattr__(self, name, value):
            if name == "__class__":
                raise TypeError("no other class")
            super().__setattr__(name, value)

    torchconv.convert(layer := Slotted(2), report=(left := []))
    assert str(left[0]) == "the model itself (Slotted): its class cannot be changed (no other class)"
    assert type(layer) is Slotted


def test_revert_leaves_alone_what_torch_has_not():
    class Mine(nn.Conv2d):
        pass

    model = torch.nn.Sequential(
        nn.Conv2d(3, 3, 3, stride=2, padding="same"), nn.Conv2d(3, 3, 3, padding=((1, 0), (2, 1))), Mine(3, 3, 3)
    )
    model.append(nn.Conv2d(3, 3, 3, padding="same", algorithm="reference"))
    model.append(nn.ConvReLU2d(3, 3, 3))
    torchconv.revert(model, report=(left := []))
    assert list(map(str, left)) == [
        "0 (Conv2d): torch.nn has no padding='same' with stride=(2, 2)",
        "1 (Conv2d): torch.nn has no padding=((1, 0), (2, 1)) with unequal sides",
        "2 (Mine): its class derives from torchconv.nn.Conv2d",
        "4 (ConvReLU2d): torch.nn has no ConvReLU2d",
    ]
    assert type(model[3]) is torch.nn.Conv2d
    assert torchconv.convert(model)[3].algorithm == "reference"


def test_only_modules():
    for function in (torchconv.convert, torchconv.revert):
        with pytest.raises(TypeError, match=r"^expected a torch.nn.Module, got str$"):
            function("model")
