"""Pooling's derivatives of every order and mode, and the operators under opcheck, torch.func, compile and export."""

import pytest
import torch
import torch.nn.functional as F
from pool_cases import CHANNELS_LAST, distinct, layouts
from suite import first_quick
from torch.autograd import gradcheck, gradgradcheck

import torchconv.functional as ours
from torchconv.autograd.pool import max_pool_gather, max_pool_scatter

ops = torch.ops.torchconv

# name: (spatial axes, input size, pooling)
POOLS = {
    "max": (2, (2, 3, 5, 6), lambda f, x: f.max_pool2d(x, 3, 2, 1)),
    "max_ceil_dilated": (2, (2, 2, 6, 7), lambda f, x: f.max_pool2d(x, 2, 3, 1, 2, True)),
    "max_with_indices": (2, (2, 3, 4, 5), lambda f, x: f.max_pool2d(x, 2, 1, return_indices=True)[0]),
    "max_1d": (1, (2, 3, 20), lambda f, x: f.max_pool1d(x, 3, 2)),
    "max_3d": (3, (1, 2, 3, 4, 5), lambda f, x: f.max_pool3d(x, 2, 2, 1)),
    "max_unbatched": (2, (3, 5, 6), lambda f, x: f.max_pool2d(x, 2, 1)),
    "max_adaptive": (2, (2, 2, 5, 7), lambda f, x: f.adaptive_max_pool2d(x, (2, 4))),
    "avg": (2, (2, 3, 5, 6), lambda f, x: f.avg_pool2d(x, 3, 2, 1, True)),
    "avg_without_padding": (2, (2, 3, 5, 6), lambda f, x: f.avg_pool2d(x, 3, 2, 1, True, False)),
    "avg_divisor": (2, (2, 2, 5, 6), lambda f, x: f.avg_pool2d(x, 2, 1, divisor_override=3)),
    "avg_1d": (1, (2, 3, 20), lambda f, x: f.avg_pool1d(x, 3, 2, 1)),
    "avg_3d": (3, (1, 2, 3, 4, 5), lambda f, x: f.avg_pool3d(x, 2, 1)),
    "avg_adaptive": (2, (2, 2, 5, 7), lambda f, x: f.adaptive_avg_pool2d(x, (2, 4))),
    "lp": (2, (2, 2, 5, 6), lambda f, x: f.lp_pool2d(x + 1, 3, 2, 1)),
}
by_pool = pytest.mark.parametrize(("dims", "size", "pool"), POOLS.values(), ids=POOLS)


@by_pool
def test_gradients(dims, size, pool):
    for x in layouts(distinct(size), dims).values():
        x = x.requires_grad_()
        assert gradcheck(
            lambda x: pool(ours, x),
            x,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )


@by_pool
def test_second_derivatives(dims, size, pool):
    # Of max and mean pooling, linear where they are differentiable, the second derivative is zero, but not the
    # derivative of the gradient to the gradient of the output, which is what gradgradcheck perturbs too.
    x = distinct(size).requires_grad_()
    assert gradgradcheck(lambda x: pool(ours, x), x, check_fwd_over_rev=True, check_batched_grad=True)


