"""How an autograd Function and the operator of the same name become one callable."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_library = torch.library.Library("torchconv", "IMPL")


def register(name: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Gives the operator ``torchconv::name`` the derivatives of `function`, and returns the callable to use for both.

    In eager mode, and under ``torch.func`` and AOT tracing, it applies the Function, whose own ``jvp`` and ``vmap``
    then serve. Dynamo cannot trace a Function with a ``jvp``: under it the callable is the operator itself, which finds
    the same Function again as its kernel for the ``Autograd`` key.
    """
    operator = getattr(torch.ops.torchconv, name).default
    # apply() binds its arguments to forward's signature, call after call: worked out once, it costs a third less.
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    _library.impl(name, function.apply, "Autograd")

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return operator(*args)
        if _differentiated(args):
            return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():  # spares small layers half the time of a call
            return operator(*args)

    call.__name__ = call.__qualname__ = name
    return call


def _differentiated(args: tuple) -> bool:
    """Whether a Function is needed: a derivative may be asked for, or a transform of torch.func is at work."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args))
    )


def below_autograd(name: str, *args: Any) -> Any:
    """The operator's kernel, with nothing recorded: what a Function's ``forward`` runs."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.torchconv, name).default(*args)


def asked(ctx: Any) -> tuple[bool, ...]:
    """Which of a Function's operands, its leading tensors, this backward owes a gradient.

    ``needs_input_grad`` says which require one; ``torch.autograd.grad(y, x)`` asks for x alone, and only the engine
    knows that. It does not tell of a leaf that is itself asked for: that is an error, and means yes.
    """
    needs, edges = ctx.needs_input_grad, getattr(ctx, "next_functions", ())
    if sum(needs) == 1 or any(needs[len(edges) :]):
        return needs
    return tuple(need and _will_run(edges[i][0]) for i, need in enumerate(needs))


def _will_run(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True
