"""Local response normalisation as autograd Functions.

With W the sum over a channel's window, Wᵀ its transpose, ``s = k + α/size · W(x²)``, ``c = 2αβ/size``:

    y = x · s^−β
    J v = v · s^−β − c · x · s^−(β+1) · W(x v)            along v, forward
    Jᵀ ȳ = ȳ · s^−β − c · x · Wᵀ(ȳ x s^−(β+1))            the operator local_response_norm_grad

``<ȳ, y>`` has a symmetric second derivative H in x, so the derivative of ``Jᵀ ȳ`` in x, either way, is one formula.
J and H are composed of PyTorch's operators, whose own derivatives give the higher orders.
"""

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function
from torch.nn.functional import avg_pool2d, pad

from ..ops import empty
from ._batch import into_samples, out_of_samples
from ._common import operator, primals


def _window_sum(x: Tensor, size: int, transposed: bool = False) -> Tensor:
    """W: the sum over ``c − size//2 ≤ j ≤ c + (size − 1)//2`` of x [N, C, *]; Wᵀ reaches as far the other way."""
    farthest = x.shape[1] - 1  # past it all that is read is zeros
    reach = (min(size // 2, farthest), min((size - 1) // 2, farthest))
    before, after = reach[::-1] if transposed else reach
    rows = pad(x.reshape(x.shape[0], 1, x.shape[1], -1), (0, 0, before, after))  # [N, 1, C, positions]
    return avg_pool2d(rows, (before + 1 + after, 1), 1, divisor_override=1).reshape(x.shape)


def _scale(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return k + alpha / size * _window_sum(x * x, size)


def _along(v: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """J v: the derivative of y along v."""
    s = _scale(x, size, alpha, k)
    c = 2 * alpha * beta / size
    return v * s**-beta - c * x * s ** (-beta - 1) * _window_sum(x * v, size)


def _curvature(v: Tensor, grad: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """H v: the derivative of Jᵀ ȳ along v, in x."""
    s = _scale(x, size, alpha, k)
    c = 2 * alpha * beta / size
    m, q = _window_sum(x * v, size), s ** (-beta - 1)
    of_s = 2 * alpha * (beta + 1) / size * m * q / s  # minus the derivative of q along v
    first, second = _window_sum(torch.cat([v * grad * q - of_s * grad * x, grad * x * q]), size, True).chunk(2)
    return -c * (x * first + v * second + m * grad * q)


class LocalResponseNorm(Function):
    """y of input [N, C, *], size, alpha, beta and k."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, *ctx.options = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return local_response_norm_grad(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 4

    @staticmethod
    def jvp(ctx: Any, input: Tensor, *_: Any) -> Tensor:
        return _along(input, *primals(ctx), *ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, *options: Any) -> tuple:
        size = info.batch_size
        return out_of_samples(local_response_norm(into_samples(input, in_dims[0], size), *options), size), 0


@operator(LocalResponseNorm)
def local_response_norm(input: Tensor, size: int, alpha: float, beta: float, k: float, /) -> Tensor:
    """input · (k + alpha / size · Σ of input² over the `size` channels around each)^−beta: as input, [N, C, *]."""
    return empty(input.shape, input, suggest_memory_format(input))


class LocalResponseNormGrad(Function):
    """Jᵀ ȳ of ȳ and the input [N, C, *], size, alpha, beta and k."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        grad, input, *ctx.options = inputs
        ctx.save_for_backward(grad, input)
        ctx.save_for_forward(grad, input)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        grad, x = ctx.saved_tensors
        to_grad, to_input = ctx.needs_input_grad[:2]
        return (
            _along(v, x, *ctx.options) if to_grad else None,
            _curvature(v, grad, x, *ctx.options) if to_input else None,
            *(None,) * 4,
        )

    @staticmethod
    def jvp(ctx: Any, of_grad: Tensor | None, of_input: Tensor | None, *_: Any) -> Tensor:
        grad, x = primals(ctx)
        out = 0 if of_grad is None else local_response_norm_grad(of_grad, x, *ctx.options)
        return out if of_input is None else out + _curvature(of_input, grad, x, *ctx.options)  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, input: Tensor, *options: Any) -> tuple:
        size = info.batch_size
        grad, input = into_samples(grad, in_dims[0], size), into_samples(input, in_dims[1], size)
        return out_of_samples(local_response_norm_grad(grad, input, *options), size), 0


@operator(LocalResponseNormGrad)
def local_response_norm_grad(grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float, /) -> Tensor:
    """`local_response_norm`'s derivative in its input, transposed, of grad: as input, [N, C, *]."""
    return empty(input.shape, input, suggest_memory_format(input))
