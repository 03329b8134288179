"""Optimisers, their groups of parameters, schedules of the learning rate, and Lookahead."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer, RMSprop

from train.muon import Muon

OPTIMIZERS = ("sgd", "adam", "rmsprop", "muon")


def cosine(progress: float) -> float:
    """Share of the largest learning rate at ``progress`` 0..1: from 1 to 0 along half a cosine wave."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float, warm: float = 0.3, start: float = 0.04) -> float:
    """Like `cosine`, after a rise from ``start`` to 1 over the first ``warm`` of all steps. Smith and Topin, 2017."""
    if progress < warm:
        return start + (1 - start) * (1 - cosine(progress / warm))
    return cosine((progress - warm) / (1 - warm))


def triangle(progress: float, warm: float = 0.23, start: float = 0.2, end: float = 0.07) -> float:
    """Straight up from ``start`` to 1 over the first ``warm`` of all steps, then straight down to ``end``."""
    if progress < warm:
        return start + (1 - start) * progress / warm
    return 1 - (1 - end) * (progress - warm) / (1 - warm)


BY_STEP: dict[str, Callable[[float], float]] = {"cosine": cosine, "onecycle": one_cycle, "triangle": triangle}
SCHEDULES = ("constant", "plateau", *BY_STEP)


def parameter_groups(
    network: nn.Module, lr: float, weight_decay: float, norm_lr: float, decay_all: bool
) -> list[dict[str, Any]]:
    """Weights, biases, and parameters of batch norms, the last with ``norm_lr`` times the learning rate.

    Only the weights decay, or all by the same share a step, whatever their learning rate. What is fixed is in no group.
    """
    norms = {p for module in network.modules() if isinstance(module, _BatchNorm) for p in module.parameters(False)}
    kinds: dict[str, list[nn.Parameter]] = {"weight": [], "bias": [], "norm": []}
    for parameter in network.parameters():
        if parameter.requires_grad:
            kinds["norm" if parameter in norms else "weight" if parameter.ndim > 1 else "bias"].append(parameter)
    decay = weight_decay if decay_all else 0.0
    groups = [
        {"params": kinds["weight"], "lr": lr, "weight_decay": weight_decay},
        {"params": kinds["bias"], "lr": lr, "weight_decay": decay},
        {"params": kinds["norm"], "lr": lr * norm_lr, "weight_decay": decay / norm_lr},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(name: str, groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> Optimizer:
    """The named optimiser; ``momentum`` is of all but adam, ``nesterov`` of sgd.

    Of the first group's weights muon leaves the last, the last layer's, to its SGD.
    """
    if name == "sgd":
        return SGD(groups, momentum=momentum, nesterov=nesterov)
    if name == "rmsprop":
        return RMSprop(groups, momentum=momentum)
    if name == "muon":
        weights, *others = groups
        *hidden, last = weights["params"]
        return Muon({**weights, "params": hidden}, [{**weights, "params": [last]}, *others], momentum)
    return Adam(groups)


class Lookahead(Callback):
    """Every ``every`` steps the network is drawn back to a slow average of itself.

    With progress p from 0 to 1, slow ← d · slow + (1 − d) · network and network ← slow, where d = 0.95^every · p³: free
    to move at first, held more and more. The training ends on the slow average. Running statistics take part.
    Source: Zhang et al., Lookahead Optimizer, 2019; the growing d is hlb-CIFAR10's.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.slow: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.slow = state_dict["slow"]

    @staticmethod
    def _fast(module: LightningModule) -> dict[str, Tensor]:
        state = cast(nn.Module, module.network).state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fast = self._fast(pl_module)
        self.slow = {name: self.slow.get(name, value).to(value, copy=True) for name, value in fast.items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        steps, step = trainer.estimated_stepping_batches, trainer.global_step
        if step >= steps:
            self.follow(pl_module, 1.0)
        elif step % self.every == 0:
            self.follow(pl_module, 0.95**self.every * (step / steps) ** 3)

    @torch.no_grad()
    def follow(self, module: LightningModule, decay: float) -> None:
        """The slow average keeps ``decay`` of itself, and the network becomes it."""
        for name, fast in self._fast(module).items():
            fast.copy_(self.slow[name].lerp_(fast, 1 - decay))
