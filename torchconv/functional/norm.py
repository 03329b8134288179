"""Batch normalisation with the signature of torch.nn.functional, plus the ReLU that follows it."""

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..autograd.norm import batch_norm_followed
from ._route import has_kernel, overridden


def _check_vectors(input: Tensor, **vectors: Tensor | None) -> None:
    """Raises unless vectors have an element a channel, and are of the input's dtype, or float32 beside bfloat16.

    The built-in refuses some of these from inside. A weight or a bias may have further axes of size 1 there.
    """
    dtypes = {t.dtype for t in vectors.values() if t is not None}
    alike = not dtypes - {input.dtype} or (input.dtype == torch.bfloat16 and dtypes == {torch.float32})
    for name, t in vectors.items():
        if t is None:
            continue
        if t.numel() != input.shape[1] or (t.dim() != 1 and name.startswith("running")):
            raise RuntimeError(
                f"batch_norm: {name} should contain {input.shape[1]} elements not {t.numel()}: expected shape "
                f"[{input.shape[1]}] for an input of shape {list(input.shape)}, got {list(t.shape)}"
            )
        if not alike:
            raise RuntimeError(
                f"batch_norm: {name} of {t.dtype} beside an input of {input.dtype}: expected all of running_mean, "
                "running_var, weight and bias of the input's dtype, or float32 beside a bfloat16 input"
            )


def _flat(t: Tensor | None) -> Tensor | None:
    return t if t is None or t.dim() == 1 else t.reshape(-1)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Tensor:
    """Normalises each channel: ``y = (x − μ) / √(σ² + ε) · γ + β``, and with ``activation="relu"`` ``max(0, y)``.

    In training μ and σ² are the batch's, and the running statistics move towards them (the variance unbiased); the
    ReLU costs no pass over memory in either direction, and no output is kept for the backward. In evaluation it is
    PyTorch's.

    Args:
        input: (N, C, *), of 0 to 3 further axes.
        running_mean, running_var: (C), changed in place in training; or None.
        weight, bias: γ and β, (C) or None.
        training: whether the statistics are the batch's.
        momentum: share of the batch's statistics in the running ones' new values.
        eps: ε.
        activation: None or "relu".

    Returns:
        A tensor of the input's shape and memory format.

    Raises:
        ValueError: another activation; in training, one value a channel.
        RuntimeError: parameters or running statistics of another length than C, or of dtypes that do not go together.

    Source: torch.nn.functional.batch_norm, whose signature and results these are; Ioffe and Szegedy, 2015.
    """
    operands = (input, running_mean, running_var, weight, bias)
    if has_torch_function_variadic(*operands):
        return overridden("batch_norm", operands, *operands, training, momentum, eps, activation=activation)
    if activation not in (None, "relu"):
        raise ValueError(f"batch_norm: activation must be None or 'relu', got {activation!r}")
    here = input.dim() >= 2 and has_kernel(input)
    if here:
        _check_vectors(input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
        weight, bias = _flat(weight), _flat(bias)
        if input.shape[1] == 0:  # of an empty input the built-in looks at the first weight
            weight = bias = None
    # The rest the built-in refuses in words of its own.
    here = here and input.dim() <= 5 and has_kernel(*operands)
    here = here and eps > 0 and (running_mean is None) == (running_var is None)
    # Of one value a channel the built-in says what is wrong.
    if not training or not here or input.numel() <= input.shape[1]:
        out = torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return out if activation is None else out.relu()
    n = input.numel() // input.shape[1]

    def follow(mean: Tensor, var: Tensor) -> None:
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * (n / (n - 1))).to(running_var.dtype), momentum)

    return batch_norm_followed(follow, input, weight, bias, eps, activation is not None)
