"""Tools that trace a model, record it for somewhere else, or exchange its layers."""

import copy
import importlib
import io
import pickle
import warnings

import pytest
import torch
from small_net import operators, pair
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

import torchconv
import torchconv.functional as TF
import torchconv.nn as tnn
from torchconv import transforms

# ---- torch.overrides ----

X, W = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 2, 2)
LOCAL = torch.ones(2, 2, 2, 2, 3, 3)
CALLS = {
    "adaptive_avg_pool2d": (X, 2),
    "adaptive_max_pool2d": (X, 2, True),
    "avg_pool1d": (X[0], 2),
    "avg_pool2d": (X, 2),
    "batch_norm": (X, None, None, None, None, True),
    "conv2d": (X, W),
    "conv_matrix": (W, (4, 4)),
    "conv_transpose2d": (X, W),
    "local_conv2d": (X, LOCAL),
    "local_conv_transpose2d": (X[..., :3, :3], LOCAL),
    "local_response_norm": (X, 2),
    "lp_pool2d": (X, 2.0, 2),
    "max_pool2d": (X, 2),
    "max_pool2d_with_indices": (X, 2),
    "max_unpool2d": (X, torch.arange(32).view(1, 2, 4, 4) % 16, 1),
    "transform_conv2d": (X, W, transforms.rotations(4)),
    "transform_filters": (W, transforms.rotations(4)),
}


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


def test_every_function_has_a_call_here():
    families = {name.replace("1d", "2d").replace("3d", "2d") for name in TF.__all__} | {"avg_pool1d"}
    assert families == set(CALLS)


class Doubling(TorchFunctionMode):
    """Doubles what functions of torchconv give, and notes their names."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.__module__ or not function.__module__.startswith("torchconv"):
            return out
        self.seen.append(function.__name__)
        return tuple(2 * o for o in out) if isinstance(out, tuple) else 2 * out


@pytest.mark.parametrize("name", CALLS)
def test_a_mode_is_asked_first(name):
    call = getattr(TF, name)
    with Doubling() as mode:
        doubled = call(*CALLS[name])
    assert mode.seen == [name.removesuffix("_with_indices")]
    for twice, once in zip(leaves(doubled), leaves(call(*CALLS[name])), strict=True):
        assert_close(twice.to_dense() if twice.is_sparse else twice, 2 * (once.to_dense() if once.is_sparse else once))


class Labelled(torch.Tensor):
    """A subclass with torch's default behaviour: results are of its class."""


@pytest.mark.parametrize("name", [name for name in CALLS if name != "conv_matrix"])  # torch has no sparse subclasses
def test_a_subclass_stays_one(name):
    args = [arg.as_subclass(Labelled) if arg is X or arg is W else arg for arg in CALLS[name]]
    for mine, plain in zip(leaves(getattr(TF, name)(*args)), leaves(getattr(TF, name)(*CALLS[name])), strict=True):
        assert isinstance(mine, Labelled) == any(isinstance(arg, Labelled) for arg in args)
        assert not isinstance(plain, Labelled)
        assert_close(mine.as_subclass(torch.Tensor), plain)


# ---- torch.fx ----


