"""Which layers of a sequence are run as one: the patterns, and what keeps a layer to itself.

`run(layers, x)` is ``layers[-1](... layers[0](x))``. At each call it asks each layer for its kind, as it is then: of
exactly a class that is known, with nothing attached that would see, or change, what goes in or comes out. The plan for
a row of kinds is worked out once for all sequences that have it, so nothing is kept in a module, copied or pickled.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as _torch_module
from torch.nn.utils import parametrize

from .. import nn
from ..functional._route import has_kernel
from ..nn._prepared import convolve_all
from . import runners, tape
from .blame import Where, pointed

# ---- kinds of layers ----


def relu_in_place(x: Tensor) -> Tensor:
    """The function relu with ``inplace=True``, as a layer of a chain: it has an identity that a plan can ask for."""
    return torch.nn.functional.relu(x, inplace=True)


KINDS: dict[type, str] = {
    torch.nn.ReLU: "relu",
    torch.nn.Identity: "identity",
    torch.nn.Linear: "linear",
    torch.nn.Flatten: "flatten",
}
for _n in (1, 2, 3):
    KINDS[getattr(nn, f"Conv{_n}d")] = f"conv{_n}"
    KINDS[getattr(nn, f"MaxPool{_n}d")] = f"pool{_n}"
    KINDS[getattr(nn, f"AvgPool{_n}d")] = KINDS[getattr(nn, f"AdaptiveAvgPool{_n}d")] = f"mean{_n}"
    KINDS[getattr(torch.nn, f"BatchNorm{_n}d")] = f"norm{_n}"
for _name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"):
    KINDS[getattr(torch.nn, _name)] = "dropout"
FUNCTIONS = (
    (torch.nn.functional.relu, "relu"), (torch.relu, "relu"), (relu_in_place, "relu_"), (torch.relu_, "relu_")
)  # fmt: skip

# ---- patterns ----

Runner: TypeAlias = Callable[..., Tensor]


class Step(NamedTuple):
    """What runs some of the layers, and their places among the layers. Without a runner a layer is called."""

    runner: Runner | None
    places: tuple[int, ...]
    kind: str  # of the layer that is run, or of the last one of two: "conv", "pool", "mean", "linear", ...
    # Of a convolution: its place, that of the norm after it, if any, and whether a ReLU follows.
    convolution: tuple[int, int | None, bool] | None


def _step(runner: Runner | None, places: tuple[int, ...], kinds: Sequence[str | None]) -> Step:
    first, *rest = some = [(kinds[i] or "").rstrip("123_") for i in places]
    if first == "conv":
        return Step(runner, places, first, (places[0], places[1] if "norm" in rest else None, "relu" in rest))
    return Step(runner, places, some[-1], None)


def _patterns() -> Iterator[tuple[tuple[str, ...], tuple[tuple[Runner | None, int], ...]]]:
    """Kinds that follow each other, and how they are run: a runner, and of how many of them, one after the other."""
    for n in (1, 2, 3):
        conv, norm, pool = f"conv{n}", f"norm{n}", f"pool{n}"
        for relu in ("relu", "relu_"):  # in place: on what a layer of the pattern made, and nobody else can see
            yield (conv, relu, pool), ((None, 1), (runners.relu_pool, 2))  # for less than the convolution does it
            yield (conv, norm, relu), ((runners.conv_norm, 3),)
            yield (conv, relu), ((runners.conv_relu, 2),)
            yield (norm, relu), ((runners.norm_relu, 2),)
        yield (conv, norm), ((runners.conv_norm, 2),)
        yield ("relu", pool), ((runners.relu_pool, 2),)


PATTERNS = dict(sorted(_patterns(), key=lambda pattern: -len(pattern[0])))  # the longest first


def plan(kinds: tuple[str | None, ...]) -> tuple[Step, ...]:
    """The steps in which layers of these kinds are run; None is a layer to be called."""
    places = [i for i, kind in enumerate(kinds) if kind != "identity"]  # which gives what it is given
    row = [kinds[i] for i in places]
    steps: list[Step] = []
    at = 0
    while at < len(row):
        found: Sequence[tuple[Runner | None, int]] = ((None, 1),)
        for pattern, how in PATTERNS.items():
            if tuple(row[at : at + len(pattern)]) == pattern:
                found = how
                break
        for runner, count in found:
            steps.append(_step(runner, tuple(places[at : at + count]), kinds))
            at += count
    return tuple(steps)


_known_plan = lru_cache(maxsize=4096)(plan)


# ---- guards ----


class Observer(Protocol):
    """What explain is told of a step that is run as one, in place of the calls of hooks that it put on the layers."""

    hooks: set[Any]  # those hooks

    def ran(self, layers: Sequence[Any], run: Callable[[], Tensor], x: Tensor) -> Tensor: ...


observer: Observer | None = None


def attached(layer: Any) -> str | None:
    """What of a layer, beside its class, would see or change what it does; None if nothing."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    if any(hooks) and (observer is None or any(not observer.hooks.issuperset(some.values()) for some in hooks)):
        return "a hook is on it"
    if "forward" in layer.__dict__ or "_conv_forward" in layer.__dict__:
        return "its forward was replaced on the instance"
    return None if layer._compiled_call_impl is None else "it is compiled"


