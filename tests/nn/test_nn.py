"""Every layer against its namesake in torch.nn, and what is added to it."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import prune

import torchconv
from torchconv import nn

# (layer, arguments, keywords, shape of the input), the smallest that would show an argument mixed up with another.
LAYERS = [
    ("Conv1d", (4, 6, 3), {}, (2, 4, 9)),
    ("Conv1d", (4, 6, 4), dict(stride=2, padding=3, dilation=2, groups=2, bias=False), (2, 4, 11)),
    ("Conv1d", (4, 6, 4), dict(padding="same", dilation=3), (2, 4, 11)),
    ("Conv2d", (4, 6, 3), {}, (2, 4, 7, 8)),
    ("Conv2d", (4, 6, (3, 2)), dict(stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2), (2, 4, 9, 8)),
    ("Conv2d", (4, 8, 3), dict(groups=4, padding="valid"), (2, 4, 7, 8)),
    ("Conv2d", (4, 6, (4, 3)), dict(padding="same"), (2, 4, 7, 8)),
    ("Conv3d", (4, 6, 2), {}, (2, 4, 4, 5, 6)),
    ("Conv3d", (4, 6, (2, 3, 1)), dict(stride=(1, 2, 3), padding=(1, 0, 2), groups=2), (2, 4, 4, 5, 6)),
    ("ConvTranspose1d", (4, 6, 3), dict(stride=3, padding=1, output_padding=2, dilation=2), (2, 4, 5)),
    ("LocalResponseNorm", (3,), dict(alpha=0.5, beta=0.6, k=2.0), (2, 5, 4, 3)),
    ("ConvTranspose2d", (4, 6, 3), {}, (2, 4, 5, 4)),
    ("ConvTranspose2d", (4, 6, (3, 2)), dict(stride=(2, 3), padding=(1, 0), output_padding=(1, 2)), (2, 4, 5, 4)),
    ("ConvTranspose2d", (4, 6, 3), dict(groups=2, dilation=(1, 2), bias=False), (2, 4, 5, 4)),
    ("ConvTranspose3d", (4, 6, 2), dict(stride=2, groups=2), (2, 4, 3, 2, 4)),
    ("MaxPool1d", (3,), dict(stride=2, padding=1), (2, 4, 9)),
    ("MaxPool2d", (2,), {}, (2, 4, 7, 8)),
    ("MaxPool2d", ((3, 2),), dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil_mode=True), (2, 4, 8, 9)),
    ("MaxPool3d", (2,), dict(stride=1, ceil_mode=True), (2, 4, 4, 5, 6)),
    ("AvgPool1d", (3,), dict(stride=2, padding=1, count_include_pad=False), (2, 4, 9)),
    ("AvgPool2d", ((3, 2),), dict(stride=2, padding=1, ceil_mode=True), (2, 4, 8, 9)),
    ("AvgPool2d", (3,), dict(divisor_override=5), (2, 4, 8, 9)),
    ("AvgPool3d", (2,), dict(padding=1, count_include_pad=False, divisor_override=3), (2, 4, 4, 5, 6)),
    ("LPPool1d", (2, 3), dict(stride=2), (2, 4, 9)),
    ("LPPool2d", (3.0, (2, 3)), dict(ceil_mode=True), (2, 4, 8, 9)),
    ("LPPool3d", (2, 2), {}, (2, 4, 4, 5, 6)),
    ("AdaptiveMaxPool1d", (4,), {}, (2, 4, 9)),
    ("AdaptiveMaxPool2d", ((3, None),), {}, (2, 4, 8, 9)),
    ("AdaptiveMaxPool3d", (2,), {}, (2, 4, 4, 5, 6)),
    ("AdaptiveAvgPool1d", (4,), {}, (2, 4, 9)),
    ("AdaptiveAvgPool2d", ((None, 4),), {}, (2, 4, 8, 9)),
    ("AdaptiveAvgPool3d", ((2, 3, 1),), {}, (2, 4, 4, 5, 6)),
]
NAMES = [f"{name}-{i}" for i, (name, *_) in enumerate(LAYERS)]
every_layer = pytest.mark.parametrize(("name", "arguments", "keywords", "shape"), LAYERS, ids=NAMES)


def twins(name, *arguments, **keywords):
    """The layer of torch.nn and ours with the same parameters, in float64, where both round far below any mistake."""
    stock = getattr(torch.nn, name)(*arguments, **keywords).double()
    ours = getattr(nn, name)(*arguments, **keywords).double()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def positive(*shape):
    """Distinct values without a sign change, so that no window has ties and odd powers have roots."""
    return torch.rand(shape, dtype=torch.float64) + 0.1


def gradients(layer, x, *arguments):
    """The output, the output's random projection's gradients of the input and of each parameter."""
    x = x.clone().requires_grad_()
    y = layer(x, *arguments)
    torch.manual_seed(1)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), [x, *layer.parameters()])]


def assert_same(ours, stock):
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert mine.stride() == theirs.stride()


@every_layer
def test_output_and_gradients_are_those_of_torch(name, arguments, keywords, shape):
    torch.manual_seed(0)
    stock, ours = twins(name, *arguments, **keywords)
    x = positive(*shape)
    assert_same(gradients(ours, x), gradients(stock, x))
    assert_same(gradients(ours, x[0]), gradients(stock, x[0]))  # no batch


@every_layer
def test_is_its_namesake_otherwise(name, arguments, keywords, shape):
    stock, ours = twins(name, *arguments, **keywords)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(stock)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert vars(ours).keys() == vars(stock).keys()
    for attribute in set(vars(stock)) - {"_parameters"}:
        assert getattr(ours, attribute) == getattr(stock, attribute), attribute
    stock.load_state_dict(ours.state_dict())


@every_layer
def test_survives_copying_and_saving(name, arguments, keywords, shape):
    ours = getattr(nn, name)(*arguments, **keywords)
    x = positive(*shape).float()
    y = ours(x)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    loaded = getattr(nn, name)(*arguments, **keywords)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded):
        assert type(other) is type(ours)
        assert torch.equal(other(x), y)


# Layers of torch.nn's, or with a ReLU.
TWINS = [name for name in nn.__all__ if hasattr(torch.nn, name.replace("ReLU", ""))]


@pytest.mark.parametrize("name", TWINS)
def test_signature_is_that_of_torch(name):
    ours = inspect.signature(getattr(nn, name)).parameters
    namesake = name.replace("ReLU", "")
    stock = inspect.signature(getattr(torch.nn, namesake)).parameters
    added = {"algorithm"} if "Conv" in name else set()
    assert set(ours) == set(stock) | added
    assert [p for p in ours if p not in added] == list(stock)  # in the same order
    assert {p: ours[p].default for p in stock} == {p: stock[p].default for p in stock}
    assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in added)
    doc = inspect.getdoc(getattr(nn, name))
    assert doc
    for word in ("Args:", "Shape:", "Raises:", f"Source: torch.nn.{namesake}", *list(stock)[:1]):
        assert word in doc


@pytest.mark.parametrize("name", [name for name in nn.__all__ if isinstance(getattr(nn, name), type)])
def test_arguments_are_written_out_for_editors(name):
    """They read the first of its classes, which are ours, and not torch.nn's behind them."""
    assert getattr(nn, name).__init__.__module__.startswith("torchconv.")


