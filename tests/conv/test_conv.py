"""The convolution operators against the definition: every algorithm, dtype and layout on shapes chosen to hurt."""

import random
import re

import pytest
import torch
from conv_cases import (
    ALGORITHMS,
    BOUNDS,
    DIRECTIONS,
    LAYOUTS,
    F,
    bound,
    check_bits,
    chosen,
    exact,
    layout_of,
    operands,
    ops,
    relative_error,
    run,
)
from shapes import ALONG, CASES, VECTOR_LENGTHS, ConvCase, case
from suite import first_quick

import torchconv.functional as TF


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_against_float64(case: ConvCase, algorithm: str) -> None:
    for dtype in BOUNDS:
        for layout in LAYOUTS if case.dims > 1 else ["contiguous"]:
            x, w, b, g = operands(case, dtype, layout)
            for direction in DIRECTIONS:
                name, refusal = chosen(case, direction, x, w, g, algorithm)
                if refusal:
                    continue  # that it then raises is test_refusals_are_what_explain_says's to check
                result = run(case, direction, x, w, b, g, algorithm)
                expected = exact(case, direction, x, w, b, g)
                assert result.dtype == dtype
                assert result.shape == expected.shape
                error = relative_error(result, expected)
                assert error <= bound(name, dtype, direction), (dtype, layout, direction, error)


@pytest.mark.parametrize(
    "c", [pytest.param(c, marks=pytest.mark.slow if c.dims == 3 and c.groups == 1 else ()) for c in ALONG], ids=str
)
def test_other_dimensions_against_float64(c: ConvCase) -> None:
    """The shapes of two dimensions in one and three: every algorithm, whose operands, and what is right, are shared."""
    for dtype in BOUNDS:
        for layout in LAYOUTS if c.dims > 1 else ["contiguous"]:
            x, w, b, g = operands(c, dtype, layout)
            for direction in DIRECTIONS:
                expected = exact(c, direction, x, w, b, g)
                for algorithm in ops._algorithms():
                    if algorithm == "reference" or not chosen(c, direction, x, w, g, algorithm)[0]:
                        continue
                    error = relative_error(run(c, direction, x, w, b, g, algorithm), expected)
                    assert error <= bound(algorithm, dtype, direction), (algorithm, dtype, layout, direction, error)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_refusals_are_what_explain_says(case: ConvCase, layout: str) -> None:
    x, w, b, g = operands(case, torch.float32, layout)
    assert all(chosen(case, direction, x, w, g)[0] for direction in DIRECTIONS)
    for algorithm in ops._algorithms():
        for direction in DIRECTIONS:
            _, reason = chosen(case, direction, x, w, g, algorithm)
            if reason:
                assert f"algorithm '{algorithm}' cannot run this convolution: " in reason
                with pytest.raises(RuntimeError, match=re.escape(reason)):
                    run(case, direction, x, w, b, g, algorithm)


def test_auto_never_needs_the_reference() -> None:
    for c in CASES:
        for channels_last in (False, True):
            for direction in DIRECTIONS:
                window = (c.stride, c.flat_padding, c.dilation, c.groups)
                name, *_ = ops._explain(direction, c.input, c.weight, *window, torch.float32, channels_last, "auto")
                assert name != "reference", (c.name, direction)


