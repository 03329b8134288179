"""convert(model, fuse=True) where a max pooling takes a ReLU's output: when it does the ReLU, and when not."""

import copy
import pickle

import pytest
import torch
from convert_cases import classes, run
from fuse_cases import fused_steps
from torch.nn import BatchNorm2d, Conv2d, Dropout, MaxPool2d, ReLU, Sequential

import torchconv


class Branches(torch.nn.Module):
    """A ReLU, in place or not, before a pooling, whose input is used elsewhere too."""

    def __init__(self, inplace):
        super().__init__()
        self.conv, self.relu, self.pool = Conv2d(2, 3, 3), ReLU(inplace), MaxPool2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.pool(self.relu(y)), y.sum()


def same(ours, model, x):
    for one, other in zip(run(ours, x), run(model, x), strict=True):
        torch.testing.assert_close(one, other)


def test_pooling_does_the_relu():
    torch.manual_seed(0)
    model = Sequential(Conv2d(2, 3, 3), ReLU(True), MaxPool2d(3, 2), ReLU(), MaxPool2d(2))
    ours = torchconv.convert(copy.deepcopy(model), fuse=True, report=(left := []))
    assert not left
    x = torch.randn(2, 2, 17, 17)
    for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert fused_steps(twin, x) == ["ReLU MaxPool2d"] * 2
        same(twin, model, x)
    assert classes(torchconv.revert(ours)) == classes(model)
    assert list(ours.state_dict()) == list(model.state_dict())


def test_batch_norm_rather_than_pooling_does_the_relu():
    model = Sequential(Conv2d(2, 3, 3), BatchNorm2d(3), ReLU(), MaxPool2d(2))
    ours = torchconv.convert(copy.deepcopy(model), fuse=True)
    x = torch.randn(3, 2, 9, 9)
    assert fused_steps(ours.eval(), x) == ["Conv2d BatchNorm2d ReLU"]
    for training in (True, False):
        same(ours.train(training), model.train(training), x)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])


@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_in_place_whose_input_is_used_elsewhere_stays(inplace):
    torch.manual_seed(0)
    model = Branches(inplace)
    ours = torchconv.convert(copy.deepcopy(model), fuse=True)
    x = torch.randn(2, 2, 8, 8)
    assert fused_steps(ours, x) == ([] if inplace else ["ReLU MaxPool2d"])
    for one, other in zip(ours(x), model(x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("after", [Dropout(0.5, True), ReLU(True), torch.nn.Hardtanh(inplace=True)], ids=repr)
def test_what_comes_after_may_work_in_place(after):
    model = Sequential(Conv2d(2, 3, 3), ReLU(), MaxPool2d(2), after)
    ours = torchconv.convert(copy.deepcopy(model), fuse=True)
    same(ours, model, torch.randn(2, 2, 8, 8))


def test_pooling_that_returns_indices_or_is_watched_does_no_relu():
    indices = Sequential(ReLU(), MaxPool2d(2, return_indices=True))
    watched = Sequential(ReLU(), MaxPool2d(2))
    watched[0].register_forward_pre_hook(lambda module, args: None)
    for model, reasons in ((indices, []), (watched, ["0 (ReLU): not fused with 1 (MaxPool2d): a hook is on it"])):
        ours = torchconv.convert(model, fuse=True, report=(left := []))
        assert fused_steps(ours, torch.randn(1, 2, 4, 4)) == []
        assert list(map(str, left)) == reasons
