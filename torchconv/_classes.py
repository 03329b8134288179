"""How a layer is given another class and stays the same object: which classes answer to which, and classes made for
layers whose own class derives from torch.nn's."""

import types
from typing import Any, TypeAlias

import torch
from torch.nn.utils import parametrize

from . import nn

Layer: TypeAlias = type[torch.nn.Module]
STOCK: dict[Layer, Layer] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)
}
OURS: dict[Layer, Layer] = {ours: stock for stock, ours in STOCK.items()}


class Refusal(Exception):
    """Why a layer is left alone."""


def own_class(module: torch.nn.Module) -> type:
    """The class of `module`, less what parametrizations have made of it."""
    return parametrize.type_before_parametrizations(module) if parametrize.is_parametrized(module) else type(module)


def original_class(module: torch.nn.Module) -> type | None:
    """The class of torch.nn, or the one derived from it, that a layer of ours had or would have; None where there is
    none."""
    cls = own_class(module)
    return vars(cls).get("_converted_from") or OURS.get(cls)


def recast(module: torch.nn.Module, target: type) -> type:
    """The class with which `module` does what `target` does, and still what its own class adds to torch.nn's."""
    cls = own_class(module)
    derived = vars(cls).get("_converted_from") or (None if issubclass(cls, tuple(OURS)) else cls)
    if derived is not None:
        target = mixed(derived, target)
    return rebased(type(module), target) if parametrize.is_parametrized(module) else target


def mixed(cls: type, ours: type) -> type:
    """`cls`, which is or derives from a class of torch.nn, with `ours` put before that class among its bases.

    What `cls` overrides stays overridden. The new class is known through `cls` itself, so it is made once and goes when
    `cls` goes.
    """
    if cls in STOCK:
        return ours
    made: type
    for made in cls.__subclasses__():
        if vars(made).get("_converted_from") is cls and made.__bases__[1] is ours:
            return made
    body = dict(
        _converted_from=cls,
        __module__=cls.__module__,
        __qualname__=cls.__qualname__,
        __doc__=cls.__doc__,
        __reduce_ex__=_reduce,
    )
    return types.new_class(cls.__name__, (cls, ours), exec_body=lambda namespace: namespace.update(body))


def rebased(cls: type, base: type) -> type:
    """A copy of `cls`, which torch.nn.utils.parametrize made for one module and its copies, on another `base`."""
    body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (base,), body)


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickles a module whose class was made by `mixed`: by the two classes it is made of, which can be imported."""
    state = object.__reduce_ex__(self, protocol)[2]
    return _unpickled, (self._converted_from, type(self).__bases__[1]), state


def _unpickled(original: type, ours: type) -> Any:
    return object.__new__(mixed(original, ours))
