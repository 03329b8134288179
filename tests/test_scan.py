"""scan: a network on patches and the convolutional network it becomes give the same answers at every position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suite import examples
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import torchconv


def mlp(*window: int, norm: bool = False) -> nn.Sequential:
    size = int(torch.Size(window).numel())
    layers = [nn.Flatten(), nn.Linear(size, 13), nn.ReLU(), nn.Dropout(0.3)]
    layers += [nn.Linear(13, 7, bias=False), *([nn.BatchNorm1d(7)] if norm else []), nn.Tanh(), nn.Linear(7, 4)]
    return nn.Sequential(*layers).double().eval()


def at_every_position(model, x, window, stride) -> torch.Tensor:
    """The answers patch by patch: [N, out, *]."""
    patches = x
    for axis, (side, step) in enumerate(zip(window[1:], stride, strict=True), 2):
        patches = patches.unfold(axis, side, step)
    dims = len(window) - 1
    patches = patches.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))  # [N, positions..., C, *]
    answers = model(patches.reshape(-1, *window))
    return answers.reshape(*patches.shape[: 1 + dims], -1).movedim(-1, 1)


CASES = [
    ((3, 5), (17,), (1,)),
    ((2, 4, 3), (9, 8), (1, 1)),
    ((2, 4, 3), (9, 8), (3, 2)),
    ((3, 4, 3), (4, 3), (1, 1)),
    ((1, 2, 3, 2), (4, 5, 4), (2, 1, 1)),
]


@pytest.mark.parametrize(("window", "size", "stride"), CASES, ids=str)
def test_the_same_answers_at_every_position(window, size, stride) -> None:
    model, x = mlp(*window), torch.randn(2, window[0], *size, dtype=torch.float64)
    network = torchconv.scan(model, window, stride)
    torch.testing.assert_close(network(x), at_every_position(model, x, window, stride))
    assert [name for name, _ in network.named_children()] == [name for name, _ in model.named_children()]


@examples(40)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_property(data, dims, maps, flat) -> None:
    """Any window, stride, map and depth, with and without biases and norms: values, and the weights' gradients."""
    axes = [data.draw(st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(1, 3))) for _ in range(dims)]
    sides, beyond, stride = ([axis[i] for axis in axes] for i in range(3))
    window = (maps, *sides)
    layers, width = [] if flat else [nn.Flatten()], int(torch.Size(window).numel())
    for _ in range(data.draw(st.integers(1, 3))):
        out = data.draw(st.integers(1, 5))
        layers.append(nn.Linear(width, out, bias=data.draw(st.booleans())))
        layers += data.draw(st.sampled_from([[], [nn.BatchNorm1d(out)], [nn.Tanh()], [nn.Dropout(0.5), nn.PReLU(out)]]))
        width = out
    model = nn.Sequential(*layers).double().eval()
    network = torchconv.scan(model, window, stride)
    x = torch.randn(2, maps, *(k + n for k, n in zip(sides, beyond, strict=True)), dtype=torch.float64)
    taken = (lambda patches: model(patches.flatten(1))) if flat else model
    y, expected = network(x), at_every_position(taken, x, window, stride)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    g = torch.randn_like(y)
    grads = [torch.autograd.grad(out, list(of.parameters()), g) for out, of in ((y, network), (expected, model))]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine.reshape(theirs.shape), theirs, rtol=1e-11, atol=1e-11)


def test_derivatives_compile_export_and_vmap() -> None:
    network = torchconv.scan(mlp(2, 3, 2), (2, 3, 2), (2, 1))
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(network, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(network, x, check_fwd_over_rev=True)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))
    torch.testing.assert_close(*(torch.autograd.grad(f(x).pow(2).sum(), x)[0] for f in (compiled, network)))
    batch = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(network, (x,), dynamic_shapes=batch)
    many = torch.randn(3, 5, 2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(program.module()(many[0]), network(many[0]))
    torch.testing.assert_close(torch.func.vmap(network)(many), torch.stack([network(one) for one in many]))


def test_a_trained_network_with_norm_and_softmax() -> None:
    window = (2, 3, 3)
    model = nn.Sequential(mlp(*window, norm=True).float(), nn.PReLU(4), nn.LogSoftmax(-1)).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.nll_loss(model(torch.randn(16, *window)), torch.randint(4, (16,))).backward()
        optimizer.step()
    model.eval()
    x = torch.randn(3, 2, 10, 8)
    network = torchconv.scan(model, window)
    torch.testing.assert_close(network(x), at_every_position(model, x, window, (1, 1)), rtol=1e-5, atol=1e-6)
    assert not any(module.training for module in network.modules())
    assert all(module.training for module in torchconv.scan(model.train(), window).modules())
    with torch.no_grad():  # the weights are copies
        before = network(x)
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(network(x), before)


def test_it_learns_on() -> None:
    """The gradient of a sum over positions is that of the network shared by all patches."""
    window, x = (2, 3, 3), torch.randn(2, 2, 6, 5, dtype=torch.float64)
    model = mlp(*window)
    network = torchconv.scan(model, window)
    network(x).pow(2).sum().backward()
    at_every_position(model, x, window, (1, 1)).pow(2).sum().backward()
    for mine, expected in zip(network.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.reshape(expected.shape), expected.grad)


def test_patches_that_came_flattened() -> None:
    model = nn.Sequential(nn.Linear(12, 3))
    x = torch.randn(1, 3, 4, 4)
    y = torchconv.scan(model, (3, 2, 2))(x)
    torch.testing.assert_close(y[0, :, 1, 2], model(x[:, :, 1:3, 2:4].flatten(1))[0])


def test_what_is_refused() -> None:
    for model, window, kind, message in (
        (nn.Linear(4, 2), (1, 2, 2), TypeError, "takes a torch.nn.Sequential, got Linear"),
        (mlp(1, 3, 3), (1, 3, 4), ValueError, r"layer '1' takes 9 values, but window=\(1, 3, 4\) has 12"),
        (mlp(1, 3, 3), (9,), ValueError, r"window must be .* got \(9,\)"),
        (nn.Sequential(nn.ReLU()), (1, 3, 3), ValueError, "no linear layer"),
        (nn.Sequential(nn.Sequential(nn.LSTM(9, 2))), (1, 3, 3), TypeError, r"layer '0.0', LSTM\(9, 2\), has no"),
        (nn.Sequential(nn.Linear(9, 4), nn.Flatten()), (1, 3, 3), TypeError, "layer '1', Flatten"),
        (nn.Sequential(nn.Linear(9, 4), nn.Softmax(0)), (1, 3, 3), TypeError, r"layer '1', Softmax\(dim=0\)"),
        (nn.Sequential(nn.BatchNorm1d(9)), (1, 3, 3), TypeError, "before the first linear layer"),
    ):
        with pytest.raises(kind, match=message):
            torchconv.scan(model, window)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        torchconv.scan(mlp(1, 3, 3), (1, 3, 3), 0)
