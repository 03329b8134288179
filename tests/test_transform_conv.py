"""Convolution under filter transforms: values, reductions, derivatives of every order and mode, layouts, bad input."""

import copy
import pickle
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

import torchconv
import torchconv.autograd.reduced as reductions
import torchconv.autograd.transform as autograd
import torchconv.functional as TF
from torchconv import transforms as T
from torchconv.nn import TransformInvariantConv1d, TransformInvariantConv2d, TransformInvariantConv3d

F = torch.nn.functional
BUILT_IN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
OURS = {1: TF.transform_conv1d, 2: TF.transform_conv2d, 3: TF.transform_conv3d}
LAYERS = {1: TransformInvariantConv1d, 2: TransformInvariantConv2d, 3: TransformInvariantConv3d}
EVERY_MODE = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
SETS = {
    "quarters": T.rotations(4),
    "eighths": T.rotations(8),
    "square": T.dihedral(4),
    "scales": T.scales([0.7, 1, 1.6]),
    "composed": T.shears([0, 0.4]) * T.rotations(3),
    "flips": T.reflections(dims=1) * T.scales([1, 2], dims=1),
    "cube": T.matrices([torch.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]]),
}


def doubles(*sizes):
    return [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]


def dense(weight, transforms):
    """[D·T, C, *] by the definition: each tap from the correspondences."""
    names, support = list(transforms), transforms.support(weight.shape[2:])
    out = weight.new_zeros(len(weight), len(names), weight.shape[1], *support)
    for c in transforms.correspondences(tuple(weight.shape[2:])):
        here = (slice(None), names.index(c.transform), slice(None), *c.point)
        out[here] += c.weight * weight[(slice(None), slice(None), *c.source)]
    return out.flatten(0, 1)


def reduced(maps, count, reduce):
    if reduce is None:
        return maps
    maps = maps.unflatten(1, (-1, count))
    return {"max": maps.amax(2), "mean": maps.mean(2), "norm": torch.linalg.vector_norm(maps, dim=2)}[reduce]


def by_definition(x, weight, transforms, bias, stride=1, padding=0, dilation=1, groups=1, reduce=None):
    """The built-in convolution with the dense copies, all maps at once."""
    dims = weight.dim() - 2
    copies = dense(weight, transforms)
    pad = [padding + dilation * (s - k) // 2 for s, k in zip(copies.shape[2:], weight.shape[2:], strict=True)]
    every = None if bias is None else bias.repeat_interleave(len(transforms))
    maps = BUILT_IN[dims](x, copies, every, stride, pad, dilation, groups)
    return reduced(maps, len(transforms), reduce)


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


# ---- the sparse map's operators ----


THIRDS = T.rotations(3)


def map_operands(transforms=THIRDS, kernel=(3, 2)):
    fmap = transforms.filter_map(kernel)
    w, g = doubles((2, 2, *kernel), (2 * len(transforms), 2, *fmap.support))
    return fmap, w, g, fmap.values.clone().requires_grad_()


def test_gradcheck_of_the_map():
    fmap, w, g, v = map_operands()
    pointers, columns = fmap.pointers, fmap.columns
    functions = {
        (w, v): lambda w, v: autograd.transform_filters(w, pointers, columns, v, fmap.support),
        (g, v): lambda g, v: autograd.transform_filters_transpose(g, pointers, columns, v, fmap.kernel_size),
        (g, w): lambda g, w: autograd.transform_values_grad(g, w, pointers, columns),
    }
    for operands, function in functions.items():
        assert gradcheck(function, operands, **EVERY_MODE)
        assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_batched_grad=True)


def test_transpose_is_the_transpose():
    fmap, w, g, v = map_operands(SETS["eighths"], (4, 4))
    out = autograd.transform_filters(w, fmap.pointers, fmap.columns, v, fmap.support)
    back = autograd.transform_filters_transpose(g, fmap.pointers, fmap.columns, v, fmap.kernel_size)
    of_values = autograd.transform_values_grad(g, w, fmap.pointers, fmap.columns)
    torch.testing.assert_close((out * g).sum(), (back * w).sum())
    torch.testing.assert_close((out * g).sum(), (of_values * v).sum())


def test_opcheck():
    fmap, w, g, v = map_operands()
    ops, rows = torch.ops.torchconv, (fmap.pointers, fmap.columns)
    torch.library.opcheck(ops.transform_filters.default, (w, *rows, v, list(fmap.support)))
    torch.library.opcheck(ops.transform_filters_transpose.default, (g, *rows, v, list(fmap.kernel_size)))
    torch.library.opcheck(ops.transform_values_grad.default, (g, w, *rows))


