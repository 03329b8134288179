"""Measurements of what layers promise."""

import copy
from typing import Any

import torch
from torch import Tensor

from .nn.group import group_of
from .nn.transform import _TransformInvariantConv
from .transforms import TransformSet

FIELDS = ("trivial", "regular", "invariant")


def check_equivariance(
    module: torch.nn.Module,
    group: str | TransformSet,
    input: Tensor | None = None,
    *,
    size: int = 9,
    integers: bool = False,
    input_field: str | None = None,
    output_field: str | None = None,
) -> float:
    """The largest ``|f(u x) − u f(x)|`` over all elements u of a group, of outputs f(x) of a module in evaluation.

    u acts on a picture by turning it; on regular maps, [N, C·|G|, H, W], also by moving element h of each channel to
    u·h; on what is invariant, not at all. Quarter turns and mirrors of square maps are exact, so for the groups "p4"
    and "p4m" the error is rounding alone, and 0 with `integers`; for other rotations pictures are interpolated, and
    only the disc that stays inside the map is compared.

    Args:
        module: the layer or network; not changed.
        group: "p4", "p4m" or a TransformSet that is a group.
        input: [N, C, H, H]; where it is None, normal numbers [2, C, size, size] are drawn from a fixed seed, with C the
            first layer's.
        size: the side of the drawn input.
        integers: whether to round the input and set a float64 copy of the module's parameters to small whole numbers,
            so that sums are exact in any order.
        input_field, output_field: how u acts on the input and the output: "trivial", "regular" or "invariant". Where
            None, as the first and the last layer say that know it, and "invariant" where the output has no maps.

    Raises:
        ValueError: an unknown group or field, or maps that are not square.
    """
    elements = group_of(group)
    module = copy.deepcopy(module).eval()
    fields = _fields(module)
    generator = torch.Generator().manual_seed(0)
    if integers:
        module.double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randint(-4, 5, parameter.shape, generator=generator))
    if input is None:
        like: Tensor = next(module.parameters(), torch.empty(0))
        input = torch.randn(2, _channels(module), size, size, generator=generator).to(like)
    if integers:
        input = (input.double() * 3).round()
    x_field = input_field or (fields[0][0] if fields else "trivial")
    with torch.no_grad():
        plain = module(input)
        y_field = output_field or ("invariant" if plain.dim() < 4 else fields[-1][1] if fields else "trivial")
        worst = 0.0
        for index in range(len(elements)):
            expected = act(plain, elements, index, y_field)
            turned = module(act(input, elements, index, x_field))
            difference = (turned - expected).abs()
            if not _exact(elements.matrices[index]) and difference.dim() == 4:
                difference = difference * _disc(difference.shape[-1]).to(difference)
            worst = max(worst, float(difference.max()))
    return worst


def act(maps: Tensor, group: TransformSet, index: int, field: str) -> Tensor:
    """Element `index` of the group acting on maps [N, C, H, H], or [N, C·|G|, H, H] where the field is regular."""
    if field not in FIELDS:
        raise ValueError(f"field must be one of {', '.join(FIELDS)}, got '{field}'")
    if field == "invariant":
        return maps
    if maps.dim() != 4 or maps.shape[-1] != maps.shape[-2]:
        raise ValueError(f"equivariance is defined on square maps [N, C, H, H], got shape {list(maps.shape)}")
    out = _turned(maps, group.matrices[index])
    if field == "regular":
        order = len(group)
        inverse, products = group.inverses()[index], group.products()
        source = [products[inverse][h] for h in range(order)]  # element h comes from u⁻¹ h
        out = out.unflatten(1, (-1, order))[:, :, source].flatten(1, 2)
    return out


def _turned(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps under a linear transform of the plane: exactly where it permutes the grid, else interpolated."""
    if _exact(matrix):
        (a, b), (c, d) = matrix.tolist()
        if a == 0:  # (x, y) ↦ (b·y, c·x): the axes are exchanged. Rows run against y.
            maps, (a, d) = maps.transpose(-2, -1), (-b, -c)
        return maps.flip([axis for axis, sign in ((-1, a), (-2, d)) if sign < 0])
    inverse = torch.linalg.inv(matrix)
    inverse = inverse * inverse.new_tensor([[1.0, -1.0], [-1.0, 1.0]])  # in grid_sample's coordinates y runs down
    theta = torch.cat([inverse, inverse.new_zeros(2, 1)], 1).to(maps).expand(len(maps), 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(maps.shape), align_corners=False)
    return torch.nn.functional.grid_sample(maps, grid, align_corners=False)


def _exact(matrix: Tensor) -> bool:
    """Whether a matrix only exchanges and mirrors axes."""
    return bool(((matrix.abs() == 1).sum(0) == 1).all() and (matrix.abs().sum(0) == 1).all())


def _disc(side: int) -> Tensor:
    """[side, side]: 1 at the pixels that every rotation leaves inside the map."""
    at = torch.arange(side) - (side - 1) / 2
    return (at[:, None].square() + at.square() <= (side / 2 - 1) ** 2).float()


def _fields(module: torch.nn.Module) -> list[tuple[str, str]]:
    """How the group acts before and after each layer that knows it, in order."""
    found: list[tuple[str, str]] = []
    for layer in module.modules():
        given: Any = layer
        if isinstance(layer, _TransformInvariantConv):
            found.append(("trivial", "regular" if layer.reduce is None else "trivial"))
        elif hasattr(layer, "input_field"):
            found.append((given.input_field, given.output_field))
    return found


def _channels(module: torch.nn.Module) -> int:
    """The maps that the first layer takes."""
    for layer in module.modules():
        if hasattr(layer, "in_channels"):
            given: Any = layer
            group = len(given.group) if getattr(given, "input_field", "") == "regular" else 1
            return given.in_channels * group
    raise ValueError(f"{type(module).__name__} does not say how many maps it takes: give an input")
