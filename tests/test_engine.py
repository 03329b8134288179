"""What PyTorch's autograd engine offers around a backward: compiled, checkpointed, hooked, batched, repeated."""

import contextlib
import copy
import gc

import pytest
import torch
from torch.autograd import graph
from torch.utils.checkpoint import checkpoint

import torchconv
import torchconv.autograd.conv as autograd
from torchconv import transforms as T

tnn = torchconv.nn


class Net(torch.nn.Module):
    """A layer of every kind of Function, in a row."""

    def __init__(self) -> None:
        super().__init__()
        plain = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4, track_running_stats=False),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(4, 4, 1, groups=4),
            torch.nn.ReLU(),
        )
        self.fused = torchconv.convert(plain)
        self.rest = torch.nn.Sequential(
            tnn.LocalResponseNorm(3),
            tnn.ConvTranspose2d(4, 3, 2, stride=2),
            tnn.AvgPool2d(2, 1),
            tnn.TransformInvariantConv2d(3, 2, 3, T.rotations(4)),
            tnn.TransformInvariantConv2d(8, 3, 3, T.rotations(4), reduce="max"),
            tnn.TransformInvariantConv2d(3, 2, 1, T.rotations(2), reduce="norm"),
            tnn.LocallyConnected2d(2, 2, 3, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.fused(x))


@pytest.fixture
def net():
    """The network, its input and the gradients of its parameters."""
    net, x = Net().double(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    net(x).square().sum().backward()
    return net, x, grads_of(net)


def grads_of(net: torch.nn.Module) -> list[torch.Tensor]:
    """The parameters' gradients, taken from them."""
    grads = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    return grads


def assert_same(mine, theirs) -> None:
    """Bit by bit."""
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("part", ["fused", pytest.param("rest", marks=pytest.mark.slow)])
def test_compiled_autograd(net, part: str) -> None:
    net, x = getattr(net[0], part), net[1] if part == "fused" else net[0].fused(net[1]).detach()
    net(x).square().sum().backward()
    expected = grads_of(net)
    loss = net(x).square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        loss.backward()
    assert_same(grads_of(net), expected)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_step(net, compiled: bool) -> None:
    """Forward, backward and update in one compiled function, the backward in its graph too where it is `compiled`."""
    net, x, expected = net

    def step(x):
        net(x).square().sum().backward()

    with torch._dynamo.config.patch(compiled_autograd=compiled):
        torch.compile(step, backend="aot_eager")(x)
    for a, b in zip(grads_of(net), expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(net, reentrant: bool) -> None:
    net, x, expected = net
    x = x.requires_grad_()
    h = checkpoint(net.fused, x, use_reentrant=reentrant)
    checkpoint(net.rest, h, use_reentrant=reentrant).square().sum().backward()
    assert_same(grads_of(net), expected)


def ends(last: type) -> type:
    class Ends(torch.nn.Module):
        """A convolution, a batch norm and what is last, as a plain Sequential or one's own forward has them."""

        def __init__(self, n: int, **options) -> None:
            super().__init__()
            self.conv = getattr(torch.nn, f"Conv{n}d")(2, 4, 3)
            self.norm = getattr(torch.nn, f"BatchNorm{n}d")(4, **options)
            self.last = last()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.conv(x)))

    return Ends


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("make", [ends(torch.nn.ReLU), ends(torch.nn.Identity)], ids=["ReLU", "nothing"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}], ids=str)
def test_checkpoints_move_running_statistics_as_often_as_without_us(make, n: int, reentrant: bool, options) -> None:
    """A checkpoint leaves the second forward by an exception when it has the last tensor that was kept."""
    theirs = make(n, **options).double()
    ours = torchconv.convert(copy.deepcopy(theirs))
    assert type(ours) is not type(theirs)
    x = torch.randn(3, 2, *[5] * n, dtype=torch.float64)
    for net in (theirs, ours):
        for step in (0.1, 0.2):
            checkpoint(net, (x + step).requires_grad_(), use_reentrant=reentrant).square().sum().backward()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours.norm.num_batches_tracked == 4
    for a, b in zip(grads_of(ours), grads_of(theirs), strict=True):
        torch.testing.assert_close(a, b)


