"""What the tests of convolution under filter transforms share: sets of transforms, and the definition."""

import torch

import torchconv.functional as TF
from torchconv import transforms as T

F = torch.nn.functional
BUILT_IN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
OURS = {1: TF.transform_conv1d, 2: TF.transform_conv2d, 3: TF.transform_conv3d}
SETS = {
    "quarters": T.rotations(4),
    "eighths": T.rotations(8),
    "square": T.dihedral(4),
    "scales": T.scales([0.7, 1, 1.6]),
    "composed": T.shears([0, 0.4]) * T.rotations(3),
    "flips": T.reflections(dims=1) * T.scales([1, 2], dims=1),
    "cube": T.matrices([torch.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]]),
}


def doubles(*sizes):
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]


def dense(weight, transforms):
    """[D·T, C, *] by the definition: each tap from the correspondences."""
    names, support = list(transforms), transforms.support(weight.shape[2:])
    out = weight.new_zeros(len(weight), len(names), weight.shape[1], *support)
    for c in transforms.correspondences(tuple(weight.shape[2:])):
        here = (slice(None), names.index(c.transform), slice(None), *c.point)
        out[here] += c.weight * weight[(slice(None), slice(None), *c.source)]
    return out.flatten(0, 1)


def reduced(maps, count, reduce):
    if reduce is None:
        return maps
    maps = maps.unflatten(1, (-1, count))
    return {"max": maps.amax(2), "mean": maps.mean(2), "norm": torch.linalg.vector_norm(maps, dim=2)}[reduce]


def by_definition(x, weight, transforms, bias, stride=1, padding=0, dilation=1, groups=1, reduce=None):
    """The built-in convolution with the dense copies, all maps at once."""
    dims = weight.dim() - 2
    copies = dense(weight, transforms)
    pad = [padding + dilation * (s - k) // 2 for s, k in zip(copies.shape[2:], weight.shape[2:], strict=True)]
    every = None if bias is None else bias.repeat_interleave(len(transforms))
    maps = BUILT_IN[dims](x, copies, every, stride, pad, dilation, groups)
    return reduced(maps, len(transforms), reduce)