def kind_of(layer: Any) -> str | None:
    """The kind of a layer as it is now; None if it is to be called, whatever it is."""
    kind = KINDS.get(layer.__class__)
    if kind is None:
        return _uncommon_kind(layer)
    state = layer.__dict__  # where a look-up takes a third of the time of an attribute's
    if (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or "_conv_forward" in state
        or "_compiled_call_impl" in state
    ) and attached(layer):
        return None
    return _as_set(layer, kind) if kind in _SETTABLE else kind


_SETTABLE = frozenset({"relu", "pool1", "pool2", "pool3", "dropout"})


def _traced_kind(layer: Any) -> str | None:
    """The kind of a layer for Dynamo, which looks again when an attribute that was read has changed, but not when a
    dictionary has a name more."""
    for name in ("forward", "_conv_forward"):
        getattr(layer, name, None)
    return kind_of(layer)


def _as_set(layer: Any, kind: str) -> str | None:
    """The kind, where it depends on how a layer is set."""
    if kind == "relu" and layer.inplace:
        return "relu_"
    if kind == "dropout":  # which in evaluation gives what it is given
        return None if layer.training else "identity"
    if kind[:4] == "pool" and layer.return_indices:  # of windows without a positive element they would be others
        return None
    return kind


def _uncommon_kind(layer: Any) -> str | None:
    if isinstance(layer, Module):
        kind = KINDS.get(layer.__class__.__bases__[0]) if parametrize.is_parametrized(layer) else None
        return None if kind is None or attached(layer) else _as_set(layer, kind)
    for function, kind in FUNCTIONS:
        if layer is function:
            return kind
    return None


_CALL = Module.__call__
_RELU, _BATCH_NORM = torch.nn.functional.relu, torch.nn.functional.batch_norm
_CLASSES: tuple[Any, ...] = tuple(KINDS)
_FORWARDS = [cls.forward for cls in _CLASSES]


def _watched() -> bool:
    """Whether somebody sees, or replaced, every layer of a class or function that is called: then all are."""
    return bool(
        _torch_module._global_forward_hooks
        or _torch_module._global_forward_pre_hooks
        or _torch_module._global_backward_hooks
        or _torch_module._global_backward_pre_hooks
        or Module.__call__ is not _CALL
        or torch.nn.functional.relu is not _RELU  # replaced for all layers
        or torch.nn.functional.batch_norm is not _BATCH_NORM
        or [cls.forward for cls in _CLASSES] != _FORWARDS
        or torch._C._len_torch_function_stack()
    )


def _takes(x: Any) -> bool:
    """Whether runners take `x`: a plain tensor that there are kernels for. Tracers and subclasses see the layers."""
    return type(x) in _PLAIN and has_kernel(x)


_PLAIN = (Tensor, torch.nn.Parameter)


# ---- running ----


def run(layers: tuple[Any, ...], x: Any, where: Where = ()) -> Any:
    """What the last of `layers` gives for what the one before it gives, and so on, for `x`.

    `where` says where the calling method names them: an error points there.
    """
    if torch.compiler.is_dynamo_compiling():  # which looks at the layers itself, and again when they change
        steps = plan(tuple([_traced_kind(x) if isinstance(x, Module) else _uncommon_kind(x) for x in layers]))
        return _run(layers, steps, x)
    watched = _watched()
    known = None
    if not watched and observer is None and layers and not torch.is_grad_enabled():
        known = tape.find_tape(layers, x)
    ran = 0 if known is None else len(known.layers)
    steps = _steps(layers[ran:], watched)
    if known is not None:
        if known.next_kind == tape.kind_after(steps):
            x, layers, where = known.play(x), layers[ran:], where[ran:]
        else:  # a longer one can be made
            steps = _steps(layers, watched)
    if not where:
        return _run(layers, steps, x)
    try:
        return _run(layers, steps, x)
    except Exception as error:
        raised = error.__traceback__ and error.__traceback__.tb_next
        caller = sys._getframe(1)
        raise error.with_traceback(pointed(raised, _run_step, layers, where, caller))  # noqa: B904  it is the same error


