"""How an autograd Function and the operator of the same name become one callable."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

_library = torch.library.Library("torchconv", "IMPL")


def register(name: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Gives the operator ``torchconv::name`` the derivatives of `function`, and returns the callable to use for both.

    The Function's ``forward`` is the operator's kernel, with nothing recorded. In eager mode, and under ``torch.func``
    and AOT tracing, the callable applies the Function, whose own ``jvp`` and ``vmap`` then serve. Dynamo cannot trace a
    Function with a ``jvp``: under it the callable is the operator itself, which finds the same Function again as its
    kernel for the ``Autograd`` key.
    """
    operator = getattr(torch.ops.torchconv, name).default

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    # Function.apply binds its arguments to forward's signature, call after call: worked out once, it costs less.
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    _library.impl(name, function.apply, "Autograd")
    # What it comes to where no transform of torch.func is at work and no argument has a default; 2.5 times as fast.
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return operator(*args)
        if torch._C._are_functorch_transforms_active():
            return function.apply(*args)
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return apply(*unwrap_dead_wrappers(args))
        return forward(*args)  # no derivative can be asked for

    call.__name__ = call.__qualname__ = name
    return call


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