class Functions(torch.nn.Module):
    """Calls of functions, and of layers that torch.nn lacks."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 4, 3, 3))
        self.separable = tnn.DepthwiseSeparableConv2d(3, 4, 3)
        self.turned = tnn.TransformInvariantConv2d(4, 2, 3, transforms.rotations(4), padding=1, reduce="max")
        self.same = tnn.Conv2d(2, 4, 2, padding="same", stride=2, padding_mode="circular")

    def forward(self, x):
        x = self.same(self.turned(self.separable(x)))
        return TF.max_pool2d(TF.conv2d(x, self.weight, padding=1), 2)


def test_symbolic_trace_records_layers_as_nodes():
    ours, net, x = pair()
    graph, expected = (torch.fx.symbolic_trace(model) for model in (ours, net))
    assert [(node.op, node.target) for node in graph.graph.nodes] == [
        (node.op, node.target) for node in expected.graph.nodes
    ]
    assert type(graph.get_submodule("0")) is tnn.Conv2d
    assert_close(graph(x), net(x))
    assert type(torchconv.revert(graph).get_submodule("0")) is torch.nn.Conv2d


def test_symbolic_trace_records_functions_and_layers_that_torch_lacks():
    model = Functions()
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "separable.depthwise",
        "separable.pointwise",
        "turned",
        "same",
    ]
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [TF.conv2d, TF.max_pool2d]
    x = torch.randn(1, 3, 10, 10)
    assert torch.equal(traced(x), model(x))


class Doubled(tnn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_derived_layer_is_traced_through():
    model = torch.nn.Sequential(Doubled(3, 4, 3))
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes].count("call_module") == 0
    assert_close(traced(X[:, :1].expand(1, 3, 4, 4)), model(X[:, :1].expand(1, 3, 4, 4)))


def test_classes_are_where_they_are():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(tnn.Conv2d, protocol)) is tnn.Conv2d
        assert type(pickle.loads(pickle.dumps(tnn.MaxPool2d(2), protocol))) is tnn.MaxPool2d
    assert tnn.Conv2d.__module__ == "torchconv.nn.conv"


def test_feature_extractors():
    from train._torchvision import torchvision  # first: it may not load otherwise

    create = importlib.import_module(f"{torchvision.__name__}.models.feature_extraction").create_feature_extractor
    ours, net, x = pair()
    taken, expected = (create(model, ["0", "3", "7"])(x) for model in (ours, net))
    for name, value in expected.items():
        assert_close(taken[name], value)


def test_fx_fuse_leaves_what_is_right():
    from torch.fx.experimental.optimization import fuse

    ours, net, x = pair()
    assert_close(fuse(ours)(x), net(x))


# ---- TorchScript and ONNX ----


def quiet_trace(model, x):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace(model, x)
    return traced, {str(warning.message) for warning in caught}


def test_jit_trace_records_built_in_operators():
    ours, net, x = pair()
    (traced, caught), (_, usual) = quiet_trace(ours, x), quiet_trace(net, x)
    assert "torchconv::" not in str(traced.inlined_graph)
    assert caught == usual
    for input in (x, torch.randn(1, 3, 12, 20)):
        assert_close(traced(input), net(input))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    assert_close(torch.jit.load(buffer)(x), net(x))


def test_tensorboard_s_graph(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    ours, _, x = pair()
    with SummaryWriter(str(tmp_path)) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer.add_graph(ours, x)
    (events,) = tmp_path.iterdir()
    assert b"aten::_convolution" in events.read_bytes()


SPECIAL = {
    "transform": lambda: tnn.TransformInvariantConv2d(3, 2, 3, transforms.rotations(4), padding=1, reduce="max"),
    "group": lambda: torch.nn.Sequential(tnn.GroupConv2d(3, 2, 3, lifting=True), tnn.GroupPool2d()),
    "local": lambda: tnn.LocallyConnected2d(3, 2, 8, 3, padding=1),
    "local transposed": lambda: tnn.LocallyConnectedTranspose2d(3, 2, 8, 3),
    "learned pool": lambda: tnn.LearnedPool2d(3, 2),
    "separable": lambda: tnn.DepthwiseSeparableConv2d(3, 2, 3),
    "conv relu": lambda: tnn.ConvReLU2d(3, 2, 2, padding=((0, 1), (1, 2))),
    "same with a stride": lambda: tnn.Conv2d(3, 2, 4, padding="same", stride=3),
    "by name": lambda: tnn.Conv2d(3, 2, 3, algorithm="direct"),
    "lrn": lambda: tnn.LocalResponseNorm(2),
    "lp": lambda: tnn.LPPool2d(2, 2),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_layers_are_recorded_as_compositions(name):
    layer, x = SPECIAL[name]().eval(), torch.randn(2, 3, 8, 8)
    traced, _ = quiet_trace(layer, x)
    assert "torchconv::" not in str(traced.inlined_graph)
    assert_close(traced(x), layer(x))
    with torchconv.disabled():
        program = torch.export.export(layer, (x,))
    assert operators(program.graph) == []
    assert_close(program.module()(x), layer(x))


class Unpool(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.unpool = tnn.MaxPool2d(2, return_indices=True), tnn.MaxUnpool2d(2)

    def forward(self, x):
        return self.unpool(*self.pool(x))


def test_unpooling_is_exported():
    """torch.nn's cannot be traced by TorchScript either."""
    layer, x = Unpool(), torch.randn(2, 3, 8, 8)
    with torchconv.disabled():
        program = torch.export.export(layer, (x,))
    assert operators(program.graph) == []
    assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("layer", [tnn.Conv2d(3, 4, 3), tnn.MaxPool2d(2), tnn.LearnedPool2d(3, 2)])
