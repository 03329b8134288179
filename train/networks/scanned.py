"""Networks that are one small network scanned over its input, its answers at every place combined to one.

``scanned_mlp`` scans an MLP over a picture; ``tdnn`` scans one along time. Source: Waibel et al., Phoneme Recognition
Using Time-Delay Neural Networks, 1989.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Flatten, Linear, ReLU, Sequential


def scanned_mlp(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """An MLP of 16x16 patches, 256 and 128 neurons, at every other place: a first layer of 16x16 filters, then 1x1."""
    return Sequential(
        nn.Conv2d(in_channels, 256, 16, stride=2), ReLU(),  # 9
        nn.Conv2d(256, 128, 1), ReLU(),
        nn.Conv2d(128, num_classes, 1), nn.AdaptiveMaxPool2d(1), Flatten(),
    )  # fmt: skip


class SoftmaxOverTime(torch.nn.Module):
    """The mean over time of [N, C, T] to [N, C], the larger the heavier: Σ_t softmax(y)_t y_t, of each class by itself.

    Every window learns, where of a maximum the largest alone does.
    """

    def forward(self, answers: Tensor) -> Tensor:
        return (answers.softmax(2) * answers).sum(2)


def _mlp(nn: ModuleType, num_classes: int) -> list[torch.nn.Module]:
    """Of the largest answers of eight stretches, whatever their length."""
    return [
        nn.AdaptiveMaxPool1d(8), Flatten(),
        Linear(8 * num_classes, 32), ReLU(), Linear(32, num_classes),
    ]  # fmt: skip


COMBINED: dict[str, Callable[[ModuleType, int], list[torch.nn.Module]]] = {
    "max": lambda nn, num_classes: [nn.AdaptiveMaxPool1d(1), Flatten()],
    "softmax": lambda nn, num_classes: [SoftmaxOverTime()],
    "mlp": _mlp,
}


def tdnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10, combined: str = "max") -> Sequential:
    """Of [B, in_channels, 32 frequencies, time of at least 19 steps]: windows of 3, then of 5 steps, then the classes'.

    The answers at every window of 19 steps are ``combined`` by one of ``COMBINED``.
    """
    return Sequential(
        Flatten(1, 2), nn.Conv1d(32 * in_channels, 64, 3), ReLU(),
        nn.Conv1d(64, 64, 5, dilation=2), ReLU(),
        nn.Conv1d(64, num_classes, 9),
        *COMBINED[combined](nn, num_classes),
    )  # fmt: skip
