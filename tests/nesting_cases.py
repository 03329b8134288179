"""Every layer as a function of float64 operands, beside the same in operators that PyTorch differentiates by itself.

A maximum's operands are drawn, so no two are the same and no derivative meets a kink.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call
from transform_cases import by_definition

import torchconv
import torchconv.functional as TF
from torchconv import transforms as T

F = torch.nn.functional
tnn = torchconv.nn


@dataclass(frozen=True)
class Nested:
    """`ours` and `theirs`, of operands of these sizes."""

    name: str
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    sizes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return self.name


def same(name: str, *sizes: tuple[int, ...], called: str | None = None, **options) -> Nested:
    """A function of torchconv.functional that torch.nn.functional has too."""
    called = called or name
    return Nested(name, partial(getattr(TF, called), **options), partial(getattr(F, called), **options), sizes)


def conv_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torchconv.autograd.conv.convolution_relu(x, w, b, [1, 1], [1, 0, 1, 1], [1, 1], 1, "auto")


def conv_relu_apart(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 0)), w, b).relu()


def normalised(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Batch norm by its definition: the second derivatives of PyTorch's are wrong in forward mode."""
    axes = [0, *range(2, x.dim())]
    centred = x - x.mean(axes, keepdim=True)
    out = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
    w, b = (t.reshape(1, -1, *[1] * (x.dim() - 2)) for t in (w, b))
    return out * w + b


def lrn(x: Tensor) -> Tensor:
    around = F.pad(x.square(), (0, 0, 0, 0, 1, 1))
    return x * (1 + 0.5 / 3 * (around[:, :-2] + around[:, 1:-1] + around[:, 2:])) ** -0.75