def test_third_derivative():
    x = distinct((1, 1, 4, 4)).requires_grad_()
    for pool in (lambda f, x: f.max_pool2d(x, 2, 1), lambda f, x: f.avg_pool2d(x, 2, 1)):
        orders = []
        for f in ours, F:
            y = pool(f, x).pow(4).sum()
            for _ in range(3):
                (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            orders.append(y)
        torch.testing.assert_close(*orders, rtol=1e-12, atol=0)


def test_nothing_is_computed_for_what_needs_no_gradient():
    y = ours.max_pool2d(torch.randn(1, 1, 4, 4), 2)
    assert y.grad_fn is None
    values, indices = ours.max_pool2d(torch.randn(1, 1, 4, 4, requires_grad=True), 2, return_indices=True)
    assert values.requires_grad
    assert not indices.requires_grad


# ---- torch.func ----


@by_pool
def test_jacobians(dims, size, pool):
    x = distinct(size)
    reverse, forward = torch.func.jacrev(lambda x: pool(ours, x))(x), torch.func.jacfwd(lambda x: pool(ours, x))(x)
    expected = torch.autograd.functional.jacobian(lambda x: pool(F, x), x)
    # One and the same sum of a few shares, in another order.
    torch.testing.assert_close(reverse, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(forward, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["max", "avg", "max_adaptive", "lp"])
def test_hessian(name):
    *_, pool = POOLS[name]
    x = distinct((1, 2, 3, 4))
    hessian = torch.func.hessian(lambda x: pool(ours, x).pow(3).sum())(x)
    expected = torch.autograd.functional.hessian(lambda x: pool(F, x).pow(3).sum(), x)
    torch.testing.assert_close(hessian, expected, rtol=1e-12, atol=1e-12)


@by_pool
@pytest.mark.parametrize("at", [0, 1, -1])
def test_vmap(dims, size, pool, at):
    x = torch.stack([distinct(size) for _ in range(4)])
    moved = x.movedim(0, at)
    expected = torch.stack([pool(ours, one) for one in x])
    assert torch.equal(torch.func.vmap(lambda x: pool(ours, x), at)(moved), expected)
    gradient = torch.func.grad(lambda x: pool(ours, x).pow(2).sum())
    expected = torch.stack([gradient(one) for one in x])
    assert torch.equal(torch.func.vmap(gradient, at)(moved), expected)


def test_vmap_over_one_operand_of_scatter_and_gather():
    window = ([2, 2], [2, 2], [0, 0], [1, 1])
    x, g = torch.randn(5, 2, 3, 4, 4), torch.randn(5, 2, 3, 2, 2)
    p = torch.randint(4, (5, 2, 3, 2, 2), dtype=torch.uint8)
    for function, first in (
        (lambda a, p: max_pool_scatter(a, p, (2, 3, 4, 4), *window), g),
        (lambda a, p: max_pool_gather(a, p, *window), x),
    ):
        for dims in (0, 0), (0, None), (None, 0):
            a, b = (t if d == 0 else t[0] for t, d in zip((first, p), dims, strict=True))
            expected = [function(a[i] if dims[0] == 0 else a, b[i] if dims[1] == 0 else b) for i in range(5)]
            assert torch.equal(torch.func.vmap(function, dims)(a, b), torch.stack(expected))


def test_vmap_of_indices():
    x = torch.randn(4, 2, 3, 6, 6)
    values, indices = torch.func.vmap(lambda x: ours.max_pool2d(x, 2, return_indices=True))(x)
    for i, one in enumerate(x):
        expected = F.max_pool2d(one, 2, return_indices=True)
        assert torch.equal(values[i], expected[0])
        assert torch.equal(indices[i], expected[1])


# ---- the operators ----


OPERATORS = [
    "max_pool",
    "max_pool_relu",
    "max_pool_scatter",
    "max_pool_gather",
    "max_pool_indices",
    "avg_pool",
    "avg_pool_spread",
]


def _operator_samples():
    formats = {3: [torch.contiguous_format], 4: [torch.contiguous_format, CHANNELS_LAST[4]]}
    formats[5] = [torch.contiguous_format, CHANNELS_LAST[5]]
    windows = {
        (2, 3, 11): ([3], [2], [1], [1], [6]),
        (2, 5, 8, 9): ([3, 2], [2, 2], [1, 0], [1, 2], [4, 4]),
        (2, 5, 5, 7): ([0, 0], [0, 0], [0, 0], [0, 0], [3, 2]),
        (2, 3, 4, 7): ([], [], [], [], [3, 2]),
        (1, 2, 18, 17): ([17, 17], [1, 1], [0, 0], [1, 1], [2, 1]),
        (1, 2, 4, 4, 5): ([2, 2, 2], [2, 2, 1], [0, 0, 1], [1, 1, 1], [2, 2, 6]),
        (2, 3, 4, 4): ([4, 4], [1, 1], [0, 0], [1, 1], [1, 1]),
    }
    for size, (*window, output) in windows.items():
        for memory_format in formats[len(size)]:
            x = torch.randn(size, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
            g = torch.randn((*size[:2], *output), dtype=torch.float64).contiguous(memory_format=memory_format)
            g.requires_grad_()
            with torch.no_grad():
                positions = ops.max_pool(x, *window, output)[1]
            mean = window[:3]
            yield "max_pool", (x, *window, output)
            yield "max_pool_relu", (x, *window, output)
            yield "max_pool_scatter", (g, positions, size, *window)
            yield "max_pool_gather", (x, positions, *window)
            yield "max_pool_indices", (positions, size, *window)
            yield "avg_pool", (x, *mean, output, False, None)
            yield "avg_pool_spread", (g, size, *mean, True, 3, memory_format)


@pytest.mark.parametrize("name", first_quick(OPERATORS))
def test_opcheck(name):
    samples = [args for operator, args in _operator_samples() if operator == name]
    assert samples
    for args in samples:
        torch.library.opcheck(getattr(ops, name).default, args)


def test_opcheck_covers_every_operator():
    defined = {s.name.removeprefix("torchconv::") for s in torch._C._jit_get_all_schemas() if "torchconv::" in s.name}
    of_no_tensor = {"_prepare_max_pool", "_prepare_avg_pool"}
    assert {name for name in defined if "pool" in name} - of_no_tensor == set(OPERATORS)


# ---- compile and export ----


class Pools(torch.nn.Module):
    def forward(self, x):
        largest, indices = ours.max_pool2d(x, 3, 2, 1, return_indices=True)
        return (
            largest,
            indices,
            ours.avg_pool2d(x, 2, count_include_pad=False),
            ours.adaptive_avg_pool2d(x, 1),
            ours.adaptive_max_pool2d(x, (3, 2)),
            ours.lp_pool2d(x.abs() + 1, 2, 2),
        )


@pytest.mark.parametrize("backend", first_quick(["aot_eager", "inductor"]))
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile(backend, layout):
    torch._dynamo.reset()
    compiled = torch.compile(Pools(), fullgraph=True, backend=backend)
    x = layouts(torch.randn(2, 3, 9, 10))[layout]
    results = []
    for module in compiled, Pools():
        y = x.clone().requires_grad_()
        out = module(y)
        sum(o.pow(2).sum() for o in out if o.is_floating_point()).backward()
        results.append([*out, y.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)  # inductor may fuse what is around the operators
    assert torch.equal(results[0][1], results[1][1])


def test_compile_with_changing_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(Pools(), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((2, 3, 9, 10), (3, 4, 12, 11), (2, 3, 7, 30)):
        x = torch.randn(size)
        for a, b in zip(compiled(x), Pools()(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(Pools(), (torch.randn(2, 3, 9, 10),), dynamic_shapes=(batch,), strict=strict)
    x = torch.randn(5, 3, 9, 10)
    for a, b in zip(program.module()(x), Pools()(x), strict=True):
        assert torch.equal(a, b)
    assert any(node.target is ops.max_pool.default for node in program.graph.nodes)
