"""convert(model, fuse=True) where a max pooling takes a ReLU's output: when it does the ReLU, and when not."""

import copy
import pickle

import pytest
import torch
from test_convert import classes, run
from torch.nn import BatchNorm2d, Conv2d, ReLU, Sequential

import torchconv
from torchconv import nn
from torchconv.nn import fused


class Branches(torch.nn.Module):
    """A ReLU, in place or not, before a pooling, whose input is used elsewhere too."""

    def __init__(self, inplace):
        super().__init__()
        self.conv, self.relu, self.pool = Conv2d(2, 3, 3), ReLU(inplace), torch.nn.MaxPool2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.pool(self.relu(y)), y.sum()


def test_pooling_does_the_relu():
    torch.manual_seed(0)
    model = Sequential(Conv2d(2, 3, 3), ReLU(True), torch.nn.MaxPool2d(3, 2), ReLU(), torch.nn.MaxPool2d(2))
    ours = torchconv.convert(copy.deepcopy(model), fuse=True, report=(left := []))
    assert not left
    assert [type(m).__name__ for m in ours] == ["Conv2d", "FusedReLU", "ReLUMaxPool2d", "FusedReLU", "ReLUMaxPool2d"]
    x = torch.randn(2, 2, 17, 17)
    for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        for one, other in zip(run(twin, x), run(model, x), strict=True):
            torch.testing.assert_close(one, other)
    assert classes(torchconv.revert(ours)) == classes(model)
    assert list(ours.state_dict()) == list(model.state_dict())


def test_batch_norm_rather_than_pooling_does_the_relu():
    model = Sequential(Conv2d(2, 3, 3), BatchNorm2d(3), ReLU(), torch.nn.MaxPool2d(2))
    ours = torchconv.convert(copy.deepcopy(model), fuse=True)
    assert [type(m).__name__ for m in ours] == ["ConvBatchNormReLU2d", "FusedBatchNorm2d", "FusedReLU", "MaxPool2d"]
    x = torch.randn(3, 2, 9, 9)
    for training in (True, False):
        for one, other in zip(run(ours.train(training), x), run(model.train(training), x), strict=True):
            torch.testing.assert_close(one, other)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])


@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_in_place_whose_input_is_used_elsewhere_stays(inplace):
    torch.manual_seed(0)
    model = Branches(inplace)
    ours = torchconv.convert(copy.deepcopy(model), fuse=True, report=(left := []))
    assert type(ours.pool) is (nn.MaxPool2d if inplace else fused.ReLUMaxPool2d)
    assert any("in place" in str(reason) for reason in left) == inplace
    x = torch.randn(2, 2, 8, 8)
    for one, other in zip(ours(x), model(x), strict=True):
        torch.testing.assert_close(one, other)


def test_pooling_that_returns_indices_or_is_watched_does_no_relu():
    indices = Sequential(ReLU(), torch.nn.MaxPool2d(2, return_indices=True))
    watched = Sequential(ReLU(), torch.nn.MaxPool2d(2))
    watched[0].register_forward_pre_hook(lambda module, args: None)
    for model, reason in ((indices, "it returns indices"), (watched, "a hook sees what the ReLU is given")):
        ours = torchconv.convert(model, fuse=True, report=(left := []))
        assert type(ours[0]) is ReLU
        assert type(ours[1]) is nn.MaxPool2d
        assert [reason in str(one) for one in left] == [True]
