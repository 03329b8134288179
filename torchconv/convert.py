"""Puts torchconv's operators under an existing model: `convert` and `revert` change its layers, `enabled` its calls.

A layer is changed by giving the module another class and nothing else: it stays the same object, with the same
parameters, buffers, hooks, training flag and place in the model, wherever else it is referred to. torchconv.nn's
classes hold the same attributes as torch.nn's, which is what makes this safe.
"""

import warnings
from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from . import functional, nn
from ._classes import OURS, STOCK, Refusal, original_class, own_class, rebased, recast
from .fuse import join, original_container
from .nn._prepared import Preparing, forget
from .nn.conv import algorithms

_OURS = tuple(OURS)
# Layers that have a choice of algorithm, and what it is for each precision.
_CHOOSING: Any = tuple(cls for name in nn.__all__ if hasattr(cls := getattr(nn, name), "algorithm"))
_ALGORITHMS = {"high": "auto", "highest": "highest"}

_Model = TypeVar("_Model", bound=torch.nn.Module)


@dataclass(frozen=True)
class LeftAlone:
    """A layer that convert or revert did not change: its name in the model, its class, and why."""

    name: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name or 'the model itself'} ({self.layer}): {self.reason}"


def convert(
    model: _Model,
    *,
    fuse: bool = True,
    prepare: bool = True,
    precision: str | None = None,
    report: list[LeftAlone] | None = None,
) -> _Model:
    """Replaces every convolution and pooling layer of torch.nn in `model` by torchconv.nn's, in place.

    Layers are found at any depth, the model itself included, and keep their identity: parameters, buffers, hooks,
    parametrizations, training flag, state_dict keys and uses in several places stay as they are, and so do optimizers
    made before. A layer of a class derived from torch.nn's is changed too, and keeps what its class adds, unless that
    class overrides `forward` or `_conv_forward`. Converting twice is converting once; `revert` undoes it. Calls of
    torch.nn.functional inside a forward are not layers: see `enabled`.

    Neighbouring layers are then run as one operator, unless `fuse` is false, which saves passes over memory and what is
    kept for the backward. Outputs and gradients stay what they were, up to rounding:

    - a convolution does the ReLU after it, in training too (and then holds the gradients before and after the ReLU's
      mask at once), and in evaluation the batch norm after it and a ReLU after that;
    - in training a batch norm does the ReLU after it, and keeps its input and no output;
    - a max pooling does the ReLU before it, on the pooled map, and then keeps two bytes for each of its elements.

    Every layer stays what it is, and right when called alone: fusing is done by the modules that run layers one after
    the other, a torch.nn.Sequential and modules whose forward calls one layer on another's output, and these get a
    class derived from theirs. They look at the layers at each call, so a model may be edited as before: what is
    replaced, removed, sliced, hooked, parametrized or derived from is run as it is then.

    Args:
        model: any module.
        fuse: whether neighbouring layers are run as one.
        prepare: whether convolutions keep what their filters become between calls in evaluation, where no gradient is
            asked for: several times as fast for one image, and a few times the weights' memory (see :func:`prepare`).
        precision: ``"highest"`` for convolutions that sum directly, here and in the backward, whatever the process's
            precision is (see :func:`set_conv_precision`); ``"high"`` takes that back; None leaves it as it is. Layers
            that were told their algorithm by name keep it.
        report: a list to which each layer that could not be converted or fused is added, with the reason. Without one,
            a warning names those not converted.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
        ValueError: a precision that is neither ``"high"`` nor ``"highest"``.
    """
    if precision not in (None, *_ALGORITHMS):
        raise ValueError(f"convert: precision must be 'high', 'highest' or None, got {precision!r}")
    _change(model, _converted, "converted to torchconv", report)
    if fuse:
        left = [LeftAlone(name, type(module).__name__, reason) for name, module, reason in join(model)]
        if report is not None:
            report.extend(left)
    for layer in model.modules():
        if isinstance(layer, Preparing) and layer.prepares != prepare:
            layer.prepares = prepare
    if precision is not None:
        for layer in model.modules():
            if isinstance(layer, _CHOOSING) and layer.algorithm in _ALGORITHMS.values():
                layer.algorithm = _ALGORITHMS[precision]
    return model


def revert(model: _Model, *, report: list[LeftAlone] | None = None) -> _Model:
    """Undoes `convert`: every torchconv.nn layer in `model` gets torch.nn's class, or the one derived from it, back,
    and so do the modules that ran layers fused.

    Layers that were made as torchconv.nn's are changed too, unless torch.nn has nothing like them (padding='same' with
    a stride, padding with unequal sides). Arguments, result and errors are those of `convert`.
    """
    return _change(model, _reverted, "reverted to torch.nn", report)


