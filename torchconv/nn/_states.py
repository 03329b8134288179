"""Whether tensors are what they were when something was made of them.

Each is compared by the memory that it is in, shape, strides and dtype, by its version, which operations in place move
on, and by some of its elements, for there are writers that move no version (``.data``, collectives, batch norm's
statistics, numpy).
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_version = attrgetter("_version")
_states = torch.ops.torchconv._states.default._op  # the operator, less two calls in Python
_same_states = torch.ops.torchconv._same_states.default._op


class States(NamedTuple):
    """What some tensors were. None among them counts as no tensor."""

    versions: list[int]
    states: Tensor  # the rest, as bytes
    aliases: list[Tensor]  # hold the memory, so that none is mistaken for another

    @staticmethod
    def of(tensors: Iterable[Tensor | None]) -> "States | None":
        """None where one has no state: it has no version, since it was made under inference_mode, or no memory."""
        some = [t for t in tensors if t is not None]
        try:
            return States([*map(_version, some)], _states(some), [t.detach() for t in some])
        except RuntimeError:
            return None

    def hold(self, tensors: Iterable[Tensor | None]) -> bool:
        """Whether the tensors are what they were."""
        some = [t for t in tensors if t is not None]
        try:
            return [*map(_version, some)] == self.versions and _same_states(some, self.states)
        except RuntimeError:
            return False


def _stepped(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """A fused optimizer moves no version of what it writes."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version(group["params"])


register_optimizer_step_post_hook(_stepped)
