"""Convolution under filter transforms: values, reductions, layouts, memory, the layers, bad input."""

import copy
import pickle
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from suite import examples
from transform_cases import OURS, SETS, by_definition, doubles, reduced

import torchconv
import torchconv.functional as TF
from torchconv import transforms as T
from torchconv.nn import TransformInvariantConv1d, TransformInvariantConv2d, TransformInvariantConv3d

LAYERS = {1: TransformInvariantConv1d, 2: TransformInvariantConv2d, 3: TransformInvariantConv3d}


CASES = {
    "2d": (SETS["square"], (2, 3, 7, 6), (4, 3, 3, 3), dict(padding=1)),
    "even": (SETS["eighths"], (2, 3, 7, 6), (4, 3, 4, 4), dict(padding=2)),
    "strided": (SETS["quarters"], (3, 3, 9, 8), (2, 3, 5, 5), dict(stride=2, padding=2)),
    "dilated": (SETS["scales"], (2, 2, 11, 10), (3, 2, 3, 3), dict(padding=2, dilation=2)),
    "grouped": (SETS["composed"], (2, 4, 8, 8), (6, 2, 3, 3), dict(padding=1, groups=2)),
    "depthwise": (SETS["eighths"], (2, 20, 6, 6), (20, 1, 3, 3), dict(padding=1, groups=20)),
    "many": (SETS["quarters"], (2, 33, 8, 9), (19, 33, 3, 3), dict(padding=1)),
    "1d": (SETS["flips"], (2, 3, 12), (5, 3, 4), dict(padding=1)),
    "3d": (SETS["cube"], (1, 2, 5, 5, 6), (3, 2, 3, 3, 3), dict(padding=1)),
    "planes of 3d": (SETS["eighths"], (1, 2, 4, 5, 6), (3, 2, 2, 3, 3), dict()),
    "empty batch": (SETS["quarters"], (0, 3, 7, 6), (4, 3, 3, 3), dict(padding=1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduce", [None, "max", "mean", "norm"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_is_the_definition(name, reduce, channels_last):
    transforms, size, weight_size, window = CASES[name]
    dims = len(size) - 2
    x, w, b = doubles(size, weight_size, weight_size[:1])
    if channels_last and dims > 1:
        format = torch.channels_last if dims == 2 else torch.channels_last_3d
        x = x.detach().contiguous(memory_format=format).requires_grad_()
    mine = OURS[dims](x, w, transforms, b, **window, reduce=reduce)
    theirs = by_definition(x, w, transforms, b, **window, reduce=reduce)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    if channels_last and dims > 1 and size[0]:
        assert mine.is_contiguous(memory_format=format)
    if size[0]:
        g = torch.randn_like(mine)
        for a, e in zip(
            torch.autograd.grad(mine, (x, w, b), g), torch.autograd.grad(theirs, (x, w, b), g), strict=True
        ):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduce", [None, "max", "mean", "norm"])
def test_narrower_types(dtype, reduce):
    transforms = T.rotations(8)
    x, w, b = torch.randn(3, 20, 9, 9), torch.randn(7, 20, 3, 3) / 12, torch.randn(7)
    operands = [t.to(dtype).requires_grad_() for t in (x, w, b)]
    exact = [t.detach().double().requires_grad_() for t in operands]
    mine = TF.transform_conv2d(operands[0], operands[1], transforms, operands[2], padding=1, reduce=reduce)
    theirs = by_definition(exact[0], exact[1], transforms, exact[2], padding=1, reduce=reduce)
    # Rounded are the copies, the maps and, for gradients, what comes down through them.
    bound = {torch.float32: 5e-6, torch.bfloat16: 1.5e-2}[dtype]
    assert (mine.double() - theirs).norm() <= bound * theirs.norm()
    if reduce == "max" and dtype == torch.bfloat16:
        return  # rounding decides between maps that are nearly equal
    g = torch.randn_like(mine)
    for a, e in zip(
        torch.autograd.grad(mine, operands, g), torch.autograd.grad(theirs, exact, g.double()), strict=True
    ):
        assert (a.double() - e).norm() <= 3 * bound * e.norm()


# ---- chunks ----


@pytest.fixture
def large():
    return torch.randn(5, 8, 96, 96), torch.randn(24, 8, 3, 3) / 8, torch.randn(24)  # 14 MB of float32 maps, by 8


@pytest.mark.parametrize("reduce", ["max", "norm"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_chunks_are_seamless_and_reproducible(large, reduce, channels_last, threads):
    x, w, b = (t.clone().requires_grad_() for t in large)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    transforms = T.rotations(8)

    def run(x):
        y = TF.transform_conv2d(x, w, transforms, b, padding=1, reduce=reduce)
        return y, *torch.autograd.grad(y, (x, w, b), torch.ones_like(y))

    threads(1)
    alone = run(x)
    threads(2)
    assert all(torch.equal(a, e) for a, e in zip(run(x), alone, strict=True))
    one = run(x[3:4].detach().requires_grad_())
    assert torch.equal(one[0], alone[0][3:4])
    assert torch.equal(one[1], alone[1][3:4])
    maps = TF.transform_conv2d(x, w, transforms, b, padding=1)
    expected = reduced(maps, 8, reduce)
    g = torch.autograd.grad(expected, (x, w, b), torch.ones_like(expected))
    for mine, theirs in zip(alone, (expected, *g), strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
    if reduce == "max":
        assert torch.equal(alone[0], expected)


# ---- memory ----


def peak(step):
    """Bytes allocated at the most while `step` runs, beside what there was, as the allocator reports them."""
    step()  # what is made once
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    at = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            at += event.nbytes()
            most = max(most, at)
    return most


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_maximum_takes_less_than_half_the_memory_of_all_maps(channels_last):
    """16 samples of 8 filters: 8 transforms of each would be 16 MB of float32 maps, and as much of their gradients."""
    x = torch.randn(16, 4, 64, 64).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    layer = TransformInvariantConv2d(4, 8, 3, T.rotations(8), padding=1, reduce="max")
    x.requires_grad_()

    def step(reduce):
        layer.reduce = reduce
        y = layer(x)
        y = y if reduce else y.unflatten(1, (8, 8)).amax(2)
        return torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))

    assert peak(lambda: step("max")) < peak(lambda: step(None)) / 2


def test_learnable_starts_as_the_fixed_layer():
    transforms = T.scales([1, 1.5]) * T.rotations(8)
    fixed = TransformInvariantConv2d(2, 3, 3, transforms, padding=1)
    learned = TransformInvariantConv2d(2, 3, 3, transforms, padding=1, learnable=True)
    assert [name for name, _ in learned.named_parameters()] == ["weight", "bias", "scales", "angles"]
    learned.load_state_dict({**learned.state_dict(), **fixed.state_dict()})
    x = torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(learned(x), fixed(x), rtol=1e-5, atol=1e-5)


def test_an_angle_is_learned():
    torch.manual_seed(1)
    x, w = torch.randn(8, 1, 12, 12), torch.randn(1, 1, 7, 7)
    target = TF.transform_conv2d(x, w, T.rotations(angles=[30]))
    layer = TransformInvariantConv2d(1, 1, 7, T.rotations(angles=[12]), bias=False, learnable=True)
    layer.load_state_dict({"weight": w, "angles": layer.angles.detach()})
    layer.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([layer.angles], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    assert abs(layer.angles.item() - torch.pi / 6) < 0.01


# ---- the layers ----


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2, "same", "valid"])
def test_identity_alone_is_the_plain_layer(dims, padding):
    layer = LAYERS[dims](3, 4, 4, T.scales([1], dims=dims), padding=padding, stride=2)
    plain = getattr(torchconv.nn, f"Conv{dims}d")(3, 4, 4, padding=padding, stride=layer.stride)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, *[9] * dims)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer(x[0]), plain(x[0]))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [1, "same", ((2, 0), (1, 1))])
