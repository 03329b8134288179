"""Arguments as the operators take them, and what is said of those that do not fit.

An error is a sentence with the values, and then what PyTorch's own errors say: people's tests look for its words.
"""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Ints: TypeAlias = int | Sequence[int]

LARGEST = 2**63 - 1  # that an operator takes

_TOO_SMALL = {
    "stride": "non-positive stride is not supported; stride should not be zero; stride must be greater than zero, "
    "but got",
    "dilation": "non-positive dilation is not supported; dilation should be greater than zero; dilation "
    "must be greater than zero, but got",
    "kernel_size": "kernel_size must be greater than zero, but got",
    "padding": "negative padding is not supported; pad must be non-negative; padding must be non-negative, but got",
    "output_size": "elements of output_size must be greater than or equal to 0; Trying to create tensor with negative "
    "dimension",
}


def asked(algorithm: str) -> str:
    """What operators are asked for: a choice that does not look at the batch, where PyTorch is to be deterministic."""
    choice = torch.are_deterministic_algorithms_enabled() and algorithm in ("auto", "highest")
    return f"{algorithm}:invariant" if choice else algorithm


def require_tensors(name: str, **operands: Any) -> None:
    """Raises TypeError unless the operands are tensors, or of a type that overrides torch's functions."""
    for what, operand in operands.items():
        if not isinstance(operand, Tensor) and not hasattr(type(operand), "__torch_function__"):
            kind = "None" if operand is None else type(operand).__name__
            raise TypeError(f"{name}: {what} must be Tensor, not {kind}")


def require_weight(name: str, dims: int, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises unless the operands of a convolution are tensors and the weight has two axes more than the map."""
    if (
        not isinstance(input, Tensor)
        or not isinstance(weight, Tensor)
        or not (bias is None or isinstance(bias, Tensor))
    ):
        require_tensors(name, input=input, weight=weight, **({} if bias is None else {"bias": bias}))
    axes = weight.dim()
    if axes == dims + 2:
        return
    words = f"Expected {axes}-dimensional input for {axes}-dimensional weight {list(weight.shape)}"
    if axes < 3:
        words = "weight should have at least three dimensions"
    raise RuntimeError(f"{name}: expected a weight of {dims + 2} axes, got shape {list(weight.shape)} ({words})")


def wrong_axes(name: str, dims: int, shape: Sequence[int]) -> RuntimeError:
    """An input that has neither the axes of a map nor those of a batch of maps."""
    few, many = dims + 1, dims + 2
    words = f"Expected {few}D (unbatched) or {many}D (batched) input to {name}, but got input of size: {list(shape)}"
    if "pool" in name:
        words = f"Expected {few}D or {many}D (batch mode) tensor with optional 0 dim batch size for input"
    if name.startswith("max_pool") and dims > 1:
        words = f"non-empty {few}D or {many}D (batch mode) tensor expected for input"
    return RuntimeError(
        f"{name}: expected an input of {few} (unbatched) or {many} (batched) axes, got shape {list(shape)} ({words})"
    )


def wrong_length(name: str, what: str, dims: int, value: Any) -> RuntimeError:
    """A sequence of another length than one or the number of axes."""
    words = f"expected {what} to be a single integer value or a list of {dims} values"
    if what == "output_size":
        words = "'output_size' should contain one int" if dims == 1 else f"output_size must be {dims}"
    return RuntimeError(f"{name}: {what} must be one integer or {dims} of them, got {value} ({words})")


def too_small(name: str, what: str, least: int, value: Any, values: Sequence[int]) -> RuntimeError:
    """An integer below the `least` allowed, among `values`, which were given as `value`."""
    words = f" ({_TOO_SMALL[what]} {min(values)})" if what in _TOO_SMALL else ""
    return RuntimeError(f"{name}: {what} must be at least {least}, got {value}{words}")


# ---- arguments as the operators take them ----


def integer(value: int, what: str, name: str) -> int:
    """`value`, of any type that Python takes for an integer, but bool's: the built-in does not take that."""
    if type(value) is int:
        return value
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: {what} must be an integer, got {value!r}")


def per_axis(value: Ints, dims: int, what: str, name: str, least: int) -> list[int]:
    """`value` as one integer an axis, as the built-in broadcasts them, each `least` or more."""
    if type(value) is int:  # most calls end here or in the branch below
        if least <= value <= LARGEST:
            return [value] * dims
    elif type(value) is tuple and len(value) == dims:
        for v in value:
            if type(v) is not int or not least <= v <= LARGEST:
                break
        else:
            return list(value)
    values = [integer(v, what, name) for v in (value if isinstance(value, (tuple, list)) else (value,))]
    if len(values) == 1:
        values = values * dims
    if len(values) != dims:
        raise wrong_length(name, what, dims, value)
    if any(v < least for v in values):
        raise too_small(name, what, least, value, values)
    check_fits(values, what, name)
    return values


def check_fits(values: Sequence[int], what: str, name: str) -> None:
    """Raises unless all values are integers of 64 bits."""
    if any(type(v) is int and v > LARGEST for v in values):
        raise RuntimeError(f"{name}: {what} must be at most 2^63 - 1, got {list(values)}")


def batched(input: Tensor, dims: int, name: str) -> tuple[Tensor, bool]:
    """The input with a batch axis, and whether it came with one."""
    axes = input.dim()
    if axes == dims + 2:
        return input, True
    if axes != dims + 1:
        raise wrong_axes(name, dims, input.shape)
    return input.unsqueeze(0), False


def autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands as autocast would have a convolution see them."""
    if not torch.is_autocast_enabled("cpu"):
        return input, weight, bias
    dtype = torch.get_autocast_dtype("cpu")

    def cast(t: Tensor) -> Tensor:
        eligible = t.device.type == "cpu" and t.is_floating_point() and t.dtype != torch.float64
        return t.to(dtype) if eligible else t

    return cast(input), cast(weight), None if bias is None else cast(bias)


def check_operands(input: Tensor, weight: Tensor, bias: Tensor | None, bias_size: tuple[int, ...], name: str) -> None:
    """Raises unless weight and bias are of the input's dtype, and the bias of the size that the weight asks for."""
    dtype = input.dtype
    if weight.dtype is dtype and (bias is None or (bias.dtype is dtype and bias.shape == bias_size)):
        return
    if bias is not None and bias.shape != bias_size:
        raise RuntimeError(
            f"{name}: weight of shape {list(weight.shape)} expects a bias of shape {list(bias_size)}, "
            f"got {list(bias.shape)}"
        )
    for what, operand in (("weight", weight), ("bias", bias)):
        if operand is not None and operand.dtype != dtype:
            raise RuntimeError(f"{name}: input is {dtype} but {what} is {operand.dtype}")


def in_the_format_of(input: Tensor, output: Tensor) -> Tensor:
    """`output` [N, C, H, W], channels-last where `input` is: said in permutations, for vmap knows no memory format."""
    if input.dim() != 4 or input.is_contiguous() or not input.movedim(1, 3).is_contiguous():
        return output
    return output.movedim(1, 3).contiguous().movedim(3, 1)
