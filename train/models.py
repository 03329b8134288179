"""LeNet-5, AlexNet and VGG-16 for images of 32x32 pixels, each a function of the namespace its layers come from; those
for rotated digits are in train/equivariant.py.

``lenet5(torchconv.nn)`` and ``lenet5(torch.nn)`` are the same network: for the same seed the same parameters under the
same names, computed by different operators. All take [B, in_channels, 32, 32] to logits [B, num_classes].
"""

import importlib
from types import ModuleType
from typing import Any

from torch import nn as torch_nn
from torch.nn import BatchNorm2d, Dropout, Flatten, Linear, ReLU, Sequential

from train.equivariant import p4cnn, ticnn, z2cnn
from train.errors import InputError, one_line


def lenet5(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """LeNet-5 with max pooling and ReLU: 6 and 16 maps, dense layers of 120 and 84. Source: LeCun et al., 1998."""
    return Sequential(
        nn.Conv2d(in_channels, 6, 5), ReLU(), nn.MaxPool2d(2),  # 28, 14
        nn.Conv2d(6, 16, 5), ReLU(), nn.MaxPool2d(2),  # 10, 5
        Flatten(), Linear(400, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, num_classes),
    )  # fmt: skip


def alexnet(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """AlexNet's five convolutions with 5x5 first filters at stride 1. Source: Krizhevsky et al., 2012.

    The dense layers have 1024 neurons, not 4096: they see 2,304 values here, not 9,216.
    """
    return Sequential(
        nn.Conv2d(in_channels, 96, 5, padding=2), ReLU(), nn.MaxPool2d(3, stride=2),  # 32, 15
        nn.Conv2d(96, 256, 5, padding=2), ReLU(), nn.MaxPool2d(3, stride=2),  # 15, 7
        nn.Conv2d(256, 384, 3, padding=1), ReLU(),
        nn.Conv2d(384, 384, 3, padding=1), ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), ReLU(), nn.MaxPool2d(3, stride=2),  # 7, 3
        Flatten(), Dropout(0.5), Linear(2304, 1024), ReLU(),
        Dropout(0.5), Linear(1024, 1024), ReLU(), Linear(1024, num_classes),
    )  # fmt: skip


VGG_D = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]  # maps, and convolutions before the pooling that halves


def vgg16(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """VGG configuration D with batch norm: 13 convolutions, 3 dense layers. Source: Simonyan and Zisserman, 2014.

    Five poolings leave 512 values, so the dense layers have 512 neurons. The convolutions have no bias: the batch norm
    after each would take it away again.
    """
    layers: list[torch_nn.Module] = []
    for maps, convolutions in VGG_D:
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, maps, 3, padding=1, bias=False), BatchNorm2d(maps), ReLU()]
            in_channels = maps
        layers.append(nn.MaxPool2d(2))
    layers += [Flatten(), Dropout(0.5), Linear(512, 512), ReLU()]
    layers += [Dropout(0.5), Linear(512, 512), ReLU(), Linear(512, num_classes)]
    return Sequential(*layers)


MODELS = {"lenet5": lenet5, "alexnet": alexnet, "vgg16": vgg16, "z2cnn": z2cnn}
OWN_MODELS = {"ticnn": ticnn, "p4cnn": p4cnn}  # of layers that torch.nn has not
BACKENDS = {"torchconv": "torchconv.nn", "torch": "torch.nn"}


def build(
    name: str, backend: str = "torchconv", in_channels: int = 3, num_classes: int = 10, fuse: bool = False
) -> Sequential:
    """The named network with layers from the named backend, its weights drawn by `initialise`; `fuse` is convert's."""
    models = {**MODELS, **OWN_MODELS}
    if name not in models:
        raise InputError(f"unknown model '{name}': there are {', '.join(models)}")
    if backend not in BACKENDS:
        raise InputError(f"unknown backend '{backend}': there are {', '.join(BACKENDS)}")
    if name in OWN_MODELS and backend == "torch":
        raise InputError(f"model '{name}' has layers that backend 'torch' has not: give --model.backend torchconv")
    try:
        namespace = importlib.import_module(BACKENDS[backend])
    except ImportError as error:
        raise InputError(f"backend '{backend}' cannot be imported: {one_line(error)}") from error
    model = models[name](namespace, in_channels, num_classes)
    initialise(model)
    if fuse and backend != "torchconv":
        raise InputError(f"fuse is torchconv's, but the backend is '{backend}'")
    return importlib.import_module("torchconv").convert(model, fuse=True) if fuse else model


def initialise(model: torch_nn.Module) -> None:
    """Weights from He's normal distribution, which keeps the variance through ReLUs; biases zero. He et al., 2015."""
    module: Any
    for module in model.modules():
        if isinstance(module, torch_nn.Conv2d | Linear) or hasattr(module, "convolution_size"):  # ours: expanded
            torch_nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch_nn.init.zeros_(module.bias)
