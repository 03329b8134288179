"""The sparse map on filters and its transpose, against the dense matrix: filters of one register, two and more."""

import pytest
import torch

from torchconv import ops  # noqa: F401  (registers the operators)

# A sum has up to 36 · 3 terms of about 1: some tens of half units in the last place of the accumulator, and one of
# bfloat16 where the result is stored.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-3}


def sparse(rows, columns):
    """A random matrix with rows, and columns, of no entry among it, and its pointers, columns and values."""
    matrix = torch.where(torch.rand(rows, columns) < 0.25, torch.randn(rows, columns), 0)
    entries = matrix.nonzero()
    pointers = torch.cat([torch.zeros(1, dtype=torch.long), (matrix != 0).sum(1).cumsum(0)])
    return matrix, pointers, entries[:, 1].contiguous(), matrix[matrix != 0]


@pytest.mark.parametrize("kernel", [(1,), (2, 2), (3, 3), (4, 4), (5, 5), (3, 6), (6, 6)], ids=str)
@pytest.mark.parametrize("out_kernel", [(2,), (3, 3), (5, 5), (2, 3, 6)], ids=str)
@pytest.mark.parametrize(("filters", "channels"), [(1, 1), (2, 17), (5, 3)])
@pytest.mark.parametrize("dtype", LIMITS)
def test_is_the_matrix(kernel, out_kernel, filters, channels, dtype):
    torch.manual_seed(0)
    transforms, taps, out_taps = 3, torch.Size(kernel).numel(), torch.Size(out_kernel).numel()
    matrix, pointers, columns, values = sparse(transforms * out_taps, taps)
    matrix = matrix.to(dtype).double().view(transforms, out_taps, taps)
    weight = torch.randn(filters, channels, *kernel).to(dtype)
    grad = torch.randn(filters * transforms, channels, *out_kernel).to(dtype)
    copies = torch.ops.torchconv.transform_filters(weight, pointers, columns, values.to(dtype), out_kernel)
    back = torch.ops.torchconv.transform_filters_transpose(grad, pointers, columns, values.to(dtype), kernel)
    expected = torch.einsum("tpq,dcq->dtcp", matrix, weight.double().flatten(2)).reshape(grad.shape)
    of_weight = torch.einsum(
        "tpq,dtcp->dcq", matrix, grad.double().reshape(filters, transforms, channels, out_taps)
    ).reshape(weight.shape)
    for found, exact in ((copies, expected), (back, of_weight)):
        assert (found.double() - exact).abs().max() <= LIMITS[dtype] * (1 + exact.abs().max())


def test_an_entry_that_is_not_there_does_not_spread_an_infinity():
    """Two taps, the first transformed by the second alone: the other must not reach it, not even as 0 · ∞."""
    pointers, columns, values = torch.tensor([0, 1, 3]), torch.tensor([1, 0, 1]), torch.ones(3)
    weight = torch.tensor([[[torch.inf, 2.0]]])
    out = torch.ops.torchconv.transform_filters(weight, pointers, columns, values, [2])
    assert out.flatten().tolist() == [2.0, torch.inf]
    grad = torch.tensor([[[3.0, torch.inf]]])
    back = torch.ops.torchconv.transform_filters_transpose(grad, pointers, columns, values, [2])
    assert back.flatten().tolist() == [torch.inf, torch.inf]
    back = torch.ops.torchconv.transform_filters_transpose(grad.flip(2), pointers, columns, values, [2])
    assert back.flatten().tolist() == [3.0, torch.inf]
