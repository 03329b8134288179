"""What follows from a layer's arguments is no state: it survives whatever is done to parameters and buffers."""

import copy
import io
import multiprocessing
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchconv import functional as TF
from torchconv import transforms as T
from torchconv.nn import (
    Conv2d,
    DepthwiseSeparableConv2d,
    GroupConv2d,
    LearnedPool2d,
    LocallyConnected2d,
    TransformInvariantConv1d,
    TransformInvariantConv2d,
    TransformInvariantConv3d,
)

EIGHTHS = T.rotations(8)
LAYERS = {
    "lifting": (lambda **k: GroupConv2d(2, 3, 3, "p4", lifting=True, **k), (2, 2, 6, 6)),
    "regular": (lambda **k: GroupConv2d(2, 3, 3, EIGHTHS, padding_mode="circular", padding=1, **k), (2, 16, 6, 6)),
    "1-D": (lambda **k: TransformInvariantConv1d(2, 3, 4, T.scales([1, 1.5], dims=1), **k), (2, 2, 11)),
    "2-D": (lambda **k: TransformInvariantConv2d(2, 3, 3, EIGHTHS, reduce="max", **k), (2, 2, 6, 6)),
    "3-D": (lambda **k: TransformInvariantConv3d(2, 2, 2, T.reflections("xz", dims=3), **k), (2, 2, 4, 4, 5)),
    "learned": (
        lambda **k: TransformInvariantConv2d(2, 3, 3, T.reflections() * T.scales([1, 1.3]), learnable=True, **k),
        (2, 2, 9, 9),
    ),
    "local": (lambda **k: LocallyConnected2d(2, 3, 6, 3, **k), (2, 2, 6, 6)),
    "pool": (lambda **k: LearnedPool2d(None, 2, **k), (2, 2, 6, 6)),
    "separable": (lambda **k: DepthwiseSeparableConv2d(2, 3, 3, **k), (2, 2, 6, 6)),
    "plain": (lambda **k: Conv2d(2, 3, 3, **k), (2, 2, 6, 6)),
}


def averaged(layer, make):
    model = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        model.update_parameters(layer)
    return model.module


def averaged_plainly(layer, make):
    model = AveragedModel(layer, use_buffers=True)
    for _ in range(3):
        model.update_parameters(layer)
    return model.module


def filled(empty, layer):
    """Made on meta, brought to the CPU with whatever is there, then loaded."""
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    return empty


def within_meta(layer, make):
    with torch.device("meta"):
        empty = make()
    return filled(empty, layer)


def assigned(layer, make):
    with torch.device("meta"):
        empty = make()
    empty.load_state_dict(layer.state_dict(), assign=True)
    return empty


def assigned_of_another_type(layer, make):
    other = make().bfloat16()
    other.load_state_dict(layer.double().state_dict(), assign=True)
    return other


def saved_whole(layer, make):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def unpickled_from_before(layer, make):
    """As files have it in which the maps were buffers."""
    for name in ("pointers", "columns", "values") if hasattr(layer, "filter_map") else ():
        layer.register_buffer(name, torch.full((3,), 7.0), persistent=False)
    return pickle.loads(pickle.dumps(layer))


def inferred(layer, make):
    with torch.inference_mode():
        other = make()
        other(torch.zeros(SHAPES[make]))
    return assigned_to(other, layer)


def assigned_to(other, layer):
    other.load_state_dict({key: value.clone() for key, value in layer.state_dict().items()}, assign=True)
    return other


OPERATIONS = {
    "averaged": averaged,
    "averaged plainly": averaged_plainly,
    "double": lambda layer, make: layer.double(),
    "bfloat16": lambda layer, make: layer.bfloat16(),
    "half and back": lambda layer, make: layer.half().double(),
    "half": lambda layer, make: layer.half(),
    "made within meta": within_meta,
    "made on meta": lambda layer, make: filled(make(device="meta"), layer),
    "sent to meta": lambda layer, make: filled(copy.deepcopy(layer).to("meta"), layer),
    "assigned to meta": assigned,
    "assigned of another type": assigned_of_another_type,
    "loaded": lambda layer, make: assigned_to(make(), layer),
    "copied": lambda layer, make: copy.deepcopy(layer),
    "copied as double": lambda layer, make: copy.deepcopy(layer).double(),
    "pickled": lambda layer, make: pickle.loads(pickle.dumps(layer)),
    "saved whole": saved_whole,
    "unpickled from before": unpickled_from_before,
    "shared": lambda layer, make: layer.share_memory(),
    "made in inference mode": inferred,
}
SHAPES = dict(LAYERS.values())
by_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


def outcome(layer, x):
    y = layer(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), list(layer.parameters()))]