def conv_operands():
    """input, weight of 3 transforms of 4 filters in 2 groups, bias, winners, gradient, window."""
    x, w, b, g = doubles((2, 4, 3, 3), (12, 2, 3, 3), (4,), (2, 4, 2, 2))
    return x, w, b, torch.randint(3, g.shape, dtype=torch.uint8), g, ([2, 2], [1, 1, 1, 1], [1, 1], 2, "auto")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck_reduced(layout):
    x, w, b, winners, g, window = conv_operands()
    ops = torch.ops.torchconv
    x, g, winners = (t.detach().contiguous(memory_format=layout) for t in (x, g, winners))
    x.requires_grad_(), g.requires_grad_()
    torch.library.opcheck(ops.convolution_max.default, (x, w, b, 3, *window))
    torch.library.opcheck(ops.convolution_norm.default, (x, w, b, 3, *window))
    torch.library.opcheck(ops.convolution_select.default, (x, w, winners, *window))
    torch.library.opcheck(ops.convolution_select_input_grad.default, (g, winners, w, list(x.shape), *window))
    torch.library.opcheck(ops.convolution_select_weight_grad.default, (g, winners, x, list(w.shape), *window))
    plain = [t.detach() for t in (g, ops.convolution_norm(x, w, b, 3, *window), x, w, b)]
    for asked in ((True, True, True), (False, True, False)):
        torch.library.opcheck(ops.convolution_norm_grad.default, (*plain, *asked, *window))


def test_gradcheck_of_the_selection():
    x, w, _, winners, g, window = conv_operands()
    functions = {
        (x, w): lambda x, w: reductions.convolution_select(x, w, winners, *window),
        (g, w): lambda g, w: reductions.convolution_select_input_grad(g, winners, w, x.shape, *window),
        (g, x): lambda g, x: reductions.convolution_select_weight_grad(g, winners, x, w.shape, *window),
    }
    for operands, function in functions.items():
        assert gradcheck(function, operands, **EVERY_MODE)
        assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("reduce", [None, "max", "mean", "norm"])
@pytest.mark.parametrize(
    ("transforms", "sizes", "window"),
    [
        (T.rotations(3), ((2, 2, 3, 4), (2, 2, 3, 3), (2,)), dict(padding=1)),
        (T.scales([1, 1.4]), ((1, 4, 3, 3), (4, 2, 2, 2), (4,)), dict(stride=2, padding=1, groups=2)),
        (T.reflections(dims=1), ((2, 2, 5), (3, 2, 3), (3,)), dict()),
        (T.rotations(2), ((1, 1, 2, 3, 3), (2, 1, 2, 2, 2), (2,)), dict(padding=1)),
    ],
)
def test_gradcheck(transforms, sizes, window, reduce):
    operands = doubles(*sizes)
    conv = OURS[len(sizes[0]) - 2]
    function = lambda x, w, b: conv(x, w, transforms, b, **window, reduce=reduce)  # noqa: E731
    assert gradcheck(function, operands, **EVERY_MODE)
    assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_batched_grad=True)


def test_gradient_of_the_norm_at_zero_is_zero():
    x, w = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    for create_graph in (False, True):
        y = TF.transform_conv2d(x, w, T.rotations(4), reduce="norm")
        for g in torch.autograd.grad(y.sum(), (x, w), create_graph=create_graph):
            assert torch.equal(g, torch.zeros_like(g))


def test_ties_go_to_the_first_and_nan_wins():
    winners = torch.ops.torchconv.convolution_max(
        torch.ones(1, 1, 2, 2), torch.ones(6, 1, 1, 1), None, 3, [1, 1], [0] * 4, [1, 1], 1, "auto"
    )[1]
    assert torch.equal(winners, torch.zeros(1, 2, 2, 2, dtype=torch.uint8))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 2, 3, 70).contiguous(memory_format=layout)
        w = torch.randn(4, 2, 1, 1)
        w[1] = w[3] = float("nan")
        y, which = torch.ops.torchconv.convolution_max(x, w, None, 4, [1, 1], [0] * 4, [1, 1], 1, "auto")
        assert y.isnan().all()
        assert (which == 1).all()


@pytest.mark.parametrize("batched", ["x", "w", "b", "xw", "xb", "wb", "xwb"])
@pytest.mark.parametrize("reduce", [None, "max", "norm"])
def test_vmap_over_any_operands(batched, reduce):
    sizes = {"x": (2, 4, 5, 5), "w": (6, 2, 3, 3), "b": (6,)}
    operands = [torch.randn((3, *size) if name in batched else size).double() for name, size in sizes.items()]
    in_dims = tuple(0 if name in batched else None for name in sizes)
    conv = lambda x, w, b: TF.transform_conv2d(x, w, T.rotations(4), b, groups=2, reduce=reduce)  # noqa: E731
    apart = torch.stack(
        [conv(*(t[i] if name in batched else t for name, t in zip(sizes, operands, strict=True))) for i in range(3)]
    )
    torch.testing.assert_close(vmap(conv, in_dims)(*operands), apart)


