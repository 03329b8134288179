"""Which layers of a model `convert(model, fuse=True)` joins, and how they are joined and taken apart.

A convolution is joined with the batch norm and the ReLU that alone take its output, and a max pooling with the ReLU
before it, see torchconv/nn/fused.py. Who takes whose output is read from the model's torch.fx graphs, one of training
and one of evaluation; of a model that torch.fx cannot trace only neighbours in torch.nn.Sequential are joined. All
modules stay where they are, with their parameters, buffers, hooks and names: they are given other classes, and a few
references to each other.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx
from torch.nn import Module, Sequential
from torch.nn.utils import parametrize

from . import nn
from ._classes import OURS, STOCK, Refusal, own_class, rebased, recast
from .nn import fused

# For each call of a module, in the order of the calls, the modules that take its output, None for whatever else does.
_Takers: TypeAlias = dict[Module, list[list[Module | None]]]

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOLS: dict[int, type] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORMS = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}
# What is joined with a convolution or a pooling has one of these classes, and had torch.nn's.
_FOLLOWERS: dict[type, type] = {
    fused.FusedReLU: torch.nn.ReLU,
    fused.FusedBatchNorm1d: torch.nn.BatchNorm1d,
    fused.FusedBatchNorm2d: torch.nn.BatchNorm2d,
    fused.FusedBatchNorm3d: torch.nn.BatchNorm3d,
}
_FUSED = {stock: ours for ours, stock in _FOLLOWERS.items()}
FOLLOWERS = tuple(_FOLLOWERS)
_LEAVES = (*STOCK, torch.nn.ReLU, *_NORMS.values())

_RELU_POOLS: dict[type, type] = {
    _POOLS[n]: cls for n, cls in enumerate((fused.ReLUMaxPool1d, fused.ReLUMaxPool2d, fused.ReLUMaxPool3d), 1)
}
_RELUS = (nn.ConvReLU1d, nn.ConvReLU2d, nn.ConvReLU3d)


# ---- who takes whose output ----


class _Tracer(fx.Tracer):
    """Enters what is made of layers; layers, and modules whose output a hook sees, are nodes."""

    proxy_buffer_attributes = True  # nothing that the model does to its buffers is done

    def is_leaf_module(self, module: Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or isinstance(module, _LEAVES) or _watched(module)


def _watched(module: Module) -> bool:
    """Whether a hook sees, or may change, what comes out of `module` or the gradient of it."""
    return bool(module._forward_hooks or module._backward_hooks or module._backward_pre_hooks)


def _traced(model: Module, training: bool) -> _Takers:
    """Who takes whose output in the model's forward; raises whatever stops torch.fx."""
    if "forward" in vars(model):
        raise ValueError("its forward was replaced on the instance")
    # Of a copy that shares all tensors: tracing runs the model's Python code, which may leave traces of its own.
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        module.training = training
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _Tracer().trace(twin)
    takers: _Takers = {}

    def called(node: fx.Node) -> Module | None:
        return model.get_submodule(str(node.target)) if node.op == "call_module" else None

    for node in graph.nodes:
        if node.op == "call_module":
            users = [called(user) if user.args == (node,) and not user.kwargs else None for user in node.users]
            takers.setdefault(model.get_submodule(node.target), []).append(users)
    return takers


