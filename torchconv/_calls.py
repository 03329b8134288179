"""What a layer of this package computes, call by call of an operator, and what that costs: the rows of `explain`.

A layer's ``_operator_calls(given, output)`` says which calls of operators take its input to its output. A call knows
its own counts, and asks the library which algorithm it takes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .functional import _arguments
from .functional._route import KERNEL_DTYPES
from .functional._window import Window, flat, pad_amounts

DIRECTIONS = ("forward", "input_grad", "weight_grad")


def error_bound(algorithm: str, direction: str, dtype: torch.dtype) -> float:
    """The relative L2 error, ‖y − y64‖/‖y64‖, that `algorithm` keeps to: in float32 what its record says.

    float64 errs as much less as it rounds finer; bfloat16 is summed in float32 and rounded once, which alone costs half
    its epsilon.
    """
    bound = torch.ops.torchconv._error_bounds(algorithm)[direction == "weight_grad"]
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
    # "algorithm: reason" for each other candidate: what hinders it, or what it would cost
    refused: tuple[str, ...] = ()
    multiply_adds: int | None = None  # of the definition, zeros of the padding included
    # what the selection expects: the multiply-adds that take as long at the processor's peak
    estimate: int | None = None
    bytes_moved: int | None = None  # operands read once and results written once
    workspace_bytes: int | None = None  # beside operands and results, with one thread
    error_bound: float | None = None  # on the relative L2 error
    kept_bytes: int = 0  # what the forward keeps for the backward, parameters aside
    # the layer's, and the same in each of its directions
    output_size: tuple[int, ...] = ()  # of one sample: maps, then sides
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    parameters: int = 0
    prepared_bytes: int = 0  # what it holds between calls in evaluation: see `torchconv.prepare`


@dataclass(frozen=True)
class Facts:
    """What the rows of one call of a layer say of the layer."""

    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    parameters: int
    prepared_bytes: int

    @classmethod
    def of(cls, layer: Any, output: Any) -> "Facts":
        shape = (output[0] if isinstance(output, tuple) else output).shape
        named = re.search(r"([123])d$", type(layer).__name__)
        axes = int(named[1]) if named else len(shape) - 2  # spatial ones; an output may have no batch axis
        kernel, stride = (_sides(getattr(layer, name, None), axes) for name in ("kernel_size", "stride"))
        kept = layer.__dict__.get("_kept")
        parameters = sum(p.numel() for p in layer.parameters())
        size = tuple(shape[-axes - 1 :]) if named else tuple(shape[1:])
        return cls(size, kernel, stride if kernel else (), parameters, kept.bytes() if kept else 0)


def _sides(given: Any, axes: int) -> tuple[int, ...]:
    """A size as layers hold it, one number or one for each axis, as one for each."""
    if isinstance(given, int):
        return (given,) * axes
    return tuple(given) if isinstance(given, Sequence) and all(isinstance(g, int) for g in given) else ()


class Result(NamedTuple):
    """What counts of a layer's output."""

    dtype: torch.dtype
    device: str
    channels_last: bool = False

    @classmethod
    def of(cls, output: Tensor, spatial: int = 0) -> "Result":
        """`spatial`: how many axes of it are, where its layout counts."""
        return cls(output.dtype, output.device.type, spatial > 0 and _is_channels_last(output, spatial))

    def direct(self) -> dict[str, Any]:
        """The algorithm of an operator that has only one."""
        if self.refusal is None:
            return dict(algorithm="direct", refused=())
        return dict(algorithm="built-in", refused=(self.refusal,))

    @property
    def refusal(self) -> str | None:
        """Why there is no kernel of ours for it."""
        if self.device == "cpu" and self.dtype in KERNEL_DTYPES:
            return None
        return f"no kernel for {self.dtype} on {self.device}"


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