def test_checkpoints_of_groups_move_running_statistics_twice() -> None:
    layer, x = tnn.GroupBatchNorm2d(2).double(), torch.randn(2, 8, 3, 3, dtype=torch.float64).requires_grad_()
    twice = copy.deepcopy(layer)
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    twice(x), twice(x)
    torch.testing.assert_close(layer.state_dict(), twice.state_dict())


@pytest.mark.parametrize(
    "hooks",
    [
        graph.save_on_cpu,
        lambda: graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t),
        graph.allow_mutation_on_saved_tensors,
    ],
)
def test_saved_tensor_hooks(net, hooks) -> None:
    net, x, expected = net
    with hooks():
        net(x).square().sum().backward()
    assert_same(grads_of(net), expected)


def test_saved_tensors_are_seen_once(net) -> None:
    """A hook that packs everything away leaves no operand alive."""
    net, x, expected = net
    packed = []
    with graph.saved_tensors_hooks(
        lambda t: (packed.append(t.detach().clone()), len(packed) - 1)[1], packed.__getitem__
    ):
        loss = net(x).square().sum()
    gc.collect()
    loss.backward()
    assert_same(grads_of(net), expected)


def test_anomaly_mode(net) -> None:
    net, x, expected = net
    with pytest.warns(UserWarning, match="Anomaly Detection"):
        anomaly = torch.autograd.detect_anomaly(check_nan=True)
    with anomaly:
        net(x).square().sum().backward()
    assert_same(grads_of(net), expected)


def test_batched_gradients(net) -> None:
    """Several rows of the Jacobian by one backward, against as many."""
    net, x, _ = net
    y, parameters = net(x), list(net.parameters())
    rows = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, parameters, rows, is_grads_batched=True, retain_graph=True)
    for i, row in enumerate(rows):
        alone = torch.autograd.grad(y, parameters, row, retain_graph=True)
        torch.testing.assert_close(tuple(g[i] for g in together), alone)


def test_a_graph_kept_is_used_again(net) -> None:
    net, x, expected = net
    loss = net(x).square().sum()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    for a, b in zip(grads_of(net), expected, strict=True):
        torch.testing.assert_close(a, 2 * b)
    grads = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    torch.testing.assert_close(list(grads), expected)
    sum(g.square().sum() for g in grads).backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_hooks_on_gradients(net) -> None:
    net, x, expected = net
    together, single = [], []
    graph.register_multi_grad_hook(list(net.parameters()), together.extend)
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(single.append)
    net(x).square().sum().backward()
    assert_same(together, expected)
    assert len(single) == len(expected)


def test_results_take_views_and_changes_in_place() -> None:
    x, w = torch.randn(1, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    results = []
    for functions in (torchconv.functional, torch.nn.functional):
        w = w.detach().requires_grad_()
        y = functions.conv2d(x, w)
        y.mul_(2)
        y[:, 0].add_(1)
        y.view(-1)[:4].zero_()
        z = functions.max_pool2d(y, 2).mul_(3)
        z.transpose(1, 2).neg_()
        results.append(torch.autograd.grad(z.sum(), w)[0])
    torch.testing.assert_close(*results)


def test_compiled_autograd_leaves_eager_selective(monkeypatch) -> None:
    """`torch.autograd.grad` of one operand computes no other, before a compiled backward and after it."""
    called = []
    original = autograd.convolution_weight_grad
    monkeypatch.setattr(autograd, "convolution_weight_grad", lambda *args: (called.append(1), original(*args))[1])
    x, w = (torch.randn(size, requires_grad=True) for size in ((1, 2, 4, 4), (3, 2, 3, 3)))
    for compiled in (False, True, False):
        y = torchconv.functional.conv2d(x, w).sum()
        enable = torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager"))
        with enable if compiled else contextlib.nullcontext():
            torch.autograd.grad(y, x) if not compiled else y.backward()
    assert len(called) == 1
