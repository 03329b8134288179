"""A sequence's first layers as one call of an operator, where everything that it stands on is as it was.

In evaluation, no gradient being asked for, convolutions keep what their filters become (nn/_prepared.py). Where all
convolutions of a sequence have done so, it and the max poolings between them are one list of tensors, and running it is
one call. What is left to do in Python is to see that nothing changed: no value in the dictionaries of the layers, by
identity, and no tensor, by its memory and version. The comparisons run in C, all layers together.
"""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .. import settings
from ..functional.pool import max_pool_window
from ..nn._prepared import UNUSED, Form, alone, find, form_of, kept_of, run_prepared
from . import runners

_values, _version = dict.values, attrgetter("_version")


class Tape(NamedTuple):
    form: Form  # of the input
    force: tuple[Any, ...]  # settings.in_force() then
    layers: tuple[Any, ...]  # that it runs
    prepared: list[Tensor]
    modules: tuple[Module, ...]  # of the layers
    classes: tuple[type, ...]
    states: tuple[dict[str, Any], ...]  # their dictionaries
    dictionaries: tuple[dict[str, Any], ...]  # those, their parameters', buffers' and hooks'
    values: tuple[Any, ...]  # of all dictionaries
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    aliases: tuple[Tensor, ...]  # of the tensors: they hold the memory, so that none is mistaken
    memory: tuple[int, ...]

    def holds(self) -> bool:
        """Whether the layers are as they were."""
        return (
            all(map(is_, map(vars, self.modules), self.states))
            and all(map(is_, map(type, self.modules), self.classes))
            and sum(map(len, self.dictionaries)) == len(self.values)
            and all(map(is_, chain.from_iterable(map(_values, self.dictionaries)), self.values))
            and tuple(map(_version, self.tensors)) == self.versions
            and tuple(map(Tensor.data_ptr, self.tensors)) == self.memory
        )


def play(layers: Sequence[Any], x: Any) -> tuple[Any, int]:
    """What the first layers give for `x`, and how many they are: none where there is no tape of them, or it is old."""
    kept = kept_of(layers[0])
    tape = None if kept is None else kept.tape
    if kept is None or tape is None or not alone(x):
        return x, 0
    count = len(tape.layers)
    if form_of(x) != tape.form or layers[:count] != tape.layers or settings.in_force() != tape.force:
        return x, 0
    if not tape.holds():
        kept.tape = None
        return x, 0
    kept.unplayed = 0
    return run_prepared(x, tape.prepared), count


def record(layers: Sequence[Any], steps: Sequence[Any], x: Any) -> None:
    """Makes a tape of the first layers, as far as their convolutions have prepared for what `x` becomes."""
    kept = kept_of(layers[0])
    if kept is None or kept.unplayed >= UNUSED or not alone(x):
        return
    form: Form | None = form_of(x)
    force, prepared, count = settings.in_force(), [], 0
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
        count = step.places[-1] + 1
    if count > 0:
        kept.unplayed += 1
        kept.tape = _tape(form_of(x), force, tuple(layers[:count]), prepared)


def _pool(form: Form, pool: Any, relu: bool) -> tuple[Tensor, Form]:
    window, output = max_pool_window(pool, form[0])
    filters = torch.ops.torchconv._prepare_max_pool(*window, output, relu)
    y = run_prepared(torch.empty_strided(form[0], form[1], dtype=form[2]).zero_(), [filters])
    return filters, form_of(y)


def _tape(form: Form, force: tuple[Any, ...], layers: tuple[Any, ...], prepared: list[Tensor]) -> Tape:
    modules = tuple(layer for layer in layers if isinstance(layer, Module))
    states: tuple[dict[str, Any], ...] = tuple(map(vars, modules))
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    inner = [s[name] for s in states for name in ("_parameters", "_buffers", *hooks)]
    dictionaries = (*states, *inner)
    tensors = tuple(t for d in inner for t in d.values() if isinstance(t, Tensor))
    aliases = tuple(t.detach() for t in tensors)
    return Tape(
        form, force, layers, prepared, modules, tuple(map(type, modules)), states, dictionaries,
        tuple(chain.from_iterable(map(_values, dictionaries))), tensors,
        tuple(map(_version, tensors)), aliases, tuple(map(Tensor.data_ptr, tensors)),
    )  # fmt: skip
