"""torchconv.show: pictures of filters, maps and what a neuron responds to; receptive fields with their signs."""

import pytest
import torch

import torchconv
from torchconv import nn, show


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3))


def pixels(figure) -> int:
    """Different colours in a figure as it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return len({bytes(p) for row in canvas.buffer_rgba().tolist() for p in map(bytes, row)})


def test_each_picture_is_drawn() -> None:
    model, image = net(), torch.rand(3, 16, 16)
    for figure, axes in (
        (show.filters(model[0]), 8),
        (show.filters(model[3], most=3), 3),
        (show.activations(model, "0", image), 8),
        (show.activations(model, model[3], image, most=2), 2),
        (show.responds_to(model, "3", [0, 2], (3, 16, 16), steps=3), 2),
        (show.filtered(image), 1 + len(show.HAND_MADE)),
    ):
        assert len([ax for ax in figure.axes if ax.images]) == axes
        assert pixels(figure) > 10
    assert model.training


def test_a_neuron_of_one_filter_responds_to_that_filter() -> None:
    """Of all inputs of one norm the filter itself, where the neuron looks, is answered most strongly."""
    layer = nn.Conv2d(3, 4, 3)
    found = show.preferred_input(torch.nn.Sequential(layer), "0", 2, (3, 7, 7), position=(2, 2), steps=200)
    expected = torch.zeros(3, 7, 7)
    expected[:, 2:5, 2:5] = layer.weight[2].detach()
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.999
    assert found.square().mean().sqrt() == pytest.approx(1, rel=1e-3)


def test_hand_made_filters_on_an_edge() -> None:
    """Blurs keep a constant, the others' sums are 0 or keep it: inside, a constant picture is 0 or itself."""
    for name, kernel in show.HAND_MADE.items():
        total = sum(map(sum, kernel))
        assert total == pytest.approx(0 if name.startswith("edges") else 1), name


def test_the_receptive_field_of_one_neuron_has_signs() -> None:
    model = torch.nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    found = torchconv.receptive_field(model, "1", (3, 9, 9), channel=2)
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    y = torch.nn.Sequential(*model).double()(x)
    (expected,) = torch.autograd.grad(y[0, 2, 2, 2], x)
    torch.testing.assert_close(found.gradient, expected[0])
    assert (found.gradient < 0).any()
    assert found.draw().images
    grey = torchconv.receptive_field(torch.nn.Sequential(nn.Conv2d(2, 4, 3)), "0", (2, 9, 9), channel=0)
    assert grey.draw().images


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(mode: type) -> None:
    """What differentiates does so all the same, and answers as it does where they are on."""
    model = torchconv.convert(net()).eval()
    expected = show.preferred_input(model, "3", 1, (3, 16, 16), steps=2)
    field = torchconv.receptive_field(model, "3", (3, 16, 16), channel=1)
    with mode():
        assert torch.equal(show.preferred_input(model, "3", 1, (3, 16, 16), steps=2), expected)
        found = torchconv.receptive_field(model, "3", (3, 16, 16), channel=1)
        assert torch.equal(found.gradient, field.gradient)
        assert torchconv.receptive_field(model, "3", (3, 16, 16)).size == field.size
        assert show.activations(model, "0", torch.rand(3, 16, 16)).axes


def test_what_cannot_be_shown() -> None:
    model = net()
    with pytest.raises(ValueError, match="weight of four axes, got ReLU of None"):
        show.filters(model[1])
    with pytest.raises(ValueError, match="no layer '7'"):
        show.activations(model, "7", torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"one image \[C, H, W\], got shape \[8, 8\]"):
        show.activations(model, "0", torch.rand(8, 8))
    with pytest.raises(ValueError, match="has 4 maps, not one of number 4"):
        show.preferred_input(model, "3", 4, (3, 8, 8))
    with pytest.raises(ValueError, match=r"no position \[9, 0\]"):
        show.preferred_input(model, "3", 0, (3, 8, 8), position=(9, 0))
    with pytest.raises(ValueError, match="no map 9"):
        torchconv.receptive_field(model, "3", (3, 8, 8), channel=9)