def test_padding_keeps_the_plain_layer_s_size_where_supports_are_larger(mode, padding):
    layer = TransformInvariantConv2d(2, 3, 3, T.scales([1, 2]), padding=padding, padding_mode=mode, dilation=2)
    plain = torchconv.nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode, dilation=2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 13, 13)
    y, expected = layer(x), plain(x)
    assert y.shape == (2, 6, *expected.shape[2:])
    torch.testing.assert_close(y[:, ::2], expected, rtol=1e-4, atol=1e-5)  # scale 1: the filter itself


def test_equivariant_maps_and_invariant_reductions():
    x = torch.randint(-4, 5, (2, 3, 9, 9)).double()
    layer = TransformInvariantConv2d(3, 4, 4, T.rotations(4), padding=1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-4, 5, layer.weight.shape))
        layer.bias.copy_(torch.randint(-4, 5, layer.bias.shape))
    y, turned = (layer(t).unflatten(1, (4, 4)) for t in (x, x.rot90(1, (2, 3))))
    assert torch.equal(turned, y.rot90(1, (3, 4)).roll(1, 2))
    layer.reduce = "max"
    assert torch.equal(layer(x.rot90(1, (2, 3))), layer(x).rot90(1, (2, 3)))


def test_conversions_state_and_copies():
    layer = TransformInvariantConv2d(2, 3, 3, T.rotations(8), padding=1, reduce="max", algorithm="direct")
    assert list(layer.state_dict()) == ["weight", "bias"]
    x = torch.randn(1, 2, 6, 6)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    double = copy.deepcopy(layer).double()
    exact = T.rotations(8).filter_map(3).values
    assert torch.equal(double.filter_map().values, exact)
    assert torch.equal(layer.bfloat16().filter_map().values, exact.bfloat16())
    assert "rotate 45°" in repr(layer)
    assert "reduce='max', algorithm='direct'" in repr(layer)


