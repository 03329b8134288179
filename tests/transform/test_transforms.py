"""Sets of transforms: what they hold, how they compose, and the maps they make of filters."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchconv.functional as TF
from torchconv import transforms as T
from torchconv.transforms import _inverted

KERNELS = [1, 2, 3, 4, 5, (3, 3), (4, 2), (2, 5), (3, 5)]
W = torch.arange(1.0, 10).view(1, 1, 3, 3)


def copies(weight, transforms):
    """[T, *support] of one filter [*kernel]."""
    return TF.transform_filters(weight[None, None], transforms)[:, 0]


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_quarter_turns_and_mirrors_are_exact_permutations(kernel):
    w = torch.randn(kernel, kernel)
    turns = [w.rot90(k) for k in range(4)]
    assert torch.equal(copies(w, T.rotations(4)), torch.stack(turns))
    assert torch.equal(copies(w, T.rotations(angles=[-90, 450, 720])), torch.stack([turns[3], turns[1], turns[0]]))
    assert torch.equal(copies(w, T.dihedral(4)), torch.stack([*turns, *(turn.flip(1) for turn in turns)]))
    assert torch.equal(copies(w, T.reflections("xy")), torch.stack([w, w.flip(0), w.flip(1), w.flip(0, 1)]))
    for transforms in (T.rotations(4), T.dihedral(4), T.reflections()):
        assert set(transforms.filter_map(kernel).values.tolist()) == {1.0}


@pytest.mark.parametrize("kernel", KERNELS)
def test_mirrors_and_half_turns_of_any_filter(kernel):
    w = torch.randn(kernel if isinstance(kernel, tuple) else (kernel, kernel))
    assert torch.equal(copies(w, T.dihedral(2)), torch.stack([w, w.flip(0, 1), w.flip(1), w.flip(0)]))


def test_one_and_three_dimensions():
    w = torch.randn(4)
    assert torch.equal(copies(w, T.reflections(dims=1)), torch.stack([w, w.flip(0)]))
    w = torch.randn(3, 3, 3)
    around_z = T.matrices([[[0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    assert torch.equal(copies(w, around_z)[0], w.rot90(1, (1, 2)))
    assert torch.equal(copies(w, T.rotations(4)), torch.stack([w.rot90(k, (1, 2)) for k in range(4)]))  # each slice
    assert torch.equal(copies(w, T.reflections("xz", dims=3))[1], w.flip(0))
    assert T.scales([2], dims=3).support((3, 3, 1)) == (5, 5, 1)


def test_interpolation_of_a_linear_function_is_exact():
    """Bilinear interpolation reproduces a·x + b·y + c, inside the filter."""
    at = torch.arange(-4.0, 5).double()
    x, y = at.expand(9, 9), -at[:, None].expand(9, 9)
    w = 2 * x - 3 * y + 5
    for matrix in (*T.rotations(7).matrices, *T.shears([0.5]).matrices):
        out = copies(w, T.matrices([matrix]))[0]
        grown = [(o - 9) // 2 for o in out.shape]
        out = out[grown[0] : grown[0] + 9, grown[1] : grown[1] + 9]
        (a, b), (c, d) = torch.linalg.inv(matrix).tolist()
        u, v = a * x + b * y, c * x + d * y
        inside = (u.abs() <= 4) & (v.abs() <= 4)
        torch.testing.assert_close(out[inside], (2 * u - 3 * v + 5)[inside])


def test_scales_keep_the_response_to_a_scaled_picture():
    w = torch.ones(5, 5).double()
    assert T.scales([1, 1.5, 2]).support(5) == (9, 9)
    assert T.scales([0.5, 1]).support(5) == (5, 5)  # one support for all
    assert torch.equal(copies(w, T.scales([1, 2]))[0, 2:7, 2:7], w)
    assert torch.equal(copies(w, T.scales([2]))[0], torch.full((9, 9), 0.25).double())
    half = copies(w, T.scales([0.5]))[0]
    assert torch.equal(half[1:4, 1:4], torch.full((3, 3), 4.0).double())
    assert half[0].abs().sum() == 0


def test_support():
    assert T.rotations(8).support(3) == (3, 3)
    assert T.rotations(angles=[45]).support(4) == (4, 4)
    assert T.rotations(4).support((3, 5)) == (5, 5)
    assert T.rotations(4).support((3, 4)) == (5, 4)  # each axis keeps its parity, and so its centre
    assert T.shears([1]).support(5) == (5, 7)
    assert T.scales([1, 3]).support(1) == (1, 1)
    assert T.rotations(4).support((7, 3, 3)) == (7, 3, 3)


def test_correspondences():
    eighth = T.rotations(angles=[0, 45]).correspondences(3)
    assert [c for c in eighth if c.transform == "identity"] == [
        ("identity", (i, j), (i, j), 1.0) for i in range(3) for j in range(3)
    ]
    centre = [c for c in eighth if c.transform == "rotate 45°" and c.point == (1, 1)]
    assert [(c.source, c.weight) for c in centre] == [((1, 1), 1.0)]
    # The point above the centre comes from 45° clockwise of it: up and to the right.
    weights = {c.source: c.weight for c in eighth if c.transform == "rotate 45°" and c.point == (0, 1)}
    assert max(weights, key=weights.get) == (0, 2)
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("values", [2, "ab", [None]])
def test_what_are_no_numbers(values):
    with pytest.raises(TypeError, match="must be a sequence of numbers, such as"):
        T.scales(values)


def test_whole_numbers_of_others():
    assert len(T.rotations(torch.arange(5).numpy()[4])) == 4


def test_draw():
    pytest.importorskip("matplotlib").use("Agg")
    figure = T.rotations(6).draw(3)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["identity", "rotate 60°"]
    identity, turned = figure.axes[:2]
    assert not identity.texts  # where nothing moves there is no arrow
    moved = [c for c in T.rotations(6).correspondences(3) if c.transform == "rotate 60°" and c.point != c.source]
    assert len(turned.texts) == len(moved) == 20
    T.scales([1, 2], dims=1).draw(4)
    with pytest.raises(ValueError, match=r"one or two dimensions, got kernel size \(3, 3, 3\)"):
        T.rotations(4).draw((3, 3, 3))


def test_they_print_compose_and_compare():
    transforms = T.scales([1, 1.5]) * T.rotations(angles=[0, 30])
    assert list(transforms) == ["identity", "rotate 30°", "scale 1.5", "scale 1.5 · rotate 30°"]
    assert repr(T.reflections("xy")) == "TransformSet(identity, mirror y, mirror x, mirror x mirror y)"
    assert list(T.matrices([[[1, 0.5], [0, 1]]])) == ["[[1, 0.5], [0, 1]]"]
    assert len(transforms) == 4
    torch.testing.assert_close(transforms.matrices[3], 1.5 * T.rotations(angles=[30]).matrices[0])
    assert T.rotations(4) == T.rotations(angles=[0, 90, 180, 270]) != T.rotations(3)
    assert hash(T.rotations(4)) == hash(T.rotations(angles=[0, 90, 180, 270]))
    assert T.dihedral(4) == T.reflections() * T.rotations(4)
    for other in (copy.deepcopy(transforms), pickle.loads(pickle.dumps(transforms))):
        assert other == transforms
    a, b = T.shears([0.3]), T.rotations(angles=[20])
    torch.testing.assert_close((a * b).matrices[0], a.matrices[0] @ b.matrices[0])


def test_products_and_inverses_of_groups():
    for group in (T.rotations(5), T.dihedral(3), T.dihedral(4), T.reflections("xyz", dims=3)):
        products, inverses = group.products(), group.inverses()
        assert all(sorted(row) == list(range(len(group))) for row in products)
        assert all(products[i][j] == 0 for i, j in enumerate(inverses))
    for none, why in (
        (T.rotations(angles=[0, 90]), "a product with 'rotate 90°' is missing"),
        (T.rotations(angles=[0, 180, 360]), "is there 2 times"),
        (T.scales([1, 2]), "is missing"),
    ):
        with pytest.raises(ValueError, match=f"is no group: .*{why}"):
            none.products()


@given(st.floats(-180, 180), st.floats(0.5, 2), st.floats(-1, 1), st.integers(1, 6), st.integers(1, 6))
def test_any_matrix(angle, scale, shear, height, width):
    """Every tap is the filter's bilinear interpolation at A⁻¹ p, and zero where that is beyond it."""
    transforms = T.rotations(angles=[angle]) * T.scales([scale]) * T.shears([shear])
    w = torch.randn(height, width).double()
    out = copies(w, transforms)[0]
    inverse = torch.linalg.inv(transforms.matrices[0])
    rows, columns = (torch.arange(n).double() - (n - 1) / 2 for n in out.shape)
    y, x = torch.meshgrid(-rows, columns, indexing="ij")
    u, v = (inverse[i, 0] * x + inverse[i, 1] * y for i in range(2))
    i, j = -v + (height - 1) / 2, u + (width - 1) / 2  # row and column
    near_row = (1 - (i[..., None] - torch.arange(height)).abs()).clamp(min=0)
    near_column = (1 - (j[..., None] - torch.arange(width)).abs()).clamp(min=0)
    expected = torch.einsum("...i,...j,ij->...", near_row, near_column, w) / scale**2
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)  # places closer than 1e-9 to a point are the point


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T.rotations(0), "n must be a whole number of at least 1, got 0"),
        (lambda: T.rotations(), "a number or angles, got n=None and angles=None"),
        (lambda: T.rotations(4, angles=[1]), r"got n=4 and angles=\[1\]"),
        (lambda: T.rotations(angles=[]), r"rotations: angles: an empty set of transforms: \[\]"),
        (lambda: T.rotations(angles=[float("nan")]), r"must be finite, got \[nan\]"),
        (lambda: T.rotations("8"), "rotations: n must be a whole number of at least 1, got '8'"),
        (lambda: T.rotations(True), "rotations: n must be a whole number of at least 1, got True"),
        (lambda: T.scales([]), r"scales: an empty set of transforms: \[\]"),
        (lambda: T.scales([1, 0]), r"scales must be positive, got \[1, 0\]"),
        (lambda: T.scales([-1.0]), r"scales must be positive, got \[-1.0\]"),
        (lambda: T.shears([]), "an empty set"),
        (lambda: T.reflections(""), "axes must be some of 'xy', got ''"),
        (lambda: T.reflections("z"), "axes must be some of 'xy', got 'z'"),
        (lambda: T.matrices([]), r"one or more square matrices .* got shapes \[\]"),
        (lambda: T.matrices([[[1, 2, 3], [4, 5, 6]]]), r"got shapes \[\[2, 3\]\]"),
        (lambda: T.matrices([[[1, 2], [2, 4]]]), r"is singular or not finite: matrix \[\[1.0, 2.0\], \[2.0, 4.0\]\]"),
        (lambda: T.matrices([[[1, float("inf")], [0, 1]]]), "singular or not finite"),
        (lambda: T.rotations(4) * T.scales([1], dims=3), "in 2 and in 3 dimensions do not compose"),
        (lambda: T.rotations(4).filter_map((3,)), r"in 2 dimensions act on .* got kernel size \(3,\)"),
        (lambda: T.rotations(4).support(0), r"got kernel size \(0, 0\)"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_inverses_and_their_derivatives(side):
    matrices = torch.randn(4, side, side, dtype=torch.float64) + 2 * torch.eye(side, dtype=torch.float64)
    inverse, determinant = _inverted(matrices)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrices))
    torch.testing.assert_close(determinant, torch.linalg.det(matrices))
    assert torch.autograd.gradgradcheck(_inverted, matrices.requires_grad_(), check_fwd_over_rev=True)


