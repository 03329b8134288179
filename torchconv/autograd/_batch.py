"""A batch of calls of a convolution's operator as a single one: what their vmap rules share."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

MAPS, FILTERS = "maps", "filters"  # [N, C, *]; weights and biases [O, *]


def into_samples(x: Tensor, at: int | None, size: int) -> Tensor:
    """[N, ...] with or without a batch axis -> [B·N, ...]."""
    return (x.expand(size, *x.shape) if at is None else x.movedim(at, 0)).flatten(0, 1)


def out_of_samples(x: Tensor, size: int) -> Tensor:
    """[B·N, ...] -> [B, N, ...]."""
    return x.unflatten(0, (size, x.shape[0] // size))


def into_channels(x: Tensor, at: int | None, size: int) -> Tensor:
    """[N, C, ...] with or without a batch axis -> [N, B·C, ...]."""
    x = x.unsqueeze(1).expand(x.shape[0], size, *x.shape[1:]) if at is None else x.movedim(at, 1)
    return x.flatten(1, 2)


def as_one(
    call: Callable[..., Any],
    kinds: Sequence[str],
    gives: str,
    info: Any,
    in_dims: tuple,
    args: tuple,
    *,
    before_window: int = 0,
) -> tuple[Any, Any]:
    """vmap's rule: the result of all calls, and its batch axis. They run as one in the samples where they share their
    filters and give maps, else, as what gives filters sums over the samples, in the groups.

    Args:
        call: the operator.
        kinds: what its leading arguments are, tensors or None.
        gives: what its result is, or all of them.
        info, in_dims, args: vmap's. The operator's window starts with stride, padding, dilation and groups.
        before_window: how many arguments stand between the tensors and the window; a sequence is the result's size.
    """
    size, count = info.batch_size, len(kinds)
    tensors = list(zip(kinds, args, in_dims, strict=False))  # (kind, tensor, batch axis)
    rest = list(args[count:])
    if gives == MAPS and all(at is None for kind, _, at in tensors if kind == FILTERS):
        axis = 0
        merged = [into_samples(t, at, size) if kind == MAPS else t for kind, t, at in tensors]
    else:
        axis = 1 if gives == MAPS else 0
        merged = [
            t if t is None else (into_channels if kind == MAPS else into_samples)(t, at, size)
            for kind, t, at in tensors
        ]
        rest[before_window + 3] *= size  # groups
    for i, value in enumerate(rest[:before_window]):
        if isinstance(value, (list, tuple)):
            rest[i] = [n * size if a == axis else n for a, n in enumerate(value)]
    out = call(*merged, *rest)

    def split(t: Tensor) -> Tensor:
        return t.unflatten(axis, (size, t.shape[axis] // size))

    return (tuple(map(split, out)), (axis,) * len(out)) if isinstance(out, tuple) else (split(out), axis)
