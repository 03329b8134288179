"""What a user may do to a fused model: after each edit it does what the plain model does after the same edit."""

import copy
import pickle
import types

import pytest
import torch
from convert_cases import errors, picture, run
from fuse_cases import STEPS, Block, fused_net, fused_steps, net
from torch.nn import GELU, BatchNorm2d, Conv2d, Dropout, GroupNorm, Identity, MaxPool2d, ReLU, Sequential
from torch.nn.modules import module as torch_module
from torch.nn.utils import fusion, prune

import torchconv

torchvision = pytest.importorskip("train._torchvision", reason="torchvision is not installed").torchvision

X = picture(2, 3, 8, 8)


def seeded(make):
    torch.manual_seed(5)
    return make().double()


def replaced(path, make):
    """Puts another layer at `path`, or what `make` makes of the one that is there."""

    def edit(model):
        home, _, name = path.rpartition(".")
        home = model.get_submodule(home)
        old = home.get_submodule(name)
        torch.manual_seed(5)
        setattr(home, name, make(old).double().train(old.training))

    return edit


def assigned(path, value):
    def edit(model):
        home, _, name = path.rpartition(".")
        setattr(model.get_submodule(home), name, value)

    return edit


def hooked(path, kind, hook):
    return lambda model: getattr(model.get_submodule(path), f"register_{kind}_hook")(hook) and None


def frozen_norm(norm):
    frozen = torchvision.ops.misc.FrozenBatchNorm2d(norm.num_features)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    return frozen


def folded_again(model):
    model.eval()
    model.features[0] = fusion.fuse_conv_bn_eval(model.features[0], model.features[1])
    model.features[1] = Identity()


