"""What is timed: layers of the networks people train, awkward sizes beside them, and the operators on both sides.

A row's name is ``group.what``; the group says which line of the summary it counts in.
"""

from dataclasses import replace
from typing import Any

from .row import Row
from .rows_transform import transform_rows
from .rows_transposed import transposed_rows


def conv(
    name: str, batch: int, c: int, side: int, o: int, k: int, *, dims: int = 2, bias: bool = False, **options: Any
) -> Row:
    """c to o maps on `side` pixels a side with a kernel of k; the row is called "name.kernel.c-o@side" and options."""
    sign = {"stride": "s", "groups": "g", "padding": "p"}
    kernel = [] if name.startswith("3x3") else [f"{k}x{k}" if dims == 2 else f"{dims}d{k}"]
    notes = [f"{sign[key]}{value}" for key, value in options.items() if key != "padding" or value != k // 2]
    options = {"padding": k // 2, **options}
    weight = (o, c // options.get("groups", 1), *[k] * dims)
    full = ".".join([name, *kernel, f"{c}-{o}@{side}", *notes])
    return Row(full, f"conv{dims}d", (batch, c, *[side] * dims), weight, bias, options)


def pools() -> list[Row]:
    """Max and mean pooling by the windows people use, 6 to 256 maps, 7 to 112 pixels a side, and those of networks.

    No map is over 32 MB: larger ones come from fresh pages each time, and that is what would be timed.
    """
    two, whole = dict(kernel_size=2), dict(kernel_size=8)
    bare, padded = dict(kernel_size=3, stride=2), dict(kernel_size=3, stride=2, padding=1)
    dense = dict(kernel_size=3, stride=1, padding=1)
    return [
        _pool("pool.lenet", 64, 6, 28, two),
        *(_pool("pool.alexnet", 64, c, n, bare) for c, n in [(96, 32), (256, 15), (256, 7)]),
        *(_pool("pool.vgg", 64, c, n, two) for c, n in [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]),
        *(_pool("pool.2x2", batch, c, n, two) for batch, c, n in [(8, 64, 112), (32, 128, 28), (64, 96, 14)]),
        *(_pool("pool.3x3.s2.p1", batch, c, n, padded) for batch, c, n in [(8, 64, 112), (32, 64, 56), (64, 128, 14)]),
        *(_pool("pool.3x3.s1", batch, c, n, dense) for batch, c, n in [(32, 64, 28), (64, 192, 14), (64, 256, 7)]),
        *(
            _pool("mean.2x2", batch, c, n, two)
            for batch, c, n in [(64, 6, 28), (32, 64, 56), (64, 64, 32), (64, 256, 8)]
        ),
        *(_pool("mean.3x3.s2", batch, c, n, bare) for batch, c, n in [(64, 96, 32), (64, 256, 7)]),
        *(_pool("mean.3x3.s2.p1", batch, c, n, padded) for batch, c, n in [(32, 64, 56), (64, 128, 14)]),
        *(_pool("mean.3x3.s1", batch, c, n, dense) for batch, c, n in [(32, 64, 28), (64, 192, 14)]),
        _pool("mean.whole", 64, 256, 8, whole),
    ]


def _pool(name: str, batch: int, channels: int, side: int, options: dict[str, Any]) -> Row:
    operator = "max_pool2d" if name.startswith("pool.") else "avg_pool2d"
    return Row(f"{name}.{channels}@{side}", operator, (batch, channels, side, side), options=options)


def rows(batch: int | None = None) -> list[Row]:
    """Every row, in its own batch or in the one given."""
    table = [*_square(), *_rest(), *transposed_rows(), *pools(), *_depthwise(), *_norms(), *transform_rows()]
    return [replace(row, input=(batch or row.input[0], *row.input[1:])) for row in table]


def _square() -> list[Row]:
    """3×3 with stride 1, 48 to 512 maps, 4 to 57 pixels a side: what Winograd's algorithm is for."""
    vgg = [(64, 32, 64), (64, 16, 128), (128, 16, 128), (128, 8, 256), (256, 8, 256), (256, 4, 512), (512, 4, 512)]
    # Sizes that are a multiple of no tile, maps that are a multiple of no vector, and those of larger networks.
    other = [
        (16, 48, 57, 48), (16, 64, 57, 64), (16, 80, 28, 80), (8, 128, 27, 128), (8, 256, 14, 256), (64, 100, 14, 100),
        (64, 48, 13, 80), (16, 200, 13, 200), (8, 384, 13, 384), (16, 320, 9, 320), (64, 100, 7, 200), (8, 512, 7, 512),
        (16, 512, 5, 512), (64, 64, 5, 96), (64, 48, 4, 48),
    ]  # fmt: skip
    return [
        *(conv("3x3.vgg", 64, c, n, o, 3) for c, n, o in vgg),
        *(conv("3x3.alexnet", 32, c, 7, o, 3, bias=True) for c, o in [(256, 384), (384, 384), (384, 256)]),
        *(conv("3x3", batch, c, n, o, 3) for batch, c, n, o in other),
        conv("3x3", 32, 64, 30, 64, 3, padding=0),
        conv("3x3", 32, 96, 11, 96, 3, padding=2),
        conv("3x3", 16, 96, 29, 96, 3, groups=2),
        conv("3x3", 16, 256, 14, 256, 3, groups=4),
        conv("3x3", 8, 384, 13, 384, 3, groups=2),
    ]


def _rest() -> list[Row]:
    """First layers, other kernels, strides, grouped layers, small networks and small maps."""
    return [
        conv("rest.vgg", 64, 3, 32, 64, 3),
        conv("rest.first", 16, 3, 57, 64, 3),
        conv("rest.alexnet", 64, 3, 32, 96, 5, bias=True),
        conv("rest.first", 8, 3, 112, 64, 7, stride=2),
        conv("rest.first", 4, 3, 227, 96, 11, stride=4, padding=0, bias=True),
        conv("rest.alexnet", 16, 96, 15, 256, 5, bias=True),
        conv("rest", 16, 48, 27, 64, 5),
        conv("rest", 64, 128, 16, 256, 1),
        conv("rest", 16, 256, 28, 64, 1),
        conv("rest", 16, 100, 13, 200, 1),
        conv("rest", 32, 512, 7, 512, 1),
        conv("rest", 16, 256, 28, 512, 1, stride=2),
        conv("rest", 32, 128, 13, 256, 1, stride=2),
        conv("rest", 16, 64, 57, 64, 3, stride=2),
        conv("rest", 32, 128, 16, 256, 3, stride=2),
        conv("rest", 32, 256, 7, 512, 3, stride=2),
        conv("rest", 16, 128, 28, 128, 3, groups=32),
        conv("rest", 16, 256, 13, 256, 3, groups=32, stride=2),
        conv("rest", 16, 240, 14, 240, 1, groups=3),
        conv("rest.lenet", 64, 1, 32, 6, 5, padding=0, bias=True),
        conv("rest.lenet", 64, 6, 14, 16, 5, padding=0, bias=True),
        conv("rest.vgg", 64, 512, 2, 512, 3),
        conv("rest", 64, 256, 2, 256, 3),
        conv("rest", 32, 64, 500, 128, 3, dims=1),
        conv("rest", 32, 1, 4000, 32, 9, dims=1, stride=2),
        conv("rest", 4, 32, 16, 64, 3, dims=3),
        conv("rest", 4, 3, 24, 16, 3, dims=3),
    ]


def _norms() -> list[Row]:
    # AlexNet's, with the maps' rows end to end: of pictures the built-in has no bfloat16.
    options = dict(size=5, alpha=1e-4, beta=0.75, k=2.0)
    return [
        Row(f"norm.lrn.{c}@{n}", "local_response_norm", (64, c, n), options=options) for c, n in [(96, 729), (256, 169)]
    ]


def _depthwise() -> list[Row]:
    """3×3 as in MobileNets, larger kernels as in EfficientNets, ConvNeXts and beyond: (maps, side, kernel, stride)."""
    shapes = [
        (64, 56, 3, 1), (64, 56, 3, 2), (128, 28, 3, 1), (240, 28, 3, 2), (256, 14, 3, 1), (96, 16, 3, 1),
        (64, 56, 5, 2), (120, 28, 5, 1), (240, 14, 5, 1), (64, 56, 7, 1), (192, 28, 7, 1), (128, 16, 7, 2),
        (64, 28, 31, 1), (128, 16, 31, 1),
    ]  # fmt: skip
    rows = []
    for c, n, k, stride in shapes:
        notes = [f"{k}x{k}"] * (k != 3) + [f"{c}@{n}"] + [f"s{stride}"] * (stride != 1)
        options = {"padding": k // 2, "groups": c, "stride": stride}
        rows.append(Row(".".join(["depthwise", *notes]), "conv2d", (32, c, n, n), (c, 1, k, k), False, options))
    return rows
