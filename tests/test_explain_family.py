"""explain and convert on the layers that torch.nn lacks: rows for each, and what they hold is converted."""

import pytest
import torch

import torchconv
from torchconv import nn
from torchconv import transforms as T
from torchconv.explain import DIRECTIONS

CONVOLUTIONS = {
    "transforms 1d": (lambda: nn.TransformInvariantConv1d(4, 6, 3, T.reflections(dims=1)), (2, 4, 9), 12 * 2 * 7 * 12),
    "transforms 2d": (lambda: nn.TransformInvariantConv2d(4, 6, 3, T.rotations(4)), (2, 4, 8, 8), 24 * 2 * 36 * 36),
    "transforms 3d": (lambda: nn.TransformInvariantConv3d(4, 2, 3, T.rotations(4)), (1, 4, 5, 5, 5), 8 * 27 * 108),
    "lifting": (lambda: nn.GroupConv2d(4, 2, 3, lifting=True), (2, 4, 8, 8), 8 * 2 * 36 * 36),
    "regular": (lambda: nn.GroupConv2d(1, 2, 3, "p4"), (2, 4, 8, 8), 8 * 2 * 36 * 36),
    "local": (lambda: nn.LocallyConnected2d(4, 3, 8, 3), (2, 4, 8, 8), 2 * 3 * 36 * 36),
    "local 1d": (lambda: nn.LocallyConnected1d(4, 3, 8, 3), (2, 4, 8), 2 * 3 * 6 * 12),
    "local transpose": (lambda: nn.LocallyConnectedTranspose2d(4, 3, 8, 3), (2, 4, 8, 8), 2 * 4 * 64 * 27),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 8, 8), 2 * 4 * 64 * 27),
    "learned": (lambda: nn.LearnedPool2d(4, 2), (2, 4, 8, 8), 2 * 4 * 16 * 4),
    "learned shared": (lambda: nn.LearnedPool2d(None, 3, 2, (0, 1)), (2, 4, 9, 9), 2 * 4 * 4 * 5 * 9),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_of_layers_with_weights(name):
    make, size, multiply_adds = CONVOLUTIONS[name]
    layer, x = make(), torch.randn(size)
    rows = {row.direction: row for row in torchconv.explain(layer, x)}
    assert tuple(rows) == DIRECTIONS
    for row in rows.values():
        assert row.layer == type(layer).__name__
        assert row.algorithm in torch.ops.torchconv._algorithms()
        assert row.multiply_adds == multiply_adds
        assert row.bytes_moved > 4 * layer(x).numel()
        assert row.workspace_bytes >= 0
        maps, weights = (5e-6, 1.5e-5) if row.algorithm == "winograd" else (2e-6, 1e-5)
        assert row.error_bound == (weights if row.direction == "weight_grad" else maps)
    assert rows["forward"].kept_bytes >= x.nbytes


def test_the_workspace_of_a_locally_connected_layer():
    """What it packs and sums at a time: some of it, whatever the batch, and the transposed layer's the other way."""
    down = nn.LocallyConnected2d(8, 6, (20, 16), 3, 2, (1, 0), dilation=2, groups=2)
    up = nn.LocallyConnectedTranspose2d(6, 8, down.output_size, 3, 2, (1, 0), (1, 1), dilation=2, groups=2)
    assert up.output_size == (20, 16)

    def workspaces(layer, batch):
        x = torch.randn(batch, layer.in_channels, *layer.input_size)
        return {row.direction: row.workspace_bytes for row in torchconv.explain(layer, x.to(layer.weight))}

    few, many, more = (workspaces(down, batch) for batch in (2, 64, 128))
    assert all(few[direction] < many[direction] == more[direction] < 2 << 20 for direction in DIRECTIONS)
    # Forward, for 16 samples at a time: 256 bytes of positions of each term, and of the sums that they become.
    assert many["forward"] >= 256 * 16 * (4 * 9 + 3)
    back = workspaces(up, 64)
    assert (back["input_grad"], back["forward"], back["weight_grad"]) == tuple(many[d] for d in DIRECTIONS)
    assert workspaces(down.double(), 64)["forward"] >= 256 * 16 * (4 * 9 + 3)


def test_a_learned_pooling_takes_what_a_depthwise_convolution_takes():
    pool = nn.LearnedPool2d(None, 3, 2, (0, 1))
    plain = nn.Conv2d(4, 4, 3, 2, (0, 1), groups=4, bias=False)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 9, 9).contiguous(memory_format=layout)
        for mine, theirs in zip(torchconv.explain(pool, x), torchconv.explain(plain, x), strict=True):
            assert (mine.algorithm, mine.refused, mine.multiply_adds, mine.workspace_bytes) == (
                theirs.algorithm, theirs.refused, theirs.multiply_adds, theirs.workspace_bytes
            )  # fmt: skip