def _steps(layers: tuple[Any, ...], watched: bool) -> tuple[Step, ...]:
    return _known_plan((None,) * len(layers) if watched else tuple([kind_of(layer) for layer in layers]))


def _run(layers: tuple[Any, ...], steps: Sequence[Step], x: Any) -> Any:
    if observer is None and not torch.is_grad_enabled():
        return _run_prepared(layers, steps, x)
    for step in steps:
        x = _run_step(layers, step, x)
    return x


def _run_step(layers: Sequence[Any], step: Step, x: Any) -> Any:
    runner, places, *_ = step
    if runner is None or not _takes(x):
        runner = None
        for i in places:
            x = layers[i](x)
        return x
    some = [layers[i] for i in places]
    return runner(x, *some) if observer is None else observer.ran(some, partial(runner, x, *some), x)


def _run_prepared(layers: tuple[Any, ...], steps: Sequence[Step], x: Any) -> Any:
    """All steps, convolutions that follow each other in one call where they have prepared their filters."""
    given, at = x, 0
    while at < len(steps):
        done = 0
        if steps[at].convolution is not None:
            x, done = convolve_all(x, _convolutions(layers, steps[at:]))
        if done == 0:
            x, done = _run_step(layers, steps[at], x), 1
        at += done
    if steps and steps[0].kind == "conv":
        answer, ran = tape.record(layers, steps, given)
        if ran:
            x = answer
            for step in steps[ran:]:
                x = _run_step(layers, step, x)
    return x


def _convolutions(layers: Sequence[Any], steps: Iterable[Step]) -> Iterator[tuple[Any, Any, bool]]:
    """The layers of the steps that begin with convolutions: a convolution, its norm, and whether a ReLU follows."""
    for step in steps:
        if step.convolution is None:
            return
        conv, norm, relu = step.convolution
        yield layers[conv], None if norm is None else layers[norm], relu


def given(function: Callable[..., Any], *args: bool, **keywords: bool) -> Callable[..., Any]:
    """`function` with these arguments after its input: PyTorch's relu as a plan knows it, any other as it is called."""
    if function is not _RELU:
        return lambda x: function(x, *args, **keywords)
    return relu_in_place if any(args) or any(keywords.values()) else function


# ---- what is said of it ----


def name_of(layer: Any) -> str:
    """The class of a layer, or the name of a function."""
    return type(layer).__name__ if isinstance(layer, Module) else getattr(layer, "__name__", repr(layer))


def fusible(layer: Any) -> bool:
    """Whether there are patterns with a layer of this kind."""
    return (kind_of(layer) or "").rstrip("123_") in ("conv", "norm", "pool", "relu")


def fuses(layers: Iterable[Any]) -> bool:
    """Whether any of the layers would be run as one, as they are now."""
    return any(step.runner is not None for step in plan(tuple(map(kind_of, layers))))


def kept_apart(layers: Sequence[Any]) -> Iterator[tuple[Any, Any, str]]:
    """Layers that only what is attached to them, or a class derived from theirs, keeps from being run with the ones
    that follow: the layer, the one that follows, and why."""
    kinds = tuple(map(kind_of, layers))
    loose = tuple(kind or _resembles(layer) for kind, layer in zip(kinds, layers, strict=True))
    fused = {step.places for step in plan(kinds) if step.runner is not None}
    for runner, places, *_ in plan(loose):
        if runner is not None and places not in fused:
            first, *_, second = (layers[i] for i in places)
            bad = next((layers[i] for i in places if kinds[i] is None), None)
            if bad is not None:
                yield first, second, attached(bad) or f"its class derives from {KINDS_NAMES[_resembles(bad)]}"


def _resembles(layer: Any) -> str | None:
    if not isinstance(layer, Module):
        return None
    return next((_as_set(layer, kind) for cls, kind in KINDS.items() if isinstance(layer, cls)), None)


KINDS_NAMES: dict[str | None, str] = {
    kind: f"{cls.__module__.partition('.')[0]}.nn.{cls.__name__}" for cls, kind in KINDS.items()
}
