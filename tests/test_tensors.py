"""Tensors that kernels do not take: they go to PyTorch's own operators, which know them."""

import copy

import pytest
import torch
from small_net import pair
from torch.testing import assert_close

import torchconv
import torchconv.functional as TF
import torchconv.nn as tnn
from torchconv.functional._route import has_kernel


def test_mkldnn_models_and_tensors():
    from torch.utils.mkldnn import to_mkldnn

    _, net, x = pair()
    net[4] = torch.nn.Conv2d(8, 8, 3, padding=1)  # to_mkldnn has no padding='same'
    ours = torchconv.convert(copy.deepcopy(net))
    moved = to_mkldnn(ours[:7])  # nor anything for layers after the mean pooling
    assert_close(moved(x.to_mkldnn()).to_dense(), net[:7](x))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("conv2d", (torch.ones(4, 3, 3, 3),)),
        ("conv_transpose2d", (torch.ones(3, 4, 3, 3),)),
        ("max_pool2d", (2,)),
        ("avg_pool2d", (2,)),
        ("adaptive_avg_pool2d", (2,)),
    ],
)
def test_mkldnn_tensors_in_every_function(name, args):
    x = torch.randn(2, 3, 8, 8)
    out = getattr(TF, name)(x.to_mkldnn(), *args)
    assert out.layout == torch._mkldnn
    assert_close(out.to_dense(), getattr(TF, name)(x, *args))


def test_an_algorithm_by_name_is_refused_with_what_the_tensor_is():
    with pytest.raises(RuntimeError, match=r"'direct' cannot run .* no kernel for Tensor of .*_mkldnn"):
        TF.conv2d(torch.ones(1, 1, 4, 4).to_mkldnn(), torch.ones(1, 1, 3, 3), algorithm="direct")


@pytest.fixture(scope="module")
def mesh():
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.DeviceMesh("cpu", [0])
    distributed.destroy_process_group()


def test_dtensor(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

    _, net, x = pair()
    net = net[:6]  # PyTorch cannot shard a mean pooling's gradient
    net.train()
    ours = torchconv.convert(copy.deepcopy(net))
    distributed = distribute_module(copy.deepcopy(ours), mesh)
    for placement in (Replicate(), Shard(0)):
        distributed.zero_grad()
        ours.zero_grad()
        out = distributed(distribute_tensor(x, mesh, [placement]))
        assert_close(out.full_tensor(), ours(x))
        out.sum().backward()
        ours(x).sum().backward()
        for mine, plain in zip(distributed.parameters(), ours.parameters(), strict=True):
            # The sum over a batch norm's output has no gradient: what remains is rounding of sums of 128 terms.
            assert_close(mine.grad.full_tensor(), plain.grad, atol=1e-4, rtol=1e-5)


def test_fully_shard(mesh):
    from torch.distributed.fsdp import fully_shard

    ours, net, x = pair()
    fully_shard(ours, mesh=mesh)
    out = ours(x)
    assert_close(out, net(x))
    out.sum().backward()
    net(x).sum().backward()
    for mine, plain in zip(ours.parameters(), net.parameters(), strict=True):
        assert_close(mine.grad.full_tensor(), plain.grad)


class Logging(torch.Tensor):
    """A subclass that wraps a tensor, and knows aten's operators only."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        assert function.namespace in ("aten", "prim"), function
        args, kwargs = torch.utils._pytree.tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(torch.Tensor, cls, function(*args, **kwargs))


def test_a_wrapper_subclass_sees_aten_only():
    ours, net, x = pair()
    with torch.no_grad():
        out = ours(Logging(x))
    assert type(out) is Logging
    assert_close(out.inner, net(x))


@pytest.mark.filterwarnings("ignore:.*not implemented in __torch_dispatch__ for MaskedTensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors is in prototype:UserWarning")
def test_masked_tensors_are_refused_as_by_the_built_in():
    from torch.masked import masked_tensor

    x = masked_tensor(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool))
    for functions in (TF, torch.nn.functional):
        with pytest.raises(TypeError, match=r"aten\.convolution\.default"):
            functions.conv2d(x, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_raise(layout):
    x = torch.nested.nested_tensor([torch.ones(3, 5, 5), torch.ones(3, 5, 5)], layout=layout)
    for layer in (tnn.Conv2d(3, 4, 3), tnn.MaxPool2d(2), tnn.AvgPool2d(2), tnn.LocalResponseNorm(2)):
        with pytest.raises(RuntimeError):
            layer(x)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_sparse_and_quantized_tensors_raise_or_pool_as_the_built_in():
    x = torch.ones(1, 1, 4, 4)
    for layer in (tnn.Conv2d(1, 1, 3), tnn.MaxPool2d(2), tnn.AvgPool2d(2)):
        with pytest.raises(RuntimeError):
            layer(x.to_sparse())
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    assert TF.max_pool2d(quantized, 2).dtype == torch.quint8


class Plain(torch.nn.Parameter):
    """A subclass that changes nothing."""


def test_what_has_a_kernel():
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = torch.ones(2, 3)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
    for tensor in (x, x.t(), x.double(), x.bfloat16(), torch.nn.Parameter(x), x[::2], fake, Plain(x), None):
        assert has_kernel(tensor), tensor
    others = (x.half(), x.int(), x.to(torch.complex64), x.to("meta"), x.to_sparse(), x.to_mkldnn(), Logging(x))
    for tensor in others:
        assert not has_kernel(x, tensor), tensor
