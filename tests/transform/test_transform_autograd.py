"""Derivatives of every order and mode of convolution under filter transforms; what traces it."""

from functools import partial

import pytest
import torch
from suite import first_quick, slow
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, vmap
from traced import check_compiled, check_vmap
from transform_cases import OURS, SETS, by_definition, doubles

import torchconv.autograd.reduced as reductions
import torchconv.autograd.transform as autograd
import torchconv.functional as TF
from torchconv import transforms as T
from torchconv.nn import TransformInvariantConv1d, TransformInvariantConv2d, TransformInvariantConv3d

EVERY_MODE = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


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


@pytest.mark.parametrize("layout", first_quick([torch.contiguous_format, torch.channels_last]))
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


@slow
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
    first_quick(
        [
            (T.reflections(dims=1), ((2, 2, 5), (3, 2, 3), (3,)), dict()),
            (T.rotations(3), ((2, 2, 3, 4), (2, 2, 3, 3), (2,)), dict(padding=1)),
            (T.scales([1, 1.4]), ((1, 4, 3, 3), (4, 2, 2, 2), (4,)), dict(stride=2, padding=1, groups=2)),
            (T.rotations(2), ((1, 1, 2, 3, 3), (2, 1, 2, 2, 2), (2,)), dict(padding=1)),
        ]
    ),
)
def test_gradcheck(transforms, sizes, window, reduce):
    operands = doubles(*sizes)
    conv = OURS[len(sizes[0]) - 2]
    function = lambda x, w, b: conv(x, w, transforms, b, **window, reduce=reduce)  # noqa: E731
    assert gradcheck(function, operands, **EVERY_MODE)
    assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("alone", [False, True])
def test_gradients_of_some_operands(asked, alone):
    """Asked of those alone, or where those alone require one."""
    operands = doubles((2, 2, 5, 5), (3, 2, 3, 3), (3,))
    for i, t in enumerate(operands):
        t.requires_grad_(i in asked or not alone)
    results = []
    for conv in (TF.transform_conv2d, by_definition):
        y = conv(operands[0], operands[1], T.rotations(8), operands[2], padding=1)
        results.append(torch.autograd.grad(y.sin().sum(), [operands[i] for i in asked]))
    torch.testing.assert_close(*results)


def test_a_layer_without_bias_and_learned_angles_alone():
    layer = TransformInvariantConv2d(2, 3, 3, T.rotations(3), bias=False, learnable=True).double()
    x = torch.randn(2, 2, 5, 5).double()
    g = torch.randn_like(layer(x))
    together = torch.autograd.grad(layer(x), list(layer.parameters()), g)
    names = [name for name, _ in layer.named_parameters()]
    apart = grad(lambda p: (functional_call(layer, p, (x,)) * g).sum())(dict(layer.named_parameters()))
    torch.testing.assert_close(together, tuple(apart[name] for name in names))
    layer.weight.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(layer(x), layer.angles, g)[0], apart["angles"])


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


@pytest.mark.parametrize("reduce", [None, "max", "norm"])
def test_vmap_over_any_operands(reduce):
    operands = doubles((2, 4, 5, 5), (6, 2, 3, 3), (6,))
    check_vmap(lambda x, w, b: TF.transform_conv2d(x, w, T.rotations(4), b, groups=2, reduce=reduce), operands)


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


# ---- learnable transforms ----


@pytest.mark.parametrize(
    "transforms",
    [T.rotations(angles=[10, 75]), T.scales([0.8, 1.3]), T.shears([0.3]), T.matrices([[[1.1, 0.2], [0.3, 0.9]]])],
    ids=["angles", "scales", "shears", "matrices"],
)
@pytest.mark.parametrize("reduce", first_quick([None, "norm"]))
def test_gradient_to_the_transforms(transforms, reduce):
    layer = TransformInvariantConv2d(2, 2, 3, transforms, padding=1, reduce=reduce, learnable=True).double()
    parameters = [p for _, p in layer.named_parameters()]
    x = torch.randn(1, 2, 4, 4).double()
    names = [name for name, _ in layer.named_parameters()]
    function = lambda *values: functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
    assert gradcheck(function, parameters, check_forward_ad=True)
    assert gradgradcheck(function, parameters)


# ---- tracing ----


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
    first_quick(
        [("aot_eager", True, True), ("inductor", False, True), ("aot_eager", False, False), ("aot_eager", True, False)]
    ),
)
def test_compile(backend, dynamic, learnable):
    net = Net(learnable)
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=dynamic)
    for size in [(2, 3, 12, 13), (3, 3, 10, 9)] if dynamic else [(2, 3, 12, 13)]:
        check_compiled(compiled, net, torch.randn(size), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("reduce", [None, "max", "mean", "norm"])
@pytest.mark.parametrize("dims", first_quick([1, 3]))
def test_layers_of_one_and_three_dimensions_are_traced_and_mapped(dims, reduce):
    kind = {1: TransformInvariantConv1d, 3: TransformInvariantConv3d}[dims]
    transforms = T.scales([1, 1.5], dims=dims) * T.reflections(dims=dims)
    layer = kind(2, 3, 3, transforms, padding=1, reduce=reduce, learnable=reduce != "max").double()
    x = torch.randn(3, 2, 2, *[5] * dims).double().requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    operands = (x, *layer.parameters())
    results = [torch.autograd.grad(f(x[0]).sin().sum(), operands) for f in (compiled, layer)]
    torch.testing.assert_close(*results)
    program = torch.export.export(layer, (x[0],), dynamic_shapes={"input": {0: torch.export.Dim("batch", min=2)}})
    torch.testing.assert_close(program.module()(x.flatten(0, 1)), layer(x.flatten(0, 1)))
    torch.testing.assert_close(vmap(layer)(x), torch.stack([layer(one) for one in x]))
    many = {name: torch.stack([p, 1.1 * p]).detach() for name, p in layer.named_parameters()}
    together = vmap(lambda p: functional_call(layer, p, (x[0],)))(many)
    for i in range(2):
        alone = functional_call(layer, {name: p[i] for name, p in many.items()}, (x[0],))
        torch.testing.assert_close(together[i], alone)


def test_ensembles_by_functional_call():
    net = Net(learnable=True).double()
    stacked = {name: torch.stack([p, 1.1 * p]).detach() for name, p in net.named_parameters()}
    x = torch.randn(2, 3, 8, 8).double()
    together = vmap(lambda params: functional_call(net, params, (x,)))(stacked)
    for i in range(2):
        torch.testing.assert_close(together[i], functional_call(net, {k: p[i] for k, p in stacked.items()}, (x,)))