@pytest.mark.parametrize(
    "transforms",
    [
        T.rotations(4),  # on the grid, where shares are 0
        T.rotations(angles=[10, 40]) * T.scales([0.8, 1.3]),
        T.shears([0, 0.4]),
        T.scales([1, 1.5], dims=1),
        T.matrices([[[1, 0.2, 0], [0, 1.1, 0.1], [0.3, 0, 0.9]]]),
    ],
    ids=["grid", "composed", "shears", "one axis", "space"],
)
def test_second_derivatives_of_a_learnable_map(transforms):
    """Each form of the Hessian in the transforms' numbers, against differences of gradients."""
    kernel = (3,) * transforms.dims
    support = transforms.support(kernel)
    names, numbers = zip(*transforms.parameters().items(), strict=True)
    sizes = [n.shape for n in numbers]
    weights = torch.randn(
        transforms.learnable_map(kernel, support, dict(transforms.parameters())).values.shape
    ).double()

    def value(vector):
        parts = vector.split([size.numel() for size in sizes])
        given = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return (transforms.learnable_map(kernel, support, given).values * weights).square().sum()

    at = torch.cat([n.flatten() for n in numbers]) + 1e-3  # off the kinks
    step = 1e-6 * torch.eye(len(at), dtype=at.dtype)
    gradient = torch.func.grad(value)
    expected = torch.stack([(gradient(at + row) - gradient(at - row)) / 2e-6 for row in step])
    forms = [
        torch.func.hessian(value)(at),
        torch.func.jacfwd(torch.func.jacfwd(value))(at),
        torch.func.jacrev(torch.func.jacrev(value))(at),
        torch.autograd.functional.hessian(value, at),
    ]
    for form in forms:
        torch.testing.assert_close(form, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    on_the_grid = torch.func.hessian(value)(at - 1e-3)
    assert torch.isfinite(on_the_grid).all()
