"""Modules with a forward of their own: which calls in it are run as one, which are left as they are written, and that
it goes on doing what it says."""

import contextlib
import copy
import gc
import traceback
import weakref

import pytest
import torch
import torch.nn.functional as F
from fuse_cases import fused_steps
from test_convert import errors, picture, run
from torch.nn import BatchNorm2d, Conv2d, Identity, ModuleList, ReLU, ReLU6, Sequential

import torchconv
from torchconv import nn

CONV, NORM, RELU, BOTH = "Conv2d ReLU", "Conv2d BatchNorm2d", "BatchNorm2d ReLU", "Conv2d BatchNorm2d ReLU"
FUNCTION, IN_PLACE = "Conv2d relu", "Conv2d relu_in_place"
X = picture(2, 4, 6, 6)


class Base(torch.nn.Module):
    def __init__(self, **layers):
        super().__init__()
        self.conv, self.other, self.norm = Conv2d(4, 4, 3, padding=1), Conv2d(4, 4, 1), BatchNorm2d(4)
        self.relu, self.many = ReLU(), ModuleList([Conv2d(4, 4, 1), BatchNorm2d(4)])
        for name, layer in layers.items():
            setattr(self, name, layer)

    def double_relu(self, x):
        return self.relu(2 * x)


def forward(steps, reasons=(), **layers):
    """A case: the forward, the layers it runs as one, and what convert says of it."""
    return lambda function: CASES.update(
        {function.__name__: (type(function.__name__, (Base,), {"forward": function}), layers, steps, reasons)}
    )


CASES = {}


@forward([BOTH])
def nested(self, x):
    return self.relu(self.norm(self.conv(x)))


@forward([BOTH])
def in_statements(self, x):
    """With a docstring

    of several lines.
    """
    x = self.conv(x)
    x = self.norm(x)
    return self.relu(x)


@forward([BOTH])
def in_statements_with_names(self, x):
    y: torch.Tensor = self.conv(x)
    z = self.norm(y)
    w = self.relu(z)
    return w + x


@forward([CONV, NORM])
def several(self, x):
    x = self.relu(self.conv(x))
    x = self.norm(self.other(x))
    return x


@forward([IN_PLACE, "Conv2d BatchNorm2d relu"])
def functions(self, x):
    x = F.relu(self.conv(x), inplace=True)
    return torch.relu(self.norm(self.other(x)))


@forward([FUNCTION, IN_PLACE])
def functions_in_place(self, x):
    return F.relu(self.other(F.relu(self.conv(x))), True)


@forward([FUNCTION] * 3)
def in_loops_and_branches(self, x):
    for _ in range(2):
        x = self.conv(x)
        x = F.relu(x)
    if x.sum() > -1e9:
        x = self.other(x)
        x = torch.relu(x)
    return x


@forward([NORM])
def a_list(self, x):
    return self.many[1](self.many[0](x))


@forward([NORM])
def in_a_loop_over_layers(self, x):
    for conv, norm in zip([self.many[0]], [self.many[1]], strict=True):
        x = norm(conv(x))
    return x


@forward([NORM])
def a_local_variable_for_a_layer(self, x):
    norm = self.norm
    return norm(self.conv(x))


@forward([BOTH], norm=Sequential(BatchNorm2d(4)), middle=BatchNorm2d(4))
def not_the_modules_in_modules(self, x):
    return self.norm(self.relu(self.middle(self.conv(x))))


@forward([CONV])
def a_skip_of_the_input(self, x):
    return self.relu(self.conv(x)) + x


@forward([])
def a_skip(self, x):
    y = self.conv(x)
    return self.relu(y) + y


@forward([])
def two_outputs(self, x):
    y = self.conv(x)
    z = self.relu(y)
    return z, y


@forward([])
def used_by_name_elsewhere(self, x):
    y = self.conv(x)
    z = self.relu(y)
    return z + (lambda: y)()


@forward([CONV])
def given_by_name(self, x):
    return self.relu(self.norm(input=self.relu(self.conv(x))))


@forward([])
def something_between(self, x):
    x = self.conv(x)
    x = x + 1
    return self.relu(x)


@forward([])
def a_layer_of_another_class(self, x):
    return self.other(torch.nn.ReLU6()(self.conv(x)))


@forward([])
def a_method(self, x):
    return self.double_relu(self.conv(x))


@forward([CONV])
def after_an_error(self, x):
    with contextlib.suppress(ZeroDivisionError):
        x = self.conv(x)
        x = self.failing(x)
    try:
        y = self.conv(x)
        y = self.failing(y)
    except ZeroDivisionError:
        pass
    return self.relu(self.other(y))


def failing(self, x):
    raise ZeroDivisionError


Base.failing = failing


@forward([CONV], extra=Identity())
def through_what_gives_what_it_is_given(self, x):
    return self.relu(self.extra(self.conv(x)))


@forward([NORM])
def a_dead_branch(self, x):
    x = self.norm(self.conv(x))
    if self.training and False:
        x = self.nothing_of_this_name(self.conv(x))
    return x


@forward([RELU, CONV])
def arguments(self, x, *more, flag=True, **others):
    x = x if flag and not more else x[0]
    return self.relu(self.conv(self.relu(self.norm(x))))


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


HOOKED = ("conv (Conv2d): not fused with relu (ReLU): a hook is on it",)


@forward([NORM], HOOKED, relu=hooked(ReLU()))
def a_hook(self, x):
    return self.relu(self.norm(self.conv(x)))


DERIVED = type("Mine", (nn.Conv2d,), {})


@forward(
    [], ("conv (Mine): not fused with relu (ReLU): its class derives from torchconv.nn.Conv2d",), conv=DERIVED(4, 4, 1)
)
def a_derived_class(self, x):
    return self.relu(self.conv(x))


@forward([], relu=ReLU6())
def another_activation(self, x):
    return self.relu(self.conv(x))


@pytest.mark.parametrize("name", CASES)
def test_forwards(name):
    cls, layers, steps, reasons = CASES[name]
    torch.manual_seed(0)
    stock = cls(**layers).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True, report=(left := []))
    assert fused_steps(copy.deepcopy(ours), X) == steps
    assert list(map(str, left)) == list(reasons)
    for training in (True, False):
        assert errors(run(ours.train(training), X), run(stock.train(training), X)).max() < 1e-11


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
    lines = linecache.getlines(__file__)
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


def test_errors_name_the_line_that_was_written():
    model = torchconv.convert(CASES["in_statements"][0](), fuse=True)
    with pytest.raises(RuntimeError) as error:
        model(torch.randn(1, 3, 4, 4))
    lines = [frame.line for frame in traceback.extract_tb(error.tb) if frame.filename == __file__]
    assert lines[-1] in ("x = self.conv(x)", "return self.relu(x)")


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