def test_other_dtypes_and_autocast():
    x, w = torch.randn(2, 2, 6, 6), torch.randn(3, 2, 3, 3)
    for reduce in (None, "mean"):
        mine = TF.transform_conv2d(x.cfloat(), w.cfloat(), T.rotations(8), reduce=reduce)
        torch.testing.assert_close(mine.real, TF.transform_conv2d(x, w, T.rotations(8), reduce=reduce))
    for reduce in ("max", "norm"):
        mine = TF.transform_conv2d(x.half(), w.half(), T.rotations(4), reduce=reduce)
        torch.testing.assert_close(
            mine.float(), TF.transform_conv2d(x, w, T.rotations(4), reduce=reduce), rtol=1e-2, atol=2e-2
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TF.transform_conv2d(x, w, T.rotations(8), reduce="max").dtype == torch.bfloat16


# ---- anything that can be drawn ----


@st.composite
def sets(draw):
    kinds = [
        st.integers(1, 6).map(T.rotations),
        st.integers(1, 4).map(T.dihedral),
        st.lists(st.floats(0.4, 2), min_size=1, max_size=3).map(T.scales),
        st.lists(st.floats(-1, 1), min_size=1, max_size=2).map(T.shears),
        st.lists(st.floats(-400, 400), min_size=1, max_size=3).map(lambda angles: T.rotations(angles=angles)),
    ]
    first = draw(st.one_of(*kinds))
    return first * draw(st.one_of(*kinds)) if len(first) < 4 and draw(st.booleans()) else first


def check_any(transforms, kernel, stride, dilation, padding, groups, reduce, channels_last):
    torch.manual_seed(0)
    dims = len(kernel)
    w = torch.randn(2 * groups, 3, *kernel).double()
    x = torch.randn(2, 3 * groups, *(2 * side + 3 + axis for axis, side in enumerate(kernel))).double()
    if channels_last and dims > 1:
        x = x.contiguous(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    window = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    names = list(transforms)
    assume(len(set(names)) == len(names))  # correspondences go by name
    operands = [t.requires_grad_() for t in (x, w, torch.randn(2 * groups).double())]
    mine = OURS[dims](operands[0], operands[1], transforms, operands[2], **window, reduce=reduce)
    theirs = by_definition(operands[0], operands[1], transforms, operands[2], **window, reduce=reduce)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    if reduce == "max":
        return  # equal maps share the built-in's gradient
    for a, e in zip(
        torch.autograd.grad(mine.sin().sum(), operands), torch.autograd.grad(theirs.sin().sum(), operands), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@examples(60)
@given(
    sets(), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2),
    st.integers(1, 2), st.sampled_from([None, "max", "mean", "norm"]), st.booleans(),
)  # fmt: skip
def test_any(transforms, kernel, stride, dilation, padding, groups, reduce, channels_last):
    check_any(transforms, kernel, stride, dilation, padding, groups, reduce, channels_last)


@examples(60)
@given(
    st.sampled_from([1, 3]), st.data(), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2),
    st.integers(1, 2), st.sampled_from([None, "max", "mean", "norm"]), st.booleans(),
)  # fmt: skip
def test_any_in_one_and_three_dimensions(dims, data, stride, dilation, padding, groups, reduce, channels_last):
    scales = T.scales(data.draw(st.lists(st.floats(0.4, 2), min_size=1, max_size=2)), dims=dims)
    others = {1: [T.reflections(dims=1)], 3: [T.reflections("xz", dims=3), SETS["cube"]]}[dims]
    other = data.draw(st.sampled_from([T.scales([1], dims=dims), *others]))
    kernel = tuple(data.draw(st.integers(1, 6 if dims == 1 else 3)) for _ in range(dims))
    check_any(scales * other, kernel, stride, dilation, padding, groups, reduce, channels_last)


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: TF.transform_conv2d(x, w, T.rotations(4), reduce="sum"), "reduce must be one of .* got 'sum'"),
        (lambda x, w: TF.transform_conv1d(x, w, T.rotations(4)), r"expected a weight of 3 axes.*\[3, 2, 3, 3\]"),
        (lambda x, w: TF.transform_conv2d(x, w, T.rotations(4), torch.ones(12)), r"expects a bias of shape \[3\]"),
        (lambda x, w: TF.transform_conv2d(x[:, :1], w, T.rotations(4)), r"expects 2 input channels, got .*\[1, 1, 5"),
        (lambda x, w: TF.transform_conv2d(x[..., :2], w, T.rotations(4)), r"kernel .* is larger than the padded input"),
        (lambda x, w: TF.transform_filters(w, T.rotations(4).filter_map(5)), r"size \[5, 5\] got .*\[3, 2, 3, 3\]"),
        (lambda x, w: TF.transform_conv2d(x, w, T.rotations(4), groups=2), r"groups=2"),
    ],
)
def test_refused(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3))


