"""A picture looked at more than once when it is tested: shifted, mirrored, and the answers averaged."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

# Number of views -> shifts in pixels (down, right) with their shares; every shift is seen mirrored too, but for 1.
CORNERS = [(dy, dx) for dy in (-2, 2) for dx in (-2, 2)]
VIEWS: dict[int, dict[tuple[int, int], float]] = {
    1: {(0, 0): 1.0},
    2: {(0, 0): 1.0},
    6: {(0, 0): 0.5, (-1, -1): 0.25, (1, 1): 0.25},
    10: dict.fromkeys([(0, 0), *CORNERS], 0.2),
}


def averaged(network: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """The weighted mean of the logits of ``views`` views of each image of [B, C, H, W], one of `VIEWS`.

    What a shift uncovers is filled by reflection.
    """
    if views == 1:
        return network(images)
    _, _, height, width = images.shape
    logits: Tensor | None = None
    for (dy, dx), share in VIEWS[views].items():
        most = max(abs(dy), abs(dx))
        padded = F.pad(images, [most] * 4, "reflect") if most else images
        seen = padded[:, :, most + dy : most + dy + height, most + dx : most + dx + width]
        both = (network(seen) + network(seen.flip(-1))) * (share / 2)
        logits = both if logits is None else logits + both
    assert logits is not None
    return logits
