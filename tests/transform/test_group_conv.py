"""Group-equivariant layers: equivariance exact for p4 and p4m, values by the definition, derivatives, bad input."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from suite import examples
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap

import torchconv
from torchconv import transforms as T
from torchconv.nn import AvgPool2d, GroupBatchNorm2d, GroupConv2d, GroupPool2d, MaxPool2d, TransformInvariantConv2d
from torchconv.testing import act, check_equivariance

GROUPS = ["p4", "p4m"]


def network(group, kernel=3, padding=1, **options):
    return nn.Sequential(
        GroupConv2d(2, 3, kernel, group, lifting=True, padding=padding, **options),
        GroupBatchNorm2d(3, group),
        nn.ReLU(),
        GroupConv2d(3, 4, kernel, group, padding=padding, **options),
        nn.ReLU(),
        GroupConv2d(4, 2, kernel, group, padding=padding, **options),
    )


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_equivariance_is_exact(group, kernel, padding):
    net = network(group, kernel, padding)
    net[1] = nn.Identity()  # statistics are no integers
    for size in (14, 15):
        assert check_equivariance(net, group, size=size, integers=True) == 0
        assert check_equivariance(net[0], group, size=size, integers=True) == 0


@pytest.mark.parametrize("group", GROUPS)
def test_equivariance_of_networks(group):
    net = network(group)
    net.train()(torch.randn(8, 2, 9, 9))  # moves the statistics
    assert check_equivariance(net, group) < 1e-5
    for reduce in ("max", "mean", "norm"):
        whole = nn.Sequential(*net, GroupPool2d(group, reduce), MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert check_equivariance(whole, group, size=8) < 1e-6
        assert check_equivariance(whole[:7], group, size=9) < 1e-5


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_modes_keep_it(mode):
    assert check_equivariance(network("p4m", padding_mode=mode)[3:4], "p4m", integers=True) == 0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "kept"),
    [(9, 3, 2, 1, True), (8, 3, 2, 1, False), (9, 3, 3, 0, True), (10, 3, 3, 0, False), (8, 4, 2, 1, True)],
)
def test_strides_keep_it_where_the_positions_are_symmetric(size, kernel, stride, padding, kept):
    layer = GroupConv2d(2, 3, kernel, "p4", lifting=True, stride=stride, padding=padding)
    assert (check_equivariance(layer, "p4", size=size, integers=True) == 0) == kept


def test_finer_rotations_hold_up_to_the_interpolation():
    group = T.rotations(8)
    x = torch.nn.functional.interpolate(torch.randn(1, 2, 5, 5), size=33, mode="bicubic")  # smooth
    layer = GroupConv2d(2, 3, 5, group, lifting=True, padding=2)
    with torch.no_grad():  # smooth filters too
        layer.weight.copy_(torch.nn.functional.interpolate(torch.randn(3, 2, 2, 2), size=5, mode="bilinear"))
        layer.weight *= torch.exp(-(torch.arange(5) - 2).square() / 2)[:, None]
        layer.weight *= torch.exp(-(torch.arange(5) - 2).square() / 2)
    plain = nn.Sequential(torchconv.nn.Conv2d(2, 24, 5, padding=2))
    with torch.no_grad():
        plain[0].weight.copy_(layer.weight.repeat_interleave(8, 0))
    size = layer(x).abs().max()
    assert check_equivariance(layer, group, x) < 0.15 * size
    assert check_equivariance(plain, group, x, output_field="regular") > 0.3 * size
    assert check_equivariance(layer, T.rotations(4), x, output_field="trivial") > 0  # the maps do move


def test_other_layers_are_measured():
    assert check_equivariance(torchconv.nn.Conv2d(2, 3, 3), "p4", integers=True) > 1
    assert check_equivariance(torchconv.nn.Conv2d(2, 3, 1), "p4m", integers=True) == 0
    assert check_equivariance(AvgPool2d(2), "p4m", torch.randn(1, 2, 6, 6)) < 1e-6
    layer = TransformInvariantConv2d(2, 3, 3, T.dihedral(4), padding=1)
    assert check_equivariance(layer, "p4m", integers=True) == 0
    for reduce in ("max", "mean", "norm"):
        layer = TransformInvariantConv2d(2, 3, 3, T.dihedral(4), padding=1, reduce=reduce)
        assert check_equivariance(layer, "p4m") < 1e-5
        before = copy.deepcopy(layer.state_dict())
        check_equivariance(layer, "p4m", integers=True)
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def by_definition(layer, x):
    """y[o, g] = bias[o] + Σ_{c, h} x[c, h] ⋆ (T_g w[o, c, g⁻¹h]), element by element; c the channels of o's block."""
    group, order = layer.group, len(layer.group)
    inverses, products = group.inverses(), group.products()
    ins, outs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    out = []
    for o in range(layer.out_channels):
        for g in range(order):
            total = 0
            for c in range(ins):
                sources = [None] if layer.lifting else range(order)
                for h in sources:
                    w = layer.weight[o, c] if h is None else layer.weight[o, c * order + products[inverses[g]][h]]
                    turned = torchconv.functional.transform_filters(w[None, None], T.matrices([group.matrices[g]]))
                    source = o // outs * ins + c
                    plane = x[:, [source if h is None else source * order + h]]
                    total = total + F.conv2d(plane, turned, None, layer.stride, layer.padding, layer.dilation)
            out.append(total + layer.bias[o])
    return torch.cat(out, 1)


