"""The networks, each a function of the namespace its layers come from.

``lenet5(torchconv.nn)`` and ``lenet5(torch.nn)`` are the same network: for the same seed the same parameters under the
same names, computed by different operators. All take [B, in_channels, 32, 32] to logits [B, num_classes].
"""

import importlib
from typing import Any

from torch import nn as torch_nn
from torch.nn import Linear, Sequential

from train.errors import InputError, one_line
from train.networks.alexnet import alexnet
from train.networks.lenet import lenet5
from train.networks.rotated import p4cnn, ticnn, z2cnn
from train.networks.speedrun import speedrun
from train.networks.vgg import vgg16

NETWORKS = {"lenet5": lenet5, "alexnet": alexnet, "vgg16": vgg16, "z2cnn": z2cnn, "speedrun": speedrun}
OWN_NETWORKS = {"ticnn": ticnn, "p4cnn": p4cnn}  # of layers that torch.nn has not
BACKENDS = {"torchconv": "torchconv.nn", "torch": "torch.nn"}
INITIALISATIONS = ("he", "torch", "dirac")


def build(
    name: str,
    backend: str = "torchconv",
    in_channels: int = 3,
    num_classes: int = 10,
    fuse: bool = False,
    init: str = "he",
) -> Sequential:
    """The named network with layers from the named backend, its weights drawn by `initialise`; `fuse` is convert's."""
    networks = {**NETWORKS, **OWN_NETWORKS}
    if name not in networks:
        raise InputError(f"unknown model '{name}': there are {', '.join(networks)}")
    if backend not in BACKENDS:
        raise InputError(f"unknown backend '{backend}': there are {', '.join(BACKENDS)}")
    if name in OWN_NETWORKS and backend == "torch":
        raise InputError(f"model '{name}' has layers that backend 'torch' has not: give --model.backend torchconv")
    if init not in INITIALISATIONS:
        raise InputError(f"unknown init '{init}': there are {', '.join(INITIALISATIONS)}")
    try:
        namespace = importlib.import_module(BACKENDS[backend])
    except ImportError as error:
        raise InputError(f"backend '{backend}' cannot be imported: {one_line(error)}") from error
    model = networks[name](namespace, in_channels, num_classes)
    initialise(model, init)
    if fuse and backend != "torchconv":
        raise InputError(f"fuse is torchconv's, but the backend is '{backend}'")
    return importlib.import_module("torchconv").convert(model, fuse=True) if fuse else model


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
