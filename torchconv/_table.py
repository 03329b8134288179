"""`explain`'s rows as a table that a terminal or a page of 100 columns shows."""

import textwrap
from collections.abc import Sequence

from ._calls import Row

COLUMNS = 100
# Column -> whether it is text, which begins at the left; numbers end at the right.
HEAD = {
    "layer": True,
    "output": True,
    "kernel": True,
    "params": False,
    "direction": True,
    "algorithm": True,
    "MACs": False,
    "share": False,
    "scratch": False,
    "keeps": False,
}
_DIRECTIONS = {"forward": "forward", "input_grad": "d input", "weight_grad": "d weight"}


def table(rows: Sequence[Row], why: bool) -> str:
    """The rows, one a line, those of a layer together; then what each algorithm has of the whole.

    MACs are the definition's multiply-adds. share: of the estimated time of all rows that have an estimate. scratch:
    memory beside operands and results. keeps: in a forward's row what it keeps for the backward, then, after a +, what
    the layer holds between calls in evaluation.
    """
    if not rows:
        return "no layer of this model convolves or pools, and none is dense"
    total = sum(row.estimate or 0 for row in rows)
    cells = [_cells(row, total) for row in rows]
    widths = [max(map(len, column)) for column in zip(tuple(HEAD), *cells, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= COLUMNS else 1
    over = sum(widths) + gap * (len(widths) - 1) - COLUMNS
    widths[0] = max(widths[0] - max(over, 0), len("layer"))

    def line(texts: Sequence[str]) -> str:
        shown = zip(_cut(texts, widths[0]), widths, HEAD.values(), strict=True)
        return (" " * gap).join(t.ljust(w) if text else t.rjust(w) for t, w, text in shown).rstrip()

    rule = "-" * min(COLUMNS, sum(widths) + gap * (len(widths) - 1))
    lines = [line(tuple(HEAD)), rule]
    for row, texts in zip(rows, cells, strict=True):
        lines.append(line(texts))
        if why:
            lines += _wrapped(row.refused)
    return "\n".join([*lines, rule, *_totals(rows, total)])


def _cells(row: Row, total: int) -> tuple[str, ...]:
    named = row.direction == "forward"  # a layer's first row, which says what the layer is
    kept = f"{short(row.kept_bytes)}B" if named else ""
    if row.prepared_bytes and named:
        kept += f"+{short(row.prepared_bytes)}B"
    return (
        f"{row.name} {row.layer}".strip() if named else "",
        "×".join(map(str, row.output_size)) if named else "",
        _kernel(row) if named else "",
        short(row.parameters) if named and row.parameters else "",
        _DIRECTIONS[row.direction],
        row.algorithm,
        "-" if row.multiply_adds is None else short(row.multiply_adds) if row.multiply_adds else "",
        f"{row.estimate / total:.0%}" if row.estimate and total else "",
        f"{short(row.workspace_bytes)}B" if row.workspace_bytes else "",
        kept,
    )


def _kernel(row: Row) -> str:
    """The sides, as in 3×3; behind a slash the stride where it is not 1, as in 3×3/2."""
    stride = sorted(set(row.stride))
    if not row.kernel_size or stride in ([], [1]):
        return "×".join(map(str, row.kernel_size))
    return "×".join(map(str, row.kernel_size)) + "/" + "×".join(map(str, stride if len(stride) == 1 else row.stride))


def _cut(texts: Sequence[str], width: int) -> list[str]:
    """The first of the texts to `width`, without its middle where it is longer."""
    first, *others = texts
    if len(first) > width:
        front = (width - 1) // 2
        first = f"{first[:front]}…{first[len(first) - (width - 1 - front) :]}"
    return [first, *others]


def _wrapped(reasons: Sequence[str]) -> list[str]:
    indent = dict(initial_indent="    not ", subsequent_indent="        ")
    return [line for reason in reasons for line in textwrap.wrap(reason, COLUMNS, **indent)]  # type: ignore[arg-type]


def _totals(rows: Sequence[Row], total: int) -> list[str]:
    """A line for each algorithm, and one for all."""
    lines = []
    for algorithm in dict.fromkeys(row.algorithm for row in rows):
        own = [row for row in rows if row.algorithm == algorithm]
        share = f", {sum(row.estimate or 0 for row in own) / total:.0%} of the estimated time" if total else ""
        lines.append(f"{algorithm}: {_sum(own)} in {len(own)} calls{share}")
    kept = sum(row.kept_bytes for row in rows)
    layers = {row.name.partition("#")[0]: row for row in rows}.values()  # each once, however often it is called
    prepared, parameters = sum(row.prepared_bytes for row in layers), sum(row.parameters for row in layers)
    held = f" and {short(prepared)}B between calls in evaluation" if prepared else ""
    return [
        *lines,
        f"in all: {_sum(rows)}, {short(parameters)} parameters; keeps {short(kept)}B for the backward{held}",
    ]


def _sum(rows: Sequence[Row]) -> str:
    return f"{short(sum(row.multiply_adds or 0 for row in rows))} MACs"


def short(number: int) -> str:
    """1234567 -> "1.23M"; bytes count in powers of ten too."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}{prefix}"
    return str(number)
