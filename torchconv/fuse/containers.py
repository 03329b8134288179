"""The classes of modules that run sequences of layers fused: given by `convert`, and taken back by `revert`.

A module's class derives from the one it had and adds methods only, so the module stays what it is: its type by
isinstance, its attributes, slices, copies and pickles. Only modules in which something fuses get one.
"""

import types
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

import torch
from torch.nn import Module

from .._classes import own_class, rebased
from . import plan
from .rewrite import Chain, Unreadable, methods, rewritten


class Sequential(torch.nn.Sequential):
    """A torch.nn.Sequential that runs neighbouring layers as one where it can."""

    _fused_from: type = torch.nn.Sequential
    _chains: tuple[Chain, ...] = ()

    def forward(self, input: Any) -> Any:
        return plan.run(tuple(self), input)

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse_script(self)


def _refuse_script(self: Any) -> NoReturn:
    """What torch.jit.script calls first."""
    raise RuntimeError("torch.jit.script cannot compile a fused model: call torchconv.revert(model) before it")


def original_container(module: Module) -> type | None:
    """The class of a module of ours before it was given one of this file's; None for others."""
    return vars(own_class(module)).get("_fused_from")


def join(model: Module) -> Iterator[tuple[str, Module, str]]:
    """Gives the modules of `model` in which layers can be run as one a class that does; yields what is kept apart."""
    names = {module: name for name, module in model.named_modules()}
    fused = cache(_fused)
    for module, name in names.items():
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)) or original_container(module):
            continue
        try:
            cls = fused(own_class(module))
        except Unreadable as error:
            if sum(map(plan.fusible, module.children())) > 1:
                yield name, module, f"its forward runs its layers one by one: {error}"
            continue
        if cls is None:
            continue
        rows = list(_rows(cls, module))
        replaced = "forward" in vars(module)
        if any(map(plan.fuses, rows)) or (any(None in row for row in rows) and _has_layers(module)):
            if replaced:
                yield name, module, "not fused: its forward was replaced on the instance"
                continue
            try:
                module.__class__ = rebased(type(module), cls) if own_class(module) is not type(module) else cls
            except TypeError as error:  # slots, a metaclass or an order of bases that leaves no room for another class
                yield name, module, f"not fused: its class cannot be changed ({error})"
        apart = dict.fromkeys(each for row in rows for each in plan.kept_apart(row))  # each once, however often called
        for first, second, reason in apart:
            if first in names and second in names:
                yield names[first], first, f"not fused with {names[second]} ({type(second).__name__}): {reason}"


def _rows(cls: Any, module: Any) -> Iterator[tuple[Any, ...]]:
    """The layers that `module` runs one after the other, as far as it is known beforehand."""
    if issubclass(cls, Sequential) and cls.forward is Sequential.forward:
        yield tuple(module)
    for chain in cls._chains:
        yield chain.resolved(module)


def _has_layers(module: Module) -> bool:
    """Whether a module has layers that fuse with others, itself or in its lists."""
    held = [*module.children()]
    held += [layer for some in held if isinstance(some, torch.nn.ModuleList) for layer in some]
    return any(plan.fusible(layer) and plan.kind_of(layer) != "relu" for layer in held)


def _fused(cls: Any) -> type | None:
    """The class derived from `cls` that runs layers as one, or None where it has no sequence of them.

    It is known through `cls` itself, so it is made once, and goes when `cls` goes.

    Raises:
        Unreadable: `forward` cannot be read, or the class not be derived from.
    """
    if cls is torch.nn.Sequential:
        return Sequential
    made: Any
    for made in cls.__subclasses__():
        if vars(made).get("_fused_from") is cls and all(getattr(cls, n) is m for n, m in made._originals.items()):
            return made
    body: dict[str, Any] = {}
    originals: dict[str, Any] = {}
    chains: list[Chain] = []
    for name, method in methods(cls, Module):
        if (method.__module__ or "").startswith(("torch.", "torchconv.")):
            continue
        try:
            found = rewritten(cls, name, method)
        except Unreadable:
            if name == "forward":
                raise
            continue
        if found is not None:
            originals[name], (body[name], more) = method, found
            chains += more
    bases = (cls, Sequential) if issubclass(cls, torch.nn.Sequential) else (cls,)
    if not chains and len(bases) == 1:
        return None
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        raise Unreadable("it has its own way of being pickled")
    body.update(
        _fused_from=cls,
        _originals=originals,
        _chains=tuple(chains),
        __module__=cls.__module__,
        __qualname__=cls.__qualname__,
        __doc__=cls.__doc__,
        __reduce_ex__=_reduce,
        __prepare_scriptable__=_refuse_script,
    )
    try:
        return types.new_class(cls.__name__, bases, exec_body=lambda namespace: namespace.update(body))
    except Exception as error:  # whatever a metaclass or __init_subclass__ has against it
        raise Unreadable(f"no class can be derived from its own ({type(error).__name__}: {error})") from None


def _reduce(self: Any, protocol: Any) -> Any:
    """Pickles a module by the class it had, which can be imported."""
    original = original_container(self)
    how: Any = object.__reduce_ex__(self, protocol)
    return how if original is None else (_unpickled, (original,), how[2])  # None: a class derived from one of ours


def _unpickled(original: Any) -> Any:
    try:
        cls = _fused(original)
    except Unreadable:
        cls = None
    return object.__new__(cls or original)
