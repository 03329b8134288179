"""Convex quadrilaterals, in particular boxes that are turned: how much of two is common to both."""

import torch
from torch import Tensor


def cross(a: Tensor, b: Tensor) -> Tensor:
    """a × b of vectors [..., 2]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def area(polygons: Tensor) -> Tensor:
    """Of polygons [N, M, 2] the signed area [N], positive where y down makes the corners' order clockwise.

    Source: the shoelace formula.
    """
    return cross(polygons, polygons.roll(-1, 1)).sum(1) / 2


def convex(quadrilaterals: Tensor) -> Tensor:
    """Whether the sides of each of [N, 4, 2] turn the same way at every corner: flags [N]."""
    sides = quadrilaterals.roll(-1, 1) - quadrilaterals
    turns = cross(sides, sides.roll(-1, 1))
    return (turns >= 0).all(1) | (turns <= 0).all(1)


def clip(polygons: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """What of convex polygons [N, M, 2] is to the right, y down, of the lines from ``start`` to ``end`` [N, 2].

    Again polygons, of M + 1 corners, the last repeated where there are fewer. Source: Sutherland and Hodgman, 1974.
    """
    n, corners, _ = polygons.shape
    following = polygons.roll(-1, 1)
    height = cross((end - start)[:, None], polygons - start[:, None])  # [N, M]: above 0 to the right
    inside, other = height >= 0, height.roll(-1, 1)
    crossing = inside != (other >= 0)
    share = torch.where(crossing, height / (height - other), 0)
    meeting = polygons + share[..., None] * (following - polygons)
    # Each side hands on its first corner, then where it crosses the line; then those that are kept come first.
    found = torch.stack([polygons, meeting], 2).view(n, 2 * corners, 2)
    kept = torch.stack([inside, crossing], 2).view(n, 2 * corners)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, : corners + 1]
    last = (kept.sum(1, keepdim=True) - 1).clamp(min=0)
    order = order.gather(1, torch.arange(corners + 1, device=order.device).minimum(last))
    result = found.gather(1, order[..., None].expand(-1, -1, 2))
    return torch.where(kept.any(1)[:, None, None], result, 0)


def iou(boxes: Tensor, true: Tensor) -> Tensor:
    """The area of the intersection over that of the union, of each pair of convex quadrilaterals [N, 4, 2]: [N].

    0 where ``boxes`` has one that is not convex or crosses itself: it is none. The order of the corners does not matter
    otherwise. Computed in float32.
    """
    centre = true.float().mean(1, keepdim=True)  # Away from it the products of coordinates would round more.
    boxes, true = boxes.float() - centre, true.float() - centre
    # Clockwise, as `clip` takes them.
    first, second = (torch.where((area(q) < 0)[:, None, None], q.flip(1), q) for q in (boxes, true))
    common = first
    for corner in range(4):
        common = clip(common, second[:, corner], second[:, (corner + 1) % 4])
    intersection = area(common).clamp(min=0)
    union = area(first) + area(second) - intersection
    return torch.where(convex(boxes) & (union > 0), intersection / union, 0)
