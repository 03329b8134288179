"""Operators that are linear in two tensors each, and whose derivatives are one another: their rules, written once.

With ``y = f(x, w)``, ``x̄ = g(ȳ, w)`` and ``w̄ = h(ȳ, x)``, each bilinear, the scalar ``<ȳ, f(x, w)> = <x̄, x> = <w̄, w>``
is linear in all of ȳ, x and w; so the derivative of each of the three to one of its operands is another of the three:

    ========  ============  =============
    operator  to the first  to the second
    ========  ============  =============
    f(x, w)   g(ȳ, w)       h(ȳ, x)
    g(ȳ, w)   f(·, w)       h(ȳ, ·)
    h(ȳ, x)   f(x, ·)       g(ȳ, ·)
    ========  ============  =============

Derivatives of every order, forward and reverse, follow.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.autograd import Function

from ._common import asked, primals

# An operator as its Functions call it: with the ctx that holds its sizes and window, its two operands, and the tensors
# that it takes beside them and that have no derivative.
Bilinear: TypeAlias = Callable[..., Tensor]
Rules: TypeAlias = Callable[[type[Function]], type[Function]]


def total(terms: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the terms that are there."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def keep(ctx: Any, first: Tensor, second: Tensor, *others: Tensor, at: tuple[int, int] = (0, 1)) -> None:
    """Keeps what the derivatives of a bilinear operator need: each operand for the other's gradient, and what else it
    takes. `at`: where among its arguments the operands are."""
    ctx.set_materialize_grads(False)
    ctx.at, needs = at, ctx.needs_input_grad
    ctx.save_for_backward(first if needs[at[1]] else None, second if needs[at[0]] else None, *others)
    ctx.save_for_forward(first, second, *others)


def triangle(f: Bilinear, g: Bilinear, h: Bilinear) -> tuple[Rules, Rules, Rules]:
    """Three decorators: each gives the Function of one of the operators, whose setup_context calls `keep`, its
    ``backward`` and ``jvp``."""
    return (
        _rules(f, g, h),
        _rules(g, f, lambda ctx, x, y, *others: h(ctx, y, x, *others)),
        _rules(
            h,
            lambda ctx, w, x, *others: f(ctx, x, w, *others),
            lambda ctx, w, y, *others: g(ctx, y, w, *others),
        ),
    )


def _rules(operator: Bilinear, to_first: Bilinear, to_second: Bilinear) -> Rules:
    """`to_first` takes the result's gradient and the second operand, `to_second` that gradient and the first."""

    def backward(ctx: Any, grad: Tensor | None) -> tuple:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is not None:
            first, second, *others = ctx.saved_tensors
            wanted, (i, j) = asked(ctx), ctx.at
            if wanted[i]:
                grads[i] = to_first(ctx, grad, second, *others)
            if wanted[j]:
                grads[j] = to_second(ctx, grad, first, *others)
        return tuple(grads)

    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        first, second, *others = primals(ctx)
        of_first, of_second = (tangents[i] for i in ctx.at)
        return total(
            [
                None if of_first is None else operator(ctx, of_first, second, *others),
                None if of_second is None else operator(ctx, first, of_second, *others),
            ]
        )

    def decorate(function: type[Function]) -> type[Function]:
        function.backward, function.jvp = staticmethod(backward), staticmethod(jvp)  # type: ignore[method-assign]
        return function

    return decorate
