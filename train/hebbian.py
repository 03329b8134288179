"""Hebb's rule: S-planes that learn without labels, by what their cells answer to most.

Source: Fukushima, Neocognitron, 1980, section 3.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import Sequential

from train.errors import InputError
from train.networks.neocognitron import SPlanes


@torch.no_grad()
def begin(planes: SPlanes, x: Tensor) -> None:
    """Makes of each filter a patch of ``x`` [B, in_planes, H, W] at random, the stronger the likelier.

    A random filter would be no patch's best, and so would never learn.
    """
    weight = planes.conv.weight
    patches = _patches(planes, x).transpose(1, 2).flatten(0, 1)  # [B·L, in_planes·side²]
    strength = patches.square().sum(1).add(1e-12)  # so that blank ones are there where others are too few
    chosen = torch.multinomial(strength, len(weight), replacement=len(strength) < len(weight))
    weight.copy_(F.normalize(patches[chosen], dim=1).view_as(weight))


@torch.no_grad()
def learn(planes: SPlanes, x: Tensor, rate: float) -> None:
    """One step of Hebb's rule on the input ``x`` [B, in_planes, H, W] of the ``planes``.

    At each position the plane of the largest S wins, if it is above 0. Of each image, a plane's winner of the largest S
    moves the plane's filter: w ← (w + rate · Σ p / |p|) / |w + rate · Σ p / |p||, p being the patches that the winners
    saw. The weights are shared, so that the whole plane learns what one cell has.
    """
    answers = planes(x).flatten(2)  # [B, K, L]
    largest, plane = answers.max(1, keepdim=True)
    won, place = torch.zeros_like(answers).scatter_(1, plane, largest).max(2)  # [B, K]
    patches = _patches(planes, x)  # [B, in_planes·side², L]
    seen = patches.gather(2, place[:, None].expand(-1, patches.shape[1], -1))  # [B, in_planes·side², K]
    moves = (F.normalize(seen, dim=1) * (won > 0)[:, None]).sum(0).t()
    weight = planes.conv.weight
    weight.copy_(F.normalize(weight.flatten(1) + rate * moves, dim=1).view_as(weight))


def _patches(planes: SPlanes, x: Tensor) -> Tensor:
    """What each cell of a plane sees: [B, in_planes·side², L]."""
    return F.unfold(x, cast(Any, planes.conv.kernel_size))


class Hebbian(Callback):
    """S-planes learn by Hebb's rule, module by module, and by no gradient: only what is above them learns by that.

    Args:
        epochs: For which each module learns, the first from the start, each other one after that before it.
        rate: By how much a filter, of length 1, moves to a patch, of length 1.

    Raises:
        InputError: a network without S-planes, or several processes, in which filters would become different ones.
    """

    def __init__(self, epochs: PositiveInt = 3, rate: PositiveFloat = 0.1) -> None:
        self.epochs, self.rate = int(epochs), float(rate)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.network = cast(Sequential, pl_module.network)
        self.places = [place for place, layer in enumerate(self.network.children()) if isinstance(layer, SPlanes)]
        if not self.places:
            name = cast(dict[str, Any], pl_module.network_args)["name"]
            raise InputError(f"Hebb's rule is for S-planes, but model '{name}' has none: give neocognitron")
        if trainer.world_size > 1:
            raise InputError(f"Hebb's rule takes one process, not {trainer.world_size}")
        for place in self.places:
            cast(SPlanes, self.network[place]).conv.weight.requires_grad_(False)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        module, epoch = divmod(trainer.current_epoch, self.epochs)
        if module >= len(self.places):
            return
        place = self.places[module]
        planes = cast(SPlanes, self.network[place])
        with torch.no_grad():
            x = self.network[:place](batch[0])
        if epoch == batch_idx == 0:
            begin(planes, x)
        learn(planes, x, self.rate)
