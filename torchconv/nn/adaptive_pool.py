"""Adaptive pooling layers: torch.nn's, calling torchconv.functional. Source: torch/nn/modules/pooling.py."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import functional
from .._calls import OperatorCall, PassCall
from ._layer import Layer

# Arguments are torch.nn's, written out for editors, which find no others.
Sides: TypeAlias = int | tuple[int | None, ...] | None


class _AdaptiveMaxPool(Layer):
    _functional: Callable[..., Any]

    def __init__(self: Any, output_size: Sides, return_indices: bool = False) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[call-arg]

    def forward(self: Any, input: Tensor) -> Any:
        """Pools `input`; the result is a pair (output, indices) where return_indices was asked for."""
        return self._functional(input, self.output_size, self.return_indices)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output, rounds="not", keeps_positions=True)]


class _AdaptiveAvgPool(Layer):
    _functional: Callable[..., Any]

    def __init__(self: Any, output_size: Sides) -> None:
        super().__init__(output_size)  # type: ignore[call-arg]

    def forward(self: Any, input: Tensor) -> Tensor:
        return self._functional(input, self.output_size)

    def _operator_calls(self, given: Tensor, output: Any) -> list[OperatorCall]:
        return [PassCall.of(given, output)]


class AdaptiveMaxPool1d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool1d):
    """1-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size, return_indices: those of AdaptiveMaxPool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as AdaptiveMaxPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveMaxPool2d does.

    Source: torch.nn.AdaptiveMaxPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool2d):
    """2-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size (int, None or tuple): side of the output; None keeps the input's.
        return_indices (bool): also return where in its map each output came from. Default: False

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), the output_size asked for

    Raises:
        RuntimeError: an input or a window that torchconv.functional.adaptive_max_pool2d refuses.

    Source: torch.nn.AdaptiveMaxPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool3d):
    """3-D max pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size, return_indices: those of AdaptiveMaxPool2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as AdaptiveMaxPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveMaxPool2d does.

    Source: torch.nn.AdaptiveMaxPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_max_pool3d)


class AdaptiveAvgPool1d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool1d):
    """1-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size: those of AdaptiveAvgPool2d; a tuple has one number for each of the axes (L).

    Shape:
        - Input: (N, C, L) or (C, L)
        - Output: as many axes; sides as AdaptiveAvgPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveAvgPool2d does.

    Source: torch.nn.AdaptiveAvgPool1d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool2d):
    """2-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size (int, None or tuple): side of the output; None keeps the input's.

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, C, H_out, W_out) or (C, H_out, W_out), the output_size asked for

    Raises:
        RuntimeError: an input or a window that torchconv.functional.adaptive_avg_pool2d refuses.

    Source: torch.nn.AdaptiveAvgPool2d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool3d):
    """3-D mean pooling to a given output side: window i runs from floor(i size / out) to ceil((i+1) size / out).

    Args:
        output_size: those of AdaptiveAvgPool2d; a tuple has one number for each of the axes (D, H, W).

    Shape:
        - Input: (N, C, D, H, W) or (C, D, H, W)
        - Output: as many axes; sides as AdaptiveAvgPool2d's

    Raises:
        ValueError, RuntimeError: where AdaptiveAvgPool2d does.

    Source: torch.nn.AdaptiveAvgPool3d, whose signature and results these are.
    """

    _functional = staticmethod(functional.adaptive_avg_pool3d)
