"""Modules with a forward of their own: which calls in it are run as one, which are left as they are written, and that
it goes on doing what it says."""

import copy
import gc
import linecache
import sys
import traceback
import weakref

import fuse_rewrite_cases
import pytest
import torch
from convert_cases import errors, picture, run
from fuse_cases import fused_steps
from fuse_rewrite_cases import CASES, CONV, HOOKED, Base, hooked
from torch.nn import Conv2d, MaxPool2d, ReLU, Sequential

import torchconv

X = picture(2, 4, 6, 6)


@pytest.mark.parametrize("name", CASES)
def test_forwards(name):
    cls, layers, steps, reasons = CASES[name]
    torch.manual_seed(0)
    stock = cls(**layers).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True, report=(left := []))
    assert fused_steps(copy.deepcopy(ours), X) == steps
    assert list(map(str, left)) == list(reasons)
    # A norm before another has a weight whose gradient's terms cancel all but ε = 1e-5 of them: 2^-53 / ε, and some.
    for training in (True, False):
        assert errors(run(ours.train(training), X), run(stock.train(training), X)).max() < 1e-10


class Traced(torch.nn.Module):
    """What a graph of the forward, made beforehand, would lose."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.calls, self.last, self.log = Conv2d(4, 4, 3), ReLU(), 0, None, []
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x, scale=1.0):
        self.calls += 1
        self.seen.add_(1)
        if isinstance(x, (list, tuple)):
            x = torch.cat(list(x))
        self.last = self.relu(self.conv(x))
        self.log.append(FACTOR)
        drop = torch.rand(()) < 0.5 if self.training else False  # as stochastic depth
        y = self.last * scale * FACTOR
        return y * 0 if drop else y if y.sum() > 0 else -y


FACTOR = 1.0


def test_everything_else_of_a_forward_is_its_own(monkeypatch):
    torch.manual_seed(0)
    stock = Traced().double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    assert (ours.calls, ours.seen.item(), ours.log) == (0, 0, [])
    for factor, x, arguments in ((1.0, X, ()), (2.0, [X, -X], (0.5,)), (-3.0, X[:1], (2.0,))):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        results = []
        for model in (ours, stock):
            torch.manual_seed(3)
            results.append([model(x, *arguments), model.last])
        assert errors(*results).max() < 1e-12
    assert (ours.calls, ours.seen, ours.log) == (stock.calls, stock.seen, stock.log)


class Supers(CASES["nested"][0]):
    def forward(self, x):
        return self.norm(self.other(super().forward(x)))


def test_super_and_closures():
    scale = 2.0

    class Scaled(Supers):
        def forward(self, x):
            y = self.relu(self.conv(super().forward(x)))
            return scale * y

    torch.manual_seed(0)
    stock = Scaled().double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True)
    assert fused_steps(copy.deepcopy(ours), X)[-1] == CONV
    scale = 3.0
    assert errors(run(ours, X), run(stock, X)).max() < 1e-12


def without_source():
    space = {"Base": Base}
    exec("class Unknown(Base):\n    def forward(self, x):\n        return self.relu(self.conv(x))\n", space)
    return space["Unknown"]()


def of_another_source(monkeypatch):
    """A file that was edited after it was imported."""
    import linecache

    cls = CASES["nested"][0]
    lines = linecache.getlines(fuse_rewrite_cases.__file__)
    edited = [
        line.replace("self.relu(self.norm(self.conv(x)))", "self.norm(self.relu(self.conv(x)))") for line in lines
    ]
    monkeypatch.setattr(linecache, "getlines", lambda *_: edited)
    made = type("Edited", (cls,), {})
    return made()


@pytest.mark.parametrize("name", ["none", "another"])
def test_a_source_that_cannot_be_read(name, monkeypatch):
    model = without_source() if name == "none" else of_another_source(monkeypatch)
    reason = (
        "its source is not to be had (OSError)" if name == "none" else "its source is not what it was compiled from"
    )
    cls = type(model)
    torchconv.convert(model, fuse=True, report=(left := []))
    assert type(model) is cls
    text = f"the model itself ({cls.__name__}): its forward runs its layers one by one: {reason}"
    assert list(map(str, left)) == [text]


def test_a_replaced_forward():
    model = CASES["nested"][0]()
    model.forward = lambda x: x
    torchconv.convert(model, fuse=True, report=(left := []))
    assert list(map(str, left)) == ["the model itself (nested): not fused: its forward was replaced on the instance"]
    assert model(X) is X


class Three(Base):
    def forward(self, x):
        x = self.conv(x)
        x = self.norm(x)
        x = self.relu(x)
        x = self.pool(x)
        return self.last(self.other(x))


def shrink(model, name):
    setattr(model, name, type(getattr(model, name))(3, *(() if name == "norm" else (4, 1))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "line", "named"),
    [
        ("conv", "x = self.conv(x)", "self.conv"),
        ("norm", "x = self.norm(x)", "self.norm"),
        ("pool", "x = self.pool(x)", "self.pool"),
        ("other", "return self.last(self.other(x))", "self.other"),
        ("last", "return self.last(self.other(x))", "self.last"),
    ],
)
def test_errors_name_the_line_that_was_written(name, line, named, training):
    """Of the layer that failed, however many were run as one."""
    model = Three(pool=MaxPool2d(2), last=Conv2d(4, 4, 1)).train(training)
    if name == "pool":
        model.pool.kernel_size = 9
    else:
        shrink(model, name)
    model = torchconv.convert(model)
    with pytest.raises(RuntimeError) as error:
        model(X.float())
    last = [frame for frame in traceback.extract_tb(error.tb) if frame.filename == __file__][-1]
    assert last.line == line
    if sys.version_info >= (3, 11):
        assert linecache.getline(__file__, last.lineno)[last.colno : last.end_colno] == named


def test_an_error_of_a_layer_stays_the_one_that_was_raised():
    error = KeyError("mine")

    class Raising(torch.nn.Module):
        def forward(self, x):
            raise error

    model = torchconv.convert(Three(pool=MaxPool2d(2), last=Conv2d(4, 4, 1), other=Raising()))
    with pytest.raises(KeyError) as raised:
        model(X.float())
    assert raised.value is error
    assert (error.__cause__, error.__context__) == (None, None)


def test_a_class_goes_with_the_one_it_was_made_from():
    cls = type("Passing", (Base,), {"forward": CASES["nested"][0].forward})
    model = torchconv.convert(cls(), fuse=True)
    made, again = type(model), type(torchconv.convert(cls(), fuse=True))
    assert made is again is not cls
    gone = weakref.ref(cls)
    del cls, model, made, again
    gc.collect()
    assert gone() is None


class Backwards(Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


def test_sequentials_with_a_forward_of_their_own():
    model = Sequential(Backwards(ReLU(), Conv2d(4, 4, 1)), Sequential(Conv2d(4, 4, 1), ReLU()))
    stock = copy.deepcopy(model)
    torchconv.convert(model, fuse=True)
    x = torch.randn(1, 4, 5, 5)
    assert fused_steps(model, x) == [CONV]
    assert type(model[0]) is Backwards
    assert type(model) is Sequential  # in which nothing fuses
    torch.testing.assert_close(model(x), stock(x))


def test_a_reason_is_given_once():
    class Twice(Base):
        def forward(self, x):
            return self.relu(self.conv(self.relu(self.conv(x))))

    model = Twice()
    hooked(model.conv)
    torchconv.convert(model, report=(left := []))
    assert list(map(str, left)) == list(HOOKED)


class Deleting(Base):
    def forward(self, x):
        y = self.conv(x)
        z = self.relu(y)
        del y
        return z


class Adding(Base):
    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y)
        y += 1
        return z


class Making(Base):
    def forward(self, x):
        x = self.make(x)
        x = self.made(x)
        return self.relu(x)

    def make(self, x):
        self.made = self.other if getattr(self, "made", None) is self.conv else self.conv
        return x


@pytest.mark.parametrize("cls", [Deleting, Adding, Making])
def test_what_a_statement_reads_or_sets_besides(cls):
    model = cls().eval()
    stock = copy.deepcopy(model)
    torchconv.convert(model)
    for _ in range(2):
        torch.testing.assert_close(model(X.float()), stock(X.float()))
