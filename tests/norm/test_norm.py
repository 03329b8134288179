"""Batch normalisation in training, with a ReLU and without, against torch.nn.functional's in float64, with all its
derivatives; and max pooling with a ReLU before it."""

import math
from itertools import product

import pytest
import torch
from conv_autograd_cases import EVERY_MODE
from suite import slow
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import torchconv.functional as TF
from torchconv.fuse import runners

F = torch.nn.functional
ops = torch.ops.torchconv
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Rows of full and of broken vectors, rows that are put together, maps above and below the size at which they are taken
# one by one, one channel, several splits, and sums longer than a run.
SHAPES = [
    (8, 16, 9, 9), (8, 24, 5, 5), (3, 7, 5, 5), (3, 6, 28, 28), (4, 3, 2, 2), (16, 512, 2, 2), (64, 10), (3, 5),
    (5, 7, 33), (2, 5, 3, 4, 5), (2, 3, 70, 70), (9, 40, 8, 8), (2, 1, 4, 4), (64, 64, 16, 16), (1, 8, 6, 6),
    (2, 1100, 3, 1),
]  # fmt: skip
LAYOUTS = ["contiguous", "channels-last"]


def arrange(x: torch.Tensor, layout: str) -> torch.Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim()]) if layout != "contiguous" and x.dim() > 3 else x


def operands(shape, dtype, layout, mean=0.0):
    generator = torch.Generator().manual_seed(sum(shape))
    x = arrange((torch.randn(shape, generator=generator) * 2 + mean).to(dtype), layout)
    w, b = (torch.randn(shape[1], generator=generator).to(dtype) for _ in range(2))
    return x, w, b, arrange(torch.randn(shape, generator=generator).to(dtype), layout)


