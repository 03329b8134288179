"""Muon, beside its definition by singular values and beside PyTorch's."""

import pytest
import torch
from torch import Tensor, nn

from train.muon import QUINTIC, orthogonalised
from train.networks import build
from train.optim import make_optimizer, parameter_groups


def by_singular_values(matrix: Tensor, steps: int = 5) -> Tensor:
    """The iteration's polynomial, an odd one, is one of each singular value."""
    a, b, c = QUINTIC
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7), (1, 5)])
def test_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    found = orthogonalised(matrix)
    torch.testing.assert_close(found, by_singular_values(matrix), rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() <= values.max() < 1.3
    assert not orthogonalised(torch.zeros(shape)).any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_two_steps_of_each_kind_of_parameter(layout: torch.memory_format) -> None:
    """Filters as matrices [out, in * k * k], wide and tall; the last layer, biases and norms by SGD."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 20, 1), nn.Linear(4, 2)).double()
    model.to(memory_format=layout)
    lr, decay, momentum = 0.1, 0.01, 0.9
    optimizer = make_optimizer("muon", parameter_groups(model, lr, decay, 2.0, False), momentum, False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = [{name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(2)]
    for some in gradients:
        for name, p in model.named_parameters():
            p.grad = some[name].clone()
        optimizer.step()
    for name, p in model.named_parameters():
        expected, velocity = before[name], torch.zeros_like(p)
        weight, hidden = p.ndim > 1, name in ("0.weight", "2.weight")
        for some in gradients:
            gradient = some[name] if hidden or not weight else some[name] + decay * expected
            velocity = momentum * velocity + gradient
            step = gradient + momentum * velocity
            if hidden:
                matrix = step.flatten(1)
                scale = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                step = scale * by_singular_values(matrix).view(step.shape) + decay * expected
            expected = expected - lr * (2 if name.startswith("1.") else 1) * step
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_steps_of_torchs_muon() -> None:
    """Of a matrix they are the same but for its bfloat16: three products in each of five iterations, each rounded to
    2^-9."""
    ours, theirs = (nn.Parameter(torch.eye(30, 40)) for _ in range(2))
    last = nn.Parameter(torch.zeros(1, 1))
    groups = [{"params": [ours, last], "lr": 0.05, "weight_decay": 0.1}]
    optimizers = make_optimizer("muon", groups, 0.9, False), torch.optim.Muon([theirs], 0.05, 0.1, 0.9)
    for _ in range(3):
        gradient = torch.randn(30, 40)
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
    start = torch.eye(30, 40)
    assert (ours - theirs).norm() < 15 * 2**-9 * (theirs - start).norm()


def test_muon_learns() -> None:
    model = build("lenet5", "torch", 1)
    images, labels = torch.randn(32, 1, 32, 32), torch.arange(32) % 10
    optimizer = make_optimizer("muon", parameter_groups(model, 0.02, 5e-4, 1.0, False), 0.9, False)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
