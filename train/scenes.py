"""Pictures of one digit at a random place, size and angle among clutter, and all that there is to know of it.

The pictures are drawn batch by batch from digits of 32x32 pixels; nothing is read. A point is (x, y) from -1 to 1, from
edge to edge of the picture, y down. Clutter as in Mnih et al., Recurrent Models of Visual Attention, 2014.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from train.augment import Augmentation, warp

INK = 128  # the least byte that belongs to a digit
JOINTS = 5  # of each digit: one in each of as many slices of equal height
PIECE = 10  # pixels of a piece's sides


class Targets(NamedTuple):
    """What is known of N pictures."""

    labels: Tensor  # int64 [N]
    boxes: Tensor  # float32 [N, 4, 2]: the corners, clockwise from the top left of the digit upright
    joints: Tensor  # float32 [N, JOINTS, 2], from the top of the digit upright
    masks: Tensor  # bool [N, H, W]: the digit's own pixels


def chosen(targets: Tensor | Targets, indices: Tensor | slice) -> Tensor | Targets:
    """Those of the pictures numbered ``indices``; of plain images the targets are the labels [N] alone."""
    return Targets(*(known[indices] for known in targets)) if isinstance(targets, Targets) else targets[indices]


def labels_of(targets: Tensor | Targets) -> Tensor:
    """The classes, int64 [N]."""
    return targets.labels if isinstance(targets, Targets) else targets


def landmarks(digits: Tensor) -> Tensor:
    """Corners and joints of upright digits, bytes [N, 1, H, W]: [N, 4 + JOINTS, 2], in pixels from the image's centre.

    The box is the smallest that holds the ink. A joint is the centre of mass of the ink in its slice of the box, or the
    slice's middle where there is none.
    """
    ink = (digits[:, 0] >= INK).float()
    n, height, width = ink.shape
    (top, bottom), (left, right) = (_extent(ink.amax(axis)) for axis in (2, 1))
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], 1).view(n, 4, 2)
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    slices = ((y - top[:, None]) / (bottom - top)[:, None] * JOINTS).long().clamp(0, JOINTS - 1)
    rows = F.one_hot(slices, JOINTS).float().transpose(1, 2) @ ink  # [N, JOINTS, W]: ink of each column of a slice
    heights = (F.one_hot(slices, JOINTS).float() * y[:, None]).transpose(1, 2) @ ink.sum(2, keepdim=True)
    mass = rows.sum(2)
    centres = torch.stack([rows @ x, heights[:, :, 0]], 2) / mass.clamp(min=1)[:, :, None]
    share = (torch.arange(JOINTS) + 0.5) / JOINTS
    middles = torch.stack([(left + right)[:, None] / 2 + 0 * share, top[:, None] + (bottom - top)[:, None] * share], 2)
    joints = torch.where(mass[:, :, None] > 0, centres, middles)
    return torch.cat([corners, joints], 1) - torch.tensor([width, height]) / 2


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """Of flags [N, L] the place of the first and the place after the last; 0 and L where there is none."""
    length = present.shape[1]
    return present.argmax(1).float(), length - present.flip(1).argmax(1).float()


@dataclass(frozen=True)
class Scene:
    """How pictures of ``side`` pixels along each axis are drawn.

    The longer side of a digit's box is ``smallest`` to ``largest`` pixels, drawn evenly; the digit is turned by up to
    ``angle`` degrees either way, and its box lies within the picture. With it, the brighter pixel in front, ``pieces``
    of 10x10 pixels of digits of the same set and ``strokes`` of the pen; over all, noise of deviation ``noise``.
    """

    side: int = 64
    smallest: float = 28.0
    largest: float = 44.0
    angle: float = 30.0
    pieces: int = 4
    strokes: int = 1
    noise: float = 12.0

    def __call__(self, digits: Tensor, labels: Tensor, others: Tensor, generator: Generator) -> tuple[Tensor, Targets]:
        """A picture of each of ``digits`` [N, 1, H, W] among pieces of ``others``: bytes [N, 1, side, side]."""
        n, points = len(digits), landmarks(digits)
        longer = (points[:, 2] - points[:, 0]).amax(1)  # of the box's sides
        sizes = self.smallest + (self.largest - self.smallest) * torch.rand(n, generator=generator)
        maps = Augmentation(rotate=self.angle).maps(n, generator) * (sizes / longer)[:, None, None]
        points = points @ maps.transpose(1, 2)
        least, most = points[:, :4].amin(1), points[:, :4].amax(1)
        room = (self.side - (most - least)).clamp(min=0)
        shifts = room * torch.rand(n, 2, generator=generator) - self.side / 2 - least
        drawn = warp(digits, maps, shifts=shifts, side=self.side)
        points = (points + shifts[:, None]) * (2 / self.side)
        clutter = self._pieces(others, n, generator).maximum(self._strokes(n, generator))
        noise = self.noise * torch.randn(drawn.shape, generator=generator)
        pictures = (drawn.maximum(clutter) + noise).round_().clamp_(0, 255).byte()
        return pictures, Targets(labels, points[:, :4], points[:, 4:], drawn[:, 0] >= INK)

    def _pieces(self, others: Tensor, n: int, generator: Generator) -> Tensor:
        """Of n pictures the pieces of other digits alone: bytes [n, 1, side, side]."""
        count = n * self.pieces

        def windows(side: int) -> tuple[Tensor, Tensor]:
            y, x = torch.randint(side - PIECE + 1, (2, count, 1), generator=generator) + torch.arange(PIECE)
            return y[:, :, None], x[:, None, :]

        which = torch.randint(len(others), (count, 1, 1), generator=generator)
        y, x = windows(others.shape[2])
        cut = others[which, 0, y, x].view(n, -1)
        y, x = windows(self.side)
        canvas = torch.zeros(n, self.side**2, dtype=torch.uint8)
        canvas.scatter_reduce_(1, (y * self.side + x).view(n, -1), cut, "amax")
        return canvas.view(n, 1, self.side, self.side)

    def _strokes(self, n: int, generator: Generator) -> Tensor:
        """Of n pictures the strokes alone: bytes [n, 1, side, side]."""
        start, thickness, along = (torch.rand(n, self.strokes, k, generator=generator) for k in (2, 1, 2))
        start, step = start * self.side, (2 * along - 1) * self.side / 4
        grid = torch.stack(torch.meshgrid(*[torch.arange(self.side) + 0.5] * 2, indexing="xy"), 2).view(-1, 2)
        way = grid - start[:, :, None]  # [n, strokes, side², 2]
        share = (way @ step[:, :, :, None])[..., 0] / step.square().sum(2, keepdim=True).clamp(min=1e-6)
        distance = (way - share.clamp(0, 1)[..., None] * step[:, :, None]).norm(dim=3)
        bright = (1 + 2 * thickness + 0.5 - distance).clamp(0, 1) * 255
        return bright.amax(1).byte().view(n, 1, self.side, self.side)

    def pictures(self, digits: Tensor, labels: Tensor, copies: int, seed: int) -> tuple[Tensor, Targets]:
        """``copies`` pictures of each digit, always the same ones for a ``seed``."""
        generator, which = Generator().manual_seed(seed), torch.arange(len(digits)).repeat(copies)
        parts = [self(digits[some], labels[some], digits, generator) for some in which.split(500)]
        images, targets = zip(*parts, strict=True)
        return torch.cat(images), Targets(*(torch.cat(known) for known in zip(*targets, strict=True)))