def drawn_case(generator: random.Random) -> ConvCase:
    """A convolution of any dimension, window, grouping and size up to some 10⁸ multiply-adds."""
    dims = generator.choices((1, 2, 3), (3, 6, 2))[0]
    groups = generator.choice((1, 1, 1, 2, 5))
    depthwise = generator.random() < 0.2
    per_axis = lambda *choices: tuple(generator.choice(choices) for _ in range(dims))  # noqa: E731
    kernel, stride, dilation = per_axis(1, 2, 3, 3, 3, 5, 7), per_axis(1, 1, 1, 2, 3), per_axis(1, 1, 1, 2)
    padding = tuple((generator.randint(0, k), generator.randint(0, k)) for k in kernel)
    sides = tuple(
        (k - 1) * d + generator.randint(1, (120, 24, 9)[dims - 1]) for k, d in zip(kernel, dilation, strict=True)
    )
    if generator.random() < 0.5:  # around whole vectors
        length = generator.choice([n for n in VECTOR_LENGTHS if n <= (66, 33, 9)[dims - 1]])
        sides = (*sides[:-1], (kernel[-1] - 1) * dilation[-1] + length)
        padding, stride = (*padding[:-1], (0, 0)), (*stride[:-1], 1)
    c, o = (groups * generator.choice((1, 2, 3, 7, 16, 24, 33, 65)) for _ in range(2))
    if depthwise:
        groups, o = c, c * generator.choice((1, 1, 2))
    name = f"drawn_{c}x{sides}_{o}x{kernel}"
    weight = (o, c // groups, *kernel)
    return case(name, (generator.randint(1, 3), c, *sides), weight, stride, padding, dilation, groups)


@pytest.mark.parametrize(("scale", "mean"), [(1, 0), (1e-3, 0), (1e3, 0), (1, 10)])
@pytest.mark.parametrize("part", first_quick(range(4)))
def test_error_bounds_on_drawn_shapes(part: int, scale: float, mean: float) -> None:
    """200 shapes, every direction, by auto and by Winograd where it runs."""
    generator = random.Random(part)
    for _ in range(50):
        c = drawn_case(generator)
        x, w, b, g = operands(c, torch.float32, generator.choice(list(LAYOUTS)), scale, mean)
        for direction in DIRECTIONS:
            expected = exact(c, direction, x, w, b, g)
            for algorithm in ("auto", "winograd"):
                name, _ = chosen(c, direction, x, w, g, algorithm)
                if name:
                    error = relative_error(run(c, direction, x, w, b, g, name), expected)
                    assert error <= bound(name, torch.float32, direction), (c, direction, name, error)


@pytest.mark.parametrize("case", [c for c in CASES if min(c.flat_padding) >= 0], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_shape_dtype_and_memory_format_are_the_built_in_s(case: ConvCase, layout: str, weight_layout: str) -> None:
    symmetric = all(before == after for before, after in case.padding)
    x, w, b, _ = operands(case, torch.float32, layout)
    if case.dims > 1:
        w = w.contiguous(memory_format=layout_of(case, weight_layout))
    built_in = (F.conv1d, F.conv2d, F.conv3d)[case.dims - 1]
    ours = (TF.conv1d, TF.conv2d, TF.conv3d)[case.dims - 1]
    padding = tuple(before for before, _ in case.padding) if symmetric else case.padding
    y = ours(x, w, b, case.stride, padding, case.dilation, case.groups)
    if symmetric:
        expected = built_in(x, w, b, case.stride, padding, case.dilation, case.groups)
        assert y.dtype == expected.dtype
        assert y.stride() == expected.stride()
        name, _ = chosen(case, "forward", x, w, y)
        both = bound(name, torch.float32, "forward") + bound("direct", torch.float32, "forward")  # and the built-in's
        assert relative_error(y, expected.double()) <= both, name
    else:
        assert y.shape == case.output


@pytest.mark.parametrize("case", [c for c in CASES if c.input[0] > 0], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bitwise_for_any_number_of_threads(case: ConvCase, layout: str, threads) -> None:
    x, w, b, g = operands(case, torch.float32, layout)
    for direction in DIRECTIONS:
        threads(1)
        expected = run(case, direction, x, w, b, g)
        bias = ops.convolution_bias_grad(g)
        for count in (2, 3, 16):
            threads(count)
            assert torch.equal(run(case, direction, x, w, b, g), expected), (direction, count)
            assert torch.equal(ops.convolution_bias_grad(g), bias)


@pytest.mark.parametrize("algorithm", ops._algorithms())
def test_bits_by_name(algorithm: str, threads) -> None:
    """Whatever its cost says: on any number of threads, and of a sample alone. And some named shapes are its own."""
    ran = 0
    for c in (c for c in CASES[::2] if c.input[0] > 0):
        for layout in LAYOUTS if c.dims > 1 else ["contiguous"]:
            x, w, _, g = operands(c, torch.float32, layout)
            taken = [d for d in DIRECTIONS if chosen(c, d, x, w, g, algorithm)[0]]
            check_bits(c, torch.float32, layout, algorithm, threads, taken)
            ran += len(taken)
    assert ran >= 4


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("batch_invariant")
def test_a_sample_s_result_does_not_depend_on_its_batch(case: ConvCase, layout: str) -> None:
    batch = ConvCase(case.name, (7, *case.input[1:]), *list(vars(case).values())[2:])
    x, w, b, g = operands(batch, torch.float32, layout)
    for direction in ("forward", "input_grad"):
        together = run(batch, direction, x, w, b, g)
        for n in (0, 3, 6):
            alone = run(case, direction, x[n : n + 1], w, b, g[n : n + 1])
            assert torch.equal(alone[0], together[n]), direction


def test_depth_of_the_sum_does_not_grow_the_error() -> None:
    c = case("very_deep", (1, 2048, 3, 3), (4, 2048, 3, 3), padding=1)
    for layout in LAYOUTS:
        x, w, b, g = operands(c, torch.float32, layout, mean=1)
        assert relative_error(run(c, "forward", x, w, b, g), exact(c, "forward", x, w, b, g)) < 1e-6


# ---- worked numbers ----

PICTURE = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]).double()
CROSS = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).double()