def test_maps_that_are_none_are_refused():
    w, fmap = torch.randn(3, 2, 3, 3), T.rotations(4).filter_map(3)
    pointers, columns, values = fmap.pointers, fmap.columns, fmap.values.float()
    run = torch.ops.torchconv.transform_filters
    wrong = columns.clone()
    wrong[7] = 9
    for args, message in (
        ((pointers, wrong, values), "entry 7 reads tap 9 of a filter of 9"),
        ((pointers.flip(0), columns, values), "row pointers must rise from 0 to its 36 entries"),
        ((pointers[:-1], columns, values), "needs 9 rows a transform, got 35"),
        ((pointers, columns, values[1:]), "a map of 36 entries .* got Float of shape"),
        ((pointers.int(), columns, values), "vectors of int64, got Int"),
        ((pointers, columns, values.double()), "expects as many Float values, got Double"),
    ):
        with pytest.raises(RuntimeError, match=message):
            run(w, *args, [3, 3])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TransformInvariantConv2d(2, 3, 3, "p4"), TypeError, "must be a torchconv.transforms set, got 'p4'"),
        (lambda: TransformInvariantConv2d(2, 3, 3, T.rotations(4), reduce="sum"), ValueError, "got 'sum'"),
        (lambda: TransformInvariantConv1d(2, 3, 3, T.rotations(4)), ValueError, r"transforms in 2 dimensions .*\(3,\)"),
        (lambda: TransformInvariantConv2d(2, 3, 3, T.rotations(300)), ValueError, "at most 256 transforms, got 300"),
        (lambda: TransformInvariantConv2d(2, 3, 3, T.rotations(4), groups=2), ValueError, "out_channels"),
        (lambda: TransformInvariantConv2d(2, 3, 3, T.rotations(4), algorithm="fast"), ValueError, "'fast'"),
    ],
)
def test_layers_refuse(make, error, message):
    with pytest.raises(error, match=re.compile(message)):
        make()


@pytest.mark.parametrize("reduce", [None, "max", "mean"])
def test_explain_knows_the_convolution_that_it_is(reduce):
    transforms = T.scales([1, 1.5]) * T.rotations(4)
    layer = TransformInvariantConv2d(4, 6, 3, transforms, padding=1, stride=2, groups=2, reduce=reduce)
    maps = 6 if reduce == "mean" else 48
    plain = torchconv.nn.Conv2d(4, maps, 5, padding=2, stride=2, groups=2)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 9, 9).contiguous(memory_format=layout)
        for mine, theirs in zip(torchconv.explain(layer, x), torchconv.explain(plain, x), strict=True):
            assert mine.layer == "TransformInvariantConv2d"
            assert (mine.algorithm, mine.multiply_adds, mine.direction) == (
                theirs.algorithm,
                theirs.multiply_adds,
                theirs.direction,
            )


@pytest.mark.parametrize("reduce", [None, "max", "mean", "norm"])
def test_filters_that_do_not_divide_into_groups_are_refused(reduce):
    """Their copies may: four of each of nine filters are 36, and the 18 of a group would cut a filter's apart."""
    x, w = torch.randn(1, 8, 6, 6), torch.randn(9, 4, 3, 3)
    with pytest.raises(RuntimeError, match=r"has 9 filters, no multiple of groups=2"):
        TF.transform_conv2d(x, w, SETS["quarters"], groups=2, reduce=reduce)
