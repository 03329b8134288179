"""Layers that learn their channels from the first input, and become ours."""

import copy
import pickle

import pytest
import torch

import torchconv
from torchconv import nn

KINDS = [f"{kind}{n}d" for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)]
by_kind = pytest.mark.parametrize("kind", KINDS)


class Derived(torch.nn.LazyConv2d):
    """Becomes torch.nn's, as its base does."""


class Other(torch.nn.LazyConv2d):
    """Becomes a class of its own."""

    class Become(torch.nn.Conv2d):
        pass

    cls_to_become = Become


def first_input(kind):
    return torch.randn(2, 3, *[5] * int(kind[-2]))


def checked(layer, kind):
    """Whether `layer` becomes ours with its first input, with torch.nn's numbers."""
    torch.manual_seed(1)
    y = layer(first_input(kind))
    assert type(layer) is getattr(nn, kind)
    torch.manual_seed(1)
    stock = getattr(torch.nn, f"Lazy{kind}")(4, 2, stride=2, padding=1)
    torch.testing.assert_close(y, stock(first_input(kind)))
    assert torch.equal(layer.weight, stock.weight)
    assert repr(layer) == repr(stock)
    assert layer.in_channels == 3


@by_kind
def test_becomes_ours(kind):
    layer = getattr(nn, f"Lazy{kind}")(4, 2, stride=2, padding=1)
    assert isinstance(layer, (getattr(nn, kind), getattr(torch.nn, f"Lazy{kind}")))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer):
        assert other.has_uninitialized_params()
        checked(other, kind)


@by_kind
def test_converted_before_its_first_input(kind):
    model = torch.nn.Sequential(getattr(torch.nn, f"Lazy{kind}")(4, 2, stride=2, padding=1))
    torchconv.convert(model)
    assert type(model[0]) is getattr(nn, f"Lazy{kind}")
    assert type(torchconv.revert(copy.deepcopy(model))[0]) is getattr(torch.nn, f"Lazy{kind}")
    checked(model[0], kind)
    assert type(torchconv.revert(model)[0]) is getattr(torch.nn, kind)


@by_kind
def test_becomes_ours_by_a_state(kind):
    stock = getattr(torch.nn, kind)(3, 4, 2)
    layer = getattr(nn, f"Lazy{kind}")(4, 2)
    layer.load_state_dict(stock.state_dict())
    x = first_input(kind)
    torch.testing.assert_close(layer(x), stock(x))
    assert type(layer) is getattr(nn, kind)


def test_what_is_ours_stays():
    layer = nn.LazyConv2d(4, 3, stride=2, padding="same", algorithm="reference")
    assert layer(torch.randn(1, 3, 5, 4)).shape == (1, 4, 3, 2)
    assert (type(layer), layer.stride, layer.algorithm) == (nn.Conv2d, (2, 2), "reference")
    sides = nn.LazyConv1d(4, 3, padding=((2, 0),))
    assert sides(torch.randn(1, 3, 5)).shape == (1, 4, 5)
    with pytest.raises(ValueError, match="algorithm must be one of"):
        nn.LazyConvTranspose1d(4, 3, algorithm="fastest")
    with pytest.raises(ValueError, match="in_channels must be divisible by groups"):
        nn.LazyConv1d(4, 3, groups=2)(torch.randn(1, 3, 5))
    with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D \(batched\) input"):
        nn.LazyConv2d(4, 3)(torch.randn(3, 5))


def test_derived_classes():
    model = torch.nn.Sequential(Derived(4, 3), Other(4, 3))
    torchconv.convert(model, report=(left := []))
    reason = "lazy, and becomes another class: convert it after its first input"
    assert list(map(str, left)) == [f"1 (Other): {reason}"]
    model(torch.randn(1, 3, 9, 9))
    assert (type(model[0]), type(model[1])) == (nn.Conv2d, Other.Become)
