"""What convert(model, fuse=True) leaves alone, and says why; and that looking leaves no trace."""

import copy

import pytest
import torch
from test_convert import picture, run
from test_fuse import kinds
from torch.nn import BatchNorm2d, Conv2d, Identity, ReLU, ReLU6, Sequential

import torchconv
from torchconv import nn


class Forward(torch.nn.Module):
    """conv, norm and relu, put together by `forward`."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.conv, self.other, self.norm, self.relu = (
            Conv2d(4, 4, 3, padding=1),
            Conv2d(4, 4, 1),
            BatchNorm2d(4),
            ReLU(),
        )
        self.body = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, x)


def hooked(layer, kind="forward"):
    getattr(layer, f"register_{kind}_hook")(lambda *_: None)
    return layer


ELSEWHERE = "not fused with relu (ReLU): the output of conv goes elsewhere too"
LEFT_ALONE = {
    "a chain": (lambda m, x: m.relu(m.norm(m.conv(x))), {}, ["ConvBatchNormReLU2d", "Conv2d"], []),
    "the input by name": (lambda m, x: m.relu(m.conv(input=x)), {}, ["ConvReLU2d", "Conv2d"], []),
    "a skip": (lambda m, x: m.relu(y := m.conv(x)) + y, {}, ["Conv2d", "Conv2d"], [f"conv (Conv2d): {ELSEWHERE}"]),
    "two outputs": (
        lambda m, x: (m.relu(y := m.conv(x)), y),
        {},
        ["Conv2d", "Conv2d"],
        [f"conv (Conv2d): {ELSEWHERE}"],
    ),
    "its mean": (
        lambda m, x: m.relu(y := m.conv(x)) + y.mean(),
        {},
        ["Conv2d", "Conv2d"],
        [f"conv (Conv2d): {ELSEWHERE}"],
    ),
    "one ReLU of two": (
        lambda m, x: m.relu(m.other(m.relu(m.conv(x)))),
        {},
        ["Conv2d", "Conv2d"],
        [
            "conv (Conv2d): not fused with relu (ReLU): relu is called several times",
            "other (Conv2d): not fused with relu (ReLU): relu is called several times",
        ],
    ),
    "one convolution twice": (
        lambda m, x: m.norm(m.conv(m.relu(m.conv(x)))),
        {},
        ["Conv2d", "Conv2d"],
        ["conv (Conv2d): not fused with relu (ReLU): conv is called several times"],
    ),
    "a sum": (lambda m, x: m.relu(m.conv(x) + m.other(x)), {}, ["Conv2d", "Conv2d"], []),
    "in training alone": (
        lambda m, x: m.relu(m.conv(x)) if m.training else m.conv(x),
        {},
        ["Conv2d", "Conv2d"],
        [f"conv (Conv2d): {ELSEWHERE}"],
    ),
    "another in training": (
        lambda m, x: m.relu(m.conv(x)) if m.training else m.relu(m.other(m.conv(x))),
        {},
        ["Conv2d", "Conv2d"],
        [f"conv (Conv2d): {ELSEWHERE}", "other (Conv2d): not fused with relu (ReLU): relu takes something else too"],
    ),
    "ReLU6": (lambda m, x: m.relu(m.conv(x)), dict(relu=ReLU6()), ["Conv2d", "Conv2d"], []),
    "a function": (lambda m, x: torch.relu(m.conv(x)), {}, ["Conv2d", "Conv2d"], []),
    "a layer between": (lambda m, x: m.relu(m.norm(m.conv(x))), dict(norm=Identity()), ["Conv2d", "Conv2d"], []),
    "no statistics": (
        lambda m, x: m.relu(m.norm(m.conv(x))),
        dict(norm=BatchNorm2d(4, track_running_stats=False)),
        ["Conv2d", "Conv2d"],
        ["conv (Conv2d): not fused with norm (BatchNorm2d): it has no running statistics"],
    ),
    "a hook on the ReLU": (
        lambda m, x: m.relu(m.norm(m.conv(x))),
        dict(relu=hooked(ReLU())),
        ["ConvBatchNorm2d", "Conv2d"],
        ["conv (ConvBatchNorm2d): not fused with relu (ReLU): a hook sees what is between"],
    ),
    "a hook before the ReLU": (
        lambda m, x: m.relu(m.conv(x)),
        dict(relu=hooked(ReLU(), "forward_pre")),
        ["Conv2d", "Conv2d"],
        ["conv (Conv2d): not fused with relu (ReLU): a hook sees what is between"],
    ),
    "a hook on the convolution": (
        lambda m, x: m.relu(m.conv(x)),
        dict(conv=hooked(Conv2d(4, 4, 3, padding=1), "full_backward")),
        ["Conv2d", "Conv2d"],
        ["conv (Conv2d): not fused with relu (ReLU): a hook sees what is between"],
    ),
    "a hook before the convolution": (
        lambda m, x: m.relu(m.conv(x)),
        dict(conv=hooked(Conv2d(4, 4, 3, padding=1), "forward_pre")),
        ["ConvReLU2d", "Conv2d"],
        [],
    ),
    "a derived class": (
        lambda m, x: m.relu(m.conv(x)),
        dict(conv=type("Mine", (nn.Conv2d,), {})(4, 4, 3, padding=1)),
        ["Mine", "Conv2d"],
        ["conv (Mine): not fused with relu: its class derives from torchconv.nn's"],
    ),
    "what cannot be traced": (
        lambda m, x: m.relu(m.conv(x)) if x.sum() > 0 else x,
        {},
        ["Conv2d", "Conv2d"],
        [
            "the model itself (Forward): fused in its Sequentials only: torch.fx cannot trace it (TraceError: "
            "symbolically traced variables cannot be used as inputs to control flow)"
        ],
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_left_alone(name):
    forward, layers, expected, reasons = LEFT_ALONE[name]
    torch.manual_seed(0)
    stock = Forward(forward, **layers).double()
    ours = torchconv.convert(copy.deepcopy(stock), fuse=True, report=(left := []))
    assert [type(module).__name__ for module in (ours.conv, ours.other)] == expected
    assert list(map(str, left)) == reasons
    x = picture(2, 4, 6, 6)
    for training in (True, False):
        results, exact = run(ours.train(training), x), run(stock.train(training), x)
        pairs = [(r, e) for r, e in zip(results, exact, strict=True) if e is not None]
        for result, e in pairs:
            torch.testing.assert_close(result, e, rtol=1e-10, atol=1e-10)


def test_tracing_leaves_no_trace():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.calls, self.last = Conv2d(3, 4, 3), ReLU(), 0, None
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen.add_(1)
            self.last = self.conv(x + torch.rand(1))
            return self.relu(self.last)

    model = Counting()
    state = torch.get_rng_state()
    torchconv.convert(model, fuse=True, report=[])
    assert (model.calls, model.last, model.seen.item(), model.training) == (0, None, 0, True)
    assert torch.equal(torch.get_rng_state(), state)


class Untraceable(torch.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = Sequential(*layers)

    def forward(self, x):
        return self.body(x) if x.sum() > -1e9 else x


def test_sequentials_of_what_cannot_be_traced():
    shared, conv = ReLU(), Conv2d(4, 4, 3)

    class Backwards(Sequential):
        def forward(self, x):
            return x

    model = Untraceable(
        Sequential(Conv2d(3, 4, 3)), Sequential(BatchNorm2d(4), Sequential(ReLU())),  # joined through their walls
        Conv2d(4, 4, 1), shared, Conv2d(4, 4, 1), shared,
        hooked(Sequential(Conv2d(4, 4, 1))), ReLU(),
        hooked(Sequential(Conv2d(4, 4, 1), ReLU())),
        conv, ReLU(), Backwards(Conv2d(4, 4, 1), ReLU()),
    )  # fmt: skip
    model.again = conv
    torchconv.convert(model, fuse=True, report=(left := []))
    assert list(kinds(model)) == ["ConvBatchNormReLU2d", "Conv2d", "ConvReLU2d"]
    assert kinds(model)["ConvReLU2d"] == 1
    assert type(model.body[8][0]) is nn.ConvReLU2d
    assert list(map(str, left[1:])) == [
        "body.2 (Conv2d): not fused with body.3 (ReLU): body.3 is called several times",
        "body.4 (Conv2d): not fused with body.3 (ReLU): body.3 is called several times",
        "body.9 (Conv2d): not fused with body.10 (ReLU): body.9 is called several times",
    ]
    stock = torchconv.revert(copy.deepcopy(model))
    assert set(kinds(stock)) == {"Conv2d"}
    x = torch.randn(2, 3, 9, 9)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), stock.train(training)(x), rtol=1e-4, atol=1e-4)