def test_rows_of_layers_without():
    x = torch.randn(2, 4, 8, 8)
    for layer, algorithm in (
        (nn.LocalResponseNorm(3), "direct"), (nn.GroupPool2d("p4"), "built-in"),
        (nn.GroupBatchNorm2d(1), "built-in"), (nn.BlockPool2d(torch.nn.Flatten(), 2), "built-in"),
        (nn.MaxPool2d(2), "direct"),
    ):  # fmt: skip
        rows = list(torchconv.explain(layer, x))
        assert [row.direction for row in rows] == list(DIRECTIONS[:2])
        assert {(row.layer, row.algorithm) for row in rows} == {(type(layer).__name__, algorithm)}
        assert all(row.bytes_moved > 0 for row in rows)
    assert rows[0].error_bound == 0
    y, where = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    rows = list(torchconv.explain(nn.MaxUnpool2d(2), y, where))
    assert [(row.direction, row.algorithm) for row in rows] == [("forward", "direct"), ("input_grad", "direct")]


def test_rows_of_a_network_on_blocks():
    """The copies are the layer's own; what is made of them is its layers', whose rows come after, part by part."""
    x = torch.randn(3, 4, 8, 6)
    pool = nn.BlockPool2d(torch.nn.Sequential(nn.Conv2d(4, 5, 2), torch.nn.Flatten()), (4, 2), (2, 2), at_once=100)
    rows = list(torchconv.explain(pool, x))
    assert [row.name for row in rows[:3]] == ["", "", "network.0"]
    assert rows[-1].name == "network.0#9"  # 3 samples of 3 rows of 3 blocks, 96 elements each, a row at a time
    first, back = rows[:2]
    assert (first.layer, first.direction, back.direction) == ("BlockPool2d", "forward", "input_grad")
    assert first.refused == ("the network's own layers, on 27 blocks",)
    y = pool(x)
    assert first.bytes_moved == x.nbytes + 4 * 27 * 32 + y.nbytes
    assert first.workspace_bytes == 4 * 3 * 32
    larger = nn.BlockPool2d(pool.network, (4, 2), (2, 2), at_once=700)  # two samples of 288 elements
    assert next(iter(torchconv.explain(larger, x))).workspace_bytes == 4 * 2 * 288
    assert sum(row.kept_bytes for row in rows) >= 4 * 27 * 32  # its convolution keeps the blocks
    assert first.kept_bytes == 0


def test_what_a_group_batch_norm_keeps():
    rows = list(torchconv.explain(nn.GroupBatchNorm2d(2, "p4"), x := torch.randn(2, 8, 5, 5)))
    assert rows[0].refused == ("torch's own batch norm over the group",)
    assert rows[0].bytes_moved == 2 * x.nbytes
    assert x.nbytes <= rows[0].kept_bytes < 2 * x.nbytes


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(4, 8, 2), torch.nn.ReLU(), torch.nn.Flatten())


def test_what_is_ours_alone_stays_and_what_is_in_it_is_converted():
    model = torch.nn.Sequential(
        nn.GroupConv2d(4, 1, 3, lifting=True, padding=1),
        nn.GroupPool2d(),
        nn.TransformInvariantConv2d(1, 4, 3, T.rotations(4), padding=1, reduce="max"),
        nn.LocallyConnected2d(4, 4, 8, 3, padding=1),
        nn.LearnedPool2d(None, 2),
        nn.BlockPool2d(network(), 2),
        torch.nn.LocalResponseNorm(3),
        torch.nn.ConvTranspose2d(8, 2, 2),
    )
    classes = [type(module) for module in model]
    x = torch.randn(2, 4, 8, 8)
    before = model(x)
    torchconv.convert(model, report=(left := []))
    assert not left
    assert [type(module) for module in model][:6] == classes[:6]
    assert type(model[5].network[0]) is nn.Conv2d
    assert [type(module) for module in model][6:] == [nn.LocalResponseNorm, nn.ConvTranspose2d]
    torch.testing.assert_close(model(x), before)
    explained = torchconv.explain(model, x)
    called = ["0", "1", "2", "3", "4", "5", "5.network.0", "6", "7"]
    assert list(dict.fromkeys(row.name for row in explained)) == called
    torchconv.revert(model, report=(left := []))
    assert not left
    assert [type(module) for module in model] == classes
    assert type(model[5].network[0]) is torch.nn.Conv2d
