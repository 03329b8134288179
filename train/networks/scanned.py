"""Networks that are one small network scanned over its input, the strongest answer of each class taken.

``scanned_mlp`` scans an MLP over a picture; ``tdnn`` scans one along time. Source: Waibel et al., Phoneme Recognition
Using Time-Delay Neural Networks, 1989.
"""

from types import ModuleType

from torch.nn import Flatten, ReLU, Sequential


def scanned_mlp(nn: ModuleType, in_channels: int = 3, num_classes: int = 10) -> Sequential:
    """An MLP of 16x16 patches, 256 and 128 neurons, at every other place: a first layer of 16x16 filters, then 1x1."""
    return Sequential(
        nn.Conv2d(in_channels, 256, 16, stride=2), ReLU(),  # 9
        nn.Conv2d(256, 128, 1), ReLU(),
        nn.Conv2d(128, num_classes, 1), nn.AdaptiveMaxPool2d(1), Flatten(),
    )  # fmt: skip


def tdnn(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """Of [B, in_channels, frequencies, time] with 32 frequencies: windows of 3, then of 5 steps, then the classes'."""
    return Sequential(
        Flatten(1, 2), nn.Conv1d(32 * in_channels, 64, 3), ReLU(),  # 30
        nn.Conv1d(64, 64, 5, dilation=2), ReLU(),  # 22
        nn.Conv1d(64, num_classes, 9), nn.AdaptiveMaxPool1d(1), Flatten(),
    )  # fmt: skip
