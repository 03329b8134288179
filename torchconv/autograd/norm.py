"""Batch normalisation in training as an autograd Function, with the ReLU that follows it or without.

With the moments ``μ = Σ x / n`` and ``v = Σ (x − μ)² / n`` of each channel and ``x̂ = (x − μ) / √(v + ε)``::

    y = γ x̂ + β,  or max(0, γ x̂ + β)
    dβ = Σ g,  dγ = Σ g x̂,  dx = γ / √(v + ε) · (g − Σ g / n − x̂ Σ g x̂ / n),   g = ȳ, or y ≤ 0 ? 0 : ȳ

The input is kept for the backward, and no output: the mask is worked out again. Derivatives of higher order are those
of the formulas, in PyTorch's own operators.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops import activation_format, empty
from ._common import asked, differentiated, operator, primals
from .conv import _as_channel


class _Formula:
    """The normalisation of `input`, written in differentiable operators."""

    def __init__(self, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool):
        self.axes = [0, *range(2, input.dim())]
        self.weight = None if weight is None else _as_channel(weight, input.dim())
        centred = input - self.mean(input)
        self.scale = (self.mean(centred * centred) + eps).rsqrt()
        self.normalised = centred * self.scale
        out = self.normalised if self.weight is None else self.normalised * self.weight
        out = out if bias is None else out + _as_channel(bias, input.dim())
        self.mask = ~(out.detach() <= 0) if relu else None

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, keepdim=True)

    def passed(self, x: Tensor) -> Tensor:
        """What the ReLU lets through."""
        return x if self.mask is None else torch.where(self.mask, x, torch.zeros_like(x))

    def projected(self, x: Tensor) -> Tensor:
        """What is left of a change `x` of the normalised input, whose mean and variance do not change."""
        return x - self.mean(x) - self.normalised * self.mean(self.normalised * x)

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of input, weight and bias."""
        g = self.passed(grad)
        scaled = g if self.weight is None else g * self.weight
        return self.scale * self.projected(scaled), (g * self.normalised).sum(self.axes), g.sum(self.axes)


def _fake_results(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A tensor like the input, and two with a number a channel, which are summed in float32 or float64."""
    memory_format = activation_format(input, input) if input.dim() >= 4 else torch.contiguous_format
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    first, second = (torch.empty(input.shape[1], dtype=dtype, device=input.device) for _ in range(2))
    return empty(input.shape, input, memory_format), first, second


class BatchNorm(Function):
    """(y, means, biased variances) of input [N, C, *], weight and bias [C] or None, eps and whether a ReLU follows."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        input, weight, bias, ctx.eps, ctx.relu = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, mean, var)
        ctx.save_for_forward(input, weight, bias, mean, var)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
        if grad is None:
            return (None,) * 5
        input, weight, bias, mean, var = ctx.saved_tensors
        needs = (*asked(ctx), False, False, False)[:3]
        if differentiated():
            grads = _Formula(input, weight, bias, ctx.eps, ctx.relu).gradients(grad)
        else:
            grads = batch_norm_grad(grad, input, weight, bias, mean, var, ctx.eps, ctx.relu)
        parameters = (input, weight, bias)
        return (
            *(
                g.to(of.dtype) if need and of is not None else None
                for g, need, of in zip(grads, needs, parameters, strict=True)
            ),
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> tuple:
        x, w, b = primals(ctx)[:3]
        formula = _Formula(x, w, b, ctx.eps, ctx.relu)
        out = torch.zeros_like(x)
        if input is not None:
            change = formula.scale * formula.projected(input)
            out = out + (change if formula.weight is None else change * formula.weight)
        if weight is not None:
            out = out + _as_channel(weight, x.dim()) * formula.normalised
        if bias is not None:
            out = out + _as_channel(bias, x.dim())
        return formula.passed(out), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple:
        size = info.batch_size

        def channels(t: Tensor | None, at: int | None, axis: int) -> Tensor | None:
            """A batch axis joined to the channels at `axis`."""
            if t is None:
                return None
            t = t.unsqueeze(axis).expand(*t.shape[:axis], size, *t.shape[axis:]) if at is None else t.movedim(at, axis)
            return t.flatten(axis, axis + 1)

        operands = (channels(input, in_dims[0], 1), channels(weight, in_dims[1], 0), channels(bias, in_dims[2], 0))
        y, mean, var = batch_norm(*(*operands, *rest))
        return (y.unflatten(1, (size, -1)), mean.unflatten(0, (size, -1)), var.unflatten(0, (size, -1))), (1, 0, 0)


@operator(BatchNorm)
def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    /,
) -> tuple[Tensor, Tensor, Tensor]:
    """(input − mean) / √(var + eps) · weight + bias by the batch's own moments, and max(0, ·) of it where `relu`.

    input [N, C, *], weight and bias [C] or None. Returns that, and the channels' means and biased variances, [C].
    """
    return _fake_results(input)


class _Followed(BatchNorm):
    """The same with a function besides, which is called with the moments before anything is kept: where a checkpoint
    runs a model again, it leaves by an exception as soon as it has the last tensor that was kept."""

    @staticmethod
    def forward(*args: Any) -> Any:
        *operands, follow = args
        out = BatchNorm.forward(*operands)
        follow(*out[1:])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        BatchNorm.setup_context(ctx, inputs[:-1], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple:
        return (*BatchNorm.backward(ctx, grad), None)


def batch_norm_followed(follow: Callable[[Tensor, Tensor], None], *operands: Any) -> Tensor:
    """`batch_norm`'s output; `follow` is called with its means and biased variances."""
    traced = torch.compiler.is_dynamo_compiling() or torch._C._are_functorch_transforms_active()
    if not traced and torch.is_grad_enabled() and torch._C._any_requires_grad(*operands):
        return _Followed.apply(*operands, follow)[0]
    out, mean, var = batch_norm(*operands)
    with torch.no_grad():
        follow(mean, var)
    return out


@operator()
def batch_norm_grad(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    relu: bool,
    /,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias; not to be differentiated again."""
    return _fake_results(input)
