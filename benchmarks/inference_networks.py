"""Networks for `benchmarks.inference`, written for torch.nn: small-image forms, and torchvision's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train import _torchvision  # noqa: F401  (so that torchvision can be imported beside any build of torch)
from train.networks import alexnet, lenet5, mobilenet, resnet18, vgg


class UNet(nn.Module):
    """Three halvings and three transposed convolutions, [N, 3, H, W] -> [N, 2, H, W]. Source: Ronneberger et al., 2015,
    with padding and batch norms."""

    def __init__(self, maps: int = 32) -> None:
        super().__init__()
        widths = [maps << i for i in range(4)]
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * m, m, 2, stride=2) for m in widths[2::-1])
        self.merge = nn.ModuleList(self._double(2 * m, m) for m in widths[2::-1])
        self.pool, self.out = nn.MaxPool2d(2), nn.Conv2d(maps, 2, 1)

    @staticmethod
    def _double(maps: int, out: int) -> nn.Sequential:
        layers = [
            (nn.Conv2d(a, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
            for a in (maps, out)
        ]
        return nn.Sequential(*layers[0], *layers[1])

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for i, double in enumerate(self.down):
            x = double(x if i == 0 else self.pool(x))
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return self.out(x)


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)()

    return build


class Network(NamedTuple):
    build: Callable[[], nn.Module]
    input: tuple[int, int, int]  # maps, height, width
    batches: tuple[int, ...] = (1, 8, 64)


SMALL, LARGE = (3, 32, 32), (3, 224, 224)
NETWORKS = {
    "vgg16_bn": Network(lambda: vgg(nn), SMALL),
    "resnet18": Network(lambda: resnet18(nn), SMALL),
    "unet": Network(UNet, (3, 128, 128), (1, 8)),
    "alexnet": Network(lambda: alexnet(nn), SMALL),
    "mobilenet": Network(lambda: mobilenet(nn), SMALL),
    "lenet5": Network(lambda: lenet5(nn), (1, 32, 32)),
    **{
        name: Network(torchvision_model(name), LARGE)
        for name in ("resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
    },
}


def made(name: str) -> Any:
    """The network in evaluation, its weights and statistics drawn with a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name].build().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training: fresh ones would do nothing
                mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
                mean.normal_(0, 0.1)
                variance.uniform_(0.5, 1.5)
    return model
