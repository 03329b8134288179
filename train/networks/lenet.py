"""LeNet-5 for images of 32x32 pixels."""

from types import ModuleType

from torch.nn import Flatten, Linear, ReLU, Sequential


def lenet5(nn: ModuleType, in_channels: int = 1, num_classes: int = 10) -> Sequential:
    """LeNet-5 with max pooling and ReLU: 6 and 16 maps, dense layers of 120 and 84. Source: LeCun et al., 1998."""
    return Sequential(
        nn.Conv2d(in_channels, 6, 5), ReLU(), nn.MaxPool2d(2),  # 28, 14
        nn.Conv2d(6, 16, 5), ReLU(), nn.MaxPool2d(2),  # 10, 5
        Flatten(), Linear(400, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, num_classes),
    )  # fmt: skip