class LoRA(torch.nn.Module):
    """A layer beside one of the same class and a smaller rank, as adapters make it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = type(base)(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.up = type(base)(2, base.out_channels, 1, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def tripled_forward(model):
    layer = model.features[2]
    layer.forward = types.MethodType(lambda self, x: 3 * torch.relu(x), layer)


class Tripled(ReLU):
    def forward(self, x):
        return 3 * super().forward(x)


EDITS = {
    "nothing": lambda model: None,
    "a norm frozen for good": replaced("features.1", frozen_norm),
    "a block's norm frozen for good": replaced("block.bn1", frozen_norm),
    "GELU for ReLU": replaced("features.2", lambda _: GELU()),
    "GELU for a block's ReLU": replaced("block.relu", lambda _: GELU()),
    "group norm": replaced("features.1", lambda _: GroupNorm(2, 6)),
    "a block's group norm": replaced("block.bn2", lambda _: GroupNorm(2, 4)),
    "no norm": replaced("features.1", lambda _: Identity()),
    "no norm in a block": replaced("block.bn1", lambda _: Identity()),
    "a layer deleted": lambda model: model.features.__delitem__(2),
    "a norm deleted": lambda model: model.features.__delitem__(1),
    "a layer inserted": lambda model: model.features.insert(1, torch.nn.Tanh()) and None,
    "a layer appended": lambda model: model.features.append(ReLU()) and None,
    "a layer in place after the pooling": lambda model: model.features.append(Dropout(0.5, True)) and None,
    "a ReLU in place after the pooling": lambda model: model.features.append(ReLU(True)) and None,
    "another convolution": replaced("features.3", lambda _: Conv2d(6, 4, 3, padding=1)),
    "another pooling": replaced("features.5", lambda _: torch.nn.AvgPool2d(2)),
    "a slice": lambda model: setattr(model, "features", model.features[:5]),
    "a slice that ends in a convolution": lambda model: setattr(model, "features", model.features[:4]),
    "a slice of two": lambda model: model.features[3:5](torch.ones(1, 6, 3, 3).double()) is None or None,
    "the layers in a list of their own": lambda model: setattr(model, "features", Sequential(*model.features[:5])),
    "a derived ReLU": replaced("features.2", lambda _: Tripled()),
    "an adapter": replaced("features.0", LoRA),
    "an adapter in a block": replaced("block.conv1", LoRA),
    "folded again": folded_again,
    "a forward replaced": tripled_forward,
    "a ReLU made in place": assigned("features.4.inplace", True),
    "no branch": assigned("block.downsample", None),
    "another branch": replaced("block.downsample", lambda _: MaxPool2d(1)),
    "an attribute": assigned("block.scale", -2.5),
    "a flag": assigned("block.twice", True),
    "another epsilon": assigned("bn.eps", 0.3),
    "another momentum": assigned("features.1.momentum", None),
    "another padding mode": assigned("features.0.padding_mode", "circular"),
    "statistics of the batch": assigned("features.1.track_running_stats", False),
    "no statistics": replaced("features.1", lambda _: BatchNorm2d(6, track_running_stats=False)),
    "a norm in evaluation": lambda model: model.bn.eval() and None,
    "a norm in training": lambda model: model.features[1].train() and None,
    "frozen parameters": lambda model: model.features.requires_grad_(False) and None,
    "weight norm": lambda model: torch.nn.utils.parametrizations.weight_norm(model.features[0]) and None,
    "pruning": lambda model: prune.l1_unstructured(model.features[0], "weight", 0.5) and None,
    "a hook that sees": hooked("features.0", "forward", lambda *_: None),
    "a hook that changes": hooked("features.0", "forward", lambda module, args, output: 2 * output),
    "a hook on a norm": hooked("block.bn1", "forward", lambda module, args, output: output + 1),
    "a hook before a ReLU": hooked("relu", "forward_pre", lambda module, args: (args[0] - 1,)),
    "a hook on gradients": hooked("features.3", "full_backward", lambda module, into, out: (2 * into[0],)),
    "a hook before gradients": hooked("features.1", "full_backward_pre", lambda module, out: (3 * out[0],)),
    "compiled": lambda model: model.features[0].compile(backend="eager") and None,
}  # fmt: skip


def same(ours, stock, x=X):
    """Outputs, gradients and buffers of both in training and evaluation, as the model is and after switching."""
    for training in (None, True, False):
        for model in (ours, stock):
            if training is not None:
                model.train(training)
        results = []
        for model in (ours, stock):
            outputs = run(model, x, [p for p in model.parameters() if p.requires_grad])
            results.append([torch.zeros(()) if t is None else t for t in outputs])
        assert errors(*results).max() < 1e-10
        for (name, one), other in zip(ours.named_buffers(), stock.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", EDITS)
def test_edits(name):
    """In float64 both round at 1e-16 a layer, which leaves 1e-10 far below any mistake."""
    results = []
    for model in (fused_net(), net()):
        model.eval() if "in training" in name else model.train()
        assert EDITS[name](model) is None
        results.append(model)
    same(*results)
    torchconv.convert(results[0], fuse=True, report=[])  # what was edited, fused anew
    same(*results)


def test_the_model_is_fused():
    model = fused_net()
    x = X.clone()
    assert fused_steps(model.train(), x) == STEPS
    assert fused_steps(model.eval(), x) == STEPS


def test_what_fuses_after_an_edit():
    """A layer that is unknown or hooked keeps itself apart, and nothing else."""
    model = fused_net().eval()
    model.features[2] = GELU()
    model.block.conv1.register_forward_hook(lambda *_: None)
    assert fused_steps(model, X) == [STEPS[0], "Conv2d BatchNorm2d", "ReLU MaxPool2d", "BatchNorm2d ReLU", *STEPS[4:]]
    model.features[2] = ReLU()
    assert fused_steps(model, X)[1] == STEPS[1]
    model.features.insert(1, Identity())
    assert fused_steps(model, X)[1] == STEPS[1]


def test_sync_batch_norm():
    """In evaluation, for in training it needs several processes."""
    models = [torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.eval()) for model in (fused_net(), net())]
    with torch.no_grad():
        models[0].features[1].running_mean.add_(1), models[1].features[1].running_mean.add_(1)
    assert errors([models[0](X)], [models[1](X)]).max() < 1e-12


def test_layers_alone():
    ours, stock = fused_net(), net()
    y = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    for training in (True, False):
        for i in (1, 2, 3, 5):
            one, other = ours.features[i].train(training)(y), stock.features[i].train(training)(y)
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for path in ("features.1", "features.2", "bn", "relu", "block.bn1"):
        assert type(ours.get_submodule(path)) is type(stock.get_submodule(path))


@pytest.mark.parametrize("training", [True, False])
def test_a_feature_extractor(training):
    """torchvision's, which runs the children of a model one after the other."""
    results = []
    for model in (fused_net(), net()):
        layers = {"conv": "conv", "bn": "bn", "relu": "relu", "features": "features"}
        getter = torchvision.models._utils.IntermediateLayerGetter(model, layers).train(training)
        results.append([y.clone() for y in getter(X).values()])
    assert errors(*results).max() < 1e-12


