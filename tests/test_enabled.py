"""enabled: which calls it reroutes, for whom, and for how long."""

import threading

import pytest
import torch
import torch.nn.functional as F
from convert_cases import errors, picture, run, small

import torchconv

X = {n: torch.linspace(-1, 1, 2 * 4 * 7**n).sin().view(2, 4, *[7] * n) for n in (1, 2, 3)}
W = {n: torch.linspace(-1, 1, 4 * 4 * 3**n).cos().view(4, 4, *[3] * n) for n in (1, 2, 3)}
CALLS = {
    **{f"F.conv{n}d": (lambda n=n: getattr(F, f"conv{n}d")(X[n], W[n], padding=1), f"conv{n}d") for n in X},
    **{
        f"F.conv_transpose{n}d": (
            lambda n=n: getattr(F, f"conv_transpose{n}d")(X[n], W[n], stride=2),
            f"conv_transpose{n}d",
        )
        for n in X
    },
    **{
        f"F.{family}{n}d": (lambda f=f"{family}{n}d", n=n: getattr(F, f)(X[n], 3), f"{family}{n}d")
        for family in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
        for n in X
    },
    **{f"F.lp_pool{n}d": (lambda n=n: getattr(F, f"lp_pool{n}d")(X[n].abs(), 2, 3), f"lp_pool{n}d") for n in X},
    **{
        f"F.{family}{n}d indices": (
            lambda f=f"{family}{n}d", n=n: getattr(F, f)(X[n], 3, return_indices=True),
            f"{family}{n}d",
        )
        for family in ("max_pool", "adaptive_max_pool")
        for n in X
    },
    "torch.conv2d": (lambda: torch.conv2d(X[2], W[2], None, 2, "valid"), "conv2d"),
    "torch.conv_transpose2d": (lambda: torch.conv_transpose2d(X[2], W[2]), "conv_transpose2d"),
    "torch.max_pool2d": (lambda: torch.max_pool2d(X[2], 2, 2, 1), "max_pool2d"),
    "torch.max_pool1d_with_indices": (lambda: torch.max_pool1d_with_indices(X[1], 2), "max_pool1d"),
    "torch.adaptive_max_pool1d": (lambda: torch.adaptive_max_pool1d(X[1], 2), "adaptive_max_pool1d"),
    "torch.avg_pool1d": (lambda: torch.avg_pool1d(X[1], 2), "avg_pool1d"),
    "torch.nn.MaxPool2d": (lambda: torch.nn.MaxPool2d(2)(X[2]), "max_pool2d"),
}


@pytest.fixture
def called(monkeypatch):
    """The names of torchconv.functional's functions in the order in which `enabled` calls them."""
    names = []
    from torchconv.convert import _ROUTES

    def watched(target):
        name = getattr(target, "func", target).__name__

        def call(*arguments, **keywords):
            names.append(name)
            return target(*arguments, **keywords)

        return call

    for function, target in list(_ROUTES.items()):
        monkeypatch.setitem(_ROUTES, function, watched(target))
    return names


@pytest.mark.parametrize("name", CALLS)
def test_enabled_reroutes(name, called):
    call, expected = CALLS[name]
    stock = call()
    assert called == []
    with torchconv.enabled():
        ours = call()
    assert called == [expected]
    call()
    assert called == [expected]
    assert type(ours) is type(stock) or isinstance(ours, tuple)
    torch.testing.assert_close(tuple(ours) if isinstance(ours, tuple) else ours, stock)


def test_enabled_nests_decorates_and_ends_with_an_error(called):
    @torchconv.enabled()
    def inside():
        return F.max_pool2d(X[2], 2)

    with torchconv.enabled(), torchconv.enabled():
        inside()
    assert called == ["max_pool2d"]
    with pytest.raises(RuntimeError), torchconv.enabled():
        F.conv2d(X[2], W[1])
    called.clear()
    F.max_pool2d(X[2], 2)
    assert called == []


def test_enabled_holds_for_its_thread(called):
    entered, done = threading.Event(), threading.Event()

    def other():
        with torchconv.enabled():
            entered.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    F.max_pool2d(X[2], 2)
    done.set()
    thread.join()
    assert called == []


def test_enabled_falls_back_without_a_circle(called):
    """Complex numbers have no kernel here: what is called instead is PyTorch's own operator, not ours again."""
    x, w = (torch.complex(t.double(), t.double()) for t in (X[2], W[2]))
    with torchconv.enabled():
        y = F.conv2d(x, w)
    torch.testing.assert_close(y, F.conv2d(x, w))
    assert called == ["conv2d"]


def test_enabled_leaves_other_people_s_tensors_alone(called):
    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return "logged"

    with torchconv.enabled():
        assert F.max_pool2d(X[2].as_subclass(Logged), 2) == "logged"
    assert called == []


def test_gradients_under_enabled():
    model = small()
    x = picture(2, 3, 10, 10)
    expected = run(model, x)
    with torchconv.enabled():
        results = run(model, x)
    assert errors(results, expected).max() < 1e-12


@pytest.mark.parametrize("inside", [True, False])
def test_enabled_and_compile(inside):
    """Entered in what is compiled or around the call of it, the compiled graph holds our operators."""
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def body(x):
        return F.max_pool2d(F.conv2d(x, W[2]), 2)

    def entering(x):
        with torchconv.enabled():
            return body(x)

    torch._dynamo.reset()
    compiled = torch.compile(entering if inside else body, backend=backend, fullgraph=True)
    if inside:
        y = compiled(X[2])
    else:
        with torchconv.enabled():
            y = compiled(X[2])
    targets = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert any("torchconv" in target for target in targets), targets
    torch.testing.assert_close(y, body(X[2]))