def test_func_transforms_agree_with_the_definition():
    x, w, b = (t.detach() for t in doubles((2, 2, 4, 4), (2, 2, 3, 3), (2,)))
    for reduce in (None, "max", "norm"):
        results = []
        for conv in (TF.transform_conv2d, by_definition):
            call = partial(conv, transforms=T.rotations(3), bias=b, padding=1, reduce=reduce)
            loss = lambda w, x, call=call: call(x[None], w).sin().sum()  # noqa: E731
            of_input = lambda x, call=call: call(x, w)  # noqa: E731
            each = (
                [vmap(grad(loss), (None, 0))(w, x)]
                if conv is TF.transform_conv2d
                else [torch.stack([grad(loss)(w, row) for row in x])]
            )
            results.append([jacrev(of_input)(x), jacfwd(of_input)(x), *each])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)


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


# ---- learnable transforms ----


@pytest.mark.parametrize(
    "transforms",
    [T.rotations(angles=[10, 75]), T.scales([0.8, 1.3]), T.shears([0.3]), T.matrices([[[1.1, 0.2], [0.3, 0.9]]])],
    ids=["angles", "scales", "shears", "matrices"],
)
@pytest.mark.parametrize("reduce", [None, "norm"])
def test_gradient_to_the_transforms(transforms, reduce):
    layer = TransformInvariantConv2d(2, 2, 3, transforms, padding=1, reduce=reduce, learnable=True).double()
    parameters = [p for _, p in layer.named_parameters()]
    x = torch.randn(1, 2, 4, 4).double()
    names = [name for name, _ in layer.named_parameters()]
    function = lambda *values: functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
    assert gradcheck(function, parameters, check_forward_ad=True)
    assert gradgradcheck(function, parameters)


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
    assert torch.equal(double.values, exact)
    assert torch.equal(layer.bfloat16().values, exact.bfloat16())
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


class Net(torch.nn.Module):
    def __init__(self, learnable=False):
        super().__init__()
        self.layers = torch.nn.Sequential(
            TransformInvariantConv2d(3, 4, 3, T.rotations(8), padding=1, reduce="max"),
            torch.nn.Tanh(),
            TransformInvariantConv2d(4, 4, 3, T.dihedral(4), reduce="norm", learnable=learnable, groups=2),
            TransformInvariantConv2d(4, 2, 2, T.scales([1, 1.5]), stride=2, reduce="mean"),
            TransformInvariantConv2d(2, 2, 3, T.rotations(4), padding="same"),
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("backend", "dynamic", "learnable"),
    [("inductor", False, True), ("aot_eager", False, False), ("aot_eager", True, False), ("aot_eager", True, True)],
)
def test_compile(backend, dynamic, learnable):
    net = Net(learnable)
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=dynamic)
    for size in [(2, 3, 12, 13), (3, 3, 10, 9)] if dynamic else [(2, 3, 12, 13)]:
        x = torch.randn(size, requires_grad=True)
        y, expected = compiled(x), net(x)
        torch.testing.assert_close(y, expected)
        operands, g = (x, *net.parameters()), torch.randn_like(y)
        for mine, theirs in zip(
            torch.autograd.grad(y, operands, g), torch.autograd.grad(expected, operands, g), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    net, x = Net(), torch.randn(2, 3, 12, 13)
    batch = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(net, (x,), dynamic_shapes=batch, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("torchconv.transform_filters.default") == 4
    assert (
        targets.count("torchconv.convolution_max.default") == targets.count("torchconv.convolution_norm.default") == 1
    )
    x = torch.randn(5, 3, 12, 13)
    torch.testing.assert_close(program.module()(x), net(x))


def test_ensembles_by_functional_call():
    net = Net(learnable=True).double()
    stacked = {name: torch.stack([p, 1.1 * p]).detach() for name, p in net.named_parameters()}
    x = torch.randn(2, 3, 8, 8).double()
    together = vmap(lambda params: functional_call(net, params, (x,)))(stacked)
    for i in range(2):
        torch.testing.assert_close(together[i], functional_call(net, {k: p[i] for k, p in stacked.items()}, (x,)))


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


@settings(max_examples=60)
@given(
    sets(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2),
    st.integers(1, 2), st.sampled_from([None, "max", "mean", "norm"]), st.booleans(),
)  # fmt: skip
def test_any(transforms, height, width, stride, dilation, padding, groups, reduce, channels_last):
    torch.manual_seed(0)
    w = torch.randn(2 * groups, 3, height, width).double()
    x = torch.randn(2, 3 * groups, 2 * height + 3, 2 * width + 4).double()
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    window = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    names = list(transforms)
    if len(set(names)) < len(names):
        return  # correspondences go by name
    operands = [t.requires_grad_() for t in (x, w, torch.randn(2 * groups).double())]
    mine = TF.transform_conv2d(operands[0], operands[1], transforms, operands[2], **window, reduce=reduce)
    theirs = by_definition(operands[0], operands[1], transforms, operands[2], **window, reduce=reduce)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    if reduce == "max":
        return  # equal maps share the built-in's gradient
    for a, e in zip(
        torch.autograd.grad(mine.sin().sum(), operands), torch.autograd.grad(theirs.sin().sum(), operands), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


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