class OperatorCall:
    """A call of an operator with its gradients. `costs` gives what is known of a direction, as fields of a `Row`."""

    directions: Sequence[str] = DIRECTIONS

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        """`kept`: the bytes that the layer's forward keeps for the backward."""
        raise NotImplementedError

    def rows(self, name: str, layer: str, kept: int) -> list[Row]:
        """A row for each direction."""
        return [
            Row(name, layer, d, kept_bytes=kept if d == "forward" else 0, **self.costs(d, kept))
            for d in self.directions
        ]


@dataclass(frozen=True)
class BuiltInCall(OperatorCall):
    """PyTorch's own operators, forward and back."""

    reason: str
    moved: int
    workspace: int | None = None
    directions = DIRECTIONS[:2]

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        return dict(
            algorithm="built-in",
            refused=(self.reason,),
            multiply_adds=0,
            bytes_moved=self.moved,
            workspace_bytes=self.workspace,
        )


@dataclass(frozen=True)
class DenseCall(OperatorCall):
    """A dense layer: PyTorch's own matrix product, which is at the processor's peak or at the memory's rate."""

    multiply_adds: int
    moved: int

    @classmethod
    def of(cls, layer: torch.nn.Linear, given: Tensor, output: Tensor) -> "DenseCall":
        weights = sum(p.nbytes for p in layer.parameters())
        return cls(output.numel() * layer.in_features, given.nbytes + output.nbytes + weights)

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        return dict(
            algorithm="built-in",
            refused=("a dense layer is PyTorch's own",),
            multiply_adds=self.multiply_adds,
            estimate=self.multiply_adds,
            bytes_moved=self.moved,
        )


@dataclass(frozen=True)
class PassCall(OperatorCall):
    """One pass over memory, forward and back: a pooling or a norm."""

    result: Result
    moved: int
    rounds: str | None  # "as sums" do, "not" at all, or None: not known
    keeps_positions: bool = False  # which are written, and read on the way back
    directions = DIRECTIONS[:2]

    @classmethod
    def of(
        cls, given: Tensor, output: Any, rounds: str | None = "as sums", keeps_positions: bool = False
    ) -> "PassCall":
        """The call that took `given` to `output`, a tensor or several."""
        outputs = output if isinstance(output, tuple) else (output,)
        moved = given.nbytes + sum(t.nbytes for t in outputs)
        return cls(Result.of(outputs[0]), moved, rounds, keeps_positions)

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        bound = 0.0 if self.rounds == "not" else None
        if self.rounds == "as sums" and self.result.dtype in KERNEL_DTYPES:
            bound = error_bound("direct", "forward", self.result.dtype)
        return dict(
            **self.result.direct(),
            multiply_adds=0,
            bytes_moved=self.moved + (kept if self.keeps_positions else 0),
            workspace_bytes=0,
            error_bound=bound,
        )


@dataclass(frozen=True)
class ConvolutionCall(OperatorCall):
    """A convolution, or a transposed one as the input gradient of the convolution that it transposes."""

    input_size: Sequence[int]  # [N, C, *] of that convolution, padded beforehand where it is not by zeros
    weight_size: Sequence[int]
    output_elements: int  # of that convolution
    window: Window
    algorithm: str
    bias_elements: int
    result: Result
    transposed: bool = False

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        elements = math.prod(self.input_size) + math.prod(self.weight_size) + self.output_elements
        elements += 0 if direction == "input_grad" else self.bias_elements
        return dict(
            multiply_adds=self.output_elements * math.prod(self.weight_size[1:]),
            bytes_moved=elements * self.result.dtype.itemsize,
            **self._chosen(direction),
        )

    def _chosen(self, direction: str) -> dict[str, Any]:
        """What the library's selection answers for one direction."""
        if self.result.refusal is not None:
            return self.result.direct()
        stride, padding, dilation, groups = self.window
        asked = (_operator(direction, self.transposed), self.input_size, self.weight_size, stride, padding)
        try:
            algorithm, refused, workspace, cost = torch.ops.torchconv._explain(
                *asked, dilation, groups, self.result.dtype, self.result.channels_last, _arguments.asked(self.algorithm)
            )
        except RuntimeError as error:  # the layer asks by name for one that cannot run in this direction
            return dict(algorithm="none", refused=(str(error).partition("\n")[0],))
        return dict(
            algorithm=algorithm,
            refused=tuple(refused),
            workspace_bytes=workspace,
            error_bound=error_bound(algorithm, direction, self.result.dtype),
            estimate=round(cost * self.input_size[0]),
        )


