"""receptive_field: computed and estimated agree on plain networks, and are what a count by hand gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suite import examples
from torch import nn

import torchconv
from torchconv.receptive_field import Field


def agree(model, layer, input_size):
    """The field, once both ways have been found to see the same inputs."""
    found = torchconv.receptive_field(model, layer, input_size)
    assert found.computed is not None, found.reason
    assert found.box() == found.estimated_box
    assert found.estimated in (None, found.computed)
    return found


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("side", [2, 3, 5])
def test_layers_at_stride_1(layers: int, side: int) -> None:
    model = nn.Sequential(*[nn.Conv2d(2, 2, side) for _ in range(layers)])
    found = agree(model, model[-1], (2, 30, 26))
    assert found.size == (1 + layers * (side - 1),) * 2
    assert (found.stride, found.offset) == ((1, 1), (0, 0))
    assert found.estimated == found.computed


def test_counted_by_hand() -> None:
    """Conv 3, pool 2, conv 3, pool 2: 1 + 2 = 3, + 1 = 4, + 2·2 = 8, + 2·1 = 10, at a stride of 4."""
    net = nn.Sequential(
        torchconv.nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        torchconv.nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    found = agree(net, "6", (1, 64, 48))
    assert found.field == Field((10, 10), (4, 4), (-3, -3))
    assert found.box((0, 2)) == ((0, 7), (5, 15))
    assert (found.output_size, found.position) == ((16, 12), (8, 6))
    assert agree(net, net, (1, 64, 48)).field == found.field  # the model's own output


@examples(25)
@given(
    layers=st.lists(
        st.tuples(st.sampled_from(["conv", "max", "avg"]), st.integers(1, 4), st.integers(1, 3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    side=st.integers(40, 60),
)
def test_property(layers, side) -> None:
    made = []
    for kind, kernel, stride, flag in layers:
        if kind == "conv":
            made.append(nn.Conv1d(2, 2, kernel, stride, kernel // 2, 2 if flag else 1))
        elif kind == "max":
            made.append(nn.MaxPool1d(kernel, stride, kernel // 2, ceil_mode=flag))
        else:
            made.append(nn.AvgPool1d(kernel, stride, kernel // 2, ceil_mode=flag))
    model = nn.Sequential(*made)
    found = torchconv.receptive_field(model, model[-1], (2, side))
    if all(stride <= kernel or kernel == 1 for _, kernel, stride, _ in layers):
        assert found.box() == found.estimated_box
        assert found.estimated in (None, found.computed)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def test_branches_and_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), Residual(), Residual())
    assert agree(model, "1", (1, 60, 60)).field == Field((11, 11), (2, 2), (-4, -4))
    assert agree(model, "1.first", (1, 60, 60)).size == (7, 7)
    assert agree(model, model[2], (1, 60, 60)).size == (19, 19)


def test_other_layers() -> None:
    model = nn.Sequential(
        nn.ZeroPad2d((2, 1, 0, 3)),
        torchconv.nn.Conv2d(2, 2, 3, stride=2, padding="same"),
        torchconv.nn.LearnedPool2d(None, 2, 1),
        nn.LocalResponseNorm(3),
        torchconv.nn.LocallyConnected2d(2, 3, (23, 20), 3),
    )
    assert agree(model, model[-1], (2, 44, 38)).stride == (2, 2)
    volume = nn.Sequential(nn.Conv3d(1, 1, (3, 1, 2), dilation=(2, 1, 1)), nn.AvgPool3d(2))
    assert agree(volume, volume[1], (1, 20, 20, 20)).field == Field((6, 2, 3), (2, 2, 2), (0, 0, 0))


def test_vgg() -> None:
    """Thirteen 3×3 layers and five poolings see 212 pixels, at a step of 32."""
    layers, maps = [], 1
    for count in (2, 2, 3, 3, 3):
        for _ in range(count):
            layers += [nn.Conv2d(maps, 1, 3, padding=1), nn.ReLU()]
            maps = 1
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers)
    found = agree(model, model[-1], (1, 288, 288))
    assert (found.size, found.stride) == ((212, 212), (32, 32))


def test_estimated_alone() -> None:
    """Where nothing can be computed the reason is told, and the estimate stands."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Conv2d(2, 1, 3))
    found = torchconv.receptive_field(model, model[2], (1, 12, 12))
    assert found.computed is None
    assert "layer '1', GroupNorm, has no receptive field known here" in found.reason
    assert found.estimated_box == ((0, 12), (0, 12))
    with pytest.raises(ValueError, match="only known as estimated_box"):
        found.size  # noqa: B018
    model = nn.Sequential(nn.ConvTranspose1d(1, 1, 2, 2), nn.Conv1d(1, 1, 3))
    assert torchconv.receptive_field(model, model[0], (1, 20)).computed is None
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 4))
    assert torchconv.receptive_field(flat, "2", (1, 8, 8)).estimated_box == ((0, 8), (0, 8))


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = torchconv.receptive_field(model, "2", (1, 9, 9))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert type(model[2]) is nn.MaxPool2d
    (top, bottom), (left, right) = found.box()
    outside = found.gradient.clone()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    assert found.gradient.any()


def test_draw(tmp_path) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    for model, size in ((nn.Conv2d(1, 1, 3), (1, 9, 8)), (nn.Conv1d(1, 1, 3), (1, 9))):
        found = torchconv.receptive_field(model, model, size)
        ax = found.draw()
        ax.figure.savefig(tmp_path / "field.png")
        assert (tmp_path / "field.png").stat().st_size > 1000
        mine = figure.Figure().add_subplot()
        assert found.draw(mine) is mine
        assert ("Conv2d, output (3, 3): 3 × 3" if len(size) == 3 else "Conv1d, output (3,): 3") in mine.get_title()


def test_bad_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.LSTM(6, 2))
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got int"):
        torchconv.receptive_field(3, "0", (1, 8, 8))
    with pytest.raises(ValueError, match="has no layer 'nothing'"):
        torchconv.receptive_field(model, "nothing", (1, 8, 8))
    with pytest.raises(ValueError, match=r"input_size must be .* got \(8,\)"):
        torchconv.receptive_field(model, "0", (8,))
    with pytest.raises(RuntimeError, match="layer '1' gives a tuple, not a tensor"):
        torchconv.receptive_field(nn.Sequential(nn.Flatten(2), model[1]), "1", (4, 6, 1))
