"""convert(model, fuse=True): what is run as one, and that no result changes. What a user may do to a fused model is in
test_fuse_edits.py, methods that are rewritten in test_fuse_rewrite.py."""

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from convert_cases import Plain, classes, errors, picture, run
from fuse_cases import fused_steps, perturbed
from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, ReLU, Sequential

import torchconv
from torchconv import nn
from torchconv.fuse import containers

torchvision = pytest.importorskip("train._torchvision", reason="torchvision is not installed").torchvision

from train.networks import NETWORKS as TRAINED  # noqa: E402
from train.networks import build  # noqa: E402

BOTH, NORM, RELU, POOL = "Conv2d BatchNorm2d ReLU", "Conv2d BatchNorm2d", "Conv2d ReLU", "ReLU MaxPool2d"
ALONE, CALLED = "BatchNorm2d ReLU", "Conv2d BatchNorm2d relu_in_place"
NETWORKS = {  # what they run as one, and on images of which side they are tried: on smaller ones a
    # batch norm sees so few values that it makes much of rounding
    "squeezenet1_1": ({RELU: 25, POOL: 1}, 33),
    "resnet18": ({BOTH: 9, NORM: 11}, 64),
    "mobilenet_v3_small": ({BOTH: 5, NORM: 29, RELU: 9}, 64),
}
SLOW = {
    "alexnet": ({RELU: 2, POOL: 3}, 64),
    "convnext_tiny": ({}, 64),
    "densenet121": ({BOTH: 1, ALONE: 119}, 64),
    "efficientnet_b0": ({NORM: 49}, 64),
    "googlenet": ({CALLED: 57}, 64),
    "inception_v3": ({CALLED: 94}, 80),
    "mobilenet_v2": ({NORM: 52}, 64),
    "regnet_y_400mf": ({BOTH: 33, NORM: 20, RELU: 16}, 64),
    "resnet50": ({BOTH: 33, NORM: 20}, 64),
    "shufflenet_v2_x0_5": ({BOTH: 37, NORM: 19}, 64),
    "vgg11": ({RELU: 3, POOL: 5}, 64),
    "vgg11_bn": ({BOTH: 8}, 64),
}
EVERY = [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def network(name):
    # Without the side branches, which ask for large images.
    keywords = dict(init_weights=False, aux_logits=False) if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(num_classes=10, **keywords)
    if name.startswith(("vgg", "alexnet")):  # less to wait for
        model.classifier = torch.nn.Linear(model.classifier[0 if name[0] == "v" else 1].in_features, 10)
    return perturbed(model)


def kinds(model):
    return Counter(type(module).__name__ for module in model.modules() if isinstance(module, torch.nn.Conv2d))


def small(*, inplace=True, bias=True):
    torch.manual_seed(0)
    model = Sequential(
        Conv2d(3, 4, 3, padding=1, bias=bias), ReLU(inplace=inplace),
        Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect", bias=bias), BatchNorm2d(6), ReLU(inplace=inplace),
        Conv2d(6, 4, 1, groups=2, bias=bias), BatchNorm2d(4),
        torch.nn.AdaptiveAvgPool2d(2),
    )  # fmt: skip
    for norm in (model[3], model[6]):
        torch.nn.init.uniform_(norm.running_mean, -1, 1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
    return model.double()


STEPS = ["Conv2d ReLU", BOTH, NORM]  # of small()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", EVERY)
def test_networks_keep_their_outputs_and_gradients(name, training):
    """And their statistics. In float64 both round at 1e-16 a layer; 121 layers leave this far below any mistake."""
    expected, side = {**NETWORKS, **SLOW}[name]
    torch.manual_seed(0)
    stock = network(name).train(training).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True, report=(left := []))
    assert not left
    assert list(ours.state_dict()) == list(stock.state_dict())
    torch.manual_seed(2)
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    assert errors(run(ours, x), run(stock, x)).max() < 1e-9
    for (key, one), other in zip(ours.named_buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=key)
    with torch.no_grad():
        assert Counter(fused_steps(ours, x)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_segmentation(name, training):
    """Networks whose feature extractor runs the layers of another model one after the other."""
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, name)
    stock = perturbed(make(weights=None, weights_backbone=None, num_classes=3)).train(training).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    results = [
        run(lambda x, model=model: tuple(model(x).values()), x, [*model.parameters()]) for model in (ours, stock)
    ]
    assert errors(*results).max() < 1e-9


TRAINED_TOGETHER = {
    "lenet5": {POOL: 2},
    "alexnet": {POOL: 3, RELU: 2},
    "vgg16": {BOTH: 13},
    "z2cnn": {BOTH: 6},
}


@pytest.mark.parametrize("name", TRAINED_TOGETHER)
@pytest.mark.parametrize("home", [nn, torch.nn], ids=["ours", "stock"])
def test_the_networks_of_train(name, home):
    torch.manual_seed(0)
    model = TRAINED[name](home, in_channels=3) if name != "lenet5" else TRAINED[name](home)
    x = torch.randn(2, next(model.parameters()).shape[1], 32, 32, dtype=torch.float64)
    for training in (True, False):
        stock = copy.deepcopy(model).train(training).double()
        ours = torchconv.convert(copy.deepcopy(stock), fuse=True, report=(left := []))
        assert not left
        assert Counter(fused_steps(ours, x)) == TRAINED_TOGETHER[name]
        stock(x)  # the same statistics
        assert errors(run(ours, x), run(stock, x)).max() < 1e-9


def test_build_fuses():
    torch.manual_seed(0)
    fused_model = build("lenet5", in_channels=1, fuse=True)
    torch.manual_seed(0)
    model = build("lenet5", in_channels=1)
    x = torch.randn(2, 1, 32, 32)
    assert fused_steps(fused_model, x) == ["ReLU MaxPool2d"] * 2
    assert torch.equal(fused_model(x), model(x))


def test_what_is_done_where(monkeypatch):
    """In training alone batch norms are run."""
    model = torchconv.convert(small(), fuse=True)
    seen = []
    for name in ("convolution", "convolution_relu"):
        original = getattr(torchconv.functional.conv, name)
        monkeypatch.setattr(
            torchconv.functional.conv,
            name,
            lambda *args, name=name, original=original: (seen.append(name), original(*args))[1],
        )
    x = picture(2, 3, 16, 16)
    model.eval()(x)
    assert seen == ["convolution_relu", "convolution_relu", "convolution"]
    before = model[3].running_mean.clone()
    model.train()(x)
    assert seen[3:] == ["convolution_relu", "convolution", "convolution"]
    assert not torch.equal(model[3].running_mean, before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
def test_small_network(inplace, bias):
    stock = small(inplace=inplace, bias=bias)
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = picture(2, 3, 9, 8)
    for training in (True, False, True, False):
        assert errors(run(ours.train(training), x), run(stock.train(training), x)).max() < 1e-12
    # A large weight on a small map is not scaled: the batch norm is then run by the convolution.
    x = picture(2, 3, 2, 2)
    assert errors(run(ours, x), run(stock, x)).max() < 1e-12


def test_nothing_goes_stale():
    stock, ours = small(), torchconv.convert(small(), fuse=True).eval()
    x = picture(2, 3, 8, 8)
    stock.eval()

    def same():
        assert errors([ours(x)], [stock(x)]).max() < 1e-12

    same()
    torch.manual_seed(3)
    other = {
        key: torch.rand_like(value) if value.is_floating_point() else value for key, value in stock.state_dict().items()
    }
    for model in (stock, ours):
        model.load_state_dict(other)
    same()
    for model in (stock, ours):
        model[3].weight.data.mul_(2)  # where no version counter tells
        model[2].weight.data = model[2].weight.data * 3
        model[6].running_var.fill_(2)
        model[6].eps = 0.1
    same()
    for model in (stock, ours):
        model[6].weight = torch.nn.Parameter(torch.full((4,), 0.5, dtype=torch.float64))
        torch.nn.utils.parametrizations.weight_norm(model[2])
    same()
    for model in (stock, ours):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()
        model.eval()
    same()
    parameters = {name: 2 * value for name, value in dict(ours.named_parameters()).items()}
    torch.testing.assert_close(
        torch.func.functional_call(ours, parameters, x), torch.func.functional_call(stock, parameters, x)
    )


def test_a_batch_norm_frozen_alone():
    stock, ours = small(), torchconv.convert(small(), fuse=True)
    x = picture(2, 3, 8, 8)
    for model in (stock, ours):
        model.train()[3].eval()
    assert errors(run(ours, x), run(stock, x)).max() < 1e-12
    for model in (stock, ours):
        model.eval()[3].train()
    assert errors(run(ours, x), run(stock, x)).max() < 1e-12


def test_layers_keep_everything_and_revert_is_exact():
    model = small()
    before, text, keys = classes(model)[1:], repr(model), list(model.state_dict())
    attributes = [dict(vars(module)) for module in model.modules()]
    tensors = [id(t) for t in (*model.parameters(), *model.buffers())]
    names = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    assert torchconv.convert(model, fuse=True) is model
    joined = classes(model)
    assert joined[0] is containers.Sequential
    assert classes(model)[1:] == classes(torchconv.convert(small(), fuse=False))[1:]
    assert classes(torchconv.convert(model, fuse=True, report=(left := []))) == joined
    assert classes(torchconv.convert(model, fuse=False, report=left)) == joined
    assert left == []
    assert list(model.state_dict()) == keys
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == tensors
    assert {name: id(module) for name, module in model.named_modules(remove_duplicate=False)} == names
    assert all(isinstance(module, cls) for module, cls in zip(model, before, strict=True))
    model(picture(2, 3, 9, 8))  # leaves nothing behind
    assert torchconv.revert(model) is model
    assert classes(model) == [Sequential, *before]
    assert repr(model) == text
    assert [dict(vars(module)) for module in model.modules()] == attributes
    # And what was converted before is joined as well.
    assert classes(torchconv.convert(torchconv.convert(model), fuse=True)) == joined


def test_copies():
    model = torchconv.convert(small(), fuse=True).eval()
    x = picture(2, 3, 8, 8)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        with torch.no_grad():
            other[3].weight.zero_()  # its own batch norm's, not the original's
        assert not torch.equal(other(x), expected)
        assert torch.equal(model(x), expected)
        assert classes(torchconv.revert(other)) == classes(small())


def test_revert_of_a_part():
    model = torchconv.convert(small(), fuse=True)
    torchconv.revert(model[2])
    assert [type(module) for module in model[2:5]] == [Conv2d, BatchNorm2d, ReLU]
    stock, x = small(), picture(2, 3, 8, 8)
    assert fused_steps(model, x) == ["Conv2d ReLU", "BatchNorm2d ReLU", NORM]
    stock(x)
    for training in (True, False):
        assert errors(run(model.train(training), x), run(stock.train(training), x)).max() < 1e-12


def test_fusing_is_the_default():
    assert fused_steps(torchconv.convert(small()), picture(2, 3, 8, 8)) == STEPS
    assert fused_steps(torchconv.convert(small(), fuse=False), picture(2, 3, 8, 8)) == []


def test_derived_and_parametrized_classes():
    torch.manual_seed(0)
    model = Sequential(
        Plain(3, 4, 3, extra=7), ReLU(), Conv2d(4, 4, 3), BatchNorm2d(4), Plain(4, 4, 1), ReLU()
    ).double()
    torch.nn.utils.parametrizations.weight_norm(model[2])
    torch.nn.utils.parametrizations.weight_norm(model[4])
    before, x = classes(model), picture(2, 3, 8, 8)
    ours = torchconv.convert(copy.deepcopy(model), fuse=True)
    assert fused_steps(copy.deepcopy(ours), x) == [f"{type(ours[2]).__name__} BatchNorm2d"]
    for training in (True, False):
        assert errors(run(ours.train(training), x), run(model.train(training), x)).max() < 1e-11
    torchconv.revert(ours)
    assert [cls.__name__ for cls in classes(ours)] == [cls.__name__ for cls in before]
    assert type(ours[0]) is Plain


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_number_of_axes(n):
    torch.manual_seed(0)
    conv, norm = getattr(torch.nn, f"Conv{n}d"), getattr(torch.nn, f"BatchNorm{n}d")
    stock = Sequential(conv(2, 3, 2), norm(3), ReLU(), conv(3, 3, 2), ReLU(), conv(3, 2, 1), norm(2)).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    x = picture(2, 2, *[6] * n)
    expected = [f"Conv{n}d BatchNorm{n}d ReLU", f"Conv{n}d ReLU", f"Conv{n}d BatchNorm{n}d"]
    assert fused_steps(copy.deepcopy(ours), x) == expected
    for training in (True, False):
        assert errors(run(ours.train(training), x), run(stock.train(training), x)).max() < 1e-12


def test_inputs_without_a_batch():
    """BatchNorm1d takes [C, L] for a batch of C samples, BatchNorm2d refuses [C, H, W]: with fusing as without."""
    for training in (True, False):
        model = Sequential(torch.nn.Conv1d(3, 5, 3), BatchNorm1d(5)).train(training)
        ours = torchconv.convert(copy.deepcopy(model), fuse=True)
        torch.testing.assert_close(ours(x := torch.randn(3, 7)), model(x), rtol=1e-5, atol=1e-5)
        ours = torchconv.convert(Sequential(Conv2d(3, 5, 3), BatchNorm2d(5)).train(training), fuse=True)
        with pytest.raises(ValueError, match="expected 4D input"):
            ours(torch.randn(3, 7, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_of_another_type(dtype):
    """Statistics in float32 beside weights in bfloat16, and autocast."""
    model = torchconv.convert(small(), fuse=True).float().eval()
    exact = model.double()(x := picture(2, 3, 8, 8))
    model.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert (model(x.float()).double() - exact).norm() < 0.03 * exact.norm()
    model = model.to(dtype)
    for norm in (model[3], model[6]):
        norm.float()
    assert model(x.to(dtype)).dtype == dtype
    assert (model(x.to(dtype)).double() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compile_and_export(training):
    torch._dynamo.reset()
    model = torchconv.convert(small(), fuse=True).train(training).float()
    x = torch.randn(2, 3, 8, 8)
    stock = torchconv.revert(copy.deepcopy(model))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stock(x), rtol=1e-4, atol=1e-4)
    program = torch.export.export(copy.deepcopy(model), (x,))
    stock = torchconv.revert(copy.deepcopy(model))
    torch.testing.assert_close(program.module()(x), stock(x), rtol=1e-4, atol=1e-4)
    assert set(program.state_dict) == set(stock.state_dict())


def test_transforms():
    model, x = torchconv.convert(small(), fuse=True).eval(), picture(3, 1, 3, 8, 8)
    stock = small().eval()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    results = []
    for each in (model, stock):
        loss = lambda p, x, each=each: torch.func.functional_call(each, p, (x,)).sin().sum()  # noqa: E731
        results.append(torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x))
        tangent = torch.func.jvp(lambda x, each=each: each(x), (x[0],), (torch.ones_like(x[0]),))[1]
        results[-1]["tangent"] = tangent
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-9, atol=1e-9)


def test_a_sample_s_result_does_not_depend_on_its_batch():
    model = torchconv.convert(small(), fuse=True).float().eval()
    x = torch.randn(5, 3, 16, 16)
    assert torch.equal(model[:5](x)[2:3], model[:5](x[2:3]))


def test_explain_names_them():
    rows = torchconv.explain(torchconv.convert(small(), fuse=True), torch.randn(1, 3, 8, 8, dtype=torch.float64))
    layers = [row.layer for row in rows if row.direction == "forward"]
    assert layers == [" + ".join(step.split()) for step in STEPS] + ["AdaptiveAvgPool2d"]
    assert all(row.algorithm != "built-in" for row in rows)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_a_norm_whose_vectors_do_not_fit_says_so(name: str) -> None:
    """Folded, a length of one would spread over the channels."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    model = torchconv.convert(model)
    getattr(model[1], name).data = torch.ones(1)
    with torch.no_grad(), pytest.raises(RuntimeError, match=f"{name} should contain 4 elements not 1"):
        model(torch.ones(2, 3, 8, 8))
