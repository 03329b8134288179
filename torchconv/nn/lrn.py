"""Local response normalisation as a layer: torch.nn's, calling torchconv.functional."""

from typing import Any

import torch
from torch import Tensor

from .. import functional
from .._calls import OperatorCall, PassCall
from ._layer import Layer


class LocalResponseNorm(Layer, torch.nn.LocalResponseNorm):
    """Each element over a power of the mean square around it, across channels.

    .. math::
        y_c = x_c \\Bigl(k + \\frac{\\alpha}{size}
            \\sum_{j = c - \\lfloor size/2 \\rfloor}^{c + \\lfloor (size-1)/2 \\rfloor} x_j^2\\Bigr)^{-\\beta}

    Args:
        size (int): channels in a window.
        alpha (float): Default: 0.0001
        beta (float): 0.5, 0.75 and 1 are the fast ones. Default: 0.75
        k (float): Default: 1

    Shape:
        - Input: (N, C, *)
        - Output: (N, C, *), the same

    Raises:
        ValueError: an input of fewer than 3 axes.
        RuntimeError: a size below 1.

    Source: torch.nn.LocalResponseNorm, whose signature and results these are.
    """

    def __init__(self, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: Tensor) -> Tensor:
        return functional.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output)]
