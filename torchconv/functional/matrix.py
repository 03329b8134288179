"""Convolutions and locally connected layers as the sparse matrices that they are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from ._arguments import Ints, integer, per_axis
from ._route import overridden
from ._window import Padding, Window, both_sides


def conv_matrix(
    weight: Tensor,
    input_size: int | Sequence[int],
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution, or a locally connected layer, as the sparse matrix it is: ``y.flatten() = A @ x.flatten()``.

    An output's row has at most ``C/groups · K^dims`` entries; those that would meet padding are left out, so a 1-D
    filter of width 3 on n positions, padded by 1, has ``3n − 2`` in all. A convolution's are shared from row to row, a
    locally connected layer's are not. Gradients reach `weight` through the values, once: PyTorch's sparse tensors have
    no second derivatives, nor forward ones.

    Args:
        weight: [O, C/groups, kernel...] of a convolution in 1 to 3 dimensions, or of a locally connected layer in 1 or
            2, [O, C/groups, kernel..., positions...].
        input_size: the input's spatial size: one integer for each axis, or a single one for all.
        stride, padding, dilation, groups: those of ``conv1d`` to ``conv3d``.

    Returns:
        A coalesced sparse COO matrix ``[O · prod(output), C · prod(input)]``; ``.to_sparse_csr()`` makes it CSR.

    Raises:
        RuntimeError: a weight, a size or a window that do not fit each other.

    Example: ``conv_matrix(torch.ones(1, 1, 3), 5, padding=1)`` is banded, with 13 entries.
    """
    name = "conv_matrix"
    if has_torch_function_unary(weight):
        return overridden(name, (weight,), weight, input_size, stride, padding, dilation, groups)
    axes = None if isinstance(input_size, int) else len(input_size)
    dims = axes or (weight.dim() - 2 if weight.dim() in (3, 5) else 1 if weight.dim() == 4 else 2)
    if axes is None and weight.dim() == 4:
        raise RuntimeError(
            f"{name}: a weight of shape {list(weight.shape)} may be a 2-D convolution's or a 1-D locally connected "
            f"layer's: give input_size, {input_size}, as a sequence of one or two"
        )
    local = weight.dim() == 2 + 2 * dims
    if not local and weight.dim() != 2 + dims:
        raise RuntimeError(f"{name}: weight of shape {list(weight.shape)} does not fit input_size={input_size}")
    sizes = per_axis(input_size, dims, "input_size", name, 1)
    kernel = list(weight.shape[2 : 2 + dims])
    steps, gaps = per_axis(stride, dims, "stride", name, 1), per_axis(dilation, dims, "dilation", name, 1)
    window = Window(steps, both_sides(padding, sizes, kernel, steps, gaps, name), gaps, integer(groups, "groups", name))
    outputs = window.output_sides(sizes, kernel)
    if any(n < 1 for n in outputs):
        raise RuntimeError(
            f"{name}: kernel {kernel} with dilation {gaps} is larger than input_size={input_size} with padding "
            f"{window.padding}"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise RuntimeError(f"{name}: groups={groups} does not divide the {weight.shape[0]} output channels")
    if local and list(weight.shape[2 + dims :]) != outputs:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} is for {list(weight.shape[2 + dims :])} positions, "
            f"but input_size={input_size} gives {outputs}"
        )
    # For each axis the pairs (output, tap) whose input is there, then their product over the axes.
    at_out, at_tap, at_in = (torch.zeros(1, dtype=torch.int64) for _ in range(3))
    for n, before, k, s, d, out in zip(sizes, window.padding[::2], kernel, steps, gaps, outputs, strict=True):
        i = torch.arange(out).unsqueeze(1) * s + torch.arange(k) * d - before  # [out, k]
        o, t = ((i >= 0) & (i < n)).nonzero(as_tuple=True)
        at_out = (at_out.unsqueeze(1) * out + o).flatten()
        at_tap = (at_tap.unsqueeze(1) * k + t).flatten()
        at_in = (at_in.unsqueeze(1) * n + i[o, t]).flatten()
    return _assembled(weight, dims, groups, (at_out, at_tap, at_in), math.prod(outputs), math.prod(sizes), local)


def _assembled(
    weight: Tensor,
    dims: int,
    groups: int,
    band: tuple[Tensor, Tensor, Tensor],
    positions: int,
    pixels: int,
    local: bool,
) -> Tensor:
    """The matrix whose blocks, of an output and an input channel, have entries at band = (output, tap, input)."""
    at_out, at_tap, at_in = (t.to(weight.device) for t in band)
    filters, channels = weight.shape[:2]
    o = torch.arange(filters, device=weight.device)[:, None, None]
    c = torch.arange(channels, device=weight.device)[:, None]
    rows = o * positions + at_out + 0 * c  # [O, C/groups, entries]
    columns = (o // (filters // groups) * channels + c) * pixels + at_in
    values = weight.flatten(2)[:, :, at_tap * positions + at_out if local else at_tap]
    indices = torch.stack([rows.flatten(), columns.flatten()])
    shape = (filters * positions, channels * groups * pixels)
    return torch.sparse_coo_tensor(indices, values.flatten(), shape, check_invariants=False).coalesce()
