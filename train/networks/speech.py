"""A convolutional network for spectrograms: over time and over frequency."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Flatten, Linear, ReLU, Sequential


class FrequencyPool(torch.nn.Module):
    """Max pooling in frequency alone, at every other one, with a window of another size for each group of maps.

    A wide window forgives a voice that is higher or lower, a narrow one keeps sounds apart that differ in pitch: each
    map has the one or the other. Source: Deng, Abdel-Hamid and Yu, A Deep Convolutional Neural Network Using
    Heterogeneous Pooling for Trading Acoustic Invariance with Phonetic Confusion, 2013.

    Args:
        nn: The namespace that the pooling comes from.
        sizes: Odd, of the windows; the maps are divided among them evenly, in order.

    Shape:
        - Input: (N, C, F, T), C a multiple of the number of sizes
        - Output: (N, C, ceil(F / 2), T)
    """

    def __init__(self, nn: ModuleType, sizes: Sequence[int]) -> None:
        super().__init__()
        self.pools = torch.nn.ModuleList(nn.MaxPool2d((size, 1), (2, 1), (size // 2, 0)) for size in sizes)

    def forward(self, maps: Tensor) -> Tensor:
        groups = maps.chunk(len(self.pools), 1)
        return torch.cat([pool(group) for pool, group in zip(self.pools, groups, strict=True)], 1)


def speech_cnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """Of [B, in_channels, 32 frequencies, time]: three convolutions, the last as high as all frequencies, 32 steps wide
    together; the largest answer of each map at any time, and a dense layer."""
    return Sequential(
        nn.Conv2d(in_channels, 24, 5, padding=2), ReLU(), FrequencyPool(nn, (1, 3, 5, 7)),  # 32, 16 frequencies
        nn.Conv2d(24, 32, 3, padding=1), ReLU(), nn.MaxPool2d(2),  # 16, 8
        nn.Conv2d(32, 64, (8, 13), padding=(0, 6)), ReLU(), nn.AdaptiveMaxPool2d(1),
        Flatten(), Linear(64, num_classes),
    )  # fmt: skip
