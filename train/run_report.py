"""``python -m train report RUN [RUN...]``: the page of a run, as `fit` ends with, or of several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

import torchconv
from train.data import Data
from train.errors import InputError
from train.module import Learner, load
from train.page import (
    Seen,
    as_img,
    class_sections,
    masks_section,
    neighbours_figure,
    network_sections,
    points_section,
    runs_sections,
    section,
    write_page,
)
from train.predict import Parser
from train.saved import data_of, read_checkpoint
from train.scenes import labels_of
from train.tasks import Classification, Localisation, Located, Segmentation

TESTED, REMEMBERED = 2000, 5000  # test and training images that the page looks at
MASKED = 6  # test images whose every pixel has an answer


@torch.no_grad()
def _answers(network: nn.Module, images: Tensor, inside: nn.Module | None) -> tuple[Tensor, Tensor]:
    """The outputs [N, ...] of normalised images, and what the layer `inside` is given, [N, F]."""
    given: list[Tensor] = []
    handle = inside.register_forward_pre_hook(lambda module, args: given.append(args[0].flatten(1))) if inside else None
    try:
        answers = torch.cat([network(some).float() for some in images.split(250)])
    finally:
        if handle is not None:
            handle.remove()
    return answers, torch.cat(given) if given else torch.empty(0)


def task_sections(task: Classification, images: Tensor, outputs: Tensor, targets: Any, classes: Any) -> list[str]:
    """What the network says of test images, beside what is known of them."""
    if isinstance(task, Segmentation):
        return [masks_section(images, task.true(targets), outputs.argmax(1), task.outputs)]
    sections = class_sections(Seen(images, labels_of(targets), task.shares(outputs), classes))
    if isinstance(task, Located):
        found = points_section(images, task.true(targets), task.located(outputs), isinstance(task, Localisation))
        sections.append(found)
    return sections


def report(folders: Sequence[Path], module: Learner, data: Data) -> Path:
    """Writes the page of the runs in ``folders``, the first of which trained ``module`` on ``data``; where it is."""
    network = module.network.eval()
    tests, targets = data.pictures("test", MASKED if isinstance(module.task, Segmentation) else TESTED)
    train, _ = data.pictures("train", REMEMBERED)
    prepare = data.normaliser()
    last = next((m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)), None)
    outputs, features = _answers(module, prepare(tests), last)
    explained = str(torchconv.explain(network, prepare(tests[:1])))
    sections = [*runs_sections(folders), *network_sections(network, explained, prepare(tests[:1])[0])]
    sections += task_sections(module.task, tests, outputs, targets, data.source.classes)
    if last is not None:
        _, remembered = _answers(module, prepare(train), last)
        figure = neighbours_figure(remembered, features[:8], train, tests[:8])
        sections.append(section("Nearest training images", as_img(figure, "nearest in the last hidden layer")))
    return write_page(folders[0] / "report.html", " and ".join("/".join(f.parts[-2:]) for f in folders), sections)


def report_runs(arguments: list[str]) -> None:
    """Writes the page of the runs that the command line names into the first one's folder, and prints where."""
    parser = Parser(prog="python -m train report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of a run, for instance runs/lenet5-digits/version_0"
    )
    parser.add_argument("--data.root", dest="root", help="the data's directory, where it is not the run's own any more")
    options = parser.parse_args(arguments)
    folders = [Path(run) for run in options.runs]
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise InputError(f"'{folder}' is no run: it holds no metrics.csv")
    first = folders[0]
    path = str(first / "checkpoints" / "last.ckpt")
    checkpoint = read_checkpoint(path)
    name = data_of(checkpoint, path)
    config = _config(first / "config.yaml")
    module = load(checkpoint)
    kept, validation = checkpoint.get("kept"), config["data"]["validation"]
    data = Data(name, options.root or config["data"]["root"], validation=validation, side=kept and kept["side"])
    if kept:
        data.take(kept, path)
    data.setup()
    print(report(folders, module, data))


def _config(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the run's options '{path}': {type(error).__name__}") from error
