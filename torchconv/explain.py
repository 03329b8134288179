"""What each convolution and pooling layer of a model does on a given input: `explain`."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import nn
from ._classes import OURS, STOCK
from ._watch import Watch
from .functional._route import KERNEL_DTYPES
from .functional._window import both_sides, pad_amounts
from .fuse import plan

_STOCK = tuple(STOCK)
# Layers that expand their filters and are then a plain convolution, reduced or not.
_EXPANDED = (
    nn.GroupConv2d,
    nn.TransformInvariantConv1d,
    nn.TransformInvariantConv2d,
    nn.TransformInvariantConv3d,
)


def _named(word: str) -> tuple[type[torch.nn.Module], ...]:
    return tuple(getattr(nn, name) for name in nn.__all__ if word in name)


_TRANSPOSES = _named("ConvTranspose")
_CONVS = tuple(cls for cls in _named("Conv") if cls not in _TRANSPOSES)
_LOCALS = _named("LocallyConnected")  # which torch.nn lacks
_OURS = (*OURS, *_LOCALS)
_ON_GROUPS = (nn.GroupPool2d, nn.GroupBatchNorm2d)
_WATCHED: tuple[type[torch.nn.Module], ...] = (
    *_STOCK,
    *_LOCALS,
    *_EXPANDED,
    *_ON_GROUPS,
    nn.LearnedPool2d,
    nn.BlockPool2d,
)
_MAX_POOLS, _LP_POOLS = _named("MaxPool"), _named("LPPool")

DIRECTIONS = ("forward", "input_grad", "weight_grad")

# The bound on ‖y − y64‖/‖y64‖ in float32 that the tests hold each algorithm to: forward and input gradient, weight
# gradient. y64 is the same in float64.
_ERROR_BOUNDS = {
    "reference": (2e-6, 1e-5),
    "direct": (2e-6, 1e-5),
    "gemm": (2e-6, 1e-5),
    "fft": (2e-6, 1e-5),
    "depthwise": (2e-6, 1e-5),
    "winograd": (5e-6, 1.5e-5),
}


def error_bound(algorithm: str, direction: str, dtype: torch.dtype) -> float:
    """The relative L2 error that `algorithm` keeps to. float64 errs as much less as it rounds finer; bfloat16 is summed
    in float32 and rounded once, which alone costs half its epsilon."""
    bound = _ERROR_BOUNDS[algorithm][direction == "weight_grad"]
    if dtype == torch.bfloat16:
        return bound + torch.finfo(dtype).eps / 2
    return bound * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Row:
    """One direction of one call of one layer. None stands for what is not known."""

    name: str  # the layer's in the model, with #2 and so on for its second call and later ones
    layer: str  # its class
    direction: str  # one of DIRECTIONS
    algorithm: str  # "built-in" for PyTorch's own operator
    refused: tuple[
        str, ...
    ] = ()  # "algorithm: reason" for each other candidate: what hinders it, or what it would cost
    multiply_adds: int | None = None  # of the definition, zeros of the padding included
    estimate: int | None = (
        None  # what the selection expects: the multiply-adds that take as long at the processor's peak
    )
    bytes_moved: int | None = None  # operands read once and results written once
    workspace_bytes: int | None = None  # beside operands and results, with one thread
    error_bound: float | None = None  # on the relative L2 error
    kept_bytes: int = 0  # what the forward keeps for the backward, parameters aside


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns: rows, to be read one by one or printed as a table."""

    rows: list[Row] = field(default_factory=list)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __str__(self) -> str:
        head = (
            "layer",
            "direction",
            "algorithm",
            "mult-adds",
            "estimate",
            "moved",
            "workspace",
            "error",
            "kept",
            "refused",
        )
        cells = [head, *(_cells(row) for row in self.rows), _totals(self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = (0, 1, 2, 9)  # the columns of text; the others are of numbers
        lines = []
        for line in cells:
            pad = (cell.ljust if i in left else cell.rjust for i, cell in enumerate(line))
            lines.append("  ".join(cell(width) for cell, width in zip(pad, widths, strict=True)).rstrip())
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__


def explain(model: torch.nn.Module, /, *example_inputs: Any, **example_keywords: Any) -> Explanation:
    """Which algorithm each layer of `model` takes on these inputs, why not another, and what it costs.

    The model is run forward once, in evaluation mode; nothing of it changes: training flags, statistics, gradients and
    the random number generator's state are afterwards what they were. Layers that are not torchconv's get one row that
    says "built-in"; calls of functions in a forward are not seen. Explain a model before torch.compile, not after.

    Args:
        model: any module, a single layer included.
        example_inputs, example_keywords: what the model is called with.

    Returns:
        A table to print, or to iterate over: a `Row` for each layer called, in the order of the calls, and direction
        ("forward", "input_grad", "weight_grad"). Layers that are run as one share rows, under the name of the
        convolution or pooling among them.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
        Whatever the model raises on these inputs.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"explain takes a torch.nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)
    watch = Watch(_rows)
    modules = dict(model.named_modules())
    flags = {name: module.training for name, module in modules.items()}
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(gpus)))
        # With gradients, to see what is kept for them; inference mode has none, and what is made in it cannot be kept.
        stack.enter_context(torch.set_grad_enabled(not torch.is_inference_mode_enabled()))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(watch.saves, lambda tensor: tensor))
        for name, module in modules.items():
            stack.callback(setattr, module, "training", flags[name])
            module.training = False
            if isinstance(module, _WATCHED):
                # Nearest to the layer of all its hooks: other people's may change what goes in and what comes out.
                stack.callback(module.register_forward_pre_hook(watch.enters).remove)
                after = module.register_forward_hook(watch.leaver(name, module), with_kwargs=True, prepend=True)
                stack.callback(after.remove)
        stack.callback(setattr, plan, "observer", plan.observer)
        plan.observer = watch
        model(*example_inputs, **example_keywords)
    return Explanation(watch.rows)


def _rows(name: str, module: Any, given: Any, output: Any, kept: int) -> list[Row]:
    """The rows of one call of one layer, on the input `given`, with this `output`."""
    layer = type(module).__name__
    if isinstance(module, _EXPANDED):
        return _expanded_rows(name, module, given, output, kept)
    if isinstance(module, nn.LearnedPool2d):
        return _learned_rows(name, module, given, output, kept)
    if isinstance(module, _ON_GROUPS):
        what = module.reduce if isinstance(module, nn.GroupPool2d) else "batch norm"
        return _built_in_rows(name, layer, f"torch's own {what} over the group", given.nbytes + output.nbytes, kept)
    if isinstance(module, nn.BlockPool2d):
        return _block_rows(name, module, given, output, kept)
    if not isinstance(module, _OURS):
        return [Row(name, layer, "forward", "built-in", ("not a layer of torchconv: see convert",), kept_bytes=kept)]
    if isinstance(module, _CONVS + _TRANSPOSES):
        return _conv_rows(name, module, given, output, kept)
    if isinstance(module, _LOCALS):
        return _local_rows(name, module, given, output, kept)
    result = output[0] if isinstance(output, tuple) else output
    moved = given.nbytes + sum(t.nbytes for t in (output if isinstance(output, tuple) else (output,)))
    if isinstance(module, _MAX_POOLS):
        moved += kept
    bound = error_bound("direct", "forward", result.dtype) if result.dtype in KERNEL_DTYPES else None
    bound = 0.0 if isinstance(module, _MAX_POOLS) else None if isinstance(module, _LP_POOLS) else bound
    algorithm, refused = _fallback(result) or ("direct", ())
    costs: dict[str, Any] = dict(multiply_adds=0, bytes_moved=moved, workspace_bytes=0, error_bound=bound)
    return [
        Row(name, layer, direction, algorithm, refused, **costs, kept_bytes=kept if direction == "forward" else 0)
        for direction in DIRECTIONS[:2]
    ]


def _fallback(result: Tensor) -> tuple[str, tuple[str, ...]] | None:
    """What a layer of ours does where there is no kernel of ours."""
    if result.device.type == "cpu" and result.dtype in KERNEL_DTYPES:
        return None
    return "built-in", (f"no kernel for {result.dtype} on {result.device.type}",)


def _built_in_rows(
    name: str, layer: str, reason: str, moved: int, kept: int, workspace: int | None = None
) -> list[Row]:
    """A layer of ours that is PyTorch's own operators, forward and back."""
    counts: dict[str, Any] = dict(multiply_adds=0, bytes_moved=moved, workspace_bytes=workspace)
    first = Row(name, layer, "forward", "built-in", (reason,), kept_bytes=kept, **counts)
    return [first, Row(name, layer, "input_grad", "built-in", (reason,), **counts)]


def _block_rows(name: str, module: Any, given: Tensor, output: Tensor, kept: int) -> list[Row]:
    """The copies of the blocks. What the network makes of them are rows of its own layers."""
    row = output.shape[-1] * given.shape[-3] * math.prod(module.kernel_size)  # elements of a row of blocks
    rows = output.shape[:-3].numel() * output.shape[-2]
    blocks = rows * row * given.element_size()
    at_once = min(module._rows_at_once(output.shape[-2], row), rows) * row * given.element_size()
    reason = f"the network's own layers, on {rows * output.shape[-1]} blocks"
    return _built_in_rows(name, type(module).__name__, reason, given.nbytes + blocks + output.nbytes, kept, at_once)


def _conv_rows(name: str, module: Any, given: Tensor, output: Tensor, kept: int) -> list[Row]:
    """A convolution, or a transposed one as the input gradient of the convolution that it transposes."""
    transposed = isinstance(module, _TRANSPOSES)
    n = len(module.kernel_size)
    weight_size = tuple(module.weight.shape)
    large, small = (output, given) if transposed else (given, output)  # that convolution's input and output
    large_size = [math.prod(large.shape[: -n - 1]), *large.shape[-n - 1 :]]
    padding = _transposed_padding(module, given, output) if transposed else _padding(module, large_size[2:])
    if module.padding_mode != "zeros":  # padded beforehand
        sides = zip(padding[::2], padding[1::2], large_size[2:], strict=True)
        large_size[2:] = [before + side + after for before, after, side in sides]
        padding = [0] * (2 * n)

    elements = math.prod(large_size) + math.prod(weight_size) + small.numel()
    costs: dict[str, Any] = dict(multiply_adds=small.numel() * math.prod(weight_size[1:]))
    rows = []
    for direction in DIRECTIONS:
        bias = 0 if module.bias is None or direction == "input_grad" else module.bias.numel()
        costs["bytes_moved"] = (elements + bias) * output.element_size()
        asked = (_operator(direction, transposed), large_size, weight_size, module.stride, padding)
        costs["kept_bytes"] = kept if direction == "forward" else 0
        rows.append(Row(name, type(module).__name__, direction, **costs, **_chosen(module, output, direction, *asked)))
    return rows


def _local_rows(name: str, module: Any, given: Tensor, output: Tensor, kept: int) -> list[Row]:
    """A locally connected layer, or its transpose: each weight meets each sample once."""
    n, transposed = module._dims, hasattr(module, "output_padding")
    large = output if transposed else given  # the input of the layer that a transposed one transposes
    samples = math.prod(large.shape[: -n - 1])
    moved = given.nbytes + output.nbytes + module.weight.nbytes
    bias = 0 if module.bias is None else module.bias.nbytes
    algorithm, refused = _fallback(output) or ("direct", ())
    known: dict[str, Any] = dict(multiply_adds=module.weight.numel() * samples)
    if transposed:
        padding = _transposed_padding(module, given, output)
    else:
        padding = both_sides(
            module.padding, module.input_size, module.kernel_size, module.stride, module.dilation, type(module).__name__
        )
    size = (samples, *large.shape[-n - 1 :])
    window = (size, module.weight.shape, module.stride, padding, module.dilation, module.groups, output.dtype)
    rows = []
    for direction in DIRECTIONS:
        known["bytes_moved"] = moved + (0 if direction == "input_grad" else bias)
        known["kept_bytes"] = kept if direction == "forward" else 0
        if not refused:
            known["error_bound"] = error_bound("direct", direction, output.dtype)
            asked = _operator(direction, transposed)
            known["workspace_bytes"] = torch.ops.torchconv._local_workspace(asked, *window)
        rows.append(Row(name, type(module).__name__, direction, algorithm, refused, **known))
    return rows


def _learned_rows(name: str, module: Any, given: Tensor, output: Tensor, kept: int) -> list[Row]:
    """The depth-wise convolution that a learned pooling is."""
    maps = given.shape[-3]
    sides = [side for side in reversed(module.padding) for _ in range(2)]
    plain = SimpleNamespace(
        kernel_size=module.kernel_size,
        weight=torch.empty((maps, *module.weight.shape[1:]), device="meta"),
        bias=None,
        stride=module.stride,
        dilation=(1, 1),
        groups=maps,
        padding_mode="zeros",
        algorithm="auto",
        _pad_amounts=lambda size: sides,
    )
    return [replace(row, layer=type(module).__name__) for row in _conv_rows(name, plain, given, output, kept)]


def _expanded_rows(name: str, module: Any, given: Tensor, output: Tensor, kept: int) -> list[Row]:
    """The plain convolution that a layer of expanded filters is, its maps not yet reduced."""
    n, size = len(module.kernel_size), module.convolution_size
    shape = [*output.shape[: -n - 1], size[0], *output.shape[-n:]]
    last = torch.channels_last if n == 2 else torch.channels_last_3d
    layout = last if _is_channels_last(output, n) and output.dim() == n + 2 else torch.contiguous_format
    maps = output.new_empty(shape).contiguous(memory_format=layout)
    plain = SimpleNamespace(
        kernel_size=size[2:],
        weight=torch.empty(size, device="meta"),
        bias=module.bias,
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
        algorithm=module.algorithm,
        _pad_amounts=module._pad_amounts,
    )
    rows = _conv_rows(name, plain, given, maps, kept)
    return [replace(row, layer=type(module).__name__) for row in rows]


def _operator(direction: str, transposed: bool) -> str:
    """Which of the operators of the layer that is transposed goes in this direction."""
    return {"forward": "input_grad", "input_grad": "forward"}.get(direction, direction) if transposed else direction


def _padding(module: Any, size: list[int]) -> list[int]:
    """A convolution's padding in the operators' order: before and after, the first axis first."""
    return pad_amounts(module._pad_amounts(size))


def _transposed_padding(module: Any, given: Tensor, output: Tensor) -> list[int]:
    """The padding with which a convolution of `output`'s size gives `given`'s: less after, by the output padding."""
    padding = []
    for axis, (before, stride, dilation) in enumerate(zip(module.padding, module.stride, module.dilation, strict=True)):
        reach = (given.shape[axis - len(module.padding)] - 1) * stride + dilation * (module.kernel_size[axis] - 1) + 1
        padding += [before, reach - before - output.shape[axis - len(module.padding)]]
    return padding


def _chosen(module: Any, output: Tensor, direction: str, *asked: Any) -> dict[str, Any]:
    """What the library's selection answers for one direction."""
    fallback = _fallback(output)
    if fallback is not None:
        return dict(algorithm=fallback[0], refused=fallback[1])
    channels_last = _is_channels_last(output, len(module.kernel_size))
    try:
        algorithm, refused, workspace, cost = torch.ops.torchconv._explain(
            *asked, module.dilation, module.groups, output.dtype, channels_last, module.algorithm
        )
    except RuntimeError as error:  # the layer asks by name for one that cannot run in this direction
        return dict(algorithm="none", refused=(str(error).partition("\n")[0],))
    bound = error_bound(algorithm, direction, output.dtype)
    return dict(
        algorithm=algorithm,
        refused=tuple(refused),
        workspace_bytes=workspace,
        error_bound=bound,
        estimate=round(cost * output.shape[: output.dim() - len(module.kernel_size) - 1].numel()),
    )


def _is_channels_last(tensor: Tensor, n: int) -> bool:
    """Whether a result in `n` dimensions has the strides of a channels-last one, even where its sides are 1."""
    if n == 1 or tensor.numel() == 0:
        return False
    batched = tensor if tensor.dim() == n + 2 else tensor.unsqueeze(0)
    last, first = (
        torch.empty(batched.shape, device="meta", memory_format=memory_format).stride()[1:]
        for memory_format in (torch.channels_last if n == 2 else torch.channels_last_3d, torch.contiguous_format)
    )
    return batched.stride()[1:] == last != first


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.name} {row.layer}".strip(),
        row.direction.replace("_", " "),
        row.algorithm,
        _short(row.multiply_adds),
        _short(row.estimate),
        _short(row.bytes_moved, "B"),
        _short(row.workspace_bytes, "B"),
        "-" if row.error_bound is None else f"{row.error_bound:.1e}" if row.error_bound else "0",
        _short(row.kept_bytes, "B") if row.direction == "forward" else "",
        "; ".join(row.refused),
    )


def _totals(rows: list[Row]) -> tuple[str, ...]:
    multiply_adds = sum(row.multiply_adds or 0 for row in rows)
    estimate = sum(row.estimate or 0 for row in rows)
    moved = sum(row.bytes_moved or 0 for row in rows)
    kept = sum(row.kept_bytes for row in rows)
    return ("total", "", "", _short(multiply_adds), _short(estimate), _short(moved, "B"), "", "", _short(kept, "B"), "")


def _short(number: int | None, unit: str = "") -> str:
    """1234567 -> "1.23 M"; bytes count in powers of ten too."""
    if number is None:
        return "-"
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}{unit}"
    return f"{number} {unit}".strip()
