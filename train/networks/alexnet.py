"""AlexNet for images of 32x32 pixels."""

from types import ModuleType

from torch.nn import Dropout, Flatten, Linear, ReLU, Sequential


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