def test_jit_script_is_refused(layer):
    with pytest.raises(RuntimeError, match=r"torchconv\.revert\(model\) before"):
        torch.jit.script(torch.nn.Sequential(layer))


def test_jit_script_after_revert():
    ours, net, x = pair()
    assert_close(torch.jit.script(torchconv.revert(ours))(x), net(x))


# ---- disabled, torch.export, torch.compile ----


def kernels(function):
    """Which of our operators a call comes to."""
    with torch.profiler.profile() as profile:
        function()
    return {event.key for event in profile.key_averages() if event.key.startswith("torchconv::")}


def test_disabled_nests_decorates_and_ends():
    ours, net, x = pair()
    assert kernels(lambda: ours(x))
    with torchconv.disabled(), torchconv.disabled():
        pass
    with torchconv.disabled():
        with torchconv.disabled():
            pass
        assert not kernels(lambda: ours(x))
        assert torch.equal(ours(x), net(x))
    assert not kernels(torchconv.disabled()(lambda: ours(x)))
    with pytest.raises(ZeroDivisionError), torchconv.disabled():
        1 / 0  # noqa: B018
    assert kernels(lambda: ours(x))


@pytest.mark.parametrize("name", CALLS)
def test_disabled_holds_in_every_function(name):
    expected = getattr(TF, name)(*CALLS[name])
    with torchconv.disabled():
        assert not kernels(lambda: getattr(TF, name)(*CALLS[name]))
        result = getattr(TF, name)(*CALLS[name])
    for mine, theirs in zip(leaves(result), leaves(expected), strict=True):
        assert_close(mine, theirs)


def test_disabled_beside_enabled_and_backward():
    ours, net, x = pair()
    with torchconv.disabled(), torchconv.enabled():
        assert not kernels(lambda: net(x))
    with torchconv.enabled(), torchconv.disabled():
        assert not kernels(lambda: net(x))
    with torchconv.disabled():
        loss = ours(x).sum()
    assert not kernels(loss.backward)
    loss = ours(x).sum()
    with torchconv.disabled():
        assert kernels(loss.backward)
    gradients = [p.grad / 2 for p in ours.parameters()]
    net(x).sum().backward()
    for gradient, parameter in zip(gradients, net.parameters(), strict=True):
        assert_close(gradient, parameter.grad)


def test_disabled_and_compile():
    ours, net, x = pair()
    graphs = []

    def keep(graph, _):
        graphs.append(graph.graph)
        return graph

    compiled = torch.compile(ours, backend=keep, fullgraph=True)
    compiled(x)
    with torchconv.disabled():
        assert_close(compiled(x), net(x))
    compiled(x)
    assert [bool(operators(graph)) for graph in graphs] == [True, False]

    def inside(x):
        with torchconv.disabled():
            y = ours[0](x)
        return y + ours[0](x)

    assert_close(torch.compile(inside, backend=keep, fullgraph=True)(x), 2 * net[0](x))
    assert len(operators(graphs[-1])) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_export_is_portable_where_disabled(strict):
    ours, net, x = pair()
    dynamic = {"input": {0: torch.export.Dim("batch", min=1, max=64)}}
    plain = torch.export.export(ours, (x,), dynamic_shapes=dynamic, strict=strict)
    with torchconv.disabled():
        portable = torch.export.export(ours, (x,), dynamic_shapes=dynamic, strict=strict)
    usual = torch.export.export(net, (x,), dynamic_shapes=dynamic, strict=strict)
    assert operators(plain.graph)
    assert [str(node.target) for node in portable.graph.nodes] == [str(node.target) for node in usual.graph.nodes]
    for program in (plain, portable):
        assert_close(program.module()(torch.cat([x, x])), net(torch.cat([x, x])))