@pytest.mark.parametrize("algorithm", ["auto", "reference", "gemm"])
def test_worked_picture(algorithm: str) -> None:
    x, w = PICTURE[None, None], CROSS[None, None]
    assert TF.conv2d(x, w, algorithm=algorithm)[0, 0].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    assert TF.conv2d(x, w, stride=2, algorithm=algorithm)[0, 0].tolist() == [[4, 4], [2, 4]]


def test_worked_sequence() -> None:
    x, w = torch.tensor([[1.0, 1, 1, 0, 0]]), torch.tensor([[[1.0, 0, 1]]])
    assert TF.conv1d(x, w).tolist() == [[2, 1, 1]]


def test_worked_count() -> None:
    """10 filters of 5×5 on 3×32×32, stride 1, padding 2: output 10×32×32, 760 parameters."""
    w, b = torch.randn(10, 3, 5, 5), torch.randn(10)
    assert TF.conv2d(torch.randn(3, 32, 32), w, b, padding=2).shape == (10, 32, 32)
    assert w.numel() + b.numel() == 760


@pytest.mark.parametrize(
    "filter",
    [
        [[1, 0, -1], [0, 0, 0], [-1, 0, 1]],
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
        [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    ],
)
def test_edge_filters_see_no_edge_on_a_flat_picture(filter: list) -> None:
    w = torch.tensor(filter).double()[None, None]
    assert not TF.conv2d(torch.full((1, 6, 6), 3.0).double(), w).any()


def test_two_convolutions_without_activation_are_one() -> None:
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    first, second = torch.randn(3, 2, 3, 3, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    both = TF.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=2).transpose(0, 1)
    torch.testing.assert_close(TF.conv2d(TF.conv2d(x, first), second), TF.conv2d(x, both))


def test_scanning_with_an_mlp() -> None:
    """A network of one K×K layer and 1×1 layers gives at each position what the MLP gives on that patch."""
    x, first, second = torch.randn(2, 7, 8).double(), torch.randn(5, 18).double(), torch.randn(3, 5).double()
    net = TF.conv2d(TF.conv2d(x, first.view(5, 2, 3, 3)).relu(), second[..., None, None])
    patches = F.unfold(x[None], 3)[0].T
    torch.testing.assert_close(net.flatten(1).T, (patches @ first.T).relu() @ second.T)


def test_receptive_field_of_a_stack() -> None:
    """L layers of K×K, stride 1, see 1 + L(K − 1) pixels a side: the support of one output's derivative."""
    layers, kernel = 3, 3
    x = torch.randn(1, 15, 15, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(layers):
        y = TF.conv2d(y, torch.rand(1, 1, kernel, kernel, dtype=torch.float64) + 1, padding=1)
    (grad,) = torch.autograd.grad(y[0, 7, 7], x)
    rows = grad[0].ne(0).any(1).nonzero().flatten()
    assert len(rows) == 1 + layers * (kernel - 1)
    assert rows.tolist() == list(range(4, 11))


# ---- special values and strange strides ----


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 4])
def test_nan_and_infinity_reach_what_they_reach_in_the_built_in(value: float, layout: str, groups: int) -> None:
    x = torch.randn(2, 4, 7, 7).contiguous(memory_format=LAYOUTS[layout])
    w, g = torch.randn(4, 4 // groups, 3, 3), torch.randn(2, 4, 7, 7)
    x[1, 2, 3, 6] = value
    ours, theirs = TF.conv2d(x, w, padding=1, groups=groups), F.conv2d(x, w, padding=1, groups=groups)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    assert torch.equal(ours.sign().nan_to_num(0), theirs.sign().nan_to_num(0))
    window = ([1, 1], [1, 1, 1, 1], [1, 1], groups, "auto")
    assert ops.convolution_weight_grad(g, x, w.shape, *window, torch.contiguous_format).isfinite().logical_not().any()
    g[0, 1, 0, 0] = value
    grad = ops.convolution_input_grad(g, w, x.shape, *window)
    reached = {(c, i, j) for _, c, i, j in grad.isfinite().logical_not().nonzero().tolist()}
    channels = range(4) if groups == 1 else [1]
    assert reached == {(c, i, j) for c in channels for i in (0, 1) for j in (0, 1)}


def test_denormals() -> None:
    tiny = torch.full((1, 1, 4, 4), 1e-40)
    assert torch.equal(TF.conv2d(tiny, torch.ones(1, 1, 1, 1)), tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_negative_zero(layout: str, dtype: torch.dtype) -> None:
    """By the definition a sum begins with the bias, so it is −0 where that and every product are; without, with +0.

    The latter is the built-in's sign too. Algorithms that add the bias at the end have +0 with it.
    """
    x = -torch.zeros(2, 4, 3, 3, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    bias = -torch.zeros(4, dtype=dtype)
    for groups in (1, 4):
        w = torch.ones(4, 4 // groups, 1, 1, dtype=dtype)
        ran = 0
        for algorithm in torch.ops.torchconv._algorithms():
            try:
                plain = TF.conv2d(x, w, groups=groups, algorithm=algorithm)
            except RuntimeError as error:
                assert f"'{algorithm}' cannot run" in str(error)  # noqa: PT017
                continue
            ran += 1
            assert torch.equal(plain, x)
            assert not plain.signbit().any()
            if algorithm == "reference":
                assert TF.conv2d(x, w, bias, groups=groups, algorithm=algorithm).signbit().all()
        assert ran >= 4
        assert not F.conv2d(x, w, groups=groups).signbit().any()


@pytest.mark.parametrize("groups", [1, 6])
def test_strange_strides(groups: int) -> None:
    w = torch.randn(6, 6 // groups, 3, 3)
    base = torch.randn(40, 12, 20, 30)
    inputs = {
        "transposed": torch.randn(9, 8, 6, 2).permute(3, 2, 1, 0),
        "every other": base[:2, ::2, ::2, ::3],
        "expanded": torch.randn(1, 6, 1, 9).expand(2, 6, 8, 9),
        "expanded channels": torch.randn(2, 1, 8, 9).expand(2, 6, 8, 9),
        "overlapping": torch.randn(400).as_strided((2, 6, 8, 9), (30, 7, 5, 1)),
        "huge": base[::39, ::2, :8, :9],
        "sliced channels-last": base.contiguous(memory_format=torch.channels_last)[:2, :6, 1:9, 2:11],
        "flipped weight order": torch.randn(2, 6, 8, 9).transpose(2, 3),
    }
    for name, x in inputs.items():
        ours = TF.conv2d(x, w, padding=1, groups=groups)
        expected = F.conv2d(x.contiguous(), w, padding=1, groups=groups)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, msg=name)
    x = inputs["transposed"]
    inside_out = w.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    for weight in (w.transpose(2, 3), w[:, :, :1].expand(-1, -1, 3, 3), inside_out):
        torch.testing.assert_close(
            TF.conv2d(x, weight, groups=groups), F.conv2d(x, weight, groups=groups), rtol=1e-5, atol=1e-5
        )
