"""The batch norm of a torch.nn layer by this package's function, which has its derivatives of every order right."""

from typing import Any

from torch import Tensor

from .. import functional


def normalise(x: Tensor, norm: Any, activation: str | None) -> Tensor:
    """What torch.nn's batch norm `norm` does, and then `activation`."""
    norm._check_input_dim(x)
    update, momentum = norm.training and norm.track_running_stats, norm.momentum
    if update and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
    used = update or not norm.training
    return functional.batch_norm(
        x,
        norm.running_mean if used else None,
        norm.running_var if used else None,
        norm.weight,
        norm.bias,
        norm.training or (norm.running_mean is None and norm.running_var is None),
        momentum or 0.0,
        norm.eps,
        activation=activation,
    )
