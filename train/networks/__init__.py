"""The networks, each a function of the namespace its layers come from.

``lenet5(torchconv.nn)`` and ``lenet5(torch.nn)`` are the same network: for the same seed the same parameters under the
same names, computed by different operators. All take [B, in_channels, 32, 32] to logits [B, num_classes], but those of
``SIDES``, which take larger images, and those of ``PIXEL_NETWORKS``, which put out [B, num_classes, H, W]; some take
other sizes too. A task that asks for more than classes gives the number of its outputs for ``num_classes``.
"""

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn as torch_nn
from torch.nn import GELU, LeakyReLU, Linear, ReLU, Sequential, Sigmoid, SiLU, Tanh

from train.errors import InputError, one_line
from train.networks.alexnet import alexnet, alexnet_full, zfnet, zfnet_full
from train.networks.densenet import densenet40, densenet121_full
from train.networks.detector import detector
from train.networks.googlenet import googlenet, googlenet_full
from train.networks.lenet import lenet5
from train.networks.mobilenet import mobilenet, mobilenet_full
from train.networks.neocognitron import neocognitron
from train.networks.resnet import resnet18, resnet18_full, resnet20, resnet50_full
from train.networks.rotated import p4cnn, ticnn, z2cnn
from train.networks.scanned import scanned_mlp, tdnn
from train.networks.speech import speech_cnn
from train.networks.speedrun import speedrun
from train.networks.unet import unet
from train.networks.vgg import CONFIGURATIONS, vgg

Network = Callable[..., Sequential]  # of a namespace, in_channels and num_classes

NETWORKS: dict[str, Network] = {
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg16": vgg,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "speedrun": speedrun,
    "zfnet": zfnet,
    "googlenet": googlenet,
    "densenet40": densenet40,
    "mobilenet": mobilenet,
    "scanned_mlp": scanned_mlp,
    "tdnn": tdnn,
    "tdnn_softmax": partial(tdnn, combined="softmax"),
    "tdnn_mlp": partial(tdnn, combined="mlp"),
    "speech_cnn": speech_cnn,
    "z2cnn": z2cnn,
    "neocognitron": neocognitron,
    "neocognitron_supervised": partial(neocognitron, threshold=0.0),
    "detector": detector,
    **{f"vgg_{name}": partial(vgg, configuration=name, norm=False) for name in CONFIGURATIONS},
    **{f"vgg_{name}_bn": partial(vgg, configuration=name) for name in CONFIGURATIONS},
}
OWN_NETWORKS: dict[str, Network] = {"ticnn": ticnn, "p4cnn": p4cnn}  # of layers that torch.nn has not
PIXEL_NETWORKS: dict[str, Network] = {"unet": unet}
FULL_NETWORKS: dict[str, Network] = {
    "alexnet_full": alexnet_full,
    "alexnet_full_ungrouped": partial(alexnet_full, groups=1),
    "zfnet_full": zfnet_full,
    "googlenet_full": googlenet_full,
    "resnet18_full": resnet18_full,
    "resnet50_full": resnet50_full,
    "densenet121_full": densenet121_full,
    "mobilenet_full": mobilenet_full,
    **{f"vgg_{name}_full": partial(vgg, configuration=name, norm=False, full=True) for name in CONFIGURATIONS},
    **{f"vgg_{name}_bn_full": partial(vgg, configuration=name, full=True) for name in CONFIGURATIONS},
}
SIDES = dict.fromkeys(FULL_NETWORKS, 224)  # of the images of those that take no others, but not 32
SIDES |= {"alexnet_full": 227, "alexnet_full_ungrouped": 227, "detector": 64}
BACKENDS = {"torchconv": "torchconv.nn", "torch": "torch.nn"}
INITIALISATIONS = ("he", "torch", "dirac")
ACTIVATIONS: dict[str, Callable[[float], torch_nn.Module]] = {
    "relu": lambda slope: ReLU(),
    "leaky_relu": lambda slope: LeakyReLU(slope),
    "gelu": lambda slope: GELU(),
    "silu": lambda slope: SiLU(),
    "sigmoid": lambda slope: Sigmoid(),
    "tanh": lambda slope: Tanh(),
}


