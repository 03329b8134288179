"""conv_matrix: a convolution and a locally connected layer as the matrices they are, and what follows from that."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from shapes import CASES, case
from suite import examples

import torchconv
from torchconv import functional as ours

CONV = {1: ours.conv1d, 2: ours.conv2d, 3: ours.conv3d}
SMALL = [c for c in CASES if max(c.input[1:]) <= 16 and c.weight[0] < 20 and min(c.flat_padding) >= 0]


def random(*size) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64)


def options(c) -> dict:
    return dict(stride=c.stride, padding=c.padding, dilation=c.dilation, groups=c.groups)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("c", SMALL, ids=str)
def test_it_is_the_convolution(c) -> None:
    x, w = random(1, *c.input[1:]), random(*c.weight)
    matrix = torchconv.conv_matrix(w, c.input[2:], **options(c))
    y = CONV[c.dims](x, w, **options(c))
    assert matrix.shape == (y.numel(), x.numel())
    torch.testing.assert_close(matrix @ x.flatten(), y.flatten())
    torch.testing.assert_close(matrix.to_sparse_csr() @ x.flatten(), y.flatten())


@pytest.mark.parametrize(
    "c",
    [
        case("1d", (1, 4, 9), (6, 2, 3), stride=2, padding=((2, 1),), groups=2),
        case("2d", (1, 2, 5, 6), (3, 2, 3, 2), stride=(1, 2), padding=1, dilation=(1, 2)),
    ],
    ids=str,
)
def test_it_is_the_locally_connected_layer(c) -> None:
    x, w = random(1, *c.input[1:]), random(*c.weight, *c.output[2:])
    y = (ours.local_conv1d if c.dims == 1 else ours.local_conv2d)(x, w, **options(c))
    matrix = torchconv.conv_matrix(w, c.input[2:], **options(c))
    torch.testing.assert_close(matrix @ x.flatten(), y.flatten())


@examples(80)
@given(st.data(), st.integers(1, 3), st.booleans())
def test_property(data, dims, local) -> None:
    """Any window: the product, and the gradients of filters and input, are the operator's."""
    local = local and dims < 3
    draw = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    groups, (ins, outs) = data.draw(st.integers(1, 2)), data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = tuple(zip(draw(0, 2), draw(0, 2), strict=True))
    c = case(
        "", (1, ins * groups, *draw(1, 6)), (outs * groups, ins, *draw(1, 3)), draw(1, 3), padding, draw(1, 2), groups
    )
    if min(c.output[2:]) < 1:
        with pytest.raises(RuntimeError, match="is larger than input_size"):
            torchconv.conv_matrix(random(*c.weight), c.input[2:], **options(c))
        return
    x = random(*c.input).requires_grad_()
    w = random(*c.weight, *(c.output[2:] if local else ())).requires_grad_()
    operator = {1: ours.local_conv1d, 2: ours.local_conv2d}[dims] if local else CONV[dims]
    y = operator(x, w, **options(c))
    product = torchconv.conv_matrix(w, c.input[2:], **options(c)) @ x.flatten()
    torch.testing.assert_close(product.reshape(y.shape), y, rtol=1e-12, atol=1e-12)
    g = random(*y.shape)
    grads = zip(torch.autograd.grad(product, (x, w), g.flatten()), torch.autograd.grad(y, (x, w), g), strict=True)
    for mine, theirs in grads:
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_band_of_width_3(n: int) -> None:
    """3n − 2 entries either way: of 3 shared weights, or of as many as there are entries."""
    shared = torchconv.conv_matrix(torch.tensor([[[1.0, 2.0, 3.0]]]), n, padding=1)
    assert shared._nnz() == 3 * n - 2
    assert shared.values().unique().numel() == min(2 * n - 1, 3)
    i = torch.arange(n)
    assert not shared.to_dense()[(i[:, None] - i).abs() > 1].any()
    unshared = torchconv.conv_matrix(torch.arange(1.0, 3 * n + 1).reshape(1, 1, 3, n), (n,), padding=1)
    assert unshared._nnz() == 3 * n - 2
    assert unshared.values().unique().numel() == 3 * n - 2


