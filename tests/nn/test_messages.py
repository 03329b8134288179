"""Errors hold PyTorch's key words, for which people's tests look, and are of the built-in's kinds."""

import inspect
import re

import pytest
import torch
import torch.nn.functional as F

import torchconv.functional as TF
from torchconv import nn
from torchconv import transforms as T

X = {n: torch.zeros(2, 4, *[5] * n) for n in (1, 2, 3)}
W = {n: torch.zeros(6, 4, *[3] * n) for n in (1, 2, 3)}

# What is called, of how many axes, with what besides, and words of the built-in's error.
WORDS = [
    ("conv", dict(stride=0), "non-positive stride is not supported"),
    ("conv", dict(stride=-1), "non-positive stride is not supported"),
    ("conv", dict(dilation=0), "non-positive dilation is not supported"),
    ("conv", dict(padding=-1), "negative padding is not supported"),
    ("conv", dict(groups=0), "non-positive groups is not supported"),
    ("conv", dict(groups=7), "expected weight to be at least 7 at dimension 0"),
    ("conv", dict(groups=4), "expected weight to be divisible by 4 at dimension 0"),
    ("conv", dict(groups=2), "to have 8 channels, but got 4 channels instead"),
    ("conv", dict(dilation=3), "Kernel size can't be greater than actual input size"),
    ("conv", dict(stride=(1, 1, 1, 1)), "expected stride to be a single integer value or a list of {n} values"),
    ("max_pool", dict(kernel_size=2, stride=0), "stride should not be zero|stride must be greater than zero"),
    ("avg_pool", dict(kernel_size=2, stride=0), "stride should not be zero|stride must be greater than zero"),
    ("max_pool", dict(kernel_size=2, padding=2), "pad(ding)? should be at most half of( effective)? kernel size"),
    ("avg_pool", dict(kernel_size=2, padding=2), "pad(ding)? should be at most half of( effective)? kernel size"),
    ("max_pool", dict(kernel_size=2, padding=-1), "pad(ding)? must be non-negative"),
    ("max_pool", dict(kernel_size=6), "Output size is too small|Invalid computed output size: 0"),
    ("adaptive_avg_pool", dict(output_size=-1), "elements of output_size must be greater than or equal to 0"),
    ("adaptive_avg_pool", dict(output_size=()), "output_size must be {n}|'output_size' should contain one int"),
]


def raised(call):
    """The error of a call, which must be one."""
    try:
        result = call()
    except Exception as error:
        return error
    raise AssertionError(f"no error, but {type(result)}")


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("family", "keywords", "words"), WORDS)
def test_words(n, family, keywords, words):
    """PyTorch's own error has them too: where a version of it says something else, the table is to follow."""
    args, words = (X[n], W[n]) if family == "conv" else (X[n],), words.format(n=n)
    errors = [raised(lambda home=home: getattr(home, f"{family}{n}d")(*args, **keywords)) for home in (TF, F)]
    for error in errors:
        assert re.search(words, str(error))
    assert type(errors[0]) is type(errors[1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_words_of_axes(n):
    for home in (TF, F):
        with pytest.raises(
            RuntimeError, match=rf"Expected {n + 1}D \(unbatched\) or {n + 2}D \(batched\) input to conv"
        ):
            getattr(home, f"conv{n}d")(torch.zeros([1] * (n + 3)), W[n])
        with pytest.raises(RuntimeError, match="weight should have at least three dimensions"):
            getattr(home, f"conv{n}d")(X[n], torch.zeros(3, 4))
    with pytest.raises(RuntimeError, match=rf"{n + 1}D or {n + 2}D"):
        getattr(TF, f"max_pool{n}d")(torch.zeros(4), 2)


# ---- no tensor ----

NO_TENSOR = [None, [1.0, 2.0], 3.0, "x"]
LAYERS = {
    "GroupConv2d": lambda: nn.GroupConv2d(2, 3, 3, lifting=True),
    "GroupPool2d": nn.GroupPool2d,
    "GroupBatchNorm2d": lambda: nn.GroupBatchNorm2d(3),
    "TransformInvariantConv1d": lambda: nn.TransformInvariantConv1d(2, 3, 3, T.reflections(dims=1)),
    "TransformInvariantConv2d": lambda: nn.TransformInvariantConv2d(2, 3, 3, T.rotations(4), reduce="max"),
    "TransformInvariantConv3d": lambda: nn.TransformInvariantConv3d(2, 3, 3, T.reflections(dims=3)),
    "LearnedPool2d": lambda: nn.LearnedPool2d(3, 2),
    "BlockPool2d": lambda: nn.BlockPool2d(torch.nn.Flatten(), 2),
    "LocallyConnected1d": lambda: nn.LocallyConnected1d(2, 3, 5, 3),
    "LocallyConnected2d": lambda: nn.LocallyConnected2d(2, 3, 5, 3),
    "LocallyConnectedTranspose1d": lambda: nn.LocallyConnectedTranspose1d(2, 3, 5, 3),
    "LocallyConnectedTranspose2d": lambda: nn.LocallyConnectedTranspose2d(2, 3, 5, 3),
    "DepthwiseSeparableConv2d": lambda: nn.DepthwiseSeparableConv2d(2, 3, 3),
    "circular Conv2d": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
}
for _name in nn.__all__:
    if _name not in LAYERS and "Lazy" not in _name:  # a lazy layer's answer is torch.nn's own
        _arguments = (3, 4, 2) if _name.startswith("Conv") else (2.0, 2) if _name.startswith("LP") else (2,)
        LAYERS[_name] = lambda name=_name, arguments=_arguments: getattr(nn, name)(*arguments)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_called_without_a_tensor(make):
    layer = make()
    for call in (layer, lambda: layer(torch.zeros(2, 3, 5), wrong=1), *(lambda v=v: layer(v) for v in NO_TENSOR)):
        assert type(raised(call)) is TypeError


@pytest.mark.parametrize("name", [name for name in TF.__all__ if hasattr(F, name)])
def test_functions_called_without_a_tensor(name):
    ours, n = getattr(TF, name), int(name[-2]) if name.endswith("d") else 2
    rest = (W[n],) if name.startswith("conv") else (2.0, 2) if name.startswith("lp") else (2,)
    rest = (torch.zeros(2, 4, 5, dtype=torch.int64), 2) if "unpool" in name else rest
    calls = [lambda: ours(), *(lambda v=v: ours(v, *rest) for v in NO_TENSOR)]
    if name.startswith("conv"):
        calls += [lambda v=v: ours(X[n], v) for v in NO_TENSOR]
        calls += [lambda v=v: ours(X[n], W[n], v) for v in NO_TENSOR[1:]]
    for call in calls:
        assert type(raised(call)) is TypeError, inspect.getsource(call)