@pytest.mark.parametrize("name", [name for name in nn.__all__ if "MaxPool" in name])
def test_indices(name):
    n = int(name[-2])
    x = torch.randn(2, 3, *(7, 6, 5)[:n])
    stock, ours = (getattr(home, name)(2, return_indices=True) for home in (torch.nn, nn))
    for mine, theirs in zip(ours(x), stock(x), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_conv_relu(n, bias, mode):
    keywords = dict(padding=1, stride=2, groups=2, bias=bias, padding_mode=mode)
    stock, ours = getattr(torch.nn, f"Conv{n}d")(4, 6, 3, **keywords), getattr(nn, f"ConvReLU{n}d")(4, 6, 3, **keywords)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, 4, *(7, 6, 5)[:n], dtype=torch.float64)
    pair = torch.nn.Sequential(stock, torch.nn.ReLU()).double()
    assert_same(gradients(ours.double(), x), gradients(pair, x))
    assert_same(gradients(ours, x[0]), gradients(pair, x[0]))
    assert isinstance(ours, getattr(nn, f"Conv{n}d"))
    assert repr(ours) == repr(stock).replace(f"Conv{n}d", f"ConvReLU{n}d")
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), ours(x))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("padding", [1, 2, "same", "valid"])
def test_padding_modes(n, padding, mode):
    torch.manual_seed(0)
    stock, ours = twins(f"Conv{n}d", 2, 3, 4, padding=padding, padding_mode=mode)
    x = torch.randn(2, 2, *(7, 6, 5)[:n], dtype=torch.float64)
    assert_same(gradients(ours, x), gradients(stock, x))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 2, 1), (3, 3, 2), (2, 4, 1), (5, 3, 1)])
