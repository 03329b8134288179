"""The neocognitron and Hebb's rule against their definitions, cell by cell, and what they learn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from suite import slow
from test_train import RECIPES, ROOT, SHORT, check_one_sentence, checkpoint
from torch import Tensor, nn

from train.hebbian import begin, learn
from train.networks.neocognitron import SPlanes

HEBBIAN = ["--model.name", "neocognitron", "--trainer.callbacks+=train.hebbian.Hebbian"]


def planes(threshold: float = 0.3) -> SPlanes:
    return SPlanes(nn, 2, 4, 3, threshold).double()


def patch(x: Tensor, y: int, z: int) -> Tensor:
    return x[:, y : y + 3, z : z + 3].flatten()


def test_s_is_the_cosine_beyond_the_threshold() -> None:
    s, x = planes(), torch.rand(1, 2, 6, 7, dtype=torch.float64)
    answers = s(x)[0]
    assert answers.shape == (4, 4, 5)
    for k, y, z in torch.cartesian_prod(*map(torch.arange, answers.shape)).tolist():
        cosine = torch.cosine_similarity(s.conv.weight[k].flatten(), patch(x[0], y, z), 0)
        expected = max(cosine.item() - 0.3, 0) / 0.7
        assert answers[k, y, z].item() == pytest.approx(expected, abs=1e-6)  # ε is 1e-6 of a strength of about 6
    torch.testing.assert_close(s(5 * x), s(x), rtol=1e-5, atol=1e-6)


def test_where_nothing_is_seen_nothing_is_answered_or_learned() -> None:
    s = planes(0.0)
    before = s.conv.weight.clone()
    blank = torch.zeros(2, 2, 6, 6, dtype=torch.float64)
    assert s(blank).count_nonzero() == 0
    s(blank).sum().backward()
    assert s.conv.weight.grad is not None
    assert s.conv.weight.grad.isfinite().all()
    learn(s, blank, 0.1)
    torch.testing.assert_close(s.conv.weight, nn.functional.normalize(before.flatten(1), dim=1).view_as(before))


def hebb(weight: Tensor, answers: Tensor, x: Tensor, rate: float) -> Tensor:
    """The rule cell by cell: of images x [B, C, H, W] that are answered by [B, K, Y, Z]."""
    moved = weight.flatten(1).clone()
    for image, own in zip(x, answers, strict=True):
        for k in range(len(weight)):
            best, seen = 0.0, None
            for y in range(own.shape[1]):
                for z in range(own.shape[2]):
                    if own[k, y, z] > best and own[:, y, z].argmax() == k:
                        best, seen = own[k, y, z].item(), patch(image, y, z)
            if seen is not None:
                moved[k] += rate * seen / seen.norm()
    return (moved / moved.norm(dim=1, keepdim=True)).view_as(weight)


def test_winners_alone_move_to_what_they_saw() -> None:
    s, x = planes(), torch.rand(5, 2, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        s.conv.weight.abs_()
        s.conv.weight[3].neg_()  # which is like no patch
        s.conv.weight.div_(s.conv.weight.flatten(1).norm(dim=1)[:, None, None, None])
        before, expected = s.conv.weight.clone(), hebb(s.conv.weight, s(x), x, 0.2)
    learn(s, x, 0.2)
    torch.testing.assert_close(s.conv.weight, expected)
    torch.testing.assert_close(s.conv.weight[3], before[3])
    assert not torch.allclose(s.conv.weight, before, atol=1e-3)


@pytest.mark.parametrize("images", [1, 3])
def test_filters_begin_as_patches(images: int) -> None:
    s, x = planes(), torch.rand(images, 2, 4, 3, dtype=torch.float64)  # two patches an image, for four filters
    begin(s, x)
    patches = nn.functional.normalize(torch.stack([patch(image, y, 0) for image in x for y in (0, 1)]), dim=1)
    distances = torch.cdist(s.conv.weight.flatten(1), patches)
    assert distances.amin(1).max() < 1e-7
    if images == 3:
        assert distances.argmin(1).unique().numel() == 4


def test_modules_learn_one_after_the_other_and_by_no_gradient(train: Callable[..., int], tmp_path: Path) -> None:
    few = ["--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1]
    few += ["--trainer.callbacks.epochs", 1, "--data.batch_size", 8]
    states = []
    for version, epochs in enumerate((1, 2)):
        assert train("fit", *HEBBIAN, *few, *SHORT[2:], "--trainer.max_epochs", epochs) == 0
        run = tmp_path / "runs" / "neocognitron-digits" / f"version_{version}"
        states.append(checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"])
    filters = [key for key in states[0] if "conv" in key]
    for key, value in states[1].items():  # In the second epoch the second module has learned, and what has a gradient.
        assert torch.equal(value, states[0][key]) == (key in (filters[0], filters[2]))
    learned = torch.cat([states[1][key].flatten(1).norm(dim=1) for key in filters[:2]])
    torch.testing.assert_close(learned, torch.ones_like(learned))


def test_hebb_takes_s_planes(train: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert train("fit", *HEBBIAN[2:], *SHORT) == 2
    check_one_sentence(capfd, "Hebb's rule is for S-planes, but model 'lenet5' has none: give neocognitron", began=True)


@slow
@pytest.mark.parametrize(("recipe", "least"), [("neocognitron", 0.9), ("neocognitron_supervised", 0.97)])
def test_what_it_learns(recipe: str, least: float, train: Callable[..., int], tmp_path: Path) -> None:
    path = ROOT / "train" / "recipes" / f"{recipe}_digits.yaml"
    assert path in RECIPES
    assert train("fit", "--config", path, *SHORT[2:]) == 0
    table = (tmp_path / "runs" / f"{recipe}-digits" / "version_0" / "metrics.csv").read_text().splitlines()
    column = table[0].split(",").index("test/accuracy")
    assert float(table[-1].split(",")[column]) >= least