def test_plain_maps_given_to_a_layer_of_the_group():
    with pytest.raises(RuntimeError, match=r"expected 3 channels of 4 maps each.* 3 plain maps: .*lifting=True"):
        GroupConv2d(3, 2, 3)(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("group", ["p4", "p4m", T.rotations(3)], ids=["p4", "p4m", "thirds"])
@pytest.mark.parametrize("lifting", [True, False])
def test_is_the_definition(group, lifting):
    layer = GroupConv2d(2, 2, 3, group, lifting=lifting, padding=1).double()
    x = torch.randn(2, 2 if lifting else 2 * len(layer.group), 5, 5).double().requires_grad_()
    mine, theirs = layer(x), by_definition(layer, x)
    torch.testing.assert_close(mine, theirs)
    operands, g = (x, *layer.parameters()), torch.randn_like(mine)
    for a, e in zip(torch.autograd.grad(mine, operands, g), torch.autograd.grad(theirs, operands, g), strict=True):
        torch.testing.assert_close(a, e)
    torch.testing.assert_close(layer(x[0]), mine[0])


@pytest.mark.parametrize("lifting", [True, False])
def test_vmap_over_inputs_and_parameters(lifting):
    layer = GroupConv2d(2, 3, 3, "p4", lifting=lifting, padding=1).double()
    x = torch.randn(3, 2, 2 if lifting else 8, 5, 5).double()
    torch.testing.assert_close(vmap(layer)(x), torch.stack([layer(one) for one in x]))
    many = {name: torch.stack([p, 1.5 * p, -p]).detach() for name, p in layer.named_parameters()}
    together = vmap(lambda p, one: functional_call(layer, p, (one,)))(many, x)
    for i in range(3):
        one = functional_call(layer, {name: p[i] for name, p in many.items()}, (x[i],))
        torch.testing.assert_close(together[i], one)


@pytest.mark.parametrize("lifting", [True, False])
def test_gradcheck(lifting):
    layer = GroupConv2d(2, 2, 2, "p4", groups=2, lifting=lifting).double()
    names = [name for name, _ in layer.named_parameters()]
    function = lambda x, *values: functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
    x = torch.randn(1, 2 if lifting else 8, 3, 3, dtype=torch.float64, requires_grad=True)
    operands = (x, *(p for _, p in layer.named_parameters()))
    assert gradcheck(function, operands, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, operands)


def agree(mine, theirs, operands):
    """In values and in gradients, which are sums of the same products in another order."""
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    g = torch.randn_like(mine)
    for a, e in zip(torch.autograd.grad(mine, operands, g), torch.autograd.grad(theirs, operands, g), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


@examples(40)
@given(
    st.sampled_from([*GROUPS, T.dihedral(2), T.rotations(3), T.reflections()]),
    st.booleans(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2),
    st.integers(1, 2), st.integers(7, 9), st.integers(7, 9),
)  # fmt: skip
def test_any_is_the_definition(group, lifting, kernel, stride, padding, dilation, groups, maps, height, width):
    layer = GroupConv2d(
        groups, maps * groups, kernel, group, stride, padding, dilation, groups, lifting=lifting, dtype=torch.float64
    )
    channels = groups * (1 if lifting else len(layer.group))
    x = torch.randn(2, channels, height, width, dtype=torch.float64, requires_grad=True)
    agree(layer(x), by_definition(layer, x), (x, *layer.parameters()))


def pooled_by_definition(x, order, reduce):
    """Channel by channel, its elements one after the other."""
    out = []
    for c in range(x.shape[1] // order):
        elements = [x[:, c * order + g] for g in range(order)]
        if reduce == "max":
            best = elements[0]
            for other in elements[1:]:
                best = torch.where(other > best, other, best)
        else:
            best = sum(elements) / order if reduce == "mean" else sum(e.square() for e in elements).sqrt()
        out.append(best)
    return torch.stack(out, 1)


@examples(40)
@given(
    st.sampled_from([*GROUPS, T.dihedral(2), T.rotations(2), T.rotations(3), T.reflections()]),
    st.sampled_from(["max", "mean", "norm"]), st.integers(0, 3), st.integers(1, 3), st.integers(1, 6), st.booleans(),
)  # fmt: skip
def test_any_pooling(group, reduce, batch, channels, side, last):
    pool = GroupPool2d(group, reduce)
    x = torch.randn(batch, channels * pool.order, side, side, dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    agree(pool(x), pooled_by_definition(x, pool.order, reduce), x)
    if batch and pool.order != 3:  # a third of a turn interpolates
        assert check_equivariance(pool, group, x) < 1e-14
        torch.testing.assert_close(pool(x[0]), pool(x)[0])


@examples(40)
@given(
    st.sampled_from([*GROUPS, T.dihedral(2), T.rotations(2), T.reflections()]),
    st.booleans(), st.integers(1, 5), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 3),
    st.integers(9, 12), st.sampled_from([torch.contiguous_format, torch.channels_last]),
)  # fmt: skip
def test_any(group, lifting, kernel, padding, dilation, groups, maps, size, layout):
    torch.manual_seed(0)
    layer = GroupConv2d(
        2 * groups, maps * groups, kernel, group, padding=padding, dilation=dilation, groups=groups, lifting=lifting
    )
    channels = 2 * groups * (1 if lifting else len(layer.group))
    x = torch.randn(2, channels, size, size).contiguous(memory_format=layout)
    assert check_equivariance(layer, group, x, integers=True) == 0


@pytest.mark.parametrize("make", [*(lambda r=r: GroupPool2d("p4", r) for r in ("max", "mean", "norm")),
                                  lambda: GroupBatchNorm2d(2, "p4"), lambda: GroupBatchNorm2d(2, "p4").eval()],
                         ids=["max", "mean", "norm", "batch_norm", "batch_norm_eval"])  # fmt: skip
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_derivatives_of_layers_on_regular_maps(make, layout):
    layer = make().double()
    x = torch.randn(3, 8, 2, 3, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    assert gradcheck(layer, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(layer, x)
    layer.eval()  # in training statistics would change in place, which vmap refuses
    many = torch.stack([x.detach(), 2 * x.detach()])
    many = many.movedim(2, 4).contiguous().movedim(4, 2) if layout == torch.channels_last else many
    torch.testing.assert_close(vmap(layer)(many), torch.stack([layer(one) for one in many]))


def test_batch_norms_are_exchanged_for_synchronised_ones_and_old_states_load():
    layer, x = GroupBatchNorm2d(3, "p4"), torch.randn(2, 12, 4, 5)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(GroupBatchNorm2d(3, "p4")))
    assert isinstance(synchronised[0].norm, nn.SyncBatchNorm)
    torch.testing.assert_close(synchronised(x), layer(x))
    before = {f"0.{name.removeprefix('norm.')}": t for name, t in layer.state_dict().items()}
    loaded = nn.Sequential(GroupBatchNorm2d(3, "p4"))
    loaded.load_state_dict(before)
    assert torch.equal(loaded.eval()(x), layer.eval()(x))


def test_compile_export_and_copies():
    net, x = nn.Sequential(*network("p4m"), GroupPool2d("p4m", "norm")).eval(), torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x))
    batch = {"input": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(net, (x,), dynamic_shapes=batch)
    x = torch.randn(5, 2, 7, 7)
    torch.testing.assert_close(program.module()(x), net(x))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
    layer = GroupConv2d(2, 3, 3, T.rotations(8), lifting=True)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert torch.equal(layer.double().filter_map().values, T.rotations(8).filter_map(3).values)
    assert "rotate 45°" in repr(layer)
    assert repr(network("p4")[3]) == "GroupConv2d(3, 4, kernel_size=(3, 3), group='p4', padding=1)"


def test_channels_last_models():
    net, x = network("p4m").eval(), torch.randn(2, 2, 7, 7)
    expected = net(x)
    net.to(memory_format=torch.channels_last)
    y = net(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


def test_other_dtypes():
    layer = GroupConv2d(2, 3, 3, "p4m")
    x = torch.randn(1, 16, 6, 6)
    expected = layer(x)
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(layer.half()(x.half()).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupConv2d(2, 3, 3, "p6"), "group must be one of p4, p4m or a TransformSet, got 'p6'"),
        (lambda: GroupConv2d(2, 3, 3, 4), "got 4"),
        (lambda: GroupConv2d(2, 3, 3, T.rotations(angles=[0, 90])), "is no group"),
        (lambda: GroupConv2d(2, 3, 3, groups=2), "groups=2 must divide in_channels=2 and out_channels=3"),
        (lambda: GroupConv2d(2, 3, 3, algorithm="fast"), "'fast'"),
        (lambda: GroupPool2d("p4", "sum"), "reduce must be 'max', 'mean' or 'norm', got 'sum'"),
        (lambda: check_equivariance(GroupConv2d(2, 3, 3), "p6"), "got 'p6'"),
        (lambda: check_equivariance(nn.ReLU(), "p4"), "ReLU does not say how many maps it takes"),
        (lambda: act(torch.ones(1, 1, 3, 4), T.rotations(4), 1, "trivial"), r"square maps .* got shape \[1, 1, 3, 4\]"),
        (lambda: act(torch.ones(1, 1, 3, 3), T.rotations(4), 1, "vector"), "got 'vector'"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match=r"expects 8 input channels, got input of shape \[1, 7, 5, 5\]"):
        GroupConv2d(2, 3, 3)(torch.randn(1, 7, 5, 5))
    with pytest.raises(RuntimeError, match=r"kernel .*7.* is larger than the padded input"):
        GroupConv2d(2, 3, 7)(torch.randn(1, 8, 5, 5))
    for layer in (GroupPool2d("p4m"), GroupBatchNorm2d(2, "p4m")):
        with pytest.raises(RuntimeError, match=r"maps of 8 group elements each, got an input of shape \[1, 12, 5, 5\]"):
            layer(torch.randn(1, 12, 5, 5))
