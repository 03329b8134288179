"""The Hessian of a whole converted model, and products with it, in every form that PyTorch has for them."""

import pytest
import torch
from nesting_cases import normalised
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import torchconv
from torchconv.functional import batch_norm

functional = torch.autograd.functional


class Norm(torch.nn.BatchNorm2d):
    """Batch norm by its definition: of PyTorch's, second derivatives under torch.func are wrong."""

    forward = lambda self, x: normalised(x, self.weight, self.bias)  # noqa: E731


class OurNorm(Norm):
    forward = lambda self, x: batch_norm(x, None, None, self.weight, self.bias, training=True)  # noqa: E731


def model() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1),
        Norm(2, track_running_stats=False),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(2, 2, 2),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
    ).double()


def converted(net: torch.nn.Module) -> torch.nn.Module:
    net[1].__class__ = OurNorm
    return torchconv.convert(net)


def loss_of(net: torch.nn.Module):
    """The loss as a function of all parameters in one vector, and of the input."""
    sizes = {name: p.shape for name, p in net.named_parameters()}

    def loss(vector, x):
        parts = vector.split([size.numel() for size in sizes.values()])
        parameters = {name: part.view(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}
        return functional_call(net, parameters, (x,)).sin().square().sum()

    return loss


@pytest.fixture(scope="module")
def case():
    """Our loss, the parameters, four batches, a direction, and the Hessian on the first by the built-in operators."""
    torch.manual_seed(0)
    net = model()
    vector = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    x, direction = torch.randn(4, 2, 1, 4, 4, dtype=torch.float64), torch.randn_like(vector)
    theirs = loss_of(net)
    expected = [jacrev(jacrev(theirs))(vector, batch) for batch in x]
    return loss_of(converted(net)), vector, x, direction, expected


def same(mine, theirs) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


HESSIANS = {
    "hessian": hessian,
    "forward over reverse": lambda f: jacfwd(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
    "forward over forward": lambda f: jacfwd(jacfwd(f)),
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "autograd.functional": lambda f: lambda p: functional.hessian(f, p, vectorize=True),
    "autograd.functional, forward": lambda f: (
        lambda p: functional.hessian(f, p, vectorize=True, outer_jacobian_strategy="forward-mode")
    ),
}


@pytest.mark.parametrize("form", HESSIANS)
def test_hessian(case, form: str) -> None:
    loss, vector, x, _, expected = case
    same(HESSIANS[form](lambda p: loss(p, x[0]))(vector), expected[0])


def dual(f, p, v, create_graph: bool):
    """Forward over reverse, with nothing of torch.func."""
    with forward_ad.dual_level():
        p = forward_ad.make_dual(p.detach().requires_grad_(), v)
        (gradient,) = torch.autograd.grad(f(p), p, create_graph=create_graph)
        return forward_ad.unpack_dual(gradient).tangent


PRODUCTS = {
    "jvp of grad": lambda f, p, v: jvp(grad(f), (p,), (v,))[1],
    "grad of jvp": lambda f, p, v: grad(lambda p: jvp(f, (p,), (v,))[1])(p),
    "vjp of grad": lambda f, p, v: vjp(grad(f), p)[1](v)[0],
    "hvp": lambda f, p, v: functional.hvp(f, p, v)[1],
    "vhp": lambda f, p, v: functional.vhp(f, p, v)[1],
    "dual": lambda f, p, v: dual(f, p, v, False),
    "dual, graph kept": lambda f, p, v: dual(f, p, v, True),
}


@pytest.mark.parametrize("form", PRODUCTS)
def test_products(case, form: str) -> None:
    loss, vector, x, direction, expected = case
    same(PRODUCTS[form](lambda p: loss(p, x[0]), vector, direction), expected[0] @ direction)


@pytest.mark.parametrize("form", list(PRODUCTS)[:3])
def test_products_of_many_directions_and_batches(case, form: str) -> None:
    """vmap around the nesting, over directions, batches or both; and inside it."""
    loss, vector, x, _, expected = case
    directions = torch.randn(4, len(vector), dtype=torch.float64)
    product = lambda v, x: PRODUCTS[form](lambda p: loss(p, x), vector, v)  # noqa: E731
    same(vmap(product, (0, None))(directions, x[0]), directions @ expected[0])
    same(vmap(product)(directions, x), torch.stack([h @ v for h, v in zip(expected, directions, strict=True)]))
    inside = lambda p: vmap(loss, (None, 0))(p, x).sum()  # noqa: E731
    same(PRODUCTS[form](inside, vector, directions[0]), sum(expected) @ directions[0])


def test_forward_over_forward_of_batches(case) -> None:
    loss, vector, x, direction, expected = case
    along = lambda f: lambda p: jvp(f, (p,), (direction,))[1]  # noqa: E731
    inside = along(along(lambda p: vmap(loss, (None, 0))(p, x)))(vector)
    outside = vmap(lambda x: along(along(lambda p: loss(p, x)))(vector))(x)
    for values in (inside, outside):
        same(values, torch.stack([direction @ h @ direction for h in expected]))


def test_modules_differentiated_twice() -> None:
    """The layers themselves, with parameters as they are: a penalty on the gradient."""
    net, results = model(), []
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    for convert in (lambda net: net, converted):
        each = convert(net)
        (of_input,) = torch.autograd.grad(each(x).sin().sum(), x, create_graph=True)
        each.zero_grad()
        of_input.square().sum().backward(inputs=list(each.parameters()))
        results.append([p.grad.clone() for p in each.parameters() if p.grad is not None])
    same(*results)
