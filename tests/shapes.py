"""Named convolutions, each chosen to hurt: what a test of convolution runs over.

The names say where a shape stands relative to the kernels' tiles (6 or 12 rows, 8 to 32 columns of float32, blocks of
192 positions and 256 products): `equal`, `multiple`, `tail`; or what is unusual about it. WINOGRAD_CASES stand relative
to Winograd's: tiles of up to 6 outputs a side (4 under 5 taps), blocks of 12 to 24 tiles (of 2²¹ elements where the
filters do not stay in cache, from 150 · 150 on; 64 tiles for the weight gradient), slabs of 64 source channels, ranges
of 256 source by 128 target channels.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvCase:
    """One convolution; `padding` is (before, after) for each axis."""

    name: str
    input: tuple[int, ...]  # [N, C, *]
    weight: tuple[int, ...]  # [O, C/groups, *]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def dims(self) -> int:
        return len(self.stride)

    @property
    def flat_padding(self) -> list[int]:
        return [side for pair in self.padding for side in pair]

    @property
    def output(self) -> tuple[int, ...]:
        sides = (
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, s, d, (before, after) in zip(
                self.input[2:], self.weight[2:], self.stride, self.dilation, self.padding, strict=True
            )
        )
        return (self.input[0], self.weight[0], *sides)


def case(name, input, weight, stride=1, padding=0, dilation=1, groups=1) -> ConvCase:
    """A ConvCase from integers or one value an axis."""
    dims = len(weight) - 2
    per_axis = lambda value: value if isinstance(value, tuple) else (value,) * dims  # noqa: E731
    pairs = tuple(p if isinstance(p, tuple) else (p, p) for p in per_axis(padding))
    return ConvCase(name, input, weight, per_axis(stride), pairs, per_axis(dilation), groups)


# Around every vector of 2 to 16 elements: one to four whole ones, one element less and one more.
VECTOR_LENGTHS = sorted({v * whole + beside for v in (2, 4, 8, 16) for whole in range(1, 5) for beside in (-1, 0, 1)})


def along(c: ConvCase, dims: int) -> ConvCase:
    """The 2-D case `c` in 1-D, without its first axis, or in 3-D, with a short one in front; and its name for that."""
    if dims == 1:
        return ConvCase(
            f"1d_{c.name}", (*c.input[:2], c.input[3]), (*c.weight[:2], c.weight[3]),
            c.stride[1:], c.padding[1:], c.dilation[1:], c.groups,
        )  # fmt: skip
    return ConvCase(
        f"3d_{c.name}", (*c.input[:2], 2, *c.input[2:]), (*c.weight[:2], 2, *c.weight[2:]),
        (min(2, c.stride[0]), *c.stride), ((1, 0), *c.padding), (min(2, c.dilation[0]), *c.dilation), c.groups,
    )  # fmt: skip


CASES_2D = [
    case("plain", (2, 3, 9, 11), (5, 3, 3, 3), padding=1),
    case("equal", (2, 16, 8, 12), (12, 16, 3, 3), padding=1),  # 192 positions, one panel of 12
    case("multiple", (1, 32, 16, 24), (64, 32, 3, 3), padding=1),  # 2 blocks of positions, 288 products
    case("tail", (1, 29, 13, 15), (33, 29, 3, 3), padding=1),
    case("tail_by_one", (1, 1, 1, 193), (13, 1, 1, 1)),
    case("deep", (1, 300, 4, 4), (7, 300, 3, 3), padding=1),  # 2,700 products: many depth blocks
    case("pixel_longer_than_depth_block", (1, 520, 3, 3), (5, 520, 2, 2)),
    case("wide", (1, 3, 5, 5), (600, 3, 3, 3), padding=1),  # more channels than one task takes
    case("single", (1, 1, 1, 1), (1, 1, 1, 1)),
    case("one_channel", (3, 1, 28, 28), (6, 1, 5, 5)),
    case("one_output", (2, 17, 6, 7), (1, 17, 3, 3), padding=1),
    case("map_smaller_than_kernel", (2, 5, 2, 2), (9, 5, 3, 3), padding=1),
    case("kernel_covers_map", (2, 6, 5, 5), (7, 6, 5, 5)),
    case("1x1", (2, 20, 7, 9), (13, 20, 1, 1)),
    case("1x1_strided", (2, 12, 7, 8), (9, 12, 1, 1), stride=2),
    case("strided", (2, 5, 11, 14), (6, 5, 3, 3), stride=2, padding=1),
    case("strided_unequally", (2, 4, 13, 10), (6, 4, 5, 3), stride=(3, 2), padding=(2, 0)),
    case("stride_beyond_kernel", (2, 4, 9, 8), (5, 4, 2, 2), stride=3, padding=(0, 1)),
    case("stride_leaves_a_rest", (1, 3, 10, 10), (4, 3, 3, 3), stride=4),
    case("first_layer", (1, 3, 35, 35), (24, 3, 11, 11), stride=4, padding=2),
    case("even_kernel", (2, 3, 6, 7), (4, 3, 2, 4), padding=((0, 1), (1, 2))),
    case("unequal_padding", (2, 3, 6, 7), (4, 3, 3, 3), padding=((3, 0), (0, 2)), stride=(2, 1)),
    case("cropped", (1, 3, 9, 8), (4, 3, 3, 3), padding=((1, -2), (-1, 0))),
    case("padding_beyond_kernel", (1, 2, 3, 3), (3, 2, 2, 2), padding=4),
    case("dilated", (2, 4, 12, 11), (5, 4, 3, 3), padding=2, dilation=(2, 3)),
    case("dilated_and_strided", (1, 4, 14, 13), (5, 4, 3, 2), stride=(2, 3), padding=3, dilation=(3, 2)),
    case("grouped", (2, 12, 7, 7), (18, 4, 3, 3), padding=1, groups=3),
    case("grouped_widely", (1, 80, 6, 5), (64, 40, 3, 3), padding=1, groups=2),
    case("grouped_strided", (2, 8, 9, 9), (4, 2, 3, 3), stride=2, padding=1, groups=4),
    case("depthwise", (2, 19, 8, 9), (19, 1, 3, 3), padding=1, groups=19),
    case("depthwise_multiplier", (2, 5, 8, 9), (15, 1, 3, 3), padding=1, groups=5),
    case("depthwise_strided", (2, 16, 9, 11), (16, 1, 5, 3), stride=(2, 3), padding=(2, 1), groups=16),
    case("depthwise_dilated", (1, 7, 9, 10), (14, 1, 3, 3), stride=2, padding=((2, 1), (0, 3)), dilation=2, groups=7),
    case("depthwise_large_kernel", (1, 4, 21, 20), (4, 1, 13, 13), padding=6, groups=4),
    case("many_positions", (8, 2, 40, 40), (3, 2, 3, 3), padding=1),  # 16 partial sums of the weight gradient
    # Positions along the vectors (planes.inl): few target channels, groups, 1×1 on contiguous maps.
    case("few_targets_deep", (2, 100, 5, 19), (3, 100, 2, 4), padding=1),
    case("few_sources", (2, 3, 9, 33), (70, 3, 3, 3), padding=1),
    case("grouped_by_four", (2, 32, 9, 14), (32, 4, 3, 3), padding=1, groups=8),
    case("grouped_by_eight", (3, 32, 7, 7), (32, 8, 3, 3), padding=1, groups=4),
    case("grouped_by_sixteen", (3, 64, 7, 5), (64, 16, 3, 3), padding=1, groups=4),
    case("grouped_unevenly", (2, 20, 8, 17), (12, 5, 3, 3), padding=(2, 1), groups=4),
    case("1x1_deep_and_wide", (2, 270, 6, 19), (40, 270, 1, 1)),
    case("1x1_padded", (2, 20, 5, 17), (13, 20, 1, 1), padding=((1, 2), (0, 3))),
    case("1x1_cropped", (2, 20, 7, 9), (13, 20, 1, 1), padding=((-1, 0), (0, -2))),
    case("1x1_strided_and_padded", (2, 12, 7, 18), (9, 12, 1, 1), stride=(3, 2), padding=((1, 0), (2, 1))),
    case("three_vectors_of_channels", (2, 20, 6, 5), (48, 20, 3, 3), padding=1),
    case("five_vectors_of_channels", (2, 40, 9, 10), (80, 40, 3, 3), padding=1),
    case("pixels_contend", (2, 512, 5, 4), (40, 512, 1, 1)),  # 2 KB apart: the weight gradient copies them
    case("first_layer_backward", (1, 3, 40, 41), (20, 3, 7, 7), stride=2, padding=3),
    case("empty_batch", (0, 3, 6, 6), (4, 3, 3, 3), padding=1),
]
CASES_1D = [
    case("1d", (2, 3, 11), (5, 3, 3), padding=1),
    case("1d_long", (1, 2, 450), (7, 2, 25), stride=3, padding=12, dilation=2),
    case("1d_depthwise", (2, 6, 13), (12, 1, 3), padding=((2, 0),), groups=6),
    case("1d_grouped_strided", (3, 8, 10), (6, 4, 4), stride=2, padding=((1, 2),), groups=2),
]
CASES_3D = [
    case("3d", (2, 3, 5, 6, 7), (4, 3, 3, 3, 3), padding=1),
    case("3d_strided", (1, 4, 7, 6, 8), (5, 4, 2, 3, 3), stride=(2, 1, 3), padding=((0, 1), (1, 0), (2, 1))),
    case("3d_dilated", (1, 4, 8, 7, 6), (6, 2, 3, 2, 1), padding=(2, 1, 0), dilation=(2, 3, 1), groups=2),
    case("3d_depthwise", (2, 5, 4, 5, 6), (10, 1, 3, 3, 3), stride=(1, 2, 1), padding=1, groups=5),
]
CASES = CASES_2D + CASES_1D + CASES_3D
ALONG = [along(c, dims) for dims in (1, 3) for c in CASES_2D]  # the names of two dimensions, in one and three

# Every map is tiled exactly: maps of 1 to 9 a side have tiles of 1, 2, 3 and 4 outputs, alone and after others.
WINOGRAD_CASES = [
    *[case(f"map_of_{side}", (2, 3, side, side), (5, 3, 3, 3), padding=1) for side in range(1, 12)],
    case("map_of_57", (1, 5, 57, 57), (7, 5, 3, 3), padding=1),
    case("map_smaller_than_tile", (2, 17, 2, 3), (9, 17, 3, 3), padding=1),
    case("map_smaller_than_5x5", (3, 4, 1, 2), (6, 4, 5, 5), padding=2),
    case("map_of_one_row", (2, 5, 1, 21), (6, 5, 3, 3), padding=1),
    case("map_of_one_column", (2, 5, 21, 1), (6, 5, 3, 3), padding=1),
    case("tiles_of_many_samples", (37, 5, 3, 3), (6, 5, 3, 3), padding=1),
    case("one_channel_each", (2, 1, 10, 9), (1, 1, 3, 3), padding=1),
    case("one_source", (2, 1, 6, 7), (18, 1, 3, 3), padding=1),
    case("one_target", (2, 18, 6, 7), (1, 18, 3, 3), padding=1),
    case("thousand_sources", (1, 1000, 3, 3), (40, 1000, 3, 3), padding=1),  # panels; 4 ranges
    case("thousand_targets", (1, 40, 3, 3), (1000, 40, 3, 3), padding=1),  # 8 blocks of target channels
    case("thousand_channels", (1, 1000, 2, 4), (1000, 1000, 1, 3), padding=(0, 1)),
    case("channels_15_33", (2, 15, 7, 6), (33, 15, 3, 3), padding=1),
    case("channels_16_65", (2, 16, 7, 6), (65, 16, 3, 3), padding=1),
    case("channels_17_15", (2, 17, 7, 6), (15, 17, 3, 3), padding=1),
    case("channels_33_17", (2, 33, 7, 6), (17, 33, 3, 3), padding=1),
    case("channels_65_16", (2, 65, 7, 6), (16, 65, 3, 3), padding=1),
    case("channels_300_20", (2, 300, 4, 5), (20, 300, 3, 3), padding=1),  # more products than a chain
    case("tiles_beyond_a_block", (2, 3, 33, 34), (5, 3, 3, 3), padding=1),  # 36 a sample
    case("row_of_tiles_beyond_a_block", (1, 6, 6, 300), (4, 6, 3, 3), padding=1),  # 50 tiles: 3 segments
    case("row_of_tiles_beyond_a_correlation_block", (2, 4, 3, 400), (3, 4, 3, 3), padding=1),  # 67
    case("splits", (10, 3, 30, 34), (5, 3, 3, 3), padding=1),  # 3 partial sums of the weight gradient
    case("panels_of_several_chunks_and_slabs", (14, 600, 11, 11), (40, 600, 3, 3), padding=1),  # 56 tiles
    case("panels_of_segments", (1, 1000, 1, 1600), (23, 1000, 1, 3), padding=(0, 1)),  # a row of 267 tiles
    case("several_ranges", (1, 300, 6, 7), (140, 300, 3, 3), padding=1),
    case("ranges_of_groups", (1, 520, 3, 4), (260, 260, 3, 3), padding=1, groups=2),
    case("groups", (2, 34, 7, 9), (22, 17, 3, 3), padding=1, groups=2),
    case("groups_of_one", (2, 5, 6, 6), (10, 1, 3, 3), padding=1, groups=5),
    case("panels_of_groups", (2, 214, 5, 4), (220, 107, 3, 3), padding=1, groups=2),
    case("5x5", (2, 9, 11, 14), (10, 9, 5, 5), padding=2),
    case("5x5_grouped", (2, 12, 9, 7), (8, 6, 5, 5), padding=2, groups=2),
    case("5x5_panels", (1, 160, 6, 7), (150, 160, 5, 5), padding=2),
    case("3x5", (2, 6, 9, 10), (7, 6, 3, 5), padding=(1, 2)),
    case("5x3", (2, 6, 10, 9), (7, 6, 5, 3), padding=(2, 1)),
    case("1x3", (2, 6, 5, 13), (7, 6, 1, 3), padding=(0, 1)),
    case("3x1", (2, 6, 13, 5), (7, 6, 3, 1), padding=(1, 0)),
    case("1x5", (2, 6, 5, 13), (7, 6, 1, 5), padding=(0, 2)),
    case("5x1", (2, 6, 13, 5), (7, 6, 5, 1), padding=(2, 0)),
    case("3x1_padded_across", (2, 6, 13, 5), (7, 6, 3, 1), padding=(1, (2, 1)), dilation=(1, 3)),
    case("valid", (2, 6, 11, 12), (7, 6, 3, 3)),
    case("asymmetric_padding", (2, 6, 8, 9), (7, 6, 3, 3), padding=((2, 0), (0, 1))),
    case("asymmetric_padding_5x5", (2, 6, 8, 9), (7, 6, 5, 5), padding=((4, 1), (0, 3))),
    case("padding_beyond_the_taps", (1, 3, 3, 4), (4, 3, 3, 3), padding=((7, 5), (4, 9))),  # tiles beside the map
    case("cropped_to_tiles", (1, 6, 12, 13), (7, 6, 3, 3), padding=((-1, -2), (1, -3))),
    case("cropped_and_padded", (1, 6, 9, 13), (7, 6, 3, 3), padding=((-3, 4), (2, -5))),
    case("1d_of_3", (2, 6, 19), (7, 6, 3), padding=1),
    case("1d_of_5", (2, 6, 18), (8, 3, 5), padding=((3, 0),), groups=2),
    case("1d_wide", (1, 20, 300), (33, 20, 3), padding=1),
    case("3d_of_3", (2, 5, 4, 6, 7), (6, 5, 3, 3, 3), padding=1),
    case("3d_strided_along_the_first_axis", (2, 5, 7, 6, 5), (6, 5, 3, 3, 3), stride=(2, 1, 1), padding=1),
    case("3d_stride_beyond_the_taps", (1, 5, 9, 6, 5), (6, 5, 2, 3, 3), stride=(3, 1, 1), padding=((0, 1), 1, 1)),
    case("3d_dilated_along_the_first_axis", (1, 4, 8, 5, 6), (6, 2, 3, 3, 5), padding=2, dilation=(3, 1, 1), groups=2),
    case("3d_channels_of_17", (1, 17, 3, 5, 4), (18, 17, 3, 3, 3), padding=1),  # each slice tap is filled up
    case("3d_panels", (1, 160, 3, 4, 4), (150, 160, 3, 3, 3), padding=1),
    case("3d_1x3x3", (2, 5, 3, 6, 7), (6, 5, 1, 3, 3), padding=(0, 1, 1)),
    case("empty_batch_of_tiles", (0, 3, 6, 6), (4, 3, 3, 3), padding=1),
]
