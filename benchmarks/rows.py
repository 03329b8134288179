"""What is timed: the layers of the networks people train on small images, and the operators on both sides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import torchconv.functional as TF

F = torch.nn.functional


@dataclass(frozen=True)
class Row:
    """One layer: the same call on the built-in operator and on ours, with the sizes of its operands."""

    name: str
    operator: str  # "conv2d", "max_pool2d", "avg_pool2d"
    input: tuple[int, int, int, int]  # [N, C, H, W]
    weight: tuple[int, int, int, int] | None  # [O, C/groups, K, K]
    options: dict

    def call(self, library) -> Callable[..., Tensor]:
        """The layer as a function of its differentiable operands."""
        function = getattr(library, self.operator)
        return lambda *operands: function(*operands, **self.options)

    def operands(self, memory_format: torch.memory_format, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Input and, where there is one, weight, each requiring its gradient."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.input, generator=generator).to(dtype).contiguous(memory_format=memory_format)
        if self.weight is None:
            return [x.requires_grad_()]
        fan_in = self.weight[1] * self.weight[2] * self.weight[3]
        w = torch.randn(self.weight, generator=generator).to(dtype) * fan_in**-0.5
        return [x.requires_grad_(), w.requires_grad_()]


def conv(name: str, batch: int, channels: int, side: int, filters: int, kernel: int, groups: int = 1, **options) -> Row:
    weight = (filters, channels // groups, kernel, kernel)
    return Row(name, "conv2d", (batch, channels, side, side), weight, {"groups": groups, **options})


def pool(name: str, operator: str, batch: int, channels: int, side: int, **options) -> Row:
    return Row(name, operator, (batch, channels, side, side), None, options)


def networks(batch: int) -> list[Row]:
    """Every layer of the 32×32 forms of LeNet-5, AlexNet and VGG-16, and AlexNet's own first layer."""
    alexnet = [(3, 32, 96, 5), (96, 15, 256, 5), (256, 7, 384, 3), (384, 7, 384, 3), (384, 7, 256, 3)]
    vgg = [
        (3, 32, 64), (64, 32, 64), (64, 16, 128), (128, 16, 128), (128, 8, 256),
        (256, 8, 256), (256, 4, 512), (512, 4, 512), (512, 2, 512),
    ]  # fmt: skip
    return [
        conv("lenet.conv1", batch, 1, 32, 6, 5),
        conv("lenet.conv2", batch, 6, 14, 16, 5),
        pool("lenet.pool1", "max_pool2d", batch, 6, 28, kernel_size=2),
        *(conv(f"alexnet.conv{i}", batch, c, n, o, k, padding=k // 2) for i, (c, n, o, k) in enumerate(alexnet, 1)),
        *(
            pool(f"alexnet.pool{i}", "max_pool2d", batch, c, n, kernel_size=3, stride=2)
            for i, (c, n) in enumerate([(96, 32), (256, 15), (256, 7)], 1)
        ),
        conv("alexnet224.conv1", max(1, batch // 8), 3, 227, 96, 11, stride=4),
        *(conv(f"vgg.conv{c}-{o}@{n}", batch, c, n, o, 3, padding=1) for c, n, o in vgg),
        *(
            pool(f"vgg.pool{c}@{n}", "max_pool2d", batch, c, n, kernel_size=2)
            for c, n in [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
        ),
        pool("mean2", "avg_pool2d", batch, 64, 32, kernel_size=2),
        pool("mean8.global", "avg_pool2d", batch, 256, 8, kernel_size=8),
        conv("depthwise3", batch // 2, 64, 56, 64, 3, groups=64, padding=1),
        conv("depthwise3s2", batch // 2, 64, 56, 64, 3, groups=64, padding=1, stride=2),
        conv("pointwise", batch, 128, 16, 256, 1),
    ]


LIBRARIES = {"built-in": F, "torchconv": TF}