def _sequential(model: Module) -> _Takers:
    """Who takes whose output by the order in torch.nn.Sequential, those inside others written out."""
    places: dict[Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1
    sequences = [module for module in places if isinstance(module, Sequential) and "forward" not in vars(module)]
    plain = [module for module in sequences if type(module).forward is Sequential.forward]
    unwatched = {module for module in plain if not _watched(module)}

    def layers(sequence: Iterable[Module]) -> Iterator[Module]:
        for module in sequence:
            yield from layers(module) if module in unwatched else [module]

    inner = {module for sequence in plain for module in sequence if module in unwatched}
    takers: _Takers = {}
    for sequence in plain:
        if sequence not in inner:
            row = list(layers(sequence))
            for module, taker in zip(row, [*row[1:], None], strict=True):
                takers.setdefault(module, []).extend([[taker]] * places[module])
    return takers


# ---- joining and separating ----


def join(model: Module) -> list[tuple[str, Module, str]]:
    """Joins what can be joined, in place, and returns what could not: name, module and reason."""
    convs = {name: n for name, module in model.named_modules() if (n := _axes(module))}
    relus = {name for name, module in model.named_modules() if type(module) is torch.nn.ReLU}
    pools = any(type(module) in _POOLS.values() for module in model.modules())
    left: list[tuple[str, Module, str]] = []
    if not convs and not (relus and pools):
        return left
    try:
        flows = [_traced(model, training) for training in (False, True)]
    except Exception as error:  # whatever the model's own code does when it meets what is no tensor
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        left.append(("", model, f"fused in its Sequentials only: torch.fx cannot trace it ({reason})"))
        flows = [_sequential(model)]
    names = {module: name for name, module in model.named_modules()}

    def attempt(name: str, find: Callable[[Module], tuple[list[Module], str]], join: Callable[..., None]) -> None:
        module = model.get_submodule(name)
        found, refusal = find(module)
        if found:
            try:
                join(module, found)
            except TypeError as error:  # slots, a metaclass or an order of bases that leaves no room for another class
                refusal = f"not fused: its class cannot be changed ({error})"
        if refusal:
            left.append((name, module, refusal))

    for name, n in convs.items():
        attempt(name, lambda conv: _followers(conv, _NORMS[n], flows, names), partial(_join, n))  # noqa: B023
    for name in relus:
        if type(model.get_submodule(name)) is torch.nn.ReLU:  # of which no convolution does it
            attempt(name, lambda relu: _pool_after(relu, flows, names), _join_pool)
    return left


def _axes(module: Module) -> int | None:
    """The number of spatial axes of a convolution of ours that ends in nothing else; None for other modules."""
    if isinstance(module, _RELUS) or "_joined" in vars(module):
        return None
    return next((n for n, cls in _CONVS.items() if isinstance(module, cls)), None)


def _followers(conv: Module, norm: type, flows: list[_Takers], names: dict[Module, str]) -> tuple[list[Module], str]:
    """The batch norm and the ReLU, either or both, that `conv` can do; and why not the next, if there is a next."""
    found: list[Module] = []
    try:
        for kinds in ((norm, torch.nn.ReLU), (torch.nn.ReLU,)):
            follower = _follower(found[-1] if found else conv, kinds, flows, names)
            if not found and type(follower) is torch.nn.ReLU and _pool_after(follower, flows, names)[0]:
                break  # the pooling does it, for less
            if follower is not None:
                if own_class(conv) not in OURS and "_converted_from" not in vars(own_class(conv)):
                    raise Refusal(f"not fused with {names[follower]}: its class derives from torchconv.nn's")
                found.append(follower)
            if follower is None or type(follower) is torch.nn.ReLU:
                break
    except Refusal as refusal:
        return found, str(refusal)
    return found, ""


def _follower(module: Module, kinds: tuple[type, ...], flows: list[_Takers], names: dict[Module, str]) -> Module | None:
    """The layer of one of the `kinds` that takes what `module` gives, if it alone does and takes nothing else; None if
    no such layer takes it."""
    calls = [takers for flow in flows for takers in flow.get(module, [])]
    candidates = [taker for takers in calls for taker in takers if type(taker) in kinds]
    if not candidates:
        return None
    follower: Any = candidates[0]

    def refuse(because: str) -> Refusal:
        return Refusal(f"not fused with {names[follower]} ({type(follower).__name__}): {because}")

    for layer in (module, follower):
        if any(len(flow.get(layer, [])) > 1 for flow in flows):
            raise refuse(f"{names[layer]} is called several times")
    if any(takers != [follower] for takers in calls):
        raise refuse(f"the output of {names[module]} goes elsewhere too")
    if any(len(flow.get(module, [])) != len(flow.get(follower, [])) for flow in flows):
        raise refuse(f"{names[follower]} takes something else too")
    if _watched(module) or _watched(follower) or follower._forward_pre_hooks:
        raise refuse("a hook sees what is between")
    if "forward" in vars(follower):
        raise refuse("its forward was replaced on the instance")
    if type(follower) in _NORMS.values() and follower.running_mean is None:
        raise refuse("it has no running statistics")
    return follower


def _pool_after(relu: Module, flows: list[_Takers], names: dict[Module, str]) -> tuple[list[Module], str]:
    """The max pooling that can do `relu` before it; and why there is none, where one takes what `relu` gives."""
    try:
        pool: Any = _follower(relu, tuple(_POOLS.values()), flows, names)
    except Refusal as refusal:
        return [], str(refusal)
    if pool is None:
        return [], ""
    because = None
    if pool.return_indices:  # of windows without a positive element they would be others
        because = "it returns indices"
    elif relu._forward_pre_hooks or "forward" in vars(relu):
        because = "a hook sees what the ReLU is given" if relu._forward_pre_hooks else "the ReLU's forward was replaced"
    elif getattr(relu, "inplace", False):  # others may count on what it does to its input
        givers = [takers for flow in flows for calls in flow.values() for takers in calls if relu in takers]
        if len(givers) < sum(len(flow.get(relu, [])) for flow in flows) or any(takers != [relu] for takers in givers):
            because = "the ReLU works in place on what others may see"
    return ([], f"not fused with {names[pool]} ({type(pool).__name__}): {because}") if because else ([pool], "")


def _join_pool(relu: Module, pools: list[Module]) -> None:
    pool: Any = pools[0]
    pool.__class__ = _RELU_POOLS[type(pool)]
    vars(pool)["_joined"] = (relu,)
    relu.__class__ = fused.FusedReLU


def _join(n: int, conv: Module, followers: list[Module]) -> None:
    relu = type(followers[-1]) is torch.nn.ReLU
    norm = followers[0] if len(followers) > 1 or not relu else None
    name = f"Conv{'BatchNorm' if norm else ''}{'ReLU' if relu else ''}{n}d"
    conv.__class__ = recast(conv, getattr(fused if norm else nn, name))
    # Straight into the instances' dictionaries: torch.nn.Module would make what is assigned a module of theirs.
    vars(conv)["_joined"] = tuple(followers)
    if norm is not None:
        vars(conv)["_norm"] = norm
        if relu:
            vars(norm)["_last"] = "relu"
    for follower in followers:
        follower.__class__ = _FUSED[type(follower)]


def separate(model: Module) -> None:
    """Undoes `join`: what did others in `model` is a layer of torchconv.nn again, and they of torch.nn."""
    for module in model.modules():
        joined = vars(module).pop("_joined", ())
        for other in joined:
            stock = _FOLLOWERS[own_class(other)]
            parametrized = parametrize.is_parametrized(other)
            other.__class__ = rebased(type(other), stock) if parametrized else stock
            vars(other).pop("_last", None)
        if joined:
            vars(module).pop("_norm", None)
            plain = (*_CONVS.values(), *_POOLS.values())
            module.__class__ = recast(module, next(cls for cls in plain if isinstance(module, cls)))
