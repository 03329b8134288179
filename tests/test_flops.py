"""torch.utils.flop_counter on our operators."""

import copy

import pytest
import torch
from small_net import pair
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import torchconv
import torchconv.nn as tnn
from torchconv import transforms


def counted(model, x):
    """Forward and both gradients, by operator."""
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("fuse", [False, True])
def test_a_converted_model_counts_as_before(fuse):
    _, net, x = pair()
    net = net.train()
    net[4] = torch.nn.Conv2d(8, 8, 3, padding=1)  # of groups PyTorch counts every pair of maps in the backward
    ours = torchconv.convert(copy.deepcopy(net), fuse=fuse)
    x.requires_grad_()
    assert sum(counted(ours, x).values()) == sum(counted(net, x).values()) > 0


TURNS = transforms.rotations(4)
MAP = 2 * 3 * 9 * 36  # of 3 by 3 from 3 maps to one of 6 by 6
BIG = 2 * 3 * 9 * 64  # to or from one of 8 by 8
COPIES = 2 * 2 * 3 * 4 * 9  # four turns of two filters


@pytest.mark.parametrize(
    ("layer", "forward", "backward", "copies"),
    [
        (lambda: tnn.Conv2d(3, 2, 3), 2 * MAP, 4 * MAP, 0),
        (lambda: tnn.ConvReLU2d(3, 2, 3), 2 * MAP, 4 * MAP, 0),
        (lambda: tnn.Conv2d(3, 3, 3, groups=3), MAP, 2 * MAP, 0),
        (lambda: tnn.Conv2d(3, 6, 3, groups=3), 2 * MAP, 4 * MAP, 0),
        (lambda: tnn.ConvTranspose2d(3, 2, 3), 2 * BIG, 4 * BIG, 0),
        (lambda: tnn.LocallyConnected2d(3, 2, 8, 3), 2 * MAP, 4 * MAP, 0),
        (lambda: tnn.LocallyConnectedTranspose2d(3, 2, 8, 3), 2 * BIG, 4 * BIG, 0),
        (lambda: tnn.GroupConv2d(3, 2, 3, lifting=True), 8 * MAP, 16 * MAP, COPIES),
        (lambda: tnn.TransformInvariantConv2d(3, 2, 3, TURNS), 8 * MAP, 16 * MAP, COPIES),
        # Of the maps only the winner has a gradient.
        (lambda: tnn.TransformInvariantConv2d(3, 2, 3, TURNS, reduce="max"), 8 * MAP, 4 * MAP, COPIES),
        # The mean is taken of the filters.
        (lambda: tnn.TransformInvariantConv2d(3, 2, 3, TURNS, reduce="mean"), 2 * MAP, 4 * MAP, COPIES),
        # The backward computes the maps again.
        (lambda: tnn.TransformInvariantConv2d(3, 2, 3, TURNS, reduce="norm"), 8 * MAP, 24 * MAP, COPIES),
    ],
)
def test_every_layer(layer, forward, backward, copies):
    """`forward` and `backward` are a sample's."""
    layer, x = layer(), torch.randn(2, 3, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    assert counter.get_total_flops() == 2 * forward + copies
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * backward + copies


def test_learnable_transforms_count_their_values_gradient():
    layer = tnn.TransformInvariantConv2d(3, 2, 3, transforms.rotations(3), learnable=True)
    counts = counted(layer, torch.randn(1, 3, 8, 8, requires_grad=True))
    assert counts["torchconv.transform_values_grad"] == counts["torchconv.transform_filters"] > 0


def test_an_operator_has_a_formula_or_does_not_multiply():
    """As in PyTorch, pooling, norms and sums are not counted."""
    uncounted = (
        "pool",
        "norm",
        "bias_grad",
        "_explain",
        "_workspace",
        "_algorithms",
        "_error_bounds",
        "precision",
        "batch_invariant",
        "_prepare",  # layers do not prepare while somebody counts
        "_states",
        "capability",
    )
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("torchconv::"):
            name = schema.name.removeprefix("torchconv::")
            counted = getattr(torch.ops.torchconv, name) in flop_registry
            assert counted != (any(word in name for word in uncounted) and "convolution_norm" not in name), name
