"""The strides of results and gradients are the built-in's, in every mix of contiguous and channels-last operands.

Strides are compared on axes of more than one element: those of others say nothing of where anything lies. A weight's
gradient is left out: it comes in the parameter's own strides, which the built-in's takes on when it is accumulated.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F

import torchconv.functional as TF

SHAPES = [
    *[(2, 4, 5, 6), (1, 4, 5, 6), (2, 1, 5, 6), (2, 4, 1, 6), (2, 4, 5, 1), (2, 4, 1, 1), (1, 1, 1, 1)],
    *[(4, 5, 6), (1, 5, 6)],  # no batch
]

# name: (the call, the size of the weight for C input channels, or None)
CALLS = {
    "conv": (lambda f, x, w: f.conv2d(x, w, padding=1), lambda c: (4, c, 3, 3)),
    "conv 1x1": (lambda f, x, w: f.conv2d(x, w), lambda c: (4, c, 1, 1)),
    "conv to one": (lambda f, x, w: f.conv2d(x, w, padding=1), lambda c: (1, c, 3, 3)),
    "conv depthwise": (lambda f, x, w: f.conv2d(x, w, padding=1, groups=w.shape[0]), lambda c: (c, 1, 3, 3)),
    "conv strided": (lambda f, x, w: f.conv2d(x, w, stride=2, padding=1), lambda c: (4, c, 3, 3)),
    "transposed": (lambda f, x, w: f.conv_transpose2d(x, w, stride=2), lambda c: (c, 4, 3, 3)),
    "transposed 1x1": (lambda f, x, w: f.conv_transpose2d(x, w), lambda c: (c, 4, 1, 1)),
    "max_pool": (lambda f, x: f.max_pool2d(x, 3, 2, 1), None),
    "avg_pool": (lambda f, x: f.avg_pool2d(x, 3, 1, 1), None),
    "adaptive_max_pool": (lambda f, x: f.adaptive_max_pool2d(x, 2), None),
    "adaptive_max_pool to one": (lambda f, x: f.adaptive_max_pool2d(x, 1), None),
    "adaptive_avg_pool": (lambda f, x: f.adaptive_avg_pool2d(x, (3, 2)), None),
    "lp_pool": (lambda f, x: f.lp_pool2d(x, 2.0, 1, 1), None),
}


def drawn(size, last):
    """A random tensor in one of the formats; a map without a batch axis has its channels last too."""
    t = torch.randn(size)
    return (t.movedim(-3, -1).contiguous().movedim(-1, -3) if last else t).requires_grad_()


def told(t):
    return [stride for n, stride in zip(t.shape, t.stride(), strict=True) if n > 1]


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_strides_are_the_built_in_s(name, size):
    call, weight = CALLS[name]
    for of_x, of_w, of_g in itertools.product((False, True), repeat=3):
        if of_w and weight is None:
            continue
        operands = [drawn(size, of_x), *([drawn(weight(size[-3]), of_w)] if weight else [])]
        results = [call(f, *operands) for f in (TF, F)]
        g = drawn(results[1].shape, of_g).detach()
        grads = [torch.autograd.grad(y, operands[0], g)[0] for y in results]
        for what, (mine, theirs) in (("result", results), ("gradient", grads)):
            assert told(mine) == told(theirs), (what, of_x, of_w, of_g)


def test_one_mean_of_a_map_keeps_the_format():
    """Where the built-in's gradient is contiguous, whatever its input, ours has the input's format."""
    x = drawn((2, 4, 5, 6), True)
    (grad,) = torch.autograd.grad(TF.adaptive_avg_pool2d(x, 1).sum(), x)
    assert grad.stride() == x.stride()


@pytest.mark.parametrize("of_g", [False, True])
def test_three_dimensions_answer_channels_last_where_an_operand_is(of_g):
    """The built-in's layout there depends on which of its implementations it takes."""
    for of_x, of_w in itertools.product((False, True), repeat=2):
        x, w = (torch.randn(size) for size in ((2, 4, 3, 5, 6), (4, 4, 3, 3, 3)))
        x, w = (t.contiguous(memory_format=torch.channels_last_3d) if o else t for t, o in ((x, of_x), (w, of_w)))
        for f in (TF.conv3d, TF.conv_transpose3d):
            y = f(x.requires_grad_(), w, padding=1)
            g = torch.randn(y.shape)
            (grad,) = torch.autograd.grad(y, x, g.contiguous(memory_format=torch.channels_last_3d) if of_g else g)
            for t in (y, grad):
                assert t.is_contiguous(memory_format=torch.channels_last_3d) == (of_x or of_w)
                assert t.is_contiguous() != (of_x or of_w)
