"""What the training images are varied by, batch by batch: bytes in, bytes out, same shape."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

BORDERS = ("black", "reflect")
FLIPS = ("none", "random", "alternate")


@dataclass(frozen=True)
class Augmentation:
    """Turns, sizes, slants and stretches about the centre, shifts by up to ``shift`` pixels along each axis, the
    ``border`` moving in, flips left to right, and covers a square of ``cutout`` pixels a side.

    ``rotate`` and ``shear`` are the largest angles in degrees, either way; ``scale`` and ``stretch`` (of the width over
    the height) the largest factors, their logarithms drawn evenly between 1 / factor and factor. An alternate flip
    mirrors each image every other epoch, whether first or second by a coin of its own: an image is never seen the same
    way round twice in a row.
    """

    shift: int = 0
    border: str = "black"
    flip: str = "none"
    rotate: float = 0.0
    scale: float = 1.0
    shear: float = 0.0
    stretch: float = 1.0
    cutout: int = 0

    def __call__(self, images: Tensor, indices: Tensor, epoch: int, coins: Tensor, generator: Generator) -> Tensor:
        """``images`` [B, C, H, W] are numbers ``indices`` of the set, whose coins are ``coins``, all of them."""
        if self.rotate or self.shear or self.scale != 1 or self.stretch != 1:
            images = warp(images, self.maps(len(images), generator), self.border)
        if self.shift:
            images = random_shift(images, self.shift, generator, self.border)
        if self.flip == "random":
            images = random_flip(images, generator)
        elif self.flip == "alternate":
            images = flip(images, coins[indices] ^ bool(epoch % 2))
        return random_cutout(images, self.cutout, generator) if self.cutout else images

    def maps(self, n: int, generator: Generator) -> Tensor:
        """Of n images the linear maps [n, 2, 2], of x and y, that turn · size · slant · stretch them."""

        def drawn(most: float) -> Tensor:
            return most * (2 * torch.rand(n, generator=generator) - 1)

        angle, slant = drawn(math.radians(self.rotate)), drawn(math.radians(self.shear)).tan()
        size, stretch = drawn(math.log(self.scale)).exp(), drawn(math.log(self.stretch) / 2).exp()
        zero, one = torch.zeros(n), torch.ones(n)

        def matrices(*entries: Tensor) -> Tensor:
            return torch.stack(entries, 1).view(n, 2, 2)

        turn = matrices(angle.cos(), angle.sin(), -angle.sin(), angle.cos())  # counter-clockwise, since y looks down
        return size[:, None, None] * turn @ matrices(one, slant, zero, one) @ matrices(stretch, zero, zero, 1 / stretch)


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


def warp(
    images: Tensor, maps: Tensor, border: str = "black", shifts: Tensor | None = None, side: int | None = None
) -> Tensor:
    """Each image of [N, C, H, W], bytes, under its linear map of [N, 2, 2] about the centre, bilinearly.

    Then it is moved by its shift of [N, 2], pixels to the right and down. With a ``side`` the results are [N, C, side,
    side], the image's centre at theirs.
    """
    n, channels, height, width = images.shape
    size = (n, channels, height, width) if side is None else (n, channels, side, side)
    own, result = (torch.tensor([shape[3], shape[2]], dtype=torch.float32) for shape in (images.shape, size))
    # A result's pixel looks where the inverse map leads, in coordinates from -1 to 1 along each axis.
    inverse, theta = torch.linalg.inv(maps), torch.zeros(n, 2, 3)
    theta[:, :, :2] = inverse * result[None, None] / own[None, :, None]
    if shifts is not None:
        theta[:, :, 2] = -2 * (inverse @ shifts[:, :, None])[:, :, 0] / own
    grid = F.affine_grid(theta, list(size), align_corners=False)
    mode = "zeros" if border == "black" else "reflection"
    return F.grid_sample(images.float(), grid, padding_mode=mode, align_corners=False).round_().byte()


def random_cutout(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Covers a square about a random pixel of each image of [N, C, H, W] with the batch's mean colour.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    n, _, height, width = images.shape
    y, x = (torch.randint(size, (n, 1), generator=generator) for size in (height, width))
    rows, columns = (
        (at - side // 2 <= place) & (place < at - side // 2 + side)
        for at, place in ((y, torch.arange(height)), (x, torch.arange(width)))
    )
    mean = images.float().mean((0, 2, 3)).round_().byte()
    return torch.where((rows[:, None, :, None] & columns[:, None, None, :]), mean[:, None, None], images)


def mixup(images: Tensor, labels: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor, float]:
    """Images [B, ...] mixed with those of another order; the other labels [B], and the images' own share.

    The share is drawn from a Beta(alpha, alpha). Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """
    order = torch.randperm(len(images), generator=generator)
    a, b = torch._standard_gamma(torch.full((2,), alpha), generator=generator).tolist()
    share = a / (a + b) if a + b > 0 else 0.5
    return images.lerp(images[order], 1 - share), labels[order], share


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
