"""Local response normalisation with the signature of torch.nn.functional's."""

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from ..autograd.lrn import local_response_norm as _operator
from ._arguments import integer, require_tensors
from ._route import has_kernel, overridden


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalisation: each element over a power of the mean square around it, across channels.

    ``out[n, c, *] = input[n, c, *] / (k + alpha/size · Σ_j input[n, j, *]²)^beta``,
    where j runs from ``c − size//2`` to ``c + (size − 1)//2`` and channels that are not there read 0.

    One pass over memory forward and one back, which keeps the input alone.

    Args:
        input: [N, C, *] with at least one spatial axis; the second axis is always the channels'.
        size: channels in a window, even or odd.
        alpha, beta, k: see above. ``beta`` of 0.5, 0.75 and 1 are the fast ones.

    Returns:
        A tensor of the input's shape, channels-last where the input is.

    Raises:
        ValueError: an input of fewer than 3 axes.
        RuntimeError: a size below 1.

    Source: ``torch.nn.functional.local_response_norm``.
    """
    if has_torch_function_unary(input):
        return overridden("local_response_norm", (input,), input, size, alpha, beta, k)
    require_tensors("local_response_norm", input=input)
    if not has_kernel(input):
        return torch.nn.functional.local_response_norm(input, size, alpha, beta, k)
    if input.dim() < 3:
        raise ValueError(
            f"local_response_norm: expected an input of 3 axes or more, got {input.dim()}: shape {list(input.shape)}"
        )
    size = integer(size, "size", "local_response_norm")
    if size < 1:
        raise RuntimeError(f"local_response_norm: size must be at least 1, got {size}")
    if input.numel() == 0:
        return input
    if input.dim() > 3 and input.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"):
        input = input.float()  # as the 3-D pooling that the built-in goes through
    return _operator(input, size, float(alpha), float(beta), float(k))
