"""Any pooling that can be drawn, against the built-in."""

import math

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from pool_cases import assert_same, gradients, integers, layouts
from suite import examples

import torchconv.functional as ours

FIXED = examples(150)


@st.composite
def inputs(draw, dims):
    longest = {1: 60, 2: 24, 3: 9}[dims]
    spatial = [draw(st.integers(1, longest)) for _ in range(dims)]
    batch = [draw(st.integers(0, 3))] if draw(st.booleans()) else []
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    x = integers([*batch, draw(st.integers(1, 40)), *spatial], dtype)
    x = torch.where(torch.rand(x.shape) < draw(st.sampled_from([0, 0.1])), -math.inf, x).to(dtype)
    return draw(st.sampled_from(list(layouts(x, dims).values())))


@st.composite
def windows(draw, spatial, dilated):
    """(kernel_size, stride, padding, dilation, ceil_mode) that fits, or rarely not."""
    axes = []
    for n in spatial:
        kernel = draw(st.integers(1, min(n + 2, 7)))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        # Windows wholly in the padding are tested by themselves: there the built-in's gradient is wrong.
        padding = draw(st.integers(0, min(kernel // 2, n // (2 * dilation))))
        axes.append((kernel, draw(st.integers(1, 5)), padding, dilation))
    return *(list(values) for values in zip(*axes, strict=True)), draw(st.booleans())


def refused(call):
    try:
        call()
    except RuntimeError:
        return True
    return False


def assert_same_values(mine, theirs, batched):
    """An unbatched input's memory format is nobody's promise but the contiguous one's."""
    if not batched:
        mine, theirs = mine.contiguous(), theirs.contiguous()
    assert_same(mine, theirs)


@FIXED
@given(st.data(), st.integers(1, 3))
def test_max_pool(data, dims):
    x = data.draw(inputs(dims))
    *window, ceil_mode = data.draw(windows(x.shape[-dims:], True))
    call = lambda f, x, **more: getattr(f, f"max_pool{dims}d")(x, *window, ceil_mode, **more)  # noqa: E731
    unusable = refused(lambda: call(F, x, return_indices=True))
    assert unusable == refused(lambda: call(ours, x))
    assume(not unusable)
    batched = x.dim() == dims + 2
    values, indices = call(ours, x, return_indices=True)
    places = call(F, x.contiguous(), return_indices=True)[1]
    assert_same_values(values, call(F, x), batched)
    assert torch.equal(indices, places)
    # The gradient as the definition has it, at the built-in's indices.
    grad = integers(values.shape, x.dtype, -1, 2)
    flat = torch.zeros(x.shape, dtype=torch.float64).flatten(-dims)
    flat.scatter_add_(-1, places.flatten(-dims), grad.double().flatten(-dims))
    mine = gradients(lambda x: call(ours, x), x, grad)[1]
    assert torch.equal(mine.double(), flat.view(x.shape))


@FIXED
@given(st.data(), st.integers(1, 3))
def test_avg_pool(data, dims):
    x = data.draw(inputs(dims)).nan_to_num(neginf=2.0)
    kernel, stride, padding, _, ceil_mode = data.draw(windows(x.shape[-dims:], False))
    divisor = data.draw(st.sampled_from([None, 1, 5, -2])) if dims > 1 else None
    more = {} if dims == 1 else {"divisor_override": divisor}
    include = data.draw(st.booleans())
    call = lambda f, x: getattr(f, f"avg_pool{dims}d")(x, kernel, stride, padding, ceil_mode, include, **more)  # noqa: E731
    if dims == 3:
        x = x.float()  # the only narrow type that the built-in's has
    unusable = refused(lambda: call(F, x))
    assert unusable == refused(lambda: call(ours, x))
    assume(not unusable)
    batched = x.dim() == dims + 2
    # Plus zero: whether a sum of zero over a negative divisor is -0 depends, in the built-in, on the memory format.
    assert_same_values(call(ours, x) + 0.0, call(F, x) + 0.0, batched)
    # A few shares are summed, perhaps in another order.
    grad = integers(call(F, x).shape)
    mine, theirs = (gradients(lambda x, f=f: call(f, x), x.double(), grad)[1] for f in (ours, F))
    torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)


@FIXED
@given(st.data(), st.integers(1, 3))
def test_adaptive(data, dims):
    x = data.draw(inputs(dims))
    size = [data.draw(st.sampled_from([None, 1, 2, 3, 5, 8, 17])) if dims > 1 else data.draw(st.integers(1, 20))] * dims
    batched = x.dim() == dims + 2
    largest = lambda f, x: getattr(f, f"adaptive_max_pool{dims}d")(x, size, return_indices=True)  # noqa: E731
    for mine, theirs in zip(largest(ours, x), largest(F, x), strict=True):
        assert_same_values(mine, theirs, batched)
    x = x.nan_to_num(neginf=2.0)
    mean = lambda f, x: getattr(f, f"adaptive_avg_pool{dims}d")(x, size)  # noqa: E731
    mine, theirs = mean(ours, x), mean(F, x)
    # Three roundings, one for each axis that the built-in divides by, against one.
    torch.testing.assert_close(mine, theirs, rtol=4 * torch.finfo(x.dtype).eps, atol=0)
