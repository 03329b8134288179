"""Max unpooling against torch.nn.functional: values, gradients of every mode, memory formats, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pool_cases import assert_same, distinct, gradients, layouts
from suite import examples
from torch.autograd import gradcheck, gradgradcheck

import torchconv
import torchconv.functional as ours

SIZES = {1: (2, 3, 11), 2: (2, 3, 7, 9), 3: (2, 3, 5, 6, 7)}
WINDOWS = [(2, None, 0), (3, 2, 1), (3, 3, 0)]


def pooled(dims, x, window):
    return getattr(F, f"max_pool{dims}d")(x, *window, return_indices=True)


def unpool(functions, dims, y, indices, window, size):
    return getattr(functions, f"max_unpool{dims}d")(y, indices, *window, output_size=size)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients(dims, window, batched, dtype):
    size = SIZES[dims] if batched else SIZES[dims][1:]
    for x in layouts(distinct(size).to(dtype), dims).values():
        y, indices = pooled(dims, x, window)
        for asked in ([*x.shape[-dims:]], list(x.shape) if batched else [*x.shape[-dims:]]):
            grad = torch.randn(x.shape, dtype=dtype)
            mine, theirs = (
                gradients(lambda y, f=f, i=indices, s=asked: unpool(f, dims, y, i, window, s), y, grad)
                for f in (ours, F)
            )
            assert_same(mine[0].contiguous(), theirs[0].contiguous())
            assert_same(mine[1].contiguous(), theirs[1].contiguous())


@examples(60)
@given(st.data(), st.integers(1, 3), st.booleans())
def test_property(data, dims, batched):
    """Any pooling's values and places, back to any size that it could have come from, or refused as there."""
    axes = [data.draw(st.tuples(st.integers(3, 9), st.integers(1, 4), st.integers(1, 4))) for _ in range(dims)]
    size, kernel, stride = ([axis[i] for axis in axes] for i in range(3))
    padding = [data.draw(st.integers(0, min(k // 2, 1))) for k in kernel]
    kernel = [min(k, n) for k, n in zip(kernel, size, strict=True)]
    padding = [min(p, k // 2) for p, k in zip(padding, kernel, strict=True)]
    y, indices = pooled(dims, distinct([*([2] if batched else []), 3, *size]), (kernel, stride, padding))
    wanted = data.draw(st.sampled_from([None, size, [n + 1 for n in size]]))
    results = []
    for functions in (ours, F):
        try:
            operand = y.clone().requires_grad_()
            result = unpool(functions, dims, operand, indices, (kernel, stride, padding), wanted)
            results.append((result, *torch.autograd.grad(result.sin().sum(), operand)))
        except (RuntimeError, ValueError):
            results.append(None)
    mine, theirs = results
    assert (mine is None) == (theirs is None)
    if mine is not None:
        assert torch.equal(mine[0], theirs[0])
        torch.testing.assert_close(mine[1], theirs[1])


def test_memory_format():
    for x in layouts(distinct((2, 3, 8, 8)).float()).values():
        y, indices = pooled(2, x, (2, None, 0))
        assert_same(unpool(ours, 2, y, indices, (2, None, 0), None), unpool(F, 2, y, indices, (2, None, 0), None))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), [(2, 2, 1, None), (1, 2, 0, 0)])
def test_empty_output(dims, kernel, stride, padding, size):
    x, indices = torch.randn(2, 3, *[1] * dims), torch.zeros(2, 3, *[1] * dims, dtype=torch.int64)
    size = None if size is None else [size] * dims
    theirs = unpool(F, dims, x, indices, (kernel, stride, padding), size)
    y, grad = gradients(lambda x: unpool(ours, dims, x, indices, (kernel, stride, padding), size), x, theirs)
    assert y.shape == theirs.shape
    assert torch.equal(grad, torch.zeros_like(x))  # which the built-in refuses to give
    with pytest.raises(ValueError, match="non-negative spatial dimensions"):
        unpool(ours, dims, x, indices, (1, 1, 2), None)


def test_inverse_of_our_own_pooling():
    x = distinct((2, 3, 8, 8)).float()
    y, indices = ours.max_pool2d(x, 2, return_indices=True)
    back = ours.max_unpool2d(y, indices, 2)
    assert torch.equal(ours.max_pool2d(back, 2), y)
    assert back.count_nonzero() == y.count_nonzero()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_derivatives(dims):
    size = [2, 2, *[4] * dims]
    y, indices = pooled(dims, distinct(size), (2, None, 0))
    y.requires_grad_()
    call = lambda y: unpool(ours, dims, y, indices, (2, None, 0), None)  # noqa: E731
    assert gradcheck(call, y, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, y, check_fwd_over_rev=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)], ids=str)
def test_vmap(dims, in_dims):
    """Of inputs and of indices, in every layout that a sample can have."""
    for x in layouts(distinct([6, 3, *[6] * dims]).float(), dims).values():
        operands = [t.unflatten(0, (3, 2)) for t in pooled(dims, x, (2, None, 0))]
        operands = [t if at == 0 else t[1] for t, at in zip(operands, in_dims, strict=True)]
        call = lambda y, i: unpool(ours, dims, y, i, (2, None, 0), None)  # noqa: E731
        alone = [call(*(t if at is None else t[n] for t, at in zip(operands, in_dims, strict=True))) for n in range(3)]
        together = torch.func.vmap(call, in_dims)(*operands)
        assert torch.equal(together, torch.stack(alone))
        assert together[0].stride() == alone[0].stride()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_export(dims, strict):
    size = [7] * dims
    layer = getattr(torchconv.nn, f"MaxUnpool{dims}d")(2)
    operands = pooled(dims, torch.randn(2, 3, *size), (2, None, 0))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"input": {0: batch}, "indices": {0: batch}, "output_size": [None] * dims}
    program = torch.export.export(layer, (*operands, size), dynamic_shapes=shapes, strict=strict)
    operands = pooled(dims, torch.randn(5, 3, *size), (2, None, 0))
    assert torch.equal(program.module()(*operands, size), layer(*operands, size))


def test_compile():
    torch._dynamo.reset()
    y, indices = pooled(2, torch.randn(2, 3, 8, 8), (2, None, 0))
    compiled = torch.compile(lambda y, i: ours.max_unpool2d(y, i, 2), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(y, indices), F.max_unpool2d(y, indices, 2))


y2, i2 = pooled(2, torch.randn(1, 2, 4, 4), (2, None, 0))


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((y2, i2.int(), 2), RuntimeError, r"indices of dtype int64, got torch.int32"),
        ((y2, i2[:, :1], 2), RuntimeError, r"indices of shape \[1, 2, 2, 2\], got \[1, 1, 2, 2\]"),
        ((y2, i2 + 100, 2), RuntimeError, r"invalid max index"),
        ((y2, i2 - 100, 2), RuntimeError, r"invalid max index"),
        ((y2, i2, 2, None, 0, [9, 9]), ValueError, r"within the stride=\[2, 2\] of \[4, 4\], got \[9, 9\]"),
        ((y2, i2, 2, None, 0, [4]), ValueError, r"2 or 4 numbers, got \[4\]"),
        ((y2[0, 0], i2[0, 0], 2), RuntimeError, r"got shape \[2, 2\]"),
    ],
)
def test_refused(args, error, message):
    with pytest.raises((RuntimeError, ValueError)):
        F.max_unpool2d(*args)
    with pytest.raises(error, match=message):
        ours.max_unpool2d(*args)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layers(dims):
    stock = getattr(torch.nn, f"MaxUnpool{dims}d")(2)
    x = distinct((2, 3, *[6] * dims)).float()
    y, indices = pooled(dims, x, (2, None, 0))
    expected = stock(y, indices)
    layer = torchconv.convert(stock)
    assert type(layer) is getattr(torchconv.nn, f"MaxUnpool{dims}d")
    assert torch.equal(layer(y, indices), expected)
    assert torch.equal(layer(y, indices, output_size=x.size()), expected)
    with torchconv.enabled():
        assert torch.equal(getattr(F, f"max_unpool{dims}d")(y, indices, 2), expected)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_stride_of_zero_gives_the_built_ins_size(dims):
    """It says how large the output is, and no more; in three dimensions the built-in refuses it."""
    x, indices = (
        torch.randn(2, 3, *[4] * dims),
        torch.arange(4**dims).reshape(1, 1, *[4] * dims).expand(2, 3, *[4] * dims),
    )
    name = f"max_unpool{dims}d"
    window = ([7] * dims, [0] * dims, [0] * dims)
    assert torch.equal(getattr(ours, name)(x, indices, *window), getattr(F, name)(x, indices, *window))
