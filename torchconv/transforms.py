"""Sets of filter transforms: enumerated, composable, printable. What a transform-invariant convolution tries.

    rotations(4)                        0°, 90°, 180°, 270°
    rotations(angles=[0, 30])           any angles, in degrees
    reflections()                       identity, left-right mirror
    dihedral(4)                         reflections() * rotations(4): the symmetries of the square
    scales([1, 1.5]) * rotations(8)     every scale of every rotation
    matrices([[[1, 0.2], [0, 1]]])      anything linear

A transform A takes a filter w, a function of points p around its centre, to ``(T_A w)(p) = w(A⁻¹ p) / |det A|``, so
that the response of a transformed filter to the transformed picture is what it was. Between points w is interpolated
linearly along each axis, beyond them it is 0; where A⁻¹ p falls on points, for quarter turns and mirrors, T_A is an
exact permutation. Coordinates are seen as on a page: x runs along the last axis, y against the one before it (up), z
against the first; rotations are counter-clockwise. A set of d×d matrices acts on the last d axes of a filter.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensorMode, maybe_get_fake_mode
from torch.utils._python_dispatch import _disable_current_modes

_SNAP = 1e-9  # distances from a whole number that are rounding


@contextmanager
def constants() -> Iterator[None]:
    """Where tensors are made that outlive the caller's modes: real ones on the CPU, whatever device is the default, and
    even under fake tensors, torch.func or inference mode."""
    with (
        _disable_current_modes(),
        temporarily_clear_interpreter_stack(),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.device("cpu"),
    ):
        yield


def _fake_mode(operand: Tensor | None) -> FakeTensorMode | None:
    """The mode of a fake tensor that real ones cannot stand beside; tracers allow them, and keep them as they are."""
    mode = None if operand is None or torch.compiler.is_dynamo_compiling() else maybe_get_fake_mode(operand)
    return None if mode is None or mode.allow_non_fake_inputs else mode


def beside(constant: Tensor, operand: Tensor) -> Tensor:
    """A constant as an operator takes it with `operand`: on its device, and fake where it must be."""
    mode = _fake_mode(operand)
    if mode is not None and _fake_mode(constant) is None:
        constant = mode.from_tensor(constant)
    return constant.to(operand.device)


class FilterMap(NamedTuple):
    """The sparse linear map from a filter's taps to those of its transformed copies, in rows.

    Row ``t·P + p``, of P taps, is tap p of transform t: ``Σ values[e] · w[columns[e]]`` for ``pointers[row] <= e <
    pointers[row + 1]``. Taps are counted in the order of the filter's memory.
    """

    pointers: Tensor  # int64 [transforms · P + 1]
    columns: Tensor  # int64 [entries]
    values: Tensor  # [entries]
    kernel_size: tuple[int, ...]  # of the filter
    support: tuple[int, ...]  # kernel size of the copies, with P taps

    def like(self, weight: Tensor) -> "FilterMap":
        """The same on the device of `weight`, its values in the dtype of `weight`."""
        pointers, columns, values = (beside(t, weight) for t in self[:3])
        return self._replace(pointers=pointers, columns=columns, values=values.to(weight.dtype))


class Correspondence(NamedTuple):
    """Tap `point` of the transformed filter takes `weight` times tap `source` of the filter."""

    transform: str
    point: tuple[int, ...]
    source: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Factor:
    """Transforms of one kind, each given by its own number (a matrix: by its numbers, row by row)."""

    kind: str  # one of _KINDS
    values: tuple[tuple[float, ...], ...]  # radians, scales, shears, signs of the axes or entries
    dims: int

    def matrices(self, values: Tensor | None = None, device: Any = None) -> Tensor:
        """[n, d, d] of these values, on `device`, or of others [n, numbers] in their stead: differentiable."""
        if values is None:
            values = torch.tensor(self.values, dtype=torch.float64, device=device)
        eye = torch.eye(self.dims, dtype=values.dtype, device=values.device)
        if self.kind == "rotation":
            cos, sin = values[:, 0].cos(), values[:, 0].sin()
            return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        if self.kind == "scale":
            return values[:, :, None] * eye
        if self.kind == "shear":
            return eye + values[:, :, None] * eye.new_tensor([[0.0, 1.0], [0.0, 0.0]])
        if self.kind == "reflection":
            return values[:, :, None] * eye
        return values.unflatten(1, (self.dims, self.dims))

    def name(self, index: int) -> str:
        value = self.values[index]
        if self.kind == "reflection":
            return " ".join(f"mirror {axis}" for axis, sign in zip("xyz", value, strict=False) if sign < 0)
        if self.kind == "matrix":
            rows = [value[i : i + self.dims] for i in range(0, len(value), self.dims)]
            return "[" + ", ".join("[" + ", ".join(f"{v:g}" for v in row) + "]" for row in rows) + "]"
        neutral, number = {
            "rotation": (0.0, f"rotate {math.degrees(value[0]):g}°"),
            "scale": (1.0, f"scale {value[0]:g}"),
            "shear": (0.0, f"shear {value[0]:g}"),
        }[self.kind]
        return "" if value[0] == neutral else number


_PARAMETER_NAMES = {"rotation": "angles", "scale": "scales", "shear": "shears", "matrix": "matrices"}


class TransformSet:
    """An immutable list of linear transforms: all products, in order, of one transform of each factor.

    ``a * b`` is every transform of a after every one of b, those of a in the outer loop. `len`, iteration (names) and
    `matrices` go over the transforms in order; equal sets have equal matrices.
    """

    @constants()
    def __init__(self, factors: Sequence[Factor]) -> None:
        self.factors = tuple(factors)
        self.dims = self.factors[0].dims
        for factor in self.factors:
            if factor.dims != self.dims:
                raise ValueError(f"transforms in {self.dims} and in {factor.dims} dimensions do not compose")
        self.matrices = _snapped(self.matrices_of({}))  # float64 [T, d, d]
        for name, matrix in zip(self, self.matrices, strict=True):
            if not torch.isfinite(matrix).all() or abs(torch.linalg.det(matrix)) < _SNAP:
                raise ValueError(f"transform '{name}' is singular or not finite: matrix {matrix.tolist()}")

    def __len__(self) -> int:
        return math.prod(len(factor.values) for factor in self.factors)

    def __iter__(self) -> Iterator[str]:
        for indices in itertools.product(*(range(len(factor.values)) for factor in self.factors)):
            parts = [factor.name(i) for factor, i in zip(self.factors, indices, strict=True)]
            yield " · ".join(part for part in parts if part) or "identity"

    def __mul__(self, other: "TransformSet") -> "TransformSet":
        if not isinstance(other, TransformSet):
            return NotImplemented
        return TransformSet(self.factors + other.factors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TransformSet) and torch.equal(self.matrices, other.matrices)

    def __hash__(self) -> int:
        return hash(tuple(self.matrices.flatten().tolist()))

    def __repr__(self) -> str:
        return f"TransformSet({', '.join(self)})"

    # ---- the numbers that a learnable set learns ----

    @constants()
    def parameters(self) -> dict[str, Tensor]:
        """The transforms' own numbers by name: angles in radians, scales, shears [n, 1], matrices [n, d²]; float64."""
        out: dict[str, Tensor] = {}
        for key, factor in self._named_factors():
            out[key] = torch.tensor(factor.values, dtype=torch.float64)
        return out

    def _named_factors(self) -> Iterator[tuple[str, Factor]]:
        seen: dict[str, int] = {}
        for factor in self.factors:
            name = _PARAMETER_NAMES.get(factor.kind)
            if name is not None:
                seen[name] = seen.get(name, 0) + 1
                yield (name if seen[name] == 1 else f"{name}_{seen[name]}"), factor

    def matrices_of(self, parameters: dict[str, Tensor]) -> Tensor:
        """[T, d, d] with these numbers in place of the set's own: differentiable."""
        named = {id(factor): parameters.get(name) for name, factor in self._named_factors()}
        device = next((numbers.device for numbers in parameters.values()), None)
        out = None
        for factor in self.factors:
            given = named.get(id(factor))
            each = factor.matrices(given, device)
            if out is None:
                out = each
            else:
                out = (out[:, None] @ each.to(out)[None]).flatten(0, 1)
        assert out is not None
        return out

    # ---- the maps between filters ----

    @constants()
    def support(self, kernel_size: int | Sequence[int]) -> tuple[int, ...]:
        """The kernel size that all transformed copies share: it holds the image of the ellipse inscribed in the filter
        under every transform, and has the filter's centre and at least its size. Rotations keep a square filter's."""
        kernel = _kernel(kernel_size, self.dims)
        reach = torch.tensor([(k - 1) / 2 for k in kernel[-self.dims :]], dtype=torch.float64)
        extents = (_by_axis(self.matrices) * reach).square().sum(-1).sqrt().amax(0)  # [d], half the support
        grown = [2 * max(0, math.ceil(float(e - r) - _SNAP)) for e, r in zip(extents, reach, strict=True)]
        free = len(kernel) - self.dims
        return (*kernel[:free], *(k + g for k, g in zip(kernel[free:], grown, strict=True)))

    @constants()
    def filter_map(self, kernel_size: int | Sequence[int]) -> FilterMap:
        """The map for filters of this size, in float64, exact zeros left out."""
        kernel = _kernel(kernel_size, self.dims)
        support = self.support(kernel)
        columns, values = _interpolation(self.matrices, kernel, support, snap=True)
        kept = values != 0  # [rows, corners]
        pointers = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
        return FilterMap(pointers, columns[kept], values[kept], kernel, support)

    def learnable_map(
        self, kernel: tuple[int, ...], support: tuple[int, ...], parameters: dict[str, Tensor]
    ) -> FilterMap:
        """The map to copies of size `support` with these numbers in place of the set's own: its values are
        differentiable in them, and it has all 2ᵈ entries in every row, so that its size is fixed."""
        with _fake_mode(next(iter(parameters.values()), None)) or nullcontext():
            columns, values = _interpolation(self.matrices_of(parameters), kernel, support, snap=False)
            rows, corners = columns.shape
            pointers = torch.arange(0, rows * corners + 1, corners, device=columns.device)
        return FilterMap(pointers, columns.flatten(), values.flatten(), kernel, support)

    def correspondences(self, kernel_size: int | Sequence[int]) -> list[Correspondence]:
        """Which taps each transformed filter takes, and with what weight."""
        fmap = self.filter_map(kernel_size)
        names, taps = list(self), math.prod(fmap.support)
        points = list(itertools.product(*map(range, fmap.support)))
        sources = list(itertools.product(*map(range, fmap.kernel_size)))
        pointers, columns, values = (t.tolist() for t in fmap[:3])
        return [
            Correspondence(names[row // taps], points[row % taps], sources[columns[e]], values[e])
            for row in range(len(self) * taps)
            for e in range(pointers[row], pointers[row + 1])
        ]

    def draw(self, kernel_size: int | Sequence[int]) -> Any:
        """A matplotlib figure, one panel a transform: the filter's points as grey rings, the transformed filter's in
        red, and arrows from those to these, as strong as the weight. One or two dimensions."""
        import matplotlib.pyplot as plt

        kernel = _kernel(kernel_size, self.dims)
        if len(kernel) > 2:
            raise ValueError(f"draw shows filters of one or two dimensions, got kernel size {kernel}")
        names, support = list(self), self.support(kernel)
        across = min(len(names), 4)
        down = -(-len(names) // across)
        figure, panels = plt.subplots(down, across, figsize=(2.6 * across, 2.8 * down), squeeze=False)
        by_name = dict(zip(names, panels.flat, strict=False))
        for panel in panels.flat:
            panel.set_axis_off()
            panel.set_aspect("equal")
        for name, panel in by_name.items():
            panel.set_title(name, fontsize=8)
        for c in self.correspondences(kernel):
            x, y = _on_page(c.source, kernel)
            u, v = _on_page(c.point, support)
            panel = by_name[c.transform]
            panel.plot(x, y, "o", color="0.6", markersize=9, fillstyle="none")
            panel.plot(u, v, "o", color="C3", markersize=4, zorder=3)
            if (x, y) != (u, v):  # an arrow of no length has no direction
                style = dict(arrowstyle="-|>", color="C0", alpha=min(1.0, abs(c.weight)), shrinkA=4.5, shrinkB=2)
                panel.annotate("", (u, v), (x, y), arrowprops=style)
        figure.tight_layout()
        return figure

    # ---- as a group ----

    @constants()
    def inverses(self) -> list[int]:
        """The position of each transform's inverse."""
        return [self._find(torch.linalg.inv(matrix), "the inverse of", i) for i, matrix in enumerate(self.matrices)]

    @constants()
    def products(self) -> list[list[int]]:
        """``products()[i][j]``: the position of transform i after transform j.

        Raises:
            ValueError: the set is no group: a product is missing, or a transform is there twice.
        """
        return [[self._find(a @ b, "a product with", i) for b in self.matrices] for i, a in enumerate(self.matrices)]

    def _find(self, matrix: Tensor, what: str, index: int) -> int:
        (found,) = torch.nonzero((self.matrices - matrix).abs().amax((1, 2)) < 1e-6, as_tuple=True)
        if len(found) != 1:
            problem = "is missing" if len(found) == 0 else f"is there {len(found)} times"
            raise ValueError(f"{self} is no group: {what} '{list(self)[index]}' {problem}")
        return int(found[0])


# ---- the sets ----


def rotations(n: int | None = None, *, angles: Sequence[float] | None = None) -> TransformSet:
    """The n rotations by multiples of 360°/n, or those by these angles in degrees."""
    if (n is None) == (angles is None):
        raise ValueError(f"rotations takes a number or angles, got n={n} and angles={angles}")
    if n is not None:
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
            raise ValueError(f"rotations: n must be a whole number of at least 1, got {n!r}")
        angles = [360 * k / n for k in range(n)]
    return TransformSet([Factor("rotation", _numbers("rotations: angles", angles, math.radians), 2)])


def reflections(axes: str = "x", *, dims: int = 2) -> TransformSet:
    """The identity and the mirror along x (left-right), or along all combinations of the axes named, of "xyz"."""
    if not axes or any(axis not in "xyz"[:dims] for axis in axes):
        raise ValueError(f"reflections: axes must be some of '{'xyz'[:dims]}', got '{axes}'")
    signs = itertools.product(*((1.0, -1.0) if axis in axes else (1.0,) for axis in "xyz"[:dims]))
    return TransformSet([Factor("reflection", tuple(signs), dims)])


def scales(factors: Sequence[float], *, dims: int = 2) -> TransformSet:
    """Enlargements by these positive factors, of filters of `dims` dimensions; 1 leaves them as they are."""
    values = _numbers("scales", factors)
    if any(v[0] <= 0 for v in values):
        raise ValueError(f"scales must be positive, got {list(factors)}")
    return TransformSet([Factor("scale", values, dims)])


def shears(factors: Sequence[float]) -> TransformSet:
    """x grows by these multiples of y."""
    return TransformSet([Factor("shear", _numbers("shears", factors), 2)])


def dihedral(n: int) -> TransformSet:
    """The n rotations by multiples of 360°/n, then the mirror image of each."""
    return reflections() * rotations(n)


def matrices(values: Sequence[Any] | Tensor) -> TransformSet:
    """Arbitrary invertible d×d matrices [n, d, d], d of 1 to 3; each acts on (x, y, z)[:d]."""
    given = [torch.as_tensor(value, dtype=torch.float64) for value in values]
    side = len(given[0]) if given and given[0].dim() else 0
    if not 1 <= side <= 3 or any(matrix.shape != (side, side) for matrix in given):
        shapes = [list(matrix.shape) for matrix in given]
        raise ValueError(f"matrices takes one or more square matrices of one side of 1 to 3, got shapes {shapes}")
    return TransformSet([Factor("matrix", tuple(tuple(matrix.flatten().tolist()) for matrix in given), side)])


def _numbers(name: str, values: Sequence[float] | None, convert: Any = float) -> tuple[tuple[float, ...], ...]:
    try:
        numbers = tuple((float(convert(v)),) for v in (() if values is None else values))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of numbers, such as [1, 2], got {values!r}") from None
    if not numbers:
        raise ValueError(f"{name}: an empty set of transforms: {values}")
    if not all(math.isfinite(v[0]) for v in numbers):
        raise ValueError(f"{name} must be finite, got {values}")
    return numbers


# ---- geometry ----


def _kernel(kernel_size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    kernel = (kernel_size,) * dims if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(kernel) < dims or any(k < 1 for k in kernel):
        raise ValueError(f"transforms in {dims} dimensions act on filters of as many or more, got kernel size {kernel}")
    return kernel


def _snapped(x: Tensor) -> Tensor:
    """x, exactly whole where it is whole but for rounding."""
    return torch.where((x - x.round()).abs() < _SNAP, x.round(), x)


def _by_axis(matrices: Tensor, dims: int | None = None) -> Tensor:
    """Matrices [T, d, d] on (x, y, z) as ones on the axes of a filter, first axis first, with `dims` axes in all."""
    d = matrices.shape[-1]
    signs = matrices.new_tensor([-1.0] * (d - 1) + [1.0])  # y and z run against their axes
    flipped = matrices.flip(1, 2) * signs[:, None] * signs
    free = (dims or d) - d
    if free == 0:
        return flipped
    above = torch.eye(free, dtype=matrices.dtype, device=matrices.device).expand(len(matrices), free, free)
    return torch.cat(
        [
            torch.cat([above, above.new_zeros(len(matrices), free, d)], 2),
            torch.cat([above.new_zeros(len(matrices), d, free), flipped], 2),
        ],
        1,
    )


def _inverted(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The inverses [T, d, d] and determinants [T] of matrices [T, d, d], d of 1 to 3, by the adjugate: its derivatives
    are right at any order, those of torch.linalg's factorisations are not."""
    columns = matrices.unbind(-1)  # each [T, d]
    if len(columns) == 1:
        adjugate = torch.ones_like(matrices)
    elif len(columns) == 2:
        (a, c), (b, d) = (column.unbind(-1) for column in columns)
        adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    else:
        u, v, w = columns
        cross = torch.linalg.cross
        adjugate = torch.stack([cross(v, w), cross(w, u), cross(u, v)], -2)
    determinants = (adjugate[:, 0] * columns[0]).sum(-1)
    return adjugate / determinants[:, None, None], determinants


def _interpolation(
    matrices: Tensor, kernel: Sequence[int], support: Sequence[int], *, snap: bool
) -> tuple[Tensor, Tensor]:
    """For each row (t, p) the 2ᵈ taps around A⁻¹ p and their weights, of matrices A [T, ·, ·] that act on the last of
    the filter's d axes: two of [T · P, 2ᵈ]. Taps outside the filter have weight 0."""
    device, d = matrices.device, len(kernel)
    inverse, determinant = _inverted(matrices.double())
    grid = torch.meshgrid(*(torch.arange(s, device=device) for s in support), indexing="ij")
    points = torch.stack(grid, -1).flatten(0, -2) - (inverse.new_tensor(support) - 1) / 2  # [P, d] from the centre
    places = points @ _by_axis(inverse, d).transpose(1, 2) + (inverse.new_tensor(kernel) - 1) / 2  # [T, P, d] in taps
    if snap:
        places, determinant = _snapped(places), _snapped(determinant)
    below = places.detach().floor()
    share = places - below  # of the tap above, along each axis
    corners = torch.tensor(list(itertools.product((0, 1), repeat=d)), device=device)  # [2ᵈ, d]
    taps = below.long()[:, :, None] + corners  # [T, P, 2ᵈ, d]
    shares = torch.where(corners.bool(), share[:, :, None], 1 - share[:, :, None])
    weights = math.prod(shares.unbind(-1), start=inverse.new_ones(()))
    size = torch.tensor(list(kernel), device=device)
    inside = ((taps >= 0) & (taps < size)).all(-1)
    pitch = torch.tensor([math.prod(kernel[a + 1 :]) for a in range(d)], device=device)
    columns = (taps.clamp(min=0).minimum(size - 1) * pitch).sum(-1)
    values = weights.masked_fill(~inside, 0) / determinant.abs()[:, None, None]
    return columns.flatten(0, 1), values.flatten(0, 1)


def _on_page(point: Sequence[int], size: Sequence[int]) -> tuple[float, float]:
    """The (x, y) of a tap, from the centre."""
    centred = [p - (s - 1) / 2 for p, s in zip(point, size, strict=True)]
    return centred[-1], -centred[-2] if len(centred) > 1 else 0.0
