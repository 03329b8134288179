"""Which operator runs by which algorithm on what, asked of the operators: ``python -m tools.algorithm_table``.

README.md holds what this prints, and a test compares the two.
"""

from itertools import product

import torch

import torchconv
from torchconv.functional._route import KERNEL_DTYPES

OPERATORS = {
    "`convolution`, `convolution_relu`": "forward",
    "`convolution_input_grad`": "input_grad",
    "`convolution_weight_grad`": "weight_grad",
}


def _runs(
    direction: str,
    algorithm: str,
    dtype: torch.dtype,
    channels_last: bool,
    depthwise: bool,
    side: int = 3,
    stride: int = 1,
) -> bool:
    """Whether the algorithm takes a convolution of 8 maps under these conditions."""
    channels, groups = (1, 8) if depthwise else (8, 1)
    size, weight = [2, 8, 9, 9], [8, channels, side, side]
    window = ([stride] * 2, [1, 1, 1, 1], [1, 1], groups, dtype, channels_last, algorithm)
    try:
        torch.ops.torchconv._explain(direction, size, weight, *window)
    except RuntimeError:
        return False
    return True


def _where(direction: str, algorithm: str, dtype: torch.dtype) -> str:
    """One cell: any convolution, or the conditions under which it runs, or a dash."""
    runs = {pair: _runs(direction, algorithm, dtype, *pair) for pair in product((False, True), repeat=2)}
    free = all(_runs(direction, algorithm, dtype, False, True, *window) for window in ((3, 2), (2, 1), (1, 1)))
    if all(runs.values()):
        return "any" if free else "sides of 1, 3 or 5, stride 1"
    if not any(runs.values()):
        return "–"
    words = []
    if not (runs[False, False] or runs[True, False]):
        words.append("depth-wise")
    if not (runs[False, False] or runs[False, True]):
        words.append("channels-last")
    return ", ".join(words)


def algorithm_table() -> str:
    """The table of operator × direction × algorithm × dtype, in Markdown."""
    dtypes = [str(dtype).removeprefix("torch.") for dtype in KERNEL_DTYPES]
    lines = [
        f"| operator | algorithm | {' | '.join(dtypes)} |",
        f"| --- | --- | {' | '.join('---' for _ in dtypes)} |",
    ]
    for operator, direction in OPERATORS.items():
        for algorithm in torch.ops.torchconv._algorithms():
            cells = [_where(direction, algorithm, dtype) for dtype in KERNEL_DTYPES]
            lines.append(f"| {operator} | {algorithm} | {' | '.join(cells)} |")
    for operator in ("max_pool", "avg_pool"):
        cells = ["any" if _pools(operator, dtype) else "–" for dtype in KERNEL_DTYPES]
        lines.append(f"| `{operator}` and its transpose | direct | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pools(operator: str, dtype: torch.dtype) -> bool:
    """Whether a pooling and its gradient run in this dtype."""
    x = torch.zeros(1, 1, 4, 4, dtype=dtype, requires_grad=True)
    getattr(torchconv.functional, f"{operator}2d")(x, 2).sum().backward()
    return x.grad is not None and x.grad.dtype == dtype


if __name__ == "__main__":
    print(algorithm_table())