@by_layer
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_is_that_of_a_fresh_layer(make, shape, operation):
    layer = operation(make(), make)
    weight = next(layer.parameters())
    fresh, x = make(dtype=weight.dtype), torch.randn(shape).to(weight.dtype)
    fresh.load_state_dict(layer.state_dict())
    for mine, theirs in zip(outcome(layer, x), outcome(fresh, x), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["regular", "2-D"])
def test_a_replica_does_not_believe_what_its_original_holds(name):
    """As torch.nn.DataParallel makes them: a copy of all attributes, then parameters from elsewhere."""
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape).double()
    replica = layer._replicate_for_data_parallel()
    for key, value in layer.named_parameters():
        setattr(replica, key, value.detach().double())
    assert torch.equal(replica(x), layer.double()(x))


@by_layer
def test_nothing_of_it_is_in_the_state(make, shape):
    layer = make()
    assert not list(layer.buffers())
    names = set(layer.state_dict())
    assert names <= {"weight", "bias", "scales", "depthwise.weight", "pointwise.weight", "pointwise.bias"}


@by_layer
def test_shapes_are_known_on_meta(make, shape):
    layer = make(device="meta")
    assert layer(torch.empty(shape, device="meta")).shape == make()(torch.zeros(shape)).shape


@by_layer
def test_functional_call_with_parameters_of_another_type(make, shape):
    layer, x = make(), torch.randn(shape).double()
    with torch.no_grad():
        y = functional_call(layer, {n: p.double() for n, p in layer.named_parameters()}, (x,))
    assert torch.equal(y, layer.double()(x))


def test_what_is_learned_begins_as_the_set_s_own():
    layer = LAYERS["learned"][0](device="meta").to_empty(device="cpu")
    layer.scales.data.fill_(-9)
    layer.reset_parameters()
    assert layer.scales.flatten().tolist() == pytest.approx([1, 1.3])
    assert layer.weight.isfinite().all()


def _answer(layer, x, queue):
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    queue.put(layer(x).detach().numpy())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(method):
    make, shape = LAYERS["regular"]
    layer, x = make().share_memory(), torch.randn(shape)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_answer, args=(layer, x, queue))
    child.start()
    answer = torch.from_numpy(queue.get(timeout=120))
    child.join()
    assert torch.equal(answer, layer(x))


@pytest.mark.parametrize("name", ["regular", "2-D"])
@pytest.mark.parametrize("strict", [False, True])
def test_export_lifts_it_as_constants(name, strict):
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    program = torch.export.export(layer, (x,), strict=strict)
    assert torch.equal(program.module()(x), layer(x))
    assert not program.graph_signature.buffers
    doubled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(doubled(x), layer(x))


def ran(layer, x):
    y = layer(x)
    y.sum().backward()
    assert all(p.grad.shape == p.shape for p in layer.parameters())
    return y


def ran_on_other_parameters(layer, x):
    return functional_call(layer, {n: p.detach().clone() for n, p in layer.named_parameters()}, (x,))


def ran_by_sample(layer, x):
    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).sum()

    parameters = dict(layer.named_parameters())
    grads = vmap(grad(loss), (None, 0))(parameters, torch.stack([x, x]))
    assert all(grads[n].shape == (2, *p.shape) for n, p in parameters.items())
    return layer(x)


@by_layer
@pytest.mark.parametrize("run", [ran, ran_on_other_parameters, ran_by_sample])
def test_made_and_run_of_fake_tensors(make, shape, run):
    expected = make()(torch.zeros(shape)).shape
    with FakeTensorMode():
        layer = make()
        assert run(layer, torch.randn(shape)).shape == expected


@by_layer
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # a copy of a parameter's
def test_what_is_fake_outside_of_its_mode(make, shape):
    with FakeTensorMode():
        layer, x = make(), torch.randn(shape)
    assert layer(x).shape == make()(torch.zeros(shape)).shape
    assert isinstance(next(copy.deepcopy(layer).parameters()), FakeTensor)
    torch.export.export(layer, (x,))
    assert torch.equal(assigned_to(layer, real := make())(torch.ones(shape)), real(torch.ones(shape)))


@by_layer
def test_a_real_layer_on_fake_parameters(make, shape):
    layer = make()
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(p) for name, p in layer.named_parameters()}
        y = functional_call(layer, fake, (torch.randn(shape),))
    assert y.shape == layer(torch.zeros(shape)).shape


def test_a_real_map_and_fake_filters():
    fmap = EIGHTHS.filter_map((3, 3))
    with FakeTensorMode():
        x, w = torch.randn(2, 4, 7, 7), torch.randn(5, 4, 3, 3)
        assert TF.transform_filters(w, fmap).shape == (40, 4, 3, 3)
        assert TF.transform_conv2d(x, w, fmap).shape == (2, 40, 5, 5)
        assert TF.transform_conv2d(x, w, EIGHTHS, reduce="norm").shape == (2, 5, 5, 5)