def build(
    name: str,
    backend: str = "torchconv",
    in_channels: int = 3,
    num_classes: int = 10,
    fuse: bool = False,
    init: str = "he",
    activation: str | None = None,
    slope: float = 0.01,
) -> torch_nn.Module:
    """The named network with layers from the named backend, its weights drawn by `initialise`; `fuse` is convert's.

    ``torchvision/NAME`` and ``timm/NAME`` are models of these libraries, untrained, converted where the backend is
    torchconv. An ``activation`` takes the place of the network's own; ``slope`` is of leaky_relu.
    """
    library = name.split("/")[0] if "/" in name else None
    networks = {**NETWORKS, **OWN_NETWORKS, **PIXEL_NETWORKS, **FULL_NETWORKS}
    if library is None:
        _known("model", name, networks)
    elif library not in LIBRARIES:
        raise InputError(f"unknown library '{library}' of model '{name}': there are {', '.join(LIBRARIES)}")
    _known("backend", backend, BACKENDS)
    _known("init", init, INITIALISATIONS)
    if activation is not None:
        _known("activation", activation, ACTIVATIONS)
    if name in OWN_NETWORKS and backend == "torch":
        raise InputError(f"model '{name}' has layers that backend 'torch' has not: give --model.backend torchconv")
    if fuse and backend != "torchconv":
        raise InputError(f"fuse is torchconv's, but the backend is '{backend}'")
    try:
        namespace = importlib.import_module(BACKENDS[backend])
    except ImportError as error:
        raise InputError(f"backend '{backend}' cannot be imported: {one_line(error)}") from error
    if library is None:
        model: torch_nn.Module = networks[name](namespace, in_channels, num_classes)
    else:
        model = LIBRARIES[library](name.split("/", 1)[1], in_channels, num_classes)
    if activation is not None:
        activate(model, activation, slope)
    initialise(model, init)
    if backend == "torchconv" and (fuse or library is not None):
        return importlib.import_module("torchconv").convert(model, fuse=fuse)
    return model


def _known(option: str, value: str, names: Any) -> None:
    """Raises `InputError`, with the likeliest name that was meant, unless ``value`` is one of ``names``."""
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise InputError(f"unknown {option} '{value}'{hint}: there are {', '.join(names)}")


def _torchvision_model(name: str, in_channels: int, num_classes: int) -> torch_nn.Module:
    try:
        from train._torchvision import torchvision
    except ModuleNotFoundError as error:
        raise InputError(f"model 'torchvision/{name}' needs torchvision, which is not installed") from error
    names = torchvision.models.list_models(torchvision.models)
    _known("model of torchvision", name, names)
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    first = next(m for m in model.modules() if isinstance(m, torch_nn.Conv2d))
    if first.in_channels != in_channels:
        channels = first.in_channels
        raise InputError(f"model 'torchvision/{name}' takes {channels} channels, but the images have {in_channels}")
    return model


def _timm_model(name: str, in_channels: int, num_classes: int) -> torch_nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError(f"model 'timm/{name}' needs timm, which is not installed: pip install timm") from error
    _known("model of timm", name, timm.list_models())
    return timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)


LIBRARIES = {"torchvision": _torchvision_model, "timm": _timm_model}


def activate(model: torch_nn.Module, activation: str, slope: float = 0.01) -> None:
    """Puts the named one of ``ACTIVATIONS`` in the place of every layer that is one."""
    kinds = tuple(type(make(slope)) for make in ACTIVATIONS.values())
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kinds):
                setattr(parent, name, ACTIVATIONS[activation](slope))


def initialise(model: torch_nn.Module, how: str = "he") -> None:
    """Draws the weights.

    ``"he"``: from He's normal distribution, which keeps the variance through ReLUs; biases are zero. He et al., 2015.
    ``"torch"``: as the layers' own constructors do.
    ``"dirac"``: likewise, but a convolution's first filters hand on one input map each, and its biases are zero.
    """
    module: Any
    for module in model.modules():
        convolution = isinstance(module, torch_nn.Conv2d)
        if how == "he" and (convolution or isinstance(module, Linear) or hasattr(module, "convolution_size")):  # ours
            torch_nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch_nn.init.zeros_(module.bias)
        elif how == "dirac" and convolution:
            torch_nn.init.dirac_(module.weight.detach()[: module.weight.shape[1]])
            if module.bias is not None:
                torch_nn.init.zeros_(module.bias)