def test_hooks_of_all_modules():
    calls = []
    handle = torch_module.register_module_forward_hook(lambda module, args, output: calls.append(type(module).__name__))
    try:
        counts = []
        for model in (fused_net(), net()):
            calls.clear()
            model(X)
            counts.append(calls[:])
    finally:
        handle.remove()
    assert counts[0] == counts[1]


def test_outputs_that_hooks_store_are_the_layers_own():
    """A convolution's output, also where the ReLU after it works in place on it."""
    stored = []
    for model in (fused_net(), net()):
        kept = []
        for path in ("conv", "features.3", "features.4", "block.relu"):
            model.get_submodule(path).register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        model(X)
        stored.append(kept)
    assert errors(*stored).max() < 1e-12


@pytest.mark.parametrize("inplace", [True, False])
def test_what_a_relu_does_to_the_input_of_a_sequence(inplace):
    """In place on what others see: not done elsewhere."""
    layers = Sequential(ReLU(inplace), MaxPool2d(2))
    ours = torchconv.convert(copy.deepcopy(layers), fuse=True)
    x, y = torch.randn(2, 3, 4, 4), None
    y = x.clone()
    assert torch.equal(ours(x), layers(y))
    assert torch.equal(x, y)


def test_class_of_a_fused_module():
    """Made anew, sliced, added to, printed: as the one it had."""
    ours, stock = fused_net(), net()
    assert repr(torchconv.revert(copy.deepcopy(ours))) == repr(stock) == repr(ours)
    assert isinstance(ours.block, Block)
    assert isinstance(ours.features, Sequential)
    other = type(ours.features)(Conv2d(3, 4, 3), ReLU())
    assert torch.equal(other(x := torch.randn(1, 3, 5, 5)), torch.relu(other[0](x)))
    block = type(ours.block)(4)
    assert block(torch.randn(1, 4, 5, 5)).shape == (1, 4, 5, 5)
    assert len(ours.features + ours.head) == 8
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert [type(m) for m in torchconv.revert(ours).modules()] == [type(m) for m in stock.modules()]


def test_a_method_that_its_class_is_given_later(monkeypatch):
    ours, stock = fused_net(), net()
    for model in (ours, stock):
        assert fused_steps(model, X) or model is stock
    monkeypatch.setattr(Block, "forward", lambda self, x, *, shift=0.0: self.conv2(x) + shift)
    same(ours, stock)


def test_copies_and_pickles_are_fused_and_their_own():
    model = fused_net().eval()
    expected = model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert fused_steps(other, X) == STEPS
        assert torch.equal(other(X), expected)
        with torch.no_grad():
            other.block.bn1.weight.zero_()
        assert not torch.equal(other(X), expected)
    assert torch.equal(model(X), expected)


def test_arguments():
    block, stock = fused_net().block.eval(), net().block.eval()
    y = picture(1, 4, 5, 5)
    torch.testing.assert_close(block(y, shift=0.5), stock(y, shift=0.5))
    torch.testing.assert_close(block(x=y), stock(x=y))
    with pytest.raises(TypeError, match=r"forward\(\) got an unexpected keyword argument 'other'"):
        block(y, other=1)


def test_half_and_complex_run_their_layers():
    model = torchconv.convert(Sequential(Conv2d(3, 4, 3), BatchNorm2d(4), ReLU()).half().eval(), fuse=True)
    assert fused_steps(model, torch.randn(1, 3, 5, 5).half()) == []
    assert fused_steps(model.to("meta"), torch.empty(1, 3, 5, 5, device="meta").half()) == []
    assert fused_steps(model.float().to_empty(device="cpu"), torch.randn(1, 3, 5, 5)) == ["Conv2d BatchNorm2d ReLU"]


@pytest.mark.parametrize(
    ("home", "name"),
    [(ReLU, "forward"), (BatchNorm2d, "forward"), (torch.nn.functional, "relu"), (torch.nn.functional, "batch_norm")],
    ids=["ReLU", "BatchNorm2d", "relu", "batch_norm"],
)
def test_what_is_replaced_for_all_layers_is_run(home, name, monkeypatch):
    model, stock = fused_net().eval(), net().eval()
    old = getattr(home, name)
    monkeypatch.setattr(home, name, lambda *args, **kwargs: 2 * old(*args, **kwargs))
    torch.testing.assert_close(model(X), stock(X))
    monkeypatch.undo()
    assert fused_steps(model, X) == STEPS