@pytest.mark.slow
def test_aotinductor_package(tmp_path):
    """Also of adaptive poolings, whose windows are no numbers."""
    _, net, x = pair()
    net = torch.nn.Sequential(*net[:4], torch.nn.AdaptiveMaxPool2d(2), torch.nn.AdaptiveAvgPool2d(1))
    ours = torchconv.convert(copy.deepcopy(net), fuse=False)
    options = {"aot_inductor.compile_wrapper_opt_level": "O0"}
    program = torch.export.export(ours, (x,))
    assert len(operators(program.graph)) == 4
    path = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "model.pt2"), inductor_configs=options
    )
    assert_close(torch._inductor.aoti_load_package(path)(x), net(x))


# ---- quantization ----


# What torch.ao says of itself.
deprecated = pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")


@deprecated
def test_quantization_is_refused_by_a_sentence():
    ours, _, x = pair()
    match = r"torchconv\.nn\.Conv2d cannot be quantized: call torchconv\.revert\(model\) before"
    prepared = copy.deepcopy(ours).train()
    prepared.qconfig = quantization.get_default_qat_qconfig("x86")
    with pytest.raises(RuntimeError, match=match):
        quantization.prepare_qat(prepared)
    with pytest.raises(RuntimeError, match=match):
        quantize_fx.prepare_fx(ours, quantization.get_default_qconfig_mapping("x86"), (x,))
    with pytest.raises(RuntimeError, match=match):
        quantize_fx.prepare_qat_fx(prepared, quantization.get_default_qat_qconfig_mapping("x86"), (x,))
    with pytest.raises(AssertionError, match=r"did not find fuser method for: .*torchconv"):
        quantization.fuse_modules(ours, [["0", "1", "2"]])


@deprecated
def test_quantization_of_other_layers_is_not():
    ours, net, x = pair()
    quantized = quantization.quantize_dynamic(ours, {torch.nn.Linear})
    assert type(quantized[0]) is tnn.Conv2d
    assert_close(quantized(x), net(x), atol=0.05, rtol=0)  # 8 bits of weights of at most 1/2, four of them


@deprecated
def test_quantization_after_revert():
    _, net, x = pair()
    net[4] = torch.nn.Conv2d(8, 8, 3, padding=1)  # 'same' is what PyTorch cannot quantize
    expected = net(x)
    model = torchconv.revert(torchconv.convert(net))
    prepared = quantize_fx.prepare_fx(model, quantization.get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    quantized = torchconv.convert(quantize_fx.convert_fx(prepared), report=[])
    assert_close(quantized(x), expected, atol=0.1, rtol=0)  # 7 bits an activation, over six layers of size 1


@deprecated
def test_layers_prepared_for_quantization_are_left():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval()
    prepared = quantize_fx.prepare_fx(net, quantization.get_default_qconfig_mapping("x86"), (X,))
    left = []
    torchconv.convert(prepared, report=left)
    assert "0.0 (Conv2d): to be quantized: it has a qconfig" in map(str, left)
    prepared(X)
    assert "quantized" in type(quantize_fx.convert_fx(prepared).get_submodule("0")).__module__


# ---- what the functions fall back to ----


def test_patched_functions_of_torch_are_called(monkeypatch):
    seen = []
    monkeypatch.setattr(F, "conv2d", lambda *args: seen.append(args) or X)
    with torchconv.disabled():
        TF.conv2d(X, W)
    assert len(seen) == 1