@dataclass(frozen=True)
class LocalCall(OperatorCall):
    """A locally connected layer, or its transpose: each weight meets each sample once."""

    input_size: Sequence[int]  # [N, C, *], of the layer that a transposed one transposes
    weight_size: Sequence[int]
    window: Window
    moved: int  # but for the bias
    bias_bytes: int
    result: Result
    transposed: bool = False

    def costs(self, direction: str, kept: int) -> dict[str, Any]:
        known = dict(
            **self.result.direct(),
            multiply_adds=math.prod(self.weight_size) * self.input_size[0],
            bytes_moved=self.moved + (0 if direction == "input_grad" else self.bias_bytes),
        )
        if self.result.refusal is None:
            known["error_bound"] = error_bound("direct", direction, self.result.dtype)
            known["workspace_bytes"] = torch.ops.torchconv._local_workspace(
                _operator(direction, self.transposed),
                self.input_size,
                self.weight_size,
                *self.window,
                self.result.dtype,
            )
        return known


def _operator(direction: str, transposed: bool) -> str:
    """Which of the operators of the layer that is transposed goes in this direction."""
    return {"forward": "input_grad", "input_grad": "forward"}.get(direction, direction) if transposed else direction


# ---- the calls of layers that have a kernel_size, stride, dilation, groups and bias ----


def maps_size(maps: Tensor, spatial: int) -> list[int]:
    """[N, C, *] of maps that may have no batch axis."""
    return [math.prod(maps.shape[: -spatial - 1]), *maps.shape[-spatial - 1 :]]


def convolution_call(layer: Any, given: Tensor, output: Tensor, weight_size: Sequence[int]) -> ConvolutionCall:
    """The plain convolution, its filters of this size, that makes of `given` what a layer reduces to `output` or leaves
    as it is."""
    n = len(weight_size) - 2
    size = maps_size(given, n)
    padding = pad_amounts(layer._pad_amounts(size[2:]))
    if layer.padding_mode != "zeros":  # padded beforehand
        size[2:] = [sum(sides) for sides in zip(padding[::2], size[2:], padding[1::2], strict=True)]
        padding = [0] * (2 * n)
    result = Result.of(output, n)
    if weight_size[0] != output.shape[-n - 1]:  # maps that are reduced have a batch axis where they are channels-last
        result = result._replace(channels_last=result.channels_last and output.dim() == n + 2)
    return ConvolutionCall(
        size,
        weight_size,
        size[0] * weight_size[0] * math.prod(output.shape[-n:]),
        Window(layer.stride, padding, layer.dilation, layer.groups),
        layer.algorithm,
        0 if layer.bias is None else layer.bias.numel(),
        result,
    )


def cropped_padding(layer: Any, given: Tensor, output: Tensor) -> list[int]:
    """The padding with which a convolution of `output`'s size gives `given`'s: less after, by the output padding."""
    n = len(layer.padding)
    reach = [
        (size - 1) * stride + dilation * (kernel - 1) + 1
        for size, stride, dilation, kernel in zip(
            given.shape[-n:], layer.stride, layer.dilation, layer.kernel_size, strict=True
        )
    ]
    return flat(
        (before, needed - before - size)
        for before, needed, size in zip(layer.padding, reach, output.shape[-n:], strict=True)
    )
