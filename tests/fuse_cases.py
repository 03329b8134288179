"""Models that convert(fuse=True) joins layers of, and how tests see which layers are run as one."""

import contextlib

import torch
from torch.nn import BatchNorm2d, Conv2d, MaxPool2d, ReLU, Sequential

import torchconv
from torchconv.fuse import plan


class Seen:
    """Notes the classes of layers that are run as one, in place of `explain`."""

    def __init__(self):
        self.steps, self.hooks = [], set()

    def ran(self, layers, run, x):
        self.steps.append(" ".join(map(plan.name_of, layers)))
        return run()


@contextlib.contextmanager
def seeing():
    before, plan.observer = plan.observer, Seen()
    try:
        yield plan.observer.steps
    finally:
        plan.observer = before


def fused_steps(model, *args):
    """Which layers `model` runs as one on these arguments."""
    with seeing() as steps:
        model(*args)
    return steps


def perturbed(model):
    """`model` with statistics and parameters of its norms that do something."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.1, 0.1), (module.running_var, 0.5, 2), (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):  # fmt: skip
                if tensor is not None:
                    torch.nn.init.uniform_(tensor, low, high)
    return model


class Block(torch.nn.Module):
    """A residual block as torchvision writes it: a forward of its own, a ReLU used twice, a branch that may be there,
    and attributes that the forward reads."""

    def __init__(self, maps, downsample=None):
        super().__init__()
        self.conv1, self.bn1 = Conv2d(maps, maps, 3, padding=1, bias=False), BatchNorm2d(maps)
        self.conv2, self.bn2 = Conv2d(maps, maps, 1), BatchNorm2d(maps)
        self.relu = ReLU(inplace=True)
        self.downsample, self.scale, self.twice = downsample, 1.0, False

    def forward(self, x, *, shift=0.0):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        if self.twice:
            out = out * 2
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out = out * self.scale + shift
        out += identity
        return self.relu(out)


class Net(torch.nn.Module):
    """A stem, a block and a head; `features` is a Sequential."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = Conv2d(3, 4, 3, padding=1), BatchNorm2d(4), ReLU(inplace=True)
        self.features = Sequential(
            Conv2d(4, 6, 3, padding=1), BatchNorm2d(6), ReLU(), Conv2d(6, 4, 1), ReLU(), MaxPool2d(2)
        )
        self.block = Block(4, Sequential(Conv2d(4, 4, 1), BatchNorm2d(4)))
        self.head = Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.head(self.block(self.features(x)))


def net():
    torch.manual_seed(0)
    return perturbed(Net()).double()


def fused_net():
    return torchconv.convert(net(), fuse=True)


BOTH = "Conv2d BatchNorm2d ReLU"
STEPS = [BOTH, BOTH, "ReLU MaxPool2d", BOTH, "Conv2d BatchNorm2d", "Conv2d BatchNorm2d"]  # of Net
