"""A sequence's first layers as one call of an operator, where everything that it stands on is as it was.

In evaluation, no gradient being asked for, convolutions keep what their filters become (nn/_prepared.py). Where all
convolutions of a sequence have done so, it, the poolings between them and the linear layers at its end are one list of
tensors, and running it is one call. What is left to do in Python is to see that nothing changed: no value in the
dictionaries of the layers, by identity, and no tensor (nn/_states.py). All layers are compared together, in C.
"""

import weakref
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from .. import settings
from .._library import as_they_were
from ..functional.adaptive_pool import adaptive_size
from ..functional.pool import avg_pool_window, max_pool_window
from ..nn._prepared import UNUSED, Form, Kept, alone, find, form_of, kept_of, run_prepared
from ..nn._states import States
from . import runners

_Maker: TypeAlias = "Callable[[Form, Sequence[Any], Sequence[Any]], _Piece | None]"
_WINDOW = "kernel_size", "stride", "padding", "dilation", "output_size"
_INNER = "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"


class Tape(NamedTuple):
    """What the first layers of a sequence come to, and all that this hangs on."""

    form: Form  # of the input
    force: tuple[Any, ...]  # settings.in_force() then
    # The layers that it runs: functions, and references to modules, which hold their tape and are to go when nobody
    # else has them.
    layers: tuple[Any, ...]
    prepared: list[Tensor]
    classes: tuple[type | None, ...]  # of the modules among the layers
    inner: tuple[dict[str, Any], ...]  # the modules' parameters, buffers and hooks
    # The keys and values of the modules' own dictionaries, then of those; a reference to what a layer keeps.
    entries: tuple[Any, ...]
    tensors: list[Tensor]  # among the values
    states: States
    own: list[Tensor]  # of what was prepared, that which no layer keeps
    next_kind: str  # of the step after the last one, which could not be taken: of another a longer tape can be made

    def holds(self, layers: tuple[Any, ...]) -> bool:
        """Whether these are its layers, and as they were; more may follow."""
        same = as_they_were(layers, self.layers, self.classes, self.inner, self.entries)
        return same and self.states.hold(self.tensors)

    def play(self, x: Tensor) -> Tensor:
        """What the layers give for `x`."""
        return run_prepared(x, self.prepared)


def find_tape(layers: tuple[Any, ...], x: Any) -> Tape | None:
    """The tape of the first layers, for inputs such as `x`; None where there is none, or it is old."""
    kept = kept_of(layers[0])
    tape = None if kept is None else kept.tape
    if kept is None or tape is None or not alone(x):
        return None
    if form_of(x) != tape.form or settings.in_force() != tape.force or not tape.holds(layers):
        return None
    kept.unplayed = 0
    return tape


def kind_after(steps: Sequence[Any]) -> str:
    """The kind of the step that follows a tape; none of them where nothing follows."""
    return steps[0].kind if steps else ""


# ---- making one ----


class _Piece(NamedTuple):
    """Some steps as one tensor."""

    prepared: Tensor
    gives: Form
    steps: int
    kept: bool = False  # by a layer


def record(layers: tuple[Any, ...], steps: Sequence[Any], x: Any) -> tuple[Any, int]:
    """Makes a tape of the first layers, as far as there is a piece for what `x` becomes.

    Linear layers round otherwise than torch's. Where there are some, this call, too, is to answer as the next ones
    will: returns the tape's answer for `x`, and the number of steps in it, else none.
    """
    kept = kept_of(layers[0])
    if kept is None or kept.unplayed >= UNUSED or not alone(x):
        return x, 0
    form, force, at, count = form_of(x), settings.in_force(), 0, 0
    pieces: list[_Piece] = []
    while at < len(steps) and steps[at].kind in _PIECES:
        piece = _PIECES[steps[at].kind](form, layers, steps[at:])
        if piece is None:
            break
        places = [place for step in steps[at : at + piece.steps] for place in step.places]
        if any(type(getattr(layers[place], name, None)) is list for place in places for name in _WINDOW):
            break  # which may be written to without a trace
        pieces.append(piece)
        at, count, form = at + piece.steps, places[-1] + 1, piece.gives
    if not pieces:
        return x, 0
    kept.unplayed += 1
    kept.tape = _tape(form_of(x), force, layers[:count], pieces, kind_after(steps[at:]))
    if kept.tape is None or all(step.kind != "linear" for step in steps[:at]):
        return x, 0
    return kept.tape.play(x), at