def run(function, x, w, b, g):
    """Output, gradients and running statistics."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, w, b)]
    running = [torch.zeros_like(w), torch.ones_like(w)]
    y = function(leaves[0], *running, *leaves[1:], True)
    y.backward(g)
    assert y.stride() == x.stride() or 1 in x.shape
    return [y.detach(), *(leaf.grad for leaf in leaves), *running]


def built_in(relu):
    return lambda *args: F.batch_norm(*args).relu() if relu else F.batch_norm(*args)


def ours(relu):
    return lambda *args: TF.batch_norm(*args, activation="relu" if relu else None)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_errs_by_roundings(shape, layout, relu) -> None:
    """Each element is rounded a few times, and sums are in double from runs of at most 2048 on. Where an output is zero
    but for rounding the mask may differ: no shape here has such an element."""
    x, w, b, g = operands(shape, torch.float32, layout)
    exact = run(built_in(relu), *(t.double() for t in (x, w, b, g)))
    for found, expected in zip(run(ours(relu), x, w, b, g), exact, strict=True):
        assert error(found, expected) < 2e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_and_bfloat16(layout) -> None:
    for shape in SHAPES[:8]:
        x, w, b, g = operands(shape, torch.float64, layout)
        for found, expected in zip(run(ours(True), x, w, b, g), run(built_in(True), x, w, b, g), strict=True):
            assert error(found, expected) < 1e-13
        x, w, b, g = operands(shape, torch.bfloat16, layout)
        exact = run(built_in(False), *(t.double() for t in (x, w, b, g)))
        for found, expected in zip(run(ours(False), x, w, b, g)[:4], exact, strict=False):
            assert error(found, expected) < 2 * torch.finfo(torch.bfloat16).eps  # one rounding of each element


def test_bfloat16_with_float32_parameters() -> None:
    x, w, b, g = operands((8, 16, 6, 6), torch.bfloat16, "contiguous")
    w, b = w.float().requires_grad_(), b.float()
    y = TF.batch_norm(x, None, None, w, b, True)
    y.backward(g)
    assert y.dtype == torch.bfloat16
    assert w.grad.dtype == torch.float32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_does_not_cancel(layout) -> None:
    x, w, b, g = operands((8, 64, 16, 16), torch.float32, layout, mean=1000.0)
    exact = run(built_in(False), *(t.double() for t in (x, w, b, g)))
    # x − mean is exact to the rounding of a mean of 1000: 500 times that of a number of size 2.
    for found, expected in zip(run(ours(False), x, w, b, g), exact, strict=True):
        assert error(found, expected) < 1000 * torch.finfo(torch.float32).eps


def test_nan_and_infinity_stay_in_their_channel() -> None:
    for layout in LAYOUTS:
        x, w, b, _g = operands((4, 6, 5, 5), torch.float32, layout)
        x[1, 2, 3, 3], x[0, 4, 0, 0] = math.nan, math.inf
        y, theirs = (
            TF.batch_norm(x, None, None, w, b, True, activation="relu"),
            built_in(True)(x, None, None, w, b, True),
        )
        assert torch.equal(y.isnan(), theirs.isnan())
        assert y[:, [0, 1, 3, 5]].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_number_of_threads(layout) -> None:
    for shape in ((64, 64, 16, 16), (8, 24, 33, 17), (16, 512, 2, 2)):
        results = []
        for threads in (1, 2, 16):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                results.append(run(ours(True), *operands(shape, torch.float32, layout)))
            finally:
                torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))


# Values far enough from where the ReLU bends, and from ties.
def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("parts", ["all", "input", "weight", "none"])
def test_gradients(relu, parts) -> None:
    x, w, b = doubles(4, 3, 2, 3), doubles(3) if parts != "none" else None, doubles(3) if parts != "none" else None
    if parts == "weight":
        x = x.detach()
    if parts == "input":
        w, b = w.detach(), b.detach()

    def f(*args):
        x, *wb = args
        w, b = wb or (None, None)
        return TF.batch_norm(x, None, None, w, b, True, activation="relu" if relu else None)

    args = (x,) if w is None else (x, w, b)
    assert f(*args).detach().abs()[f(*args) != 0].min() > 1e-3 or not relu
    assert gradcheck(f, args, **EVERY_MODE)
    assert gradgradcheck(f, args, check_fwd_over_rev=True)


@slow
def test_operators_under_opcheck() -> None:
    for layout in LAYOUTS:
        x, w, b, g = operands((3, 5, 4, 4), torch.float32, layout)
        for relu in (False, True):
            torch.library.opcheck(ops.batch_norm.default, (x.requires_grad_(), w, b, 1e-5, relu))
            _y, mean, var = ops.batch_norm(x.detach(), w, b, 1e-5, relu)
            torch.library.opcheck(ops.batch_norm_grad.default, (g, x.detach(), w, None, mean, var, 1e-5, relu))
        torch.library.opcheck(ops.max_pool_relu.default, (x, [2, 2], [2, 2], [0, 0], [1, 1], [2, 2]))


def test_torch_func_and_compile() -> None:
    x, w, b = (t.detach() for t in (doubles(4, 3, 2, 3), doubles(3), doubles(3)))

    def mine(x, w, b):
        return TF.batch_norm(x, None, None, w, b, True, activation="relu")

    def theirs(x, w, b):
        return F.batch_norm(x, None, None, w, b, True).relu()

    def total(f):
        return lambda *args: f(*args).pow(2).sum()

    for dims in ((0, None, None), (None, 0, 0), (1, 1, None)):
        batch = [t if d is None else torch.stack([t, 2 * t + 1, -t], d) for t, d in zip((x, w, b), dims, strict=True)]
        torch.testing.assert_close(vmap(mine, dims)(*batch), vmap(theirs, dims)(*batch))
        found, expected = (vmap(grad(total(f), (0, 1, 2)), dims)(*batch) for f in (mine, theirs))
        torch.testing.assert_close(found, expected)
    tangents = (torch.ones_like(x).cumsum(0), w + 1, b)
    torch.testing.assert_close(jvp(mine, (x, w, b), tangents), jvp(theirs, (x, w, b), tangents))
    leaf = x.clone().requires_grad_()
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(total(compiled)(leaf, w, b), leaf), torch.autograd.grad(total(theirs)(leaf, w, b), leaf)
    )


def test_what_is_refused_or_left_to_torch() -> None:
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="activation must be None or 'relu', got 'tanh'"):
        TF.batch_norm(x, None, None, training=True, activation="tanh")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        TF.batch_norm(torch.randn(1, 3), None, None, training=True)
    with pytest.raises(RuntimeError, match=r"a weight and a bias of 3 elements .* got shape \[4\]"):
        ops.batch_norm(x, torch.ones(4), None, 1e-5, False)
    with pytest.raises(RuntimeError, match=r"gradient is Float of shape \[2, 3, 4, 5\] .* of shape \[2, 3, 4, 4\]"):
        ops.batch_norm_grad(torch.ones(2, 3, 4, 5), x, None, None, torch.ones(3), torch.ones(3), 1e-5, False)
    running = torch.zeros(3), torch.ones(3)
    expected = F.batch_norm(x, *running, training=False).relu()
    assert torch.equal(TF.batch_norm(x, *running, activation="relu"), expected)
    assert TF.batch_norm(x.to("meta"), None, None, training=True).device.type == "meta"


# ---- the layer ----


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_keeps_the_statistics_of_torch_nn(momentum, affine) -> None:
    torch.manual_seed(0)
    stock = torch.nn.BatchNorm2d(5, momentum=momentum, affine=affine)
    layer = torch.nn.BatchNorm2d(5, momentum=momentum, affine=affine)
    for _ in range(3):
        x = torch.randn(4, 5, 6, 6) + 3
        torch.testing.assert_close(runners.normalise(x, layer, None), stock(x))
    for (name, one), other in zip(layer.state_dict().items(), stock.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    with pytest.raises(ValueError, match="4D"):
        runners.normalise(torch.randn(4, 5), layer, None)


# ---- max pooling with the ReLU before it ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [(2,), (3, 2), (3, 2, 1), (3, 1, 1), (2, 2, 0, 2, True)], ids=str)
def test_pooling_does_the_relu_before_it(options, layout) -> None:
    x, *_ = operands((3, 6, 9, 8), torch.float32, layout)
    x[0, 0, :4, :4], x[1, 1, 2, 2], x[2, 2, 5, 5], x[2, 3] = -1.0, math.nan, math.inf, -math.inf
    one, other = (x.clone().requires_grad_() for _ in range(2))
    mine, theirs = TF.max_pool2d(one, *options, activation="relu"), F.max_pool2d(other.relu(), *options)
    assert torch.equal(mine.nan_to_num(7), theirs.nan_to_num(7))
    assert mine.stride() == theirs.stride()
    g = torch.randn_like(mine)
    mine.backward(g), theirs.backward(g)
    assert torch.equal(one.grad, other.grad)


def test_pooling_with_relu_keeps_no_input() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        TF.max_pool2d(torch.randn(4, 8, 16, 16, requires_grad=True), 2, activation="relu")
    assert sum(kept) == 4 * 8 * 8 * 8 * 2  # a position and whether the gradient passes, a byte each


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pooling_with_relu_gradients(n) -> None:
    x = torch.randperm(2 * 2 * 6**n, generator=torch.Generator().manual_seed(n)).double().view(2, 2, *[6] * n)
    x = ((x - x.mean()) / 7).requires_grad_()  # no ties, no zero
    f = getattr(TF, f"max_pool{n}d")
    assert gradcheck(lambda x: f(x, 3, 2, 1, activation="relu"), x, **EVERY_MODE)
    assert gradgradcheck(lambda x: f(x, 3, 2, 1, activation="relu"), x, check_fwd_over_rev=True)
    batch = torch.stack([x.detach(), -x.detach()])
    both = vmap(lambda x: f(x, 3, 2, 1, activation="relu"))(batch)
    assert torch.equal(both, torch.stack([f(x, 3, 2, 1).relu() for x in batch]))


def test_pooling_with_relu_refuses() -> None:
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="got 'relu' with return_indices=True"):
        TF.max_pool2d(x, 2, return_indices=True, activation="relu")
    with pytest.raises(ValueError, match="got 'elu'"):
        TF.max_pool2d(x, 2, activation="elu")


def test_pooling_with_relu_may_be_changed_in_place() -> None:
    """As a pooling's result may: it keeps neither its input nor its output."""
    x = torch.randn(2, 3, 6, 6)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    TF.max_pool2d(one, 2, activation="relu").mul_(3).sum().backward()
    F.max_pool2d(other.relu(), 2).mul_(3).sum().backward()
    assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 4, 5, 2)])
