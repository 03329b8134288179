"""What a convolution layer keeps between calls in evaluation: what its filters become before they are multiplied.

A call packs or transforms its filters, and folds the batch norm that follows into them, which for one image is most of
its work. A layer in evaluation, no gradient being asked for, keeps what comes of that for inputs of the last two
shapes, and starts from there at the next calls.

What is kept is true of the tensors that it was made of, which are compared at each call (_states.py): who writes a few
elements only, in a way that moves no version, has to call `prepare`. It belongs to its layer, is no part of a
state_dict, and is gone after `train()`, after a move or cast, and from copies and pickles.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .. import settings
from ..functional._arguments import asked, per_axis
from ..functional._route import KERNEL_DTYPES, built_in_wanted, has_kernel
from ..functional._window import both_sides
from ..ops import CHANNELS_LAST, activation_format
from ._fold import can_fold, folded
from ._states import States

_Model = TypeVar("_Model", bound=torch.nn.Module)

MOST = 2  # shapes of input that a layer keeps something for
UNUSED = 8  # entries made in a row and never used, after which a layer makes no more: every shape, or weight, is new


# What decides, of an input, what its convolution is: shape, strides and dtype.
Form: TypeAlias = tuple[torch.Size, tuple[int, ...], torch.dtype]


class _Entry(NamedTuple):
    key: tuple[Any, ...]  # how the layers are set
    form: Form  # of the input
    sources: States  # what it was made of
    prepared: Tensor  # empty: the layers are run as they are
    gives: Form | None  # of the output

    def holds(self, form: Form, key: tuple[Any, ...], tensors: Sequence[Tensor | None]) -> bool:
        return self.form == form and self.key == key and self.sources.hold(tensors)


class Kept:
    """What one layer keeps, the latest first. A copy, or what comes back from a pickle, keeps nothing."""

    def __init__(self) -> None:
        self.entries: tuple[_Entry, ...] = ()  # replaced as a whole: threads may share a layer
        self.unused = 0  # entries made since one was last used
        self.tape: Any = None  # fuse/tape.py's, of a sequence that begins with the layer
        self.unplayed = 0  # tapes made since one was last played

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Kept, ()

    def bytes(self) -> int:
        """Of what was prepared."""
        prepared = [e.prepared for e in self.entries] + ([] if self.tape is None else self.tape.own)
        return sum(t.numel() for t in prepared)


_any_requires_grad = torch._C._any_requires_grad
run_prepared = torch.ops.torchconv._run_prepared.default._op  # the operator, less two calls in Python


def alone(x: Any) -> bool:
    """Whether nothing but the kernels sees a call with this input: it is a plain tensor on the CPU, and there is no
    transform, tracer, mode or autocast."""
    return type(x) is Tensor and not (
        not x.is_cpu
        or x.layout is not torch.strided
        or torch.compiler.is_dynamo_compiling()
        or built_in_wanted()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch.is_autocast_enabled("cpu")
    )


def form_of(x: Tensor) -> Form:
    """The form of an input."""
    return x.shape, x.stride(), x.dtype


def _sources(conv: Any, norm: Any) -> tuple[Tensor | None, ...]:
    """What the filters and the bias are made of: weight and bias, then the norm's statistics and its own two."""
    parameters = conv._parameters
    own = parameters.get("weight"), parameters.get("bias")
    if norm is None:
        return own
    buffers, affine = norm._buffers, norm._parameters
    return *own, buffers.get("running_mean"), buffers.get("running_var"), affine.get("weight"), affine.get("bias")


def _evaluates(conv: Any) -> bool:
    """Whether the layer may answer by what it keeps. One whose flag was deleted trains, as far as anybody can tell."""
    return conv.prepares and not conv.__dict__.get("training", True)


_WINDOW = "stride", "padding", "dilation", "groups", "padding_mode"


def _key(conv: Any, norm: Any, relu: bool, force: tuple[Any, ...]) -> tuple[Any, ...]:
    state = conv.__dict__
    eps = None if norm is None else norm.eps
    window = [tuple(w) if type(w) is list else w for w in map(state.__getitem__, _WINDOW)]  # a list may be written to
    return (conv.algorithm, eps, relu, *window, *force)


def convolve(x: Any, conv: Any, norm: Any, relu: bool) -> Tensor | None:
    """The convolution `conv` of `x`, the batch norm `norm` and a ReLU where there is one, by what is kept; None where
    the layers have to be run as they are."""
    if not _evaluates(conv) or not alone(x):
        return None
    tensors = _sources(conv, norm)
    if torch.is_grad_enabled() and _any_requires_grad(x, *tensors):
        return None
    form, key = form_of(x), _key(conv, norm, relu, settings.in_force())
    kept = conv.__dict__.get("_kept")
    if kept is None:
        kept = conv.__dict__["_kept"] = Kept()
    for entry in kept.entries:
        if entry.holds(form, key, tensors):
            kept.unused = 0
            return None if entry.gives is None else run_prepared(x, [entry.prepared])
    if kept.unused >= UNUSED or not _can(x, conv, norm, tensors):
        return None
    kept.unused += 1
    prepared = _made(x, conv, norm, tensors, relu)
    y = run_prepared(x, [prepared]) if prepared.numel() else None
    sources = States.of(tensors)
    assert sources is not None  # of those that _can admits
    gives = None if y is None else form_of(y)
    made = _Entry(key, form, sources, prepared, gives)
    kept.entries = (made, *[e for e in kept.entries if e.form != form][: MOST - 1])
    return y


