"""What each convolution and pooling layer of a model does on a given input: `explain`."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ._calls import DIRECTIONS, DenseCall, Facts, Row, error_bound
from ._classes import STOCK
from ._table import table
from ._watch import Watch
from .fuse import plan

__all__ = ["DIRECTIONS", "Explanation", "Row", "error_bound", "explain"]

_STOCK = tuple(STOCK)


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns: rows, to be read one by one or printed as a table of at most 100 columns."""

    rows: list[Row] = field(default_factory=list)
    why: bool = False  # whether the table says what each algorithm that was not taken would cost, or what hinders it

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __str__(self) -> str:
        return table(self.rows, self.why)

    __repr__ = __str__


def explain(model: torch.nn.Module, /, *example_inputs: Any, why: bool = False, **example_keywords: Any) -> Explanation:
    """Which algorithm each layer of `model` takes on these inputs, why not another, and what it costs.

    The model is run forward once, in evaluation mode; nothing of it changes: training flags, statistics, gradients and
    the random number generator's state are afterwards what they were. Layers that are not torchconv's get one row that
    says "built-in", dense layers one for each direction; calls of functions in a forward are not seen. Explain a model
    before torch.compile, not after.

    Args:
        model: any module, a single layer included.
        example_inputs, example_keywords: what the model is called with.
        why: print, below each row, what every other algorithm would cost, or what hinders it.

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
            if _is_watched(module):
                # Nearest to the layer of all its hooks: other people's may change what goes in and what comes out.
                stack.callback(module.register_forward_pre_hook(watch.enters).remove)
                after = module.register_forward_hook(watch.leaver(name, module), with_kwargs=True, prepend=True)
                stack.callback(after.remove)
        stack.callback(setattr, plan, "observer", plan.observer)
        plan.observer = watch
        model(*example_inputs, **example_keywords)
    return Explanation(watch.rows, why)


def _is_watched(module: torch.nn.Module) -> bool:
    """Whether the calls of a layer have rows: ours say which, dense layers have theirs, and torch.nn's that have a
    namesake here have one."""
    return hasattr(type(module), "_operator_calls") or isinstance(module, (*_STOCK, torch.nn.Linear))


def _rows(name: str, module: Any, given: Any, output: Any, kept: int) -> list[Row]:
    """The rows of one call of one layer, on the input `given`, with this `output`."""
    layer = type(module).__name__
    facts = vars(Facts.of(module, output))
    if hasattr(type(module), "_operator_calls"):
        rows = [row for call in module._operator_calls(given, output) for row in call.rows(name, layer, kept)]
    elif isinstance(module, torch.nn.Linear):
        rows = DenseCall.of(module, given, output).rows(name, layer, kept)
    else:
        rows = [Row(name, layer, "forward", "built-in", ("not a layer of torchconv: see convert",), kept_bytes=kept)]
    return [replace(row, **facts) for row in rows]
