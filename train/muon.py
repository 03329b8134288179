"""Muon: steps of hidden layers' weights that are made orthogonal, and SGD for the rest.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

QUINTIC = 3.4445, -4.7750, 2.0315  # of the iteration: steep at zero, so that few steps do


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U·Vᵀ of the singular value decomposition of ``matrix`` [m, n]: singular values of some 0.7 to 1.2.

    Newton and Schulz's iteration X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, from X = matrix / its norm. It is done in the
    matrix's own type: torch.optim.Muon's bfloat16 takes twenty times as long on processors that have none.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(SGD):
    """SGD with Nesterov's momentum, whose steps of the ``hidden`` weights [out, ...] are orthogonal.

    Of such a weight, v ← momentum · v + gradient; its ``grad`` becomes the orthogonalised gradient + momentum · v, as
    a matrix [out, in], times the root of out / in where that is more than 1; and SGD takes the step.
    """

    def __init__(self, hidden: dict[str, Any], others: list[dict[str, Any]], momentum: float) -> None:
        # To SGD these have no momentum: it is in what they are told is the gradient.
        hidden = {**hidden, "momentum": 0.0, "nesterov": False, "orthogonal": momentum}
        super().__init__([hidden, *others], momentum=momentum, nesterov=momentum > 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "orthogonal" in group:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._orthogonalise(parameter, group["orthogonal"])
        super().step()
        return loss

    def _orthogonalise(self, parameter: Tensor, momentum: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        velocity = state["momentum_buffer"].mul_(momentum).add_(gradient)
        matrix = gradient.add(velocity, alpha=momentum).flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        gradient.copy_(scale * orthogonalised(matrix).reshape(gradient.shape))