def convolve_all(x: Any, calls: Iterable[tuple[Any, Any, bool]]) -> tuple[Any, int]:
    """As many of the calls, each of a convolution, a batch norm or None, and whether a ReLU follows, as what is kept
    has everything for, one on the other's output and in one call of the operator: the last one's output, and how many.
    """
    if torch.is_grad_enabled() or not alone(x):
        return x, 0
    form: Form | None = form_of(x)
    force = settings.in_force()
    filters: list[Tensor] = []
    for conv, norm, relu in calls:
        found = None if form is None else find(form, conv, norm, relu, force)
        if found is None:
            break
        vars(conv)["_kept"].unused = 0
        filters.append(found.prepared)
        form = found.gives
    return (run_prepared(x, filters), len(filters)) if filters else (x, 0)


def kept_of(layer: Any) -> Kept | None:
    """What a layer keeps, if it is one that does and has."""
    return vars(layer).get("_kept") if isinstance(layer, Preparing) else None


def find(form: Form, conv: Any, norm: Any, relu: bool, force: tuple[Any, ...]) -> _Entry | None:
    """What `conv` has prepared for inputs of this form, together with a norm and a ReLU."""
    kept = kept_of(conv)
    if kept is None or not _evaluates(conv) or (norm is not None and norm.training):
        return None
    key, tensors = _key(conv, norm, relu, force), _sources(conv, norm)
    for entry in kept.entries:
        if entry.gives is not None and entry.holds(form, key, tensors):
            return entry
    return None


def _can(x: Tensor, conv: Any, norm: Any, tensors: Sequence[Tensor | None]) -> bool:
    """Whether these operands are such as are prepared for: the kernels' and plain, of one dtype, with versions."""
    weight, bias, *vectors = tensors
    return (
        weight is not None
        and (bias is not None or conv.bias is None)
        and all(t is None or (type(t) in (Tensor, Parameter) and not t.is_inference()) for t in tensors)
        and has_kernel(x, weight, bias)
        and x.dtype == weight.dtype
        and (bias is None or bias.dtype == weight.dtype)
        and weight.dim() == x.dim() == len(conv.kernel_size) + 2
        and conv.padding_mode == "zeros"
        and all(v is None or v.dtype in KERNEL_DTYPES for v in vectors)
        and (norm is None or can_fold(x, conv, norm, weight, always=not settings.is_batch_invariant()))
    )


def _made(x: Tensor, conv: Any, norm: Any, tensors: Sequence[Tensor | None], relu: bool) -> Tensor:
    weight, bias = tensors[:2]
    assert weight is not None
    dims, name = x.dim() - 2, f"conv{x.dim() - 2}d"
    with torch.no_grad():
        last = activation_format(x, weight) in CHANNELS_LAST
        if norm is not None:
            weight, bias = folded(norm, weight, bias)
        stride = per_axis(conv.stride, dims, "stride", name, 1)
        dilation = per_axis(conv.dilation, dims, "dilation", name, 1)
        sides = both_sides(conv.padding, x.shape[2:], weight.shape[2:], stride, dilation, name)
        return torch.ops.torchconv._prepare_convolution(
            weight, bias, x.shape, stride, sides, dilation, conv.groups, last, asked(conv.algorithm), relu
        )


def forget(layer: torch.nn.Module) -> None:
    """Drops what a layer keeps."""
    layer.__dict__.pop("_kept", None)


class Preparing:
    """A layer that keeps what its filters become. Stands before torch.nn's class among the bases of its own."""

    prepares: bool = True  # whether it does

    def train(self: Any, mode: bool = True) -> Any:
        if mode:
            forget(self)
        return super().train(mode)  # type: ignore[misc]

    def _apply(self: Any, *args: Any, **keywords: Any) -> Any:
        forget(self)
        return super()._apply(*args, **keywords)  # type: ignore[misc]


def prepare(model: _Model, *inputs: Any) -> _Model:
    """Drops what the convolution layers of `model` keep of their filters for evaluation, and makes it anew.

    Layers see for themselves when a tensor that they prepared was replaced or written to, and make it anew: an
    optimizer's step, ``load_state_dict``, ``copy_``, another batch norm. They compare versions, which writes through
    ``.data`` or by others who share the memory (a numpy array) do not move, and 16 places of each tensor: call this, or
    ``model.train()``, after such a write that leaves most elements as they were.

    Args:
        model: any module.
        inputs: what to call the model with, without gradients, so that the next call with inputs of these shapes finds
            everything prepared. Without them each layer prepares at its next call.

    Returns:
        `model`.
    """
    for layer in model.modules():
        forget(layer)
    if inputs:
        with torch.no_grad():
            model(*inputs)
    return model
