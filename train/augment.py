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
            maps, most = self.maps(len(images), generator), self.shift
            shifts = torch.randint(-most, most + 1, (len(images), 2), generator=generator)
            images = warp(images, maps, self.border, shifts)
        elif self.shift:
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
    """Each image of [N, C, H, W], bytes, under its linear map of [N, 2, 2] about the centre, bilinearly; then moved.

    ``shifts`` [N, 2] are in pixels, right and down. What was moved out of the image by the map may be moved in again.
    With a ``side`` the results are [N, C, side, side], the image's centre at theirs.
    """
    n, _, *own = images.shape
    height, width = own if side is None else (side, side)
    # A result's pixel looks where the inverse map leads, in coordinates from -1 to 1 along each axis.
    result, source = (torch.tensor([w, h], dtype=torch.float32) for h, w in ((height, width), own))
    inverse = torch.linalg.inv(maps) * result[None, None] / source[None, :, None]
    x, y = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
    pixels = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)])
    back = torch.zeros(n, 2) if shifts is None else -2 * shifts / result
    # One product for all images: F.affine_grid's, of each on its own, takes several times as long as the sampling.
    affine = torch.cat([inverse, inverse @ back[:, :, None]], 2).view(-1, 3)
    grid = (affine @ pixels.view(3, -1)).view(n, 2, height, width).permute(0, 2, 3, 1)
    mode = "zeros" if border == "black" else "reflection"
    # By way of 16 bits, since the conversion to bytes alone takes twice as long as both of these.
    return F.grid_sample(images.float(), grid, padding_mode=mode, align_corners=False).round_().short().byte()


def either(mask: Tensor, some: Tensor, others: Tensor) -> Tensor:
    """torch.where, whose loop over bytes takes five to ten times as long as these products and their sum."""
    return some * mask + others * ~mask


def random_cutout(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Covers a square about a random pixel of each image of [N, C, H, W] with the batch's mean colour.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    n, _, height, width = images.shape
    y, x = (torch.randint(size, (n, 1), generator=generator) for size in (height, width))
    rows, columns = (
        ((at - side // 2 <= place) & (place < at - side // 2 + side)).byte()
        for at, place in ((y, torch.arange(height)), (x, torch.arange(width)))
    )
    mean = images.float().mean((0, 2, 3)).round_().byte()
    return either((rows[:, None, :, None] * columns[:, None, None, :]).bool(), mean[:, None, None], images)


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
    return either(chosen[:, None, None, None], images.flip(-1), images)


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each image of [N, C, H, W] left to right with probability one half."""
    return flip(images, torch.rand(len(images), generator=generator) < 0.5)
