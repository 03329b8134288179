"""What the speed run is made of, each option alone, and its recipe."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_train import ROOT, checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from train.module import Learner
from train.networks import build
from train.networks.speedrun import whiten
from train.optim import Lookahead, make_optimizer, parameter_groups, triangle
from train.views import VIEWS, averaged


def test_whitened_patches_are_uncorrelated() -> None:
    images = F.avg_pool2d(torch.randn(200, 3, 22, 22), 3, stride=1)  # neighbours are alike
    model = build("speedrun", "torch", init="dirac")
    first = whiten(model, images, eps=0.0)
    out = first(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out[:12] @ out[:12].T / out.shape[1], torch.eye(12), rtol=0, atol=1e-3)
    assert torch.equal(out[12:], -out[:12])
    assert not first.weight.requires_grad
    assert first.bias is not None
    assert first.bias.requires_grad


def test_dirac_hands_on_the_first_maps() -> None:
    model = build("speedrun", "torch", init="dirac")
    second = model[2]
    x = torch.randn(2, 24, 8, 8)
    assert torch.equal(second(x)[:, :24], x)
    assert second.weight[24:].std() > 0.01
    assert not model[0].bias.any()


def test_groups_of_parameters() -> None:
    groups = parameter_groups(build("speedrun", "torch"), lr=0.5, weight_decay=0.01, norm_lr=64, decay_all=True)
    assert [group["lr"] for group in groups] == [0.5, 0.5, 32.0]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.01, 0.01 / 64]
    assert [len(group["params"]) for group in groups] == [1 + 6 + 1, 1, 6]  # biases alone of the norms


def test_nesterov() -> None:
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    for weight, nesterov in zip(weights, (False, True), strict=True):
        optimizer = make_optimizer("sgd", [{"params": [weight], "lr": 0.1}], 0.5, nesterov)
        weight.grad = torch.ones(2, 2)
        optimizer.step()
    assert [w[0, 0].item() for w in weights] == pytest.approx([0.9, 1 - 0.1 * 1.5])


def test_triangle() -> None:
    assert [triangle(p) for p in (0, 0.115, 0.23, 0.615, 1)] == pytest.approx([0.2, 0.6, 1, 0.535, 0.07])


def test_lookahead() -> None:
    module = SimpleNamespace(network=nn.Linear(1, 1, bias=False))
    weight = module.network.weight.data
    lookahead = Lookahead(5)
    trainer = SimpleNamespace(estimated_stepping_batches=12, global_step=0)
    weight.fill_(0)
    lookahead.on_train_start(trainer, module)  # type: ignore[arg-type]
    slow = 0.0
    for step in range(1, 13):
        trainer.global_step = step
        weight.add_(1)
        if step in (5, 10):
            share = 0.95**5 * (step / 12) ** 3
            slow = share * slow + (1 - share) * (weight.item())
        expected = slow if step in (5, 10, 12) else weight.item()
        lookahead.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
        assert weight.item() == pytest.approx(expected)
    again = Lookahead(5)
    again.load_state_dict(lookahead.state_dict())
    again.on_train_start(trainer, module)  # type: ignore[arg-type]
    assert again.slow["weight"].item() == pytest.approx(slow)


@pytest.mark.parametrize("views", VIEWS)
def test_views(views: int) -> None:
    images = torch.randn(3, 2, 8, 8)
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        assert x.shape == images.shape
        seen.append(x)
        return x.flatten(1)[:, :4]

    out = averaged(network, images, views)
    assert len(seen) == views
    assert sum(VIEWS[views].values()) == pytest.approx(1)
    assert torch.equal(seen[0], images)
    shares = [share / (1 if views == 1 else 2) for share in VIEWS[views].values() for _ in range(min(views, 2))]
    torch.testing.assert_close(out, sum(s * x.flatten(1)[:, :4] for s, x in zip(shares, seen, strict=True)))
    if views == 6:
        moved = F.pad(images, [1] * 4, "reflect")
        assert torch.equal(seen[2], moved[..., :8, :8])
        assert torch.equal(seen[5], moved[..., 2:, 2:].flip(-1))


FEW = ["--data.name", "digits", "--data.batch_size", "24", "--model.views", "2", "--model.channels_last", "false"]


def test_recipe(train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few steps of it on digits; then without what looks ahead, stopped and resumed."""
    options = ["--config", ROOT / "train" / "recipes" / "speedrun_cifar10.yaml", "--trainer.accelerator", "cpu", *FEW]
    options += ["--trainer.enable_progress_bar", "false", "--trainer.limit_train_batches", "2"]
    options += ["--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"]
    assert train("fit", *options, "--trainer.max_steps", "2") == 0
    assert "94.00%" in capsys.readouterr().out
    options += ["--model.lookahead", "0", "--model.schedule", "constant", "--model.lr", "0.01", "--model.whiten", "1"]
    assert train("fit", *options, "--trainer.max_steps", "2") == 0
    run = tmp_path / "runs" / "speedrun-digits"
    last = run / "version_1" / "checkpoints" / "last.ckpt"
    before = checkpoint(last)["state_dict"]
    assert train("fit", *options, "--trainer.max_steps", "4", "--ckpt_path", last) == 0
    after = checkpoint(run / "version_2" / "checkpoints" / "last.ckpt")["state_dict"]
    same = {name for name, value in after.items() if name.startswith("network.") and torch.equal(value, before[name])}
    norms = {f"network.{i}.weight" for i in (4, 7, 11, 14, 18, 21)}  # they stay one
    assert same == {"network.0.weight", "network.0.bias", *norms}  # the bias learnt for one epoch


def test_whitening_needs_images_only_to_fit() -> None:
    module = Learner("speedrun", in_channels=3, whiten=3)
    module.setup("test")
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