def _change(
    model: _Model,
    new_class: Callable[[torch.nn.Module], type | None],
    done: str,
    report: list[LeftAlone] | None,
) -> _Model:
    """Gives each layer of `model` the class that `new_class` finds for it, and reports those that it refuses."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    left: list[LeftAlone] = []
    for name, module in model.named_modules():
        try:
            cls = new_class(module)
            if cls is not None:
                module.__class__ = cls
        except Refusal as refusal:
            layer = getattr(module, "original_name", type(module).__name__)
            left.append(LeftAlone(name, layer, str(refusal)))
        except TypeError as error:  # slots, a metaclass or an order of bases that leaves no room for another class
            left.append(LeftAlone(name, type(module).__name__, f"its class cannot be changed ({error})"))
    if report is not None:
        report.extend(left)
    elif left:
        warnings.warn(f"not {done}: " + "; ".join(map(str, left)), stacklevel=3)
    return model


def _converted(module: torch.nn.Module) -> type | None:
    """The class that convert gives `module`, or None if it is no concern of convert's."""
    cls = type(module)
    if isinstance(module, _OURS):
        return None
    if isinstance(module, torch.jit.ScriptModule) and module.original_name in nn.__all__:
        raise Refusal("compiled by TorchScript")
    if cls.__name__ in nn.__all__ and cls.__module__.startswith("torch.ao.nn.quantized"):
        raise Refusal("quantized")
    stock = next((base for base in cls.__mro__ if base in STOCK), None)
    if stock is None:
        return None
    if getattr(module, "qconfig", None) is not None:
        raise Refusal("to be quantized: it has a qconfig")
    if isinstance(module, LazyModuleMixin) and module.cls_to_become is not getattr(stock, "cls_to_become", None):
        raise Refusal("lazy, and becomes another class: convert it after its first input")
    for method in ("forward", "_conv_forward"):
        if method in vars(module):
            raise Refusal(f"its {method} was replaced on the instance")
        if getattr(cls, method, None) is not getattr(stock, method, None):
            raise Refusal(f"overrides {method}")
    algorithm = getattr(module, "algorithm", "auto")
    if algorithm not in algorithms():
        raise Refusal(f"has an attribute algorithm={algorithm!r} of its own")
    return recast(module, STOCK[stock])


def _reverted(module: torch.nn.Module) -> type | None:
    """The class that revert gives `module`, or None if it is no concern of revert's."""
    container = original_container(module)
    if container is not None:
        return rebased(type(module), container) if parametrize.is_parametrized(module) else container
    if not isinstance(module, _OURS):
        return None
    original = original_class(module)
    if original is None:
        ours = next(base for base in type(module).__mro__ if base.__name__ in nn.__all__)
        if own_class(module) is ours:
            raise Refusal(f"torch.nn has no {ours.__name__}")
        raise Refusal(f"its class derives from torchconv.nn.{ours.__name__}")
    padding: Any = getattr(module, "padding", 0)
    stride: Any = getattr(module, "stride", 1)
    if padding == "same" and any(step != 1 for step in stride):
        raise Refusal(f"torch.nn has no padding='same' with stride={stride}")
    if isinstance(padding, tuple) and any(isinstance(side, tuple) for side in padding):
        raise Refusal(f"torch.nn has no padding={padding} with unequal sides")
    forget(module)
    vars(module).pop("prepares", None)
    return rebased(type(module), original) if parametrize.is_parametrized(module) else original


def _routes() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Each function of torch and torch.nn.functional that `enabled` reroutes, and where to."""
    routes: dict[Callable[..., Any], Callable[..., Any]] = {}
    families = ("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool")
    # Not torch._C._nn's, which are given no windows.
    routes.update(
        (getattr(torch.nn.functional, f"max_unpool{n}d"), getattr(functional, f"max_unpool{n}d")) for n in (1, 2, 3)
    )
    for name in [f"{family}{n}d" for family in families for n in (1, 2, 3)] + ["local_response_norm"]:
        ours = getattr(functional, name)
        with_indices = partial(ours, return_indices=True)
        for home in (torch, torch._C._nn, torch.nn.functional):
            if hasattr(home, name):
                # Below torch.nn.functional, adaptive max pooling returns indices whether asked or not.
                always = name.startswith("adaptive_max") and home is not torch.nn.functional
                routes[getattr(home, name)] = with_indices if always else ours
            if hasattr(home, f"{name}_with_indices"):
                routes[getattr(home, f"{name}_with_indices")] = with_indices
    return routes


class enabled(TorchFunctionMode, ContextDecorator):
    """Reroutes calls of torch.nn.functional's convolutions and poolings (and torch's own) to torchconv.functional.

    A context manager, for models that call functions rather than layers, and a decorator::

        with torchconv.enabled():
            loss = model(x).sum()
        loss.backward()  # the backward pass belongs to the forward's operators, wherever it is called

    It holds for the calling thread, nests, and also catches torch.nn's layers, since they call these functions. Each
    torch function called inside costs a microsecond or so more; `convert` does not. Tensors of subclasses that override
    torch functions keep their own.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # The mode is off while this runs, so what torchconv.functional itself calls is not rerouted.
        target = _ROUTES.get(func, func) if _PLAIN.issuperset(types) else func
        return target(*args, **(kwargs or {}))


_ROUTES = _routes()
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
