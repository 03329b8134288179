"""``python -m train ensemble CHECKPOINTS...``: the test errors of trained networks, and of their averaged answers."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from train.data import Data
from train.errors import InputError
from train.predict import Parser, Trained, load_trained
from train.views import VIEWS, averaged


@torch.no_grad()
def errors(
    networks: Sequence[Callable[[Tensor], Tensor]], batches: Iterable[tuple[Tensor, Tensor]], classes: int, views: int
) -> list[tuple[float, float]]:
    """The top-1 and top-5 error of each network, then those of the mean of their probabilities, as shares.

    ``batches`` are images [B, C, H, W] and labels [B]; each image is looked at ``views`` times, as `averaged` does.
    """
    measures = [
        [MulticlassAccuracy(classes, top_k=min(k, classes), average="micro", validate_args=False) for k in (1, 5)]
        for _ in range(len(networks) + 1)
    ]
    for images, labels in batches:
        answers = [averaged(network, images, views).softmax(1) for network in networks]
        for some, answer in zip(measures, [*answers, torch.stack(answers).mean(0)], strict=True):
            for measure in some:
                measure.update(answer, labels)
    return [(1 - float(first.compute()), 1 - float(five.compute())) for first, five in measures]


def check_alike(paths: Sequence[str], trained: Sequence[Trained]) -> None:
    """Raises `InputError` unless all networks tell the same classes, and were trained on the same data."""
    for path, other in zip(paths, trained, strict=True):
        if not other.module.task.of_labels:
            task = other.module.network_args["task"]
            raise InputError(f"an ensemble is of classifiers, but checkpoint '{path}' is of the task '{task}'")
        if other.data != trained[0].data or other.kept != trained[0].kept:
            raise InputError(
                f"checkpoint '{path}' was trained on {other.told_data()}, but '{paths[0]}' on {trained[0].told_data()}"
            )


def table(names: Sequence[str], results: Sequence[tuple[float, float]]) -> str:
    """A line for each name with its errors."""
    width = max(map(len, names))
    lines = [f"{'':{width}}  top-1 error  top-5 error"]
    lines += [f"{name:{width}}  {one:11.2%}  {five:11.2%}" for name, (one, five) in zip(names, results, strict=True)]
    return "\n".join(lines)


def ensemble(arguments: list[str]) -> None:
    """Prints the errors of the networks whose checkpoints the command line names, and of all together."""
    parser = Parser(prog="python -m train ensemble", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="what `python -m train fit` wrote")
    parser.add_argument("--data.root", dest="root", default="data", help="the data's directory")
    parser.add_argument("--views", type=int, default=1, help=f"of each image: {', '.join(map(str, VIEWS))}")
    parser.add_argument("--backend", default="torchconv", help="whose convolutions: torchconv or torch")
    options = parser.parse_args(arguments)
    if options.views not in VIEWS:
        raise InputError(f"there are no {options.views} views of an image, but {', '.join(map(str, VIEWS))}")
    paths = options.checkpoints
    trained = [load_trained(path, options.backend) for path in paths]
    check_alike(paths, trained)
    first = trained[0]
    data = Data(first.data, options.root, batch_size=250, validation=0, side=first.kept and first.kept["side"])
    if first.kept:
        data.take(first.kept, paths[0])
    data.setup()
    networks = [some.module.eval() for some in trained]
    results = errors(networks, data.test_dataloader(), data.num_classes, options.views)
    print(table([*paths, f"average of {len(paths)}"], results))