def test_the_transpose_is_the_transposed_convolution() -> None:
    w, y = random(4, 3, 3, 3), random(1, 4, 4, 3)
    matrix = torchconv.conv_matrix(w, (8, 6), stride=2, padding=1)
    x = ours.conv_transpose2d(y, w, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(matrix.t() @ y.flatten(), x.flatten())


def test_gradients_reach_the_filters() -> None:
    w, x = random(2, 2, 3).requires_grad_(), random(2, 6)
    function = lambda w: torch.sparse.mm(torchconv.conv_matrix(w, 6, padding=1), x.reshape(-1, 1))  # noqa: E731
    assert torch.autograd.gradcheck(function, w)
    (mine,) = torch.autograd.grad(function(w).pow(2).sum(), w)
    (expected,) = torch.autograd.grad(ours.conv1d(x, w, padding=1).pow(2).sum(), w)
    torch.testing.assert_close(mine, expected)


def test_what_a_sparse_matrix_can_be_asked() -> None:
    """The product's transforms and export; a second derivative through the matrix is refused, not wrong."""
    w, x = random(2, 2, 3), random(5, 12)
    product = lambda w, x: torchconv.conv_matrix(w, 6, padding=1) @ x  # noqa: E731
    y = ours.conv1d(x.unflatten(1, (2, 6)), w, padding=1).flatten(1)
    torch.testing.assert_close(torch.func.vmap(lambda x: product(w, x))(x), y)
    mine, theirs = (
        torch.func.grad(lambda w, f=f: f(w).pow(2).sum())(w)
        for f in (lambda w: product(w, x[0]), lambda w: ours.conv1d(x[0].reshape(2, 6), w, padding=1))
    )
    torch.testing.assert_close(mine, theirs)

    class Dense(torch.nn.Module):
        def forward(self, w):
            return torchconv.conv_matrix(w, 6, padding=1).to_dense()

    program = torch.export.export(Dense(), (w,))
    torch.testing.assert_close(program.module()(2 * w), Dense()(2 * w))
    w.requires_grad_()
    (once,) = torch.autograd.grad(product(w, x[0]).sum(), w, create_graph=True)
    assert not once.requires_grad


def test_bad_inputs() -> None:
    for weight, size, keywords, message in (
        ((1, 1, 5), 3, {}, r"kernel \[5\] with dilation \[1\] is larger than input_size=3"),
        ((1, 1, 3, 3), 5, {}, "give input_size, 5, as a sequence"),
        ((1, 1, 3, 5), (6,), dict(padding=1), r"is for \[5\] positions, but input_size=\(6,\) gives \[6\]"),
        ((1, 1, 3), (6, 6), {}, r"weight of shape \[1, 1, 3\] does not fit input_size=\(6, 6\)"),
        ((3, 1, 3), 6, dict(groups=2), "groups=2 does not divide the 3 output channels"),
        ((3, 1, 3), 6, dict(stride=0), "stride must be at least 1, got 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torchconv.conv_matrix(torch.randn(weight), size, **keywords)


# ---- worked examples ----


def test_worked_examples() -> None:
    image = torch.tensor([[int(c) for c in row] for row in "11100/01110/00111/00110/01100".split("/")]).float()
    filter = torch.tensor([[int(c) for c in row] for row in "101/010/101".split("/")]).float()
    expected = torch.tensor([[4.0, 3, 4], [2, 4, 3], [2, 3, 4]])
    assert torch.equal(ours.conv2d(image[None], filter[None, None])[0], expected)
    assert torch.equal(ours.conv2d(image[None], filter[None, None], stride=2)[0], torch.tensor([[4.0, 4], [2, 4]]))
    matrix = torchconv.conv_matrix(filter[None, None], (5, 5))
    assert torch.equal(matrix @ image.flatten(), expected.flatten())
    x, theta = torch.tensor([1.0, 1, 1, 0, 0]), torch.tensor([1.0, 0, 1])
    assert torch.equal(ours.conv1d(x[None], theta[None, None])[0], torch.tensor([2.0, 1, 1]))


@pytest.mark.parametrize(
    ("rows", "on_constant", "scale"),
    [
        ("1 0 -1/0 0 0/-1 0 1", 0, 1),
        ("0 1 0/1 -4 1/0 1 0", 0, 1),
        ("-1 -1 -1/-1 8 -1/-1 -1 -1", 0, 1),
        ("0 -1 0/-1 5 -1/0 -1 0", 1, 1),
        ("1 1 1/1 1 1/1 1 1", 1, 9),
        ("1 2 1/2 4 2/1 2 1", 1, 16),
    ],
    ids=["edges", "laplace", "outline", "sharpen", "box_blur", "gaussian_blur"],
)
def test_hand_made_filters(rows: str, on_constant: float, scale: float) -> None:
    """What they make of a constant picture, and of one point, which gives the filter back, turned round."""
    kernel = torch.tensor([[float(v) for v in row.split()] for row in rows.split("/")]) / scale
    y = ours.conv2d(torch.full((1, 5, 5), 3.0), kernel[None, None])
    torch.testing.assert_close(y, torch.full((1, 3, 3), 3.0 * on_constant))
    point = F.pad(torch.ones(1, 1, 1), (2, 2, 2, 2))
    assert torch.equal(ours.conv2d(point, kernel[None, None])[0], kernel.flip(0, 1))


def test_two_convolutions_in_a_row_are_one() -> None:
    """3×3 and 3×3 with nothing between are a 5×5: the matrices' product is the matrix of the filters' product."""
    first, second = random(4, 2, 3, 3), random(3, 4, 3, 3)
    x = random(1, 2, 9, 8)
    y = ours.conv2d(ours.conv2d(x, first), second)
    product = torch.sparse.mm(torchconv.conv_matrix(second, (7, 6)), torchconv.conv_matrix(first, (9, 8)))
    torch.testing.assert_close(product @ x.flatten(), y.flatten())
    # The filters' product is the full convolution of one with the other, turned round.
    one = F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=2).transpose(0, 1)
    torch.testing.assert_close(ours.conv2d(x, one), y)
    torch.testing.assert_close(product.to_dense(), torchconv.conv_matrix(one, (9, 8)).to_dense())


def test_a_scanned_perceptron_is_a_convolution_and_then_1x1() -> None:
    x, first, second = random(1, 3, 7, 8), random(5, 27), random(2, 5)
    y = ours.conv2d(ours.conv2d(x, first.reshape(5, 3, 3, 3)).relu(), second[..., None, None])
    patch = x[0, :, 2:5, 4:7].flatten()
    torch.testing.assert_close(y[0, :, 2, 4], second @ (first @ patch).relu())
