"""Depth-wise separable convolution: a filter for each map, then weightings across maps."""

from typing import Any

import torch
from torch import Tensor

from .conv import Conv2d


class DepthwiseSeparableConv2d(torch.nn.Module):
    """2-D convolution in two stages: each map with a filter of its own, then weighted sums of the maps.

    .. math::
        u[b, p, i] = \\sum_k v[p, k] \\, x[b, p, stride \\cdot i + dilation \\cdot k - padding], \\qquad
        y[b, s, i] = bias[s] + \\sum_p w[s, p] \\, u[b, p, i]

    where :math:`i` and :math:`k` run over both spatial axes. With M input maps, N output maps and filters of K × K that
    is :math:`N M + M K^2` weights where torchconv.nn.Conv2d has :math:`N M K^2`: the convolutions whose filters are
    :math:`w[s, p] \\, v[p, k]`.

    Args:
        in_channels (int): number of input maps, M.
        out_channels (int): number of output maps, N.
        kernel_size (int or tuple): side of the filters, K.
        stride, padding, dilation, padding_mode: of the first stage, as torchconv.nn.Conv2d's, defaults included.
        bias (bool): whether each output map has a learned bias; between the stages there is none, since the second
            would only add its weighted sum to the output's. Default: True
        device, dtype: of the parameters.
        algorithm (str): 'auto', or the one that all directions of the first stage must take. Default: 'auto'

    Shape:
        - Input: (N, C_in, H, W) or (C_in, H, W)
        - Output: (N, C_out, H_out, W_out) or (C_out, H_out, W_out), each side
          :math:`\\lfloor (size + before + after - dilation (kernel\\_size - 1) - 1) / stride \\rfloor + 1`

    Attributes:
        depthwise (Conv2d): the first stage, weight (in_channels, 1, *kernel_size), no bias.
        pointwise (Conv2d): the second stage, weight (out_channels, in_channels, 1, 1), bias (out_channels,) or None.

    Raises:
        ValueError: an argument that torchconv.nn.Conv2d refuses.
        RuntimeError: an input that torchconv.nn.Conv2d refuses.

    Source: Sifre, "Rigid-motion scattering for image classification" (2014); Howard et al., "MobileNets" (2017), less
    the batch norm and activation between the stages.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels,
            False,
            padding_mode,
            device,
            dtype,
            algorithm=algorithm,
        )
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Both stages, one after the other."""
        return self.pointwise(self.depthwise(input))
