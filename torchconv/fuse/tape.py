"""A sequence's first layers as one call of an operator, where everything that it stands on is as it was.

In evaluation, no gradient being asked for, convolutions keep what their filters become (nn/_prepared.py). Where all
convolutions of a sequence have done so, it and the max poolings between them are one list of tensors, and running it is
one call. What is left to do in Python is to see that nothing changed: no value in the dictionaries of the layers, by
identity, and no tensor, by its state and samples of its memory. All layers are compared together, mostly in C.
"""

import weakref
from collections.abc import Callable, Sequence
from itertools import chain, compress
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .. import settings
from .._library import unchanged
from ..functional.pool import max_pool_window
from ..nn._prepared import (
    UNUSED,
    Form,
    Kept,
    State,
    alone,
    find,
    form_of,
    kept_of,
    run_prepared,
    samples_of,
    states_of,
)
from . import runners

_values = dict.values
_WINDOW = "kernel_size", "stride", "padding", "dilation"
_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"


def _refer(layer: Any) -> Callable[[], Any]:
    """What gives the layer. A module is not held: it holds its tape, and is to go when nobody else has it."""
    return weakref.ref(layer) if isinstance(layer, Module) else lambda: layer


class Tape(NamedTuple):
    """What the first layers of a sequence come to, and all that this hangs on."""

    form: Form  # of the input
    force: tuple[Any, ...]  # settings.in_force() then
    layers: tuple[Callable[[], Any], ...]  # give those that it runs
    prepared: list[Tensor]
    classes: tuple[type, ...]  # of the modules among the layers
    inner: tuple[dict[str, Any], ...]  # the modules' parameters, buffers and hooks
    lengths: int  # of all dictionaries: the modules' own, then those
    held: tuple[bool, ...]  # of each of their values, whether it is compared; what a layer keeps is not
    values: tuple[Any, ...]  # those that are
    kept: tuple[Callable[[], Kept | None], ...]  # give the others
    tensors: tuple[Tensor, ...]
    aliases: tuple[Tensor, ...]  # of the tensors: they hold the memory, so that none is mistaken
    states: tuple[State | None, ...]
    samples: bytes  # of the memory

    def holds(self, layers: Sequence[Any]) -> bool:
        """Whether these are its layers, and as they were."""
        if len(layers) != len(self.layers) or not all(map(is_, layers, [given() for given in self.layers])):
            return False
        modules = [layer for layer in layers if isinstance(layer, Module)]
        dictionaries = [*map(vars, modules), *self.inner]
        values = compress(chain.from_iterable(map(_values, dictionaries)), self.held)
        return (
            all(map(is_, map(type, modules), self.classes))
            and sum(map(len, dictionaries)) == self.lengths
            and all(map(is_, values, self.values))
            and _all_kept(modules) == [given() for given in self.kept]
            and states_of(self.tensors) == self.states
            and unchanged(self.samples)
        )


def _all_kept(modules: Sequence[Module]) -> list[Kept]:
    return [kept for kept in map(kept_of, modules) if kept is not None]


def play(layers: Sequence[Any], x: Any) -> tuple[Any, int]:
    """What the first layers give for `x`, and how many they are: none where there is no tape of them, or it is old."""
    kept = kept_of(layers[0])
    tape = None if kept is None else kept.tape
    if kept is None or tape is None or not alone(x):
        return x, 0
    if form_of(x) != tape.form or settings.in_force() != tape.force or not tape.holds(layers[: len(tape.layers)]):
        return x, 0
    kept.unplayed = 0
    return run_prepared(x, tape.prepared), len(tape.layers)


def record(layers: Sequence[Any], steps: Sequence[Any], x: Any) -> None:
    """Makes a tape of the first layers, as far as their convolutions have prepared for what `x` becomes."""
    kept = kept_of(layers[0])
    if kept is None or kept.unplayed >= UNUSED or not alone(x):
        return
    form: Form | None = form_of(x)
    force, prepared, count, pieces = settings.in_force(), [], 0, 0
    for step in steps:
        assert form is not None
        if step.convolution is not None:
            conv, norm, relu = step.convolution
            entry = find(form, layers[conv], None if norm is None else layers[norm], relu, force)
            if entry is None:
                break
            prepared.append(entry.prepared)
            form = entry.gives
        elif step.pool is not None:
            filters, form = _pool(form, layers[step.pool], step.runner is runners.relu_pool)
            prepared.append(filters)
        else:
            break
        if any(type(getattr(layers[place], name, None)) is list for place in step.places for name in _WINDOW):
            break  # which may be written to without a trace
        count, pieces = step.places[-1] + 1, len(prepared)
    if count > 0:
        kept.unplayed += 1
        kept.tape = _tape(form_of(x), force, layers[:count], prepared[:pieces])


def _pool(form: Form, pool: Any, relu: bool) -> tuple[Tensor, Form]:
    window, output = max_pool_window(pool, form[0])
    filters = torch.ops.torchconv._prepare_max_pool(*window, output, relu)
    y = run_prepared(torch.empty_strided(form[0], form[1], dtype=form[2]).zero_(), [filters])
    return filters, form_of(y)


def _tape(form: Form, force: tuple[Any, ...], layers: Sequence[Any], prepared: list[Tensor]) -> Tape | None:
    modules = [layer for layer in layers if isinstance(layer, Module)]
    inner = tuple(vars(module)[name] for module in modules for name in ("_parameters", "_buffers", *_HOOKS))
    values = [*chain.from_iterable(map(_values, [*map(vars, modules), *inner]))]
    held = tuple(not isinstance(value, Kept) for value in values)
    tensors = tuple(value for value in values if isinstance(value, Tensor))
    states = states_of(tensors)
    if states is None:
        return None
    aliases = tuple(t.detach() for t in tensors)
    return Tape(
        form, force, tuple(map(_refer, layers)), prepared, tuple(map(type, modules)), inner, len(values),
        held, tuple(compress(values, held)), tuple(map(weakref.ref, _all_kept(modules))),
        tensors, aliases, states, samples_of(tensors),
    )  # fmt: skip
