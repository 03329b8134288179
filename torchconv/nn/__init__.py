"""Convolution and pooling layers under the names, with the constructors and of the types of torch.nn's.

Each class is a subclass of its namesake in torch.nn and holds the same parameters, buffers and attributes, so that
isinstance checks, initialisation schemes, pruning, parametrizations and state_dicts go on working. ConvReLU1d, 2d and
3d have no namesake there: they are Conv1d, 2d and 3d with a ReLU at the end. Nor have DepthwiseSeparableConv2d, which
is two Conv2d, the locally connected layers, those of transformed filters and the learned poolings: convert leaves
those out.
"""

from .adaptive_pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from .conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from .group import GroupBatchNorm2d, GroupConv2d, GroupPool2d
from .lazy import (
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from .learned_pool import BlockPool2d, LearnedPool2d
from .local import (
    LocallyConnected1d,
    LocallyConnected2d,
    LocallyConnectedTranspose1d,
    LocallyConnectedTranspose2d,
)
from .lrn import LocalResponseNorm
from .pool import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from .separable import DepthwiseSeparableConv2d
from .transform import TransformInvariantConv1d, TransformInvariantConv2d, TransformInvariantConv3d
from .unpool import MaxUnpool1d, MaxUnpool2d, MaxUnpool3d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BlockPool2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DepthwiseSeparableConv2d",
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupPool2d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LearnedPool2d",
    "LocalResponseNorm",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnectedTranspose1d",
    "LocallyConnectedTranspose2d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "TransformInvariantConv1d",
    "TransformInvariantConv2d",
    "TransformInvariantConv3d",
]
