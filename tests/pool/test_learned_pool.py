"""LearnedPool2d and BlockPool2d: what they start as, what they equal, their gradients, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from suite import examples
from torch.autograd import gradcheck, gradgradcheck

from torchconv import nn

EVERY_MODE = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
WINDOWS = [(2, None, 0), (3, 2, 1), ((3, 2), (1, 3), (1, 0))]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [5, None])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_starts_as_mean_pooling(channels, window, memory_format) -> None:
    pool = nn.LearnedPool2d(channels, *window, dtype=torch.float64)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
    expected = F.avg_pool2d(x, *window)
    y = pool(x)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(pool(x[0]), expected[0])
    assert pool.weight.numel() == (channels or 1) * pool.kernel_size[0] * pool.kernel_size[1]


@examples(40)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    maps=st.integers(1, 5),
    shared=st.booleans(),
)
def test_learned_property(kernel, stride, padding, size, maps, shared) -> None:
    """Whatever it has learned: each window of a map times that map's filter, or times the one of all."""
    pool = nn.LearnedPool2d(None if shared else maps, kernel, stride, padding, dtype=torch.float64)
    torch.nn.init.normal_(pool.weight)
    x = torch.randn(2, maps, *size, dtype=torch.float64, requires_grad=True)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], pool.stride[0]).unfold(3, kernel[1], pool.stride[1])
    expected = (windows * pool.weight[:, 0, None, None]).sum((-2, -1))
    y, g = pool(x), torch.randn_like(expected)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(t, (x, pool.weight), g) for t in (y, expected)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_worked_example() -> None:
    x = torch.tensor([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])[None]
    assert torch.equal(nn.LearnedPool2d(1, 2)(x)[0], torch.tensor([[3.25, 5.25], [2, 2]]))


@pytest.mark.parametrize("channels", [2, None])
def test_learned_gradcheck(channels) -> None:
    pool = nn.LearnedPool2d(channels, 2, 1, dtype=torch.float64)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn_like(pool.weight).requires_grad_()
    function = lambda x, w: torch.func.functional_call(pool, {"weight": w}, (x,))  # noqa: E731
    assert gradcheck(function, (x, w), **EVERY_MODE)
    assert gradgradcheck(function, (x, w), check_fwd_over_rev=True)


def network(channels: int, kernel: tuple[int, int], out: int) -> torch.nn.Module:
    size = channels * kernel[0] * kernel[1]
    layers = [torch.nn.Flatten(), torch.nn.Linear(size, 7), torch.nn.Tanh(), torch.nn.Linear(7, out)]
    return torch.nn.Sequential(*layers).double()


def by_hand(pool, x) -> torch.Tensor:
    """One block after the other."""
    (height, width), (down, right) = pool.kernel_size, pool.stride
    rows = []
    for i in range(0, x.shape[2] - height + 1, down):
        blocks = [x[:, :, i : i + height, j : j + width] for j in range(0, x.shape[3] - width + 1, right)]
        rows.append(torch.stack([pool.network(block).flatten(1) for block in blocks], -1))
    return torch.stack(rows, -2)


@examples(30)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    at_once=st.sampled_from([1, 40, 150, 10_000]),
)
def test_blocks_property(kernel, stride, size, at_once) -> None:
    pool = nn.BlockPool2d(network(2, kernel, 3), kernel, stride, at_once)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    expected = by_hand(pool, x)
    torch.testing.assert_close(pool(x), expected)
    torch.testing.assert_close(pool(x[1]), expected[1])


def test_known_networks() -> None:
    """The mean, the maximum of each map, and a convolution are all networks on blocks."""
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(nn.BlockPool2d(lambda b: b.mean((2, 3)), 2)(x), F.avg_pool2d(x, 2))
    assert torch.equal(nn.BlockPool2d(lambda b: b.amax((2, 3)), 3, 2)(x), F.max_pool2d(x, 3, 2))
    conv = nn.Conv2d(3, 5, (2, 3), dtype=torch.float64)
    torch.testing.assert_close(nn.BlockPool2d(conv, (2, 3), 1)(x), conv(x))


def test_empty_batch() -> None:
    x = torch.randn(0, 2, 4, 6)
    assert nn.BlockPool2d(network(2, (2, 2), 3).float(), 2)(x).shape == (0, 3, 2, 3)
    assert nn.LearnedPool2d(2, 2)(x).shape == (0, 2, 2, 3)


def test_blocks_gradcheck() -> None:
    pool = nn.BlockPool2d(network(2, (2, 2), 2), 2, 1, at_once=30)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    parameters = dict(pool.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(pool, dict(zip(parameters, values, strict=True)), (x,))

    assert gradcheck(function, (x, *parameters.values()), **EVERY_MODE)
    assert gradgradcheck(function, (x, *parameters.values()))


def test_blocks_of_any_batch_are_exported() -> None:
    blocks = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten())
    pool = nn.BlockPool2d(blocks, 2, at_once=30)  # in parts where it is not exported
    program = torch.export.export(pool, (torch.randn(3, 2, 6, 6),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (1, 5):
        x = torch.randn(batch, 2, 6, 6)
        torch.testing.assert_close(program.module()(x), pool(x))


@pytest.mark.parametrize(
    "make", [lambda: nn.LearnedPool2d(None, 3, 2, 1), lambda: nn.BlockPool2d(network(2, (2, 2), 3).float(), 2)]
)
def test_compile_export_and_vmap(make) -> None:
    pool, x = make(), torch.randn(3, 2, 6, 6, requires_grad=True)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), pool(x))
    torch.testing.assert_close(*(torch.autograd.grad(f(x).pow(2).sum(), x)[0] for f in (compiled, pool)))
    torch.testing.assert_close(torch.export.export(pool, (x,)).module()(x), pool(x))
    torch.testing.assert_close(torch.func.vmap(pool)(x), pool(x))
    many = {name: torch.stack([p, 2 * p]).detach() for name, p in pool.named_parameters()}
    together = torch.func.vmap(lambda p: torch.func.functional_call(pool, p, (x,)))(many)
    for i in range(2):
        alone = torch.func.functional_call(pool, {name: p[i] for name, p in many.items()}, (x,))
        torch.testing.assert_close(together[i], alone)


def test_bad_inputs() -> None:
    for make, message in (
        (lambda: nn.LearnedPool2d(0, 2), "channels must be None or at least 1, got 0"),
        (lambda: nn.LearnedPool2d(3, 0), "kernel_size must be at least 1, got 0"),
        (lambda: nn.LearnedPool2d(3, 2, padding=-1), "padding must be at least 0, got -1"),
        (lambda: nn.BlockPool2d(torch.nn.Identity(), 2, 0), "stride must be at least 1, got 0"),
        (lambda: nn.BlockPool2d(torch.nn.Identity(), 2, at_once=0), "at_once must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(RuntimeError, match=r"expected an input of 3 maps .* got shape \[2, 4, 6, 6\]"):
        nn.LearnedPool2d(3, 2)(torch.randn(2, 4, 6, 6))
    with pytest.raises(RuntimeError, match="larger than the padded input"):
        nn.LearnedPool2d(3, 7)(torch.randn(2, 3, 6, 6))
    with pytest.raises(RuntimeError, match=r"holds a block of 7 by 7, got shape \[2, 3, 6, 6\]"):
        nn.BlockPool2d(torch.nn.Flatten(), 7)(torch.randn(2, 3, 6, 6))
    with pytest.raises(RuntimeError, match=r"to \[18, D\], got \[18, 3, 2, 2\]"):
        nn.BlockPool2d(torch.nn.Identity(), 2)(torch.randn(2, 3, 6, 6))