def test_parameters_with_axes_of_size_one(shape, training):
    """As the built-in takes them in some layouts, and asserts from inside in others."""
    x, stats = torch.randn(shape), (torch.randn(3), torch.rand(3) + 1)
    flat = [torch.randn(3, requires_grad=True) for _ in range(2)]
    wide = [t.detach().reshape(size).requires_grad_() for t, size in zip(flat, ((3, 1), (1, 3)), strict=True)]
    results = [TF.batch_norm(x, *(s.clone() for s in stats), *pair, training) for pair in (flat, wide)]
    assert torch.equal(*results)
    for result in results:
        result.square().sum().backward()
    for a, b in zip(flat, wide, strict=True):
        assert torch.equal(a.grad, b.grad.flatten())
        assert b.grad.shape == b.shape


ONE = torch.ones(3)
BROKEN = [
    ((ONE.reshape(3, 1), ONE, None, None), r"running_mean should contain 3 elements not 3: .* got \[3, 1\]"),
    ((ONE, torch.ones(2), None, None), r"running_var should contain 3 elements not 2"),
    ((None, None, torch.ones(()), None), r"weight should contain 3 elements not 1"),
    ((None, None, ONE, torch.ones(0)), r"bias should contain 3 elements not 0"),
    ((ONE, ONE.double(), None, None), r"running_mean of torch.float32 beside an input of torch.float32"),
    ((None, None, ONE, ONE.to(torch.complex64)), r"weight of torch.float32 beside"),
    ((None, None, None, ONE.to(torch.uint8)), r"bias of torch.uint8 beside an input of torch.float32"),
    ((None, None, ONE.bfloat16(), None), r"weight of torch.bfloat16 beside"),
]