def local(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """One channel group, no padding: w [O, C, kernel..., positions...]."""
    dims = x.dim() - 2
    for axis in range(dims):
        x = x.unfold(2 + axis, w.shape[2 + axis], 1)
    kernel, places = "kl"[:dims], "pq"[:dims]
    return torch.einsum(f"nc{places}{kernel},oc{kernel}{places}->no{places}", x, w) + b


def local_transposed(y: Tensor, w: Tensor) -> Tensor:
    """1-D: w [I, O, k, positions]."""
    taps = torch.einsum("nip,iokp->nokp", y, w)
    return sum(F.pad(taps[:, :, k], (k, taps.shape[2] - 1 - k)) for k in range(taps.shape[2]))


def unpooled(functions, y: Tensor) -> Tensor:
    return functions.max_unpool2d(y, torch.tensor([[[[0, 3], [9, 14]]]]), 2)


def lp(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.square(), 2, divisor_override=1).sqrt()


def layer(module: torch.nn.Module) -> Callable[..., Tensor]:
    """A module as a function of its input and parameters."""
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    return call


def group(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A p4 lifting convolution."""
    return F.conv2d(x, torch.stack([w.rot90(k, (2, 3)) for k in range(4)], 1).flatten(0, 1), b.repeat_interleave(4))


def group_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return normalised(x.unflatten(1, (-1, 4)).flatten(2, 3), w, b).reshape(x.shape)


def learned(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, stride=2, groups=2)


def turned(x: Tensor, w: Tensor, angles: Tensor) -> Tensor:
    """The layer's definition, point by point, with filters turned by angles that are learned."""
    cos, sin = angles[:, 0].cos(), angles[:, 0].sin()
    at = torch.arange(3, dtype=x.dtype) - 1
    row, column = (t.flatten() for t in torch.meshgrid(at, at, indexing="ij"))
    # The source of (column, row), y running down: turned back.
    from_column = cos[:, None] * column - sin[:, None] * row + 1
    from_row = sin[:, None] * column + cos[:, None] * row + 1
    hat = lambda place: (1 - (place[..., None] - torch.arange(3)).abs()).clamp(min=0)  # noqa: E731
    copies = torch.einsum("tpr,tpc,oirc->otip", hat(from_row), hat(from_column), w)
    return F.conv2d(x, copies.flatten(0, 1).unflatten(-1, (3, 3)))


PICTURE = (1, 2, 3, 3)
SQUARE = ((1, 2, 3, 3), (2, 2, 2, 2), (2,))
QUARTERS = T.rotations(2)
CONV_RELU_MAX = dict(padding=1, reduce="max")

CASES = [
    same("conv1d", (2, 2, 4), (2, 2, 3), (2,), padding=1),
    same("conv2d", *SQUARE, stride=2, padding=1),
    same("conv3d", (1, 1, 2, 3, 2), (2, 1, 2, 2, 2), (2,), padding=1),
    same("depthwise", (1, 2, 3, 3), (4, 1, 2, 2), (4,), called="conv2d", groups=2, padding=1),
    same("conv_transpose1d", (1, 2, 3), (2, 2, 3), (2,), stride=2),
    same("conv_transpose2d", *SQUARE, stride=2),
    same("conv_transpose3d", (1, 1, 2, 2, 1), (1, 2, 2, 1, 2), (2,)),
    Nested("conv_relu", conv_relu, conv_relu_apart, SQUARE),
    same("max_pool1d", (1, 2, 5), kernel_size=2),
    same("max_pool2d", (1, 2, 4, 4), kernel_size=3, stride=1, padding=1),
    same("max_pool3d", (1, 1, 2, 4, 3), kernel_size=2),
    same("avg_pool1d", (1, 2, 5), kernel_size=2),
    same("avg_pool2d", (1, 2, 4, 4), kernel_size=3, stride=1, padding=1),
    same("avg_pool3d", (1, 1, 2, 4, 3), kernel_size=2),
    same("adaptive_max_pool2d", (1, 2, 5, 3), output_size=2),
    same("adaptive_avg_pool2d", (1, 2, 5, 3), output_size=2),
    Nested("lp_pool2d", partial(TF.lp_pool2d, norm_type=2.0, kernel_size=2), lp, (PICTURE,)),
    Nested("max_unpool2d", partial(unpooled, TF), partial(unpooled, F), ((1, 1, 2, 2),)),
    *(
        Nested(
            f"batch_norm{'' if activation is None else '_relu'}",
            lambda x, w, b, a=activation: TF.batch_norm(x, None, None, w, b, training=True, activation=a),
            lambda x, w, b, a=activation: normalised(x, w, b).relu() if a else normalised(x, w, b),
            ((2, 2, 3), (2,), (2,)),
        )
        for activation in (None, "relu")
    ),
    Nested("local_response_norm", partial(TF.local_response_norm, size=3, alpha=0.5), lrn, ((1, 4, 2, 2),)),
    Nested("local_conv1d", TF.local_conv1d, local, ((1, 2, 4), (2, 2, 2, 3), (2, 3))),
    Nested("local_conv2d", TF.local_conv2d, local, (PICTURE, (1, 2, 2, 2, 2, 2), (1, 2, 2))),
    Nested("local_conv_transpose1d", TF.local_conv_transpose1d, local_transposed, ((1, 2, 3), (2, 2, 2, 3))),
    *(
        Nested(
            f"transform_conv2d_{reduce}",
            lambda x, w, b, r=reduce: TF.transform_conv2d(x, w, QUARTERS, b, padding=1, reduce=r),
            lambda x, w, b, r=reduce: by_definition(x, w, QUARTERS, b, padding=1, reduce=r),
            SQUARE,
        )
        for reduce in (None, "max", "mean", "norm")
    ),
    Nested(
        "learnable_angles",
        layer(tnn.TransformInvariantConv2d(1, 1, 3, T.rotations(angles=[10, 50]), bias=False, learnable=True)),
        turned,
        ((1, 1, 4, 4), (1, 1, 3, 3), (2, 1)),
    ),
    Nested("group_conv", layer(tnn.GroupConv2d(1, 1, 2, lifting=True)), group, ((1, 1, 3, 3), (1, 1, 2, 2), (1,))),
    Nested(
        "group_norm", layer(tnn.GroupBatchNorm2d(1, track_running_stats=False)), group_norm, ((2, 4, 1, 2), (1,), (1,))
    ),
    Nested("learned_pool", layer(tnn.LearnedPool2d(2, 2)), learned, ((1, 2, 4, 4), (2, 1, 2, 2))),
]
