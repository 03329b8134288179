"""Every parameter's gradient comes back in the parameter's strides, those of axes of one element too, as DDP checks."""

import warnings

import pytest
import torch

import torchconv
from torchconv import transforms as T

tnn = torchconv.nn
FORMATS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]


class Norm(torch.nn.BatchNorm2d):
    forward = lambda self, x: torchconv.functional.batch_norm(x, None, None, self.weight, self.bias, True)  # noqa: E731


# Layers, most with weights that are contiguous and channels-last at once, and their inputs.
LAYERS = {
    "conv1d": (tnn.Conv1d(3, 4, 3), (2, 3, 6)),
    "depthwise1d": (tnn.Conv1d(4, 4, 3, groups=4), (2, 4, 6)),
    "pointwise1d": (tnn.Conv1d(4, 3, 1), (2, 4, 6)),
    "conv": (tnn.Conv2d(3, 4, 3), (2, 3, 6, 6)),
    "depthwise": (tnn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "pointwise": (tnn.Conv2d(4, 3, 1), (2, 4, 5, 5)),
    "pointwise of one": (tnn.Conv2d(1, 1, 1), (2, 1, 5, 5)),
    "column": (tnn.Conv2d(3, 4, (3, 1)), (2, 3, 5, 5)),
    "row": (tnn.Conv2d(1, 4, (1, 3)), (2, 1, 5, 5)),
    "relu": (tnn.ConvReLU2d(4, 4, 3, groups=4), (2, 4, 6, 6)),
    "conv3d": (tnn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "depthwise3d": (tnn.Conv3d(2, 2, (3, 1, 2), groups=2), (1, 2, 4, 4, 4)),
    "pointwise3d": (tnn.Conv3d(2, 3, 1), (1, 2, 3, 3, 3)),
    "transposed1d": (tnn.ConvTranspose1d(3, 4, 1), (2, 3, 6)),
    "transposed": (tnn.ConvTranspose2d(3, 4, 3), (2, 3, 4, 4)),
    "transposed depthwise": (tnn.ConvTranspose2d(4, 4, 3, groups=4), (2, 4, 4, 4)),
    "transposed pointwise": (tnn.ConvTranspose2d(4, 3, 1), (2, 4, 4, 4)),
    "transposed3d": (tnn.ConvTranspose3d(2, 2, 2, groups=2), (1, 2, 3, 3, 3)),
    "batch norm": (Norm(4), (2, 4, 3, 3)),
    "local1d": (tnn.LocallyConnected1d(2, 3, 5, 3), (2, 2, 5)),
    "local": (tnn.LocallyConnected2d(2, 3, 4, 3), (2, 2, 4, 4)),
    "transformed": (tnn.TransformInvariantConv2d(1, 3, 3, T.rotations(4)), (2, 1, 5, 5)),
    "transformed, largest": (tnn.TransformInvariantConv2d(2, 3, 3, T.rotations(4), reduce="max"), (2, 2, 5, 5)),
    "group": (tnn.GroupConv2d(1, 2, 3), (2, 4, 5, 5)),
    "learned pool": (tnn.LearnedPool2d(4, 2), (2, 4, 4, 4)),
}


def formats(layer):
    """The memory formats that some parameter of the layer can have."""
    return [
        f
        for dims, f in zip((None, 4, 5), FORMATS, strict=True)
        if dims in (None, *map(torch.Tensor.dim, layer.parameters()))
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_strides(name: str) -> None:
    layer, size = LAYERS[name]
    for of_layer in formats(layer):
        for of_input in formats(layer):
            if of_input != torch.contiguous_format and len(size) != (4 if of_input == torch.channels_last else 5):
                continue
            layer = layer.to(memory_format=of_layer)
            x = torch.randn(size).contiguous(memory_format=of_input)
            grads = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
            for parameter, grad in zip(layer.parameters(), grads, strict=True):
                assert grad.stride() == parameter.stride(), (of_layer, of_input)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 2, 3), (2, 0, 3, 1)])
@pytest.mark.parametrize("size", [(4, 2, 3, 3), (4, 2, 1, 3), (4, 2, 1, 1)])
def test_any_order_of_the_axes(order: tuple, size: tuple) -> None:
    """A dense weight may be a permuted view; one that is not dense gets what the built-in gives."""
    x = torch.randn(2, 2, 5, 5)
    inverse = sorted(range(4), key=order.__getitem__)
    weight = torch.randn([size[axis] for axis in order]).permute(inverse).requires_grad_()
    expected = torch.autograd.grad(torch.nn.functional.conv2d(x, weight).square().sum(), weight)[0]
    grad = torch.autograd.grad(torchconv.functional.conv2d(x, weight).square().sum(), weight)[0]
    assert grad.stride() == weight.stride()
    torch.testing.assert_close(grad, expected)
    apart = torch.randn(*size, 2)[..., 0].requires_grad_()
    grad = torch.autograd.grad(torchconv.functional.conv2d(x, apart).sum(), apart)[0]
    assert grad.is_contiguous()


def test_strides_to_be_differentiated_again() -> None:
    x, weight = torch.randn(2, 4, 5, 5).double(), torch.randn(3, 3, 4, 4).double().permute(2, 3, 0, 1)[:, :1]
    weight = weight.requires_grad_()
    results = []
    for functions in (torchconv.functional, torch.nn.functional):
        (grad,) = torch.autograd.grad(functions.conv2d(x, weight, groups=4).sin().sum(), weight, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), weight)[0])
    torch.testing.assert_close(*results)


def _train_in_parallel() -> None:
    model = torch.nn.Sequential(
        tnn.Conv2d(3, 4, 3), tnn.Conv2d(4, 4, 3, groups=4), tnn.Conv2d(4, 4, 1), tnn.ConvTranspose2d(4, 2, 1)
    ).to(memory_format=torch.channels_last)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # the second time buckets are rebuilt
        wrapped(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).sum().backward()


def test_distributed_data_parallel_has_nothing_to_say(tmp_path) -> None:
    """One process of gloo."""
    distributed = torch.distributed
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # In a function of its own, whose model ends before the group does: a model that holds the last of it waits,
            # with the interpreter's lock, for gloo's thread, which may wait for that lock.
            _train_in_parallel()
    finally:
        torch.set_warn_always(always)
        distributed.destroy_process_group()