@pytest.mark.parametrize("batch", [0, 4])
@pytest.mark.parametrize(("vectors", "message"), BROKEN)
def test_vectors_that_do_not_fit_are_refused(vectors, message, batch):
    kept = [None if t is None else t.clone() for t in vectors]
    with pytest.raises(RuntimeError, match=message):
        TF.batch_norm(torch.randn(batch, 3, 5, 5), *vectors, True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(kept, vectors, strict=True))


def test_dtypes_of_vectors_are_those_that_the_built_in_takes():
    dtypes = (None, torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for training, of_x in product((True, False), (torch.float32, torch.float64, torch.bfloat16)):
        for of_stats, of_weight, of_bias in product(dtypes[not training :], dtypes, dtypes):
            vectors = [None if d is None else torch.ones(3, dtype=d) for d in (of_stats, of_stats, of_weight, of_bias)]
            answers = []
            for function in (F.batch_norm, TF.batch_norm):
                try:
                    answers.append(function(torch.randn(4, 3, 2).to(of_x), *vectors, training).dtype)
                except RuntimeError:
                    answers.append(None)
            assert answers[0] == answers[1], (training, of_x, of_stats, of_weight, of_bias)


def test_no_channels() -> None:
    empty = torch.ones(0)
    assert TF.batch_norm(torch.ones(2, 0, 3), empty, empty, empty, None, True).shape == (2, 0, 3)
    assert TF.batch_norm(torch.ones(0, 0), None, None, empty, empty, True).shape == (0, 0)


def test_vectors_are_checked_whatever_else_is_wrong() -> None:
    """An empty batch, which the built-in answers whatever the vectors, and a running statistic alone; more axes than
    there is a kernel for."""
    for x, mean in (
        (torch.ones(0, 3, 2), torch.ones(3)),
        (torch.ones(0, 3, 2), None),
        (torch.ones(0, 3, *[2] * 4), None),
    ):
        with pytest.raises(RuntimeError, match="weight should contain 3 elements not 4"):
            TF.batch_norm(x, mean, None, torch.ones(4), None, True)
