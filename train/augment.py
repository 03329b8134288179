"""What the training images are varied by, batch by batch: bytes in, bytes out, same shape."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

BORDERS = ("black", "reflect")
FLIPS = ("none", "random", "alternate")


@dataclass(frozen=True)
class Augmentation:
    """Shifts by up to ``shift`` pixels along each axis, the ``border`` moving in, and flips left to right.

    An alternate flip mirrors each image every other epoch, whether first or second by a coin of its own: an image is
    never seen the same way round twice in a row.
    """

    shift: int = 0
    border: str = "black"
    flip: str = "none"

    def __call__(self, images: Tensor, indices: Tensor, epoch: int, coins: Tensor, generator: Generator) -> Tensor:
        """``images`` [B, C, H, W] are numbers ``indices`` of the set, whose coins are ``coins``, all of them."""
        if self.shift:
            images = random_shift(images, self.shift, generator, self.border)
        if self.flip == "random":
            images = random_flip(images, generator)
        elif self.flip == "alternate":
            images = flip(images, coins[indices] ^ bool(epoch % 2))
        return images


def margin(images: Tensor, most: int, border: str) -> Tensor:
    """``most`` pixels more on each side of [N, C, H, W], black or reflected, of any dtype."""
    if border == "black":
        return F.pad(images, [most] * 4)
    for axis in (2, 3):
        size = images.shape[axis]
        if most >= size:
            raise ValueError(f"a margin of {most} cannot be reflected in an image of {size} pixels")
        sides = images.narrow(axis, 1, most), images.narrow(axis, size - 1 - most, most)  # all but the border itself
        images = torch.cat([sides[0].flip(axis), images, sides[1].flip(axis)], axis)
    return images


def random_shift(images: Tensor, most: int, generator: Generator, border: str = "black") -> Tensor:
    """Moves each image of [N, C, H, W] by -most..most pixels along each axis, the border moving in."""
    n, _, height, width = images.shape
    windows = margin(images, most, border).unfold(2, height, 1).unfold(3, width, 1)  # [N, C, 2m+1, 2m+1, H, W], a view
    dy, dx = torch.randint(2 * most + 1, (2, n), generator=generator)
    return windows[torch.arange(n), :, dy, dx]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirrors the ``chosen`` [N] images of [N, C, H, W] left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each image of [N, C, H, W] left to right with probability one half."""
    return flip(images, torch.rand(len(images), generator=generator) < 0.5)
