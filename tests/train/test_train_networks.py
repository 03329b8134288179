"""The networks of `python -m train` against what is published of them; without memory, but for a few."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_train import check_one_sentence
from torch import nn

import torchconv
from train._torchvision import torchvision
from train.errors import InputError
from train.networks import ACTIVATIONS, FULL_NETWORKS, NETWORKS, SIDES, activate, build

# As the papers, or the implementations that are taken for theirs, have it.
PUBLISHED = {
    "alexnet_full": 60_965_224,
    "alexnet_full_ungrouped": 62_378_344,
    "vgg_a_full": 132_863_336,
    "vgg_a_lrn_full": 132_863_336,
    "vgg_b_full": 133_047_848,
    "vgg_c_full": 133_638_952,
    "vgg_d_full": 138_357_544,
    "vgg_e_full": 143_667_240,
    "vgg_d_bn_full": 138_365_992,
    "zfnet_full": 62_357_608,
    "googlenet_full": 6_998_552,
    "resnet18_full": 11_689_512,
    "resnet50_full": 25_557_032,
    "densenet121_full": 7_978_856,
    "mobilenet_full": 4_231_976,
    "resnet20": 269_722,
    "resnet18": 11_173_962,
    "densenet40": 1_019_722,
    "mobilenet": 3_217_226,
    "vgg16": 15_249_354,
}


def on_meta(name: str, channels: int = 3, namespace: object = torch.nn) -> nn.Module:
    classes = 1000 if name in FULL_NETWORKS else 10
    with torch.device("meta"):
        return {**NETWORKS, **FULL_NETWORKS}[name](namespace, channels, classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_parameters(name: str) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", [*NETWORKS, *FULL_NETWORKS])
def test_shapes(name: str) -> None:
    for channels in (1, 3):
        side, classes = SIDES.get(name, 32), 1000 if name in FULL_NETWORKS else 10
        images = torch.zeros(2, channels, side, side, device="meta")
        for namespace in (torch.nn, torchconv.nn):
            assert on_meta(name, channels, namespace)(images).shape == (2, classes)


@pytest.mark.parametrize("name", ["resnet18_full", "resnet50_full", "densenet121_full", "vgg_b_full", "vgg_e_bn_full"])
def test_parameters_have_the_shapes_of_torchvision(name: str) -> None:
    theirs = {"vgg_b_full": "vgg13", "vgg_e_bn_full": "vgg19_bn"}.get(name, name.removesuffix("_full"))
    with torch.device("meta"):
        stock = getattr(torchvision.models, theirs)(weights=None)
    ours, expected = (sorted(tuple(p.shape) for p in model.parameters()) for model in (on_meta(name), stock))
    assert ours == expected


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "scanned_mlp", "tdnn", "neocognitron_supervised"])
def test_backends_agree(name: str) -> None:
    images, results = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for backend in ("torch", "torchconv"):
        torch.manual_seed(1)
        model = build(name, backend, 3).double()
        out = model(images)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


def test_a_scanned_mlp_is_the_mlp_on_every_patch() -> None:
    model = build("scanned_mlp", "torch", 3).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    patches = [images[..., y : y + 16, x : x + 16] for y in range(0, 17, 2) for x in range(0, 17, 2)]
    answers = torch.stack([model(patch) for patch in patches]).amax(0)
    torch.testing.assert_close(model(images), answers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str) -> None:
    model = build("resnet20", "torchconv", activation=activation, slope=0.2)
    kind = type(ACTIVATIONS[activation](0.2))
    assert sum(isinstance(module, kind) for module in model.modules()) == 19
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()
    if activation == "leaky_relu":
        assert all(m.negative_slope == 0.2 for m in model.modules() if isinstance(m, kind))


def test_activate_leaves_other_layers() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dropout(), nn.Tanh()), nn.Softmax(1))
    activate(model, "gelu")
    assert [type(m).__name__ for m in model.modules()] == "Sequential GELU Sequential Dropout GELU Softmax".split()


def test_models_of_torchvision() -> None:
    model = build("torchvision/resnet18", "torchconv", 3, 7, init="torch")
    assert isinstance(model.conv1, torchconv.nn.Conv2d)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert type(build("torchvision/resnet18", "torch", 3, 7).conv1) is nn.Conv2d


UNKNOWN = {
    "torchvision/resnet81": "unknown model of torchvision 'resnet81' (did you mean 'resnet",
    "keras/vgg16": "unknown library 'keras' of model 'keras/vgg16': there are torchvision, timm",
    "rezmet20": "unknown model 'rezmet20' (did you mean 'resnet20'?): there are lenet5",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_models(name: str) -> None:
    with pytest.raises(InputError) as raised:
        build(name)
    assert str(raised.value).startswith(UNKNOWN[name])


def test_refused(train: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options, told in (
        (["--model.name", "alexnet_full"], "model 'alexnet_full' takes images of 227x227 pixels"),
        (["--model.name", "torchvision/resnet18"], "takes 3 channels, but the images have 1"),
        (["--model.activation", "rellu"], "unknown activation 'rellu' (did you mean 'relu'?)"),
    ):
        assert train("fit", *options) == 2
        check_one_sentence(capfd, told)
