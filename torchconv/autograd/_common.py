"""How an autograd Function and the operator of the same name become one callable."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from ..ops import register_fake

P = ParamSpec("P")
R = TypeVar("R")

FAKES: dict[str, Callable[..., Any]] = {}  # by operator, the fake kernel that it was made of

_library = torch.library.Library("torchconv", "IMPL")


def operator(
    function: type[torch.autograd.Function] | None = None, name: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes of a fake kernel the operator of its name, or of that given, with the derivatives of `function`.

    What comes back has the fake kernel's signature, and is what to call for both. Without a Function it is the operator
    itself, whose result has no history. The Function's ``forward`` is the operator's kernel, with nothing recorded. In
    eager mode, and under ``torch.func`` and AOT tracing, the callable applies the Function, whose own ``jvp`` and
    ``vmap`` then serve. Dynamo cannot trace a Function with a ``jvp``: under it the callable is the operator itself,
    which finds the same Function again as its kernel for the ``Autograd`` key.
    """

    def decorate(fake: Callable[P, R]) -> Callable[P, R]:
        called = name or fake.__name__
        FAKES[called] = fake
        register_fake(f"torchconv::{called}")(fake)
        overload = getattr(torch.ops.torchconv, called).default
        if function is None:
            return overload
        call = _differentiable(called, overload, function)
        call.__doc__ = fake.__doc__
        return call

    return decorate


def fake_of(operator: Callable[P, R]) -> Callable[P, R]:
    """The fake kernel that `operator` was made of, for another operator of its signature and results."""
    return FAKES[operator.__name__]


def _differentiable(name: str, operator: Any, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    dispatch = operator._op  # the operator, less a call in Python
    tensors = sum("Tensor" in str(argument.type) for argument in operator._schema.arguments)  # which come first

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return dispatch(*args)

    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    function.jvp = staticmethod(_seen_from_outside(function.jvp))  # type: ignore[method-assign]
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
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args[:tensors])):
            return apply(*unwrap_dead_wrappers(args))
        return forward(*args)  # no derivative can be asked for

    call.__name__ = call.__qualname__ = name
    return call


def _seen_from_outside(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """`jvp`, run with forward mode on. PyTorch turns it off around a Function's jvp, whose operands still hold the
    tangents that it handles, but off for the levels of ``torch.func`` outside of it too: their derivatives of this one
    would be 0. Its operands come from `primals` instead, without those tangents."""

    def rule(ctx: Any, *tangents: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(ctx, *tangents)

    return rule


def primals(ctx: Any) -> list[Any]:
    """What a Function kept, as its ``jvp`` is to read it: without the tangents of the level at work, with those of the
    levels outside."""
    return [t if t is None else forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]


def differentiated() -> bool:
    """Whether a backward may itself be differentiated, so that it has to be made of differentiable operators."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def asked(ctx: Any) -> tuple[bool, ...]:
    """Which of a Function's operands, its leading tensors, this backward owes a gradient.

    ``needs_input_grad`` says which require one; ``torch.autograd.grad(y, x)`` asks for x alone, and only the engine
    knows that. It does not tell of a leaf that is itself asked for: that is an error, and means yes.
    """
    needs = ctx.needs_input_grad
    if torch.compiler.is_dynamo_compiling():  # compiled autograd, which drops what nobody asks for
        return needs
    edges = getattr(ctx, "next_functions", ())
    if sum(needs) == 1 or any(needs[len(edges) :]):
        return needs
    return tuple(need and _will_run(edges[i][0]) for i, need in enumerate(needs))


def _will_run(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True