@pytest.mark.parametrize("size", [(7, 6), (9, 12)])
def test_same_padding_with_a_stride(kernel, stride, dilation, size, mode):
    """The side is ceil(size / stride); what that takes is added half on each side, the odd one at the end."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, kernel, stride, "same", dilation, padding_mode=mode).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    amounts = []
    for side in size:
        out = -(-side // stride)
        total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
        amounts = [total // 2, total - total // 2, *amounts]

    def expected(x):
        padded = F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)
        return F.conv2d(padded, layer.weight, layer.bias, stride, 0, dilation)

    y = layer(x)
    assert y.shape[2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(y, expected(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), expected(x[:1])[0], rtol=1e-12, atol=1e-12)
    assert layer.stride == (stride, stride)
    assert "padding=same" in repr(layer)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_with_unequal_sides(mode):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=((1, 2), (0, 1)), padding_mode=mode).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    padded = F.pad(x, (0, 1, 1, 2), mode="constant" if mode == "zeros" else mode)
    torch.testing.assert_close(layer(x), F.conv2d(padded, layer.weight, layer.bias, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("whole", [False, True])
def test_output_size(n, whole):
    torch.manual_seed(0)
    stock, ours = twins(f"ConvTranspose{n}d", 2, 3, 3, stride=3, padding=1)
    x = torch.randn(2, 2, *(4, 3, 2)[:n], dtype=torch.float64)
    size = [(4, 3, 2)[axis] * 3 + (-1, 0, -2)[axis] for axis in range(n)]
    size = [2, 3, *size] if whole else size
    assert ours(x, output_size=size).shape[-n:] == tuple(size[-n:])
    assert_same(gradients(ours, x, size), gradients(stock, x, size))
    with pytest.raises(ValueError, match=r"requested an output size of .*99.* valid sizes range from"):
        ours(x, output_size=[99] * n)


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [
        ("Conv2d", (3, 4, 3), dict(groups=2)),
        ("Conv2d", (4, 3, 3), dict(groups=2)),
        ("Conv2d", (4, 4, 3), dict(groups=0)),
        ("Conv1d", (4, 4, 3), dict(padding="half")),
        ("Conv3d", (4, 4, 3), dict(padding_mode="mirror")),
        ("ConvTranspose2d", (4, 4, 3), dict(padding_mode="reflect")),
    ],
)
def test_refuses_what_torch_refuses(name, arguments, keywords):
    with pytest.raises(ValueError) as theirs:
        getattr(torch.nn, name)(*arguments, **keywords)
    with pytest.raises(ValueError) as mine:
        getattr(nn, name)(*arguments, **keywords)
    assert str(mine.value) == str(theirs.value)


def test_algorithm():
    layer = nn.Conv2d(4, 4, 3, algorithm="reference")
    assert layer.algorithm == "reference"
    assert repr(layer) == "Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), algorithm=reference)"
    assert nn.Conv2d(4, 4, 3).algorithm == "auto"
    for name in ("Conv2d", "ConvTranspose3d"):
        with pytest.raises(ValueError, match=r"algorithm must be one of auto, .*reference.*, but got 'fastest'"):
            getattr(nn, name)(4, 4, 3, algorithm="fastest")


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_algorithm_is_the_one_taken(name):
    """One that cannot run on this input must say so, whichever layer asks for it."""
    layer = getattr(nn, name)(4, 4, 3, algorithm="depthwise")
    with pytest.raises(RuntimeError, match="depthwise"):
        layer(torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"])
def test_wrong_input_is_refused_with_its_shape(name):
    layer = getattr(nn, name)(4, 6, 3)
    n = len(layer.kernel_size)
    with pytest.raises(RuntimeError, match=r"\[2, 5, " + ", ".join(["8"] * n) + r"\]"):
        layer(torch.randn(2, 5, *[8] * n))


def test_channels_last():
    torch.manual_seed(0)
    stock = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.AvgPool2d(2))
    ours = torch.nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.AvgPool2d(2))
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, 3, 8, 8).double()
    for model in (stock, ours):
        model.double().to(memory_format=torch.channels_last)
    assert_same(gradients(ours, x), gradients(stock, x))


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.orthogonal,
        torch.nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "old_spectral_norm", "prune"],
)
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_reparametrized(name, wrap):
    torch.manual_seed(0)
    stock, ours = twins(name, 4, 4, 3)
    results = []
    for layer in (stock, ours):
        torch.manual_seed(0)
        results.append(gradients(wrap(layer).eval(), torch.linspace(-1, 1, 200).view(2, 4, 5, 5).double()))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_names_are_those_of_the_package():
    assert torchconv.nn is nn
    for name in nn.__all__:
        cls = getattr(nn, name)
        assert cls.__name__ == name
        assert cls.__mro__.index(getattr(torch.nn, name.replace("ReLU", ""), torch.nn.Module)) > 0
        assert pickle.loads(pickle.dumps(cls)) is cls
