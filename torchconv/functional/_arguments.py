"""What is said of arguments that do not fit: a sentence with the values, and then what PyTorch's own errors say.

People's tests look for PyTorch's words.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

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
