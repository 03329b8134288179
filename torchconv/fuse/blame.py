"""An error of a layer in a chain points to where the method names that layer, not to the end of the chain."""

from collections.abc import Sequence
from types import CodeType, FrameType, TracebackType
from typing import Any

from torch.nn import Module, ReLU

# Of each layer of a chain what the method's source says: its line, its first column and the one after its last.
Where = Sequence[tuple[int, int, int]]


def pointed(
    raised: TracebackType | None, step: Any, layers: Sequence[Any], where: Where, method: FrameType
) -> TracebackType | None:
    """The frames `raised`, of which one runs a step of the layers by the function `step`, after one more entry of the
    method: it points to the layer that the error came from."""
    ran = raised
    while ran is not None and ran.tb_frame.f_code is not step.__code__:
        ran = ran.tb_next
    if raised is None or ran is None or "places" not in ran.tb_frame.f_locals:  # the stack has no room, say
        return raised
    place = where[_failed(ran, layers)]
    instruction = _instruction(method.f_code, *place)
    return TracebackType(raised, method, method.f_lasti if instruction is None else instruction, place[0])


def _failed(raised: TracebackType, layers: Sequence[Any]) -> int:
    """The place of the layer that an error came from."""
    local = raised.tb_frame.f_locals
    places = local["places"]
    if local["runner"] is None:
        return local["i"]
    found, below = None, raised.tb_next
    while below is not None:  # one operator for several: the one that a function alone was given
        held = [*below.tb_frame.f_locals.values()]
        given = [i for i in places if any(value is layers[i] for value in held)]
        found, below = given[0] if len(given) == 1 else found, below.tb_next
    if found is not None:
        return found
    return [i for i in places if isinstance(layers[i], Module) and not isinstance(layers[i], ReLU)][-1]


def _instruction(code: CodeType, line: int, left: int, right: int) -> int | None:
    """Where the code reads what stands there; Python 3.10 keeps no columns."""
    if not hasattr(code, "co_positions"):
        return None
    found = [i for i, at in enumerate(code.co_positions()) if (at[0], *at[2:]) == (line, left, right)]
    return 2 * found[-1] if found else None
