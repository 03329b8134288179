"""What tests of converted models share: a small model, its outputs and gradients, and their errors."""

import torch


class Plain(torch.nn.Conv2d):
    """Derives from a stock layer and overrides nothing that convert replaces."""

    def __init__(self, *arguments, extra=1, **keywords):
        super().__init__(*arguments, **keywords)
        self.extra = extra

    def extra_repr(self):
        return f"{super().extra_repr()}, extra={self.extra}"

    def twice(self, x):
        return 2 * self(x)


class Wrapper(torch.nn.Module):
    """Holds a stock layer, and one of them twice."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.inner
        self.pool = torch.nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(self.again(torch.relu(self.inner(x))))


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), Wrapper(), torch.nn.AdaptiveAvgPool2d(2)
    ).double()


def classes(model):
    return [type(module) for module in model.modules()]


def picture(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape).sin()


def run(model, x, parameters=None):
    """The outputs, and the gradients of a fixed projection of them by the input and the parameters, by default all."""
    parameters = list(model.parameters()) if parameters is None else parameters
    torch.manual_seed(1)  # dropout
    x = x.clone().requires_grad_()
    outputs = model(x)
    outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]
    loss = sum((y * torch.arange(y.numel()).view_as(y).cos().to(y.dtype)).sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *parameters], allow_unused=True)]


def errors(results, exact):
    """Relative L2 errors, one by one. A gradient that the exact network has as rounding noise has none."""
    scale = max(e.norm() for e in exact if e is not None)
    pairs = [(r, e) for r, e in zip(results, exact, strict=True) if e is not None and e.norm() > 1e-9 * scale]
    return torch.stack([(r.double() - e).norm() / e.norm() for r, e in pairs])