def _convolution(form: Form, layers: Sequence[Any], steps: Sequence[Any]) -> _Piece | None:
    conv, norm, relu = steps[0].convolution
    entry = find(form, layers[conv], None if norm is None else layers[norm], relu, settings.in_force())
    return None if entry is None or entry.gives is None else _Piece(entry.prepared, entry.gives, 1, kept=True)


def _pooled(form: Form, prepared: Tensor) -> _Piece:
    y = run_prepared(torch.empty_strided(form[0], form[1], dtype=form[2]).zero_(), [prepared])
    return _Piece(prepared, form_of(y), 1)


def _max_pool(form: Form, layers: Sequence[Any], steps: Sequence[Any]) -> _Piece:
    window, output = max_pool_window(layers[steps[0].places[-1]], form[0])
    relu = steps[0].runner is runners.relu_pool
    return _pooled(form, torch.ops.torchconv._prepare_max_pool(*window, output, relu))


def _avg_pool(form: Form, layers: Sequence[Any], steps: Sequence[Any]) -> _Piece:
    pool = layers[steps[0].places[0]]
    if hasattr(pool, "output_size"):
        output = adaptive_size(pool.output_size, form[0], len(form[0]) - 2, "adaptive_avg_pool")
        return _pooled(form, torch.ops.torchconv._prepare_avg_pool([], [], [], output, True, None))
    window, output = avg_pool_window(pool, form[0])
    divisor = getattr(pool, "divisor_override", None)
    return _pooled(form, torch.ops.torchconv._prepare_avg_pool(*window, output, pool.count_include_pad, divisor))


def _linear(form: Form, layers: Sequence[Any], steps: Sequence[Any]) -> _Piece | None:
    """A linear layer, with the flattening before and the ReLU after it, if any."""
    kinds = [step.kind for step in steps]
    flat = kinds[0] == "flatten"
    rows_only = _flattens(layers[steps[0].places[0]]) if flat else len(form[0]) == 2
    if not rows_only or kinds[flat : flat + 1] != ["linear"]:
        return None
    linear = layers[steps[flat].places[0]]
    weight, bias = linear._parameters.get("weight"), linear._parameters.get("bias")
    tensors = [t for t in (weight, bias) if t is not None]
    rows = form[0][0]
    if (
        settings.is_batch_invariant()  # then torch's, whatever is kept
        or weight is None
        or (bias is None) != (linear.bias is None)
        or any(type(t) is not Parameter or not t.is_cpu or t.dtype != form[2] or t.is_inference() for t in tensors)
        or rows == 0
        or form[0].numel() != rows * weight.shape[1]
    ):
        return None
    relu = kinds[flat + 1 : flat + 2] == ["relu"]
    with torch.no_grad():
        prepared = torch.ops.torchconv._prepare_linear(weight, bias, rows, relu)
    outputs = weight.shape[0]
    gives = torch.Size((rows, outputs)), (outputs, 1), form[2]
    return _Piece(prepared, gives, flat + 1 + relu) if prepared.numel() else None


def _flattens(flatten: Any) -> bool:
    """Whether it leaves the batch alone and makes one axis of all others."""
    return (flatten.start_dim, flatten.end_dim) == (1, -1)


_PIECES: dict[str, _Maker] = {
    "conv": _convolution,
    "pool": _max_pool,
    "mean": _avg_pool,
    "flatten": _linear,
    "linear": _linear,
}


def _tape(
    form: Form, force: tuple[Any, ...], layers: Sequence[Any], pieces: Sequence[_Piece], next_kind: str
) -> Tape | None:
    modules = [layer for layer in layers if isinstance(layer, Module)]
    inner = tuple(vars(module)[name] for module in modules for name in _INNER)
    items = [*chain.from_iterable(some.items() for some in (*map(vars, modules), *inner))]
    tensors = [value for _, value in items if isinstance(value, Tensor)]
    plain = all(type(t) in (Tensor, Parameter) for t in tensors)
    states = States.of(tensors) if plain else None
    if states is None:
        return None
    return Tape(
        form, force,
        tuple(weakref.ref(layer) if isinstance(layer, Module) else layer for layer in layers),
        [piece.prepared for piece in pieces],
        tuple(type(layer) if isinstance(layer, Module) else None for layer in layers),
        inner,
        tuple(chain.from_iterable((k, weakref.ref(v) if isinstance(v, Kept) else v) for k, v in items)),
        tensors, states,
        [piece.prepared for piece in pieces if not piece.kept],
        next_kind,
    )  # fmt: skip
