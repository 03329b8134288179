"""What a network is trained to say of a picture: what it puts out, the loss, the metrics, and the one to watch.

The outputs of every task but segmentation are one row a picture, [B, outputs], of the network's last dense layer: first
the logits of the classes, then whatever else there is. Two heads on one layer are this layer with the outputs of both.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from train.boxes import iou
from train.errors import InputError
from train.saved import DEFAULT_DATA, DEFAULT_NETWORK, DEFAULT_TASK
from train.scenes import JOINTS, Targets, labels_of

NEAR = 0.1  # of the longer side of its box, for a joint to be right


class Classification:
    """The class, by cross-entropy."""

    network, data = DEFAULT_NETWORK, DEFAULT_DATA  # where none is named
    watched = "accuracy"  # the metric that the best checkpoint is chosen by
    of_labels = True  # it needs to know nothing else of an image

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, coordinate_weight: float = 2.0) -> None:
        self.num_classes, self.label_smoothing, self.coordinate_weight = num_classes, label_smoothing, coordinate_weight

    @property
    def outputs(self) -> int:
        """Of the network's last layer."""
        return self.num_classes

    def answer(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of what a network is to put out of one picture of that height and width."""
        return (self.outputs,)

    def classes(self, names: Sequence[str]) -> Sequence[str]:
        """The names of what is told apart; ``names`` are those of the data's classes."""
        return names

    def logits(self, outputs: Tensor) -> Tensor:
        """Those of the classes, [B, num_classes]."""
        return outputs[:, : self.num_classes]

    def shares(self, outputs: Tensor) -> Tensor:
        """The probability of each class, [B, classes]."""
        return self.logits(outputs).float().softmax(1)

    def located(self, outputs: Tensor) -> Tensor | None:
        """The points, [B, points, 2], of a task that has some."""
        return None

    def loss(self, outputs: Tensor, targets: Tensor | Targets) -> Tensor:
        """The mean over the batch."""
        return F.cross_entropy(self.logits(outputs), labels_of(targets), label_smoothing=self.label_smoothing)

    def metrics(self, part: str) -> dict[str, Metric]:
        """New ones, for ``part`` train, val or test, each by its name."""
        found: dict[str, Metric] = {"accuracy": self._accuracy()}
        return found | {"top5_accuracy": self._accuracy(min(5, self.num_classes))} if part == "test" else found

    def _accuracy(self, top: int = 1) -> Metric:
        return MulticlassAccuracy(self.num_classes, top_k=top, average="micro", validate_args=False)

    def measured(self, outputs: Tensor, targets: Tensor | Targets) -> dict[str, tuple[Tensor, ...]]:
        """What the metrics of these names are updated with."""
        given = self.logits(outputs), labels_of(targets)
        return {"accuracy": given, "top5_accuracy": given}


class Located(Classification):
    """The class, and ``points`` points: cross-entropy + coordinate_weight · the mean squared error of a coordinate.

    A point is (x, y) from -1 to 1, from edge to edge of the picture.
    """

    network, data = "detector", "pasted"
    of_labels = False
    points: int

    @property
    def outputs(self) -> int:
        return self.num_classes + 2 * self.points

    def located(self, outputs: Tensor) -> Tensor:
        return outputs[:, self.num_classes :].unflatten(1, (self.points, 2))

    def true(self, targets: Targets) -> Tensor:
        """Where the points are, [B, points, 2]."""
        raise NotImplementedError

    def right(self, points: Tensor, targets: Targets) -> Tensor:
        """How good the points are: the values that ``watched`` is the mean of."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor | Targets) -> Tensor:
        assert isinstance(targets, Targets)
        squared = F.mse_loss(self.located(outputs), self.true(targets))
        return super().loss(outputs, targets) + self.coordinate_weight * squared

    def metrics(self, part: str) -> dict[str, Metric]:
        return {"accuracy": self._accuracy(), self.watched: MeanMetric(nan_strategy="disable")}

    def measured(self, outputs: Tensor, targets: Tensor | Targets) -> dict[str, tuple[Tensor, ...]]:
        assert isinstance(targets, Targets)
        right = self.right(self.located(outputs.detach()), targets)
        return {"accuracy": (self.logits(outputs), targets.labels), self.watched: (right,)}


class Localisation(Located):
    """The class and the four corners of the turned box; watched is the mean IoU of the boxes."""

    points = 4
    watched = "iou"

    def true(self, targets: Targets) -> Tensor:
        return targets.boxes

    def right(self, points: Tensor, targets: Targets) -> Tensor:
        return iou(points, targets.boxes)


class Pose(Located):
    """The class and the joints; watched is PCK, the share of joints that are within a tenth of their box's longer side.

    Source of the metric: Yang and Ramanan, Articulated Human Detection with Flexible Mixtures of Parts, 2013.
    """

    points = JOINTS
    watched = "pck"

    def true(self, targets: Targets) -> Tensor:
        return targets.joints

    def right(self, points: Tensor, targets: Targets) -> Tensor:
        longer = (targets.boxes[:, 1:3] - targets.boxes[:, :2]).norm(dim=2).amax(1)
        return ((points - targets.joints).norm(dim=2) < NEAR * longer[:, None]).float()


class Segmentation(Classification):
    """The class of each pixel, background or the digit's, by cross-entropy; [B, 1 + num_classes, H, W].

    Watched is the mean over these classes of the IoU of all pixels.
    """

    network, data = "unet", "pasted"
    watched = "iou"
    of_labels = False

    @property
    def outputs(self) -> int:
        return 1 + self.num_classes

    def answer(self, size: tuple[int, int]) -> tuple[int, ...]:
        return self.outputs, *size

    def classes(self, names: Sequence[str]) -> Sequence[str]:
        return ("background", *names)

    def shares(self, outputs: Tensor) -> Tensor:
        """The share of the pixels that are of each class, [B, classes]."""
        return F.one_hot(outputs.argmax(1), self.outputs).float().mean((1, 2))

    def true(self, targets: Targets) -> Tensor:
        """The class of each pixel, [B, H, W]: 0 in the background, 1 + label in the digit."""
        return targets.masks * (1 + targets.labels[:, None, None])

    def loss(self, outputs: Tensor, targets: Tensor | Targets) -> Tensor:
        assert isinstance(targets, Targets)
        return F.cross_entropy(outputs, self.true(targets), label_smoothing=self.label_smoothing)

    def metrics(self, part: str) -> dict[str, Metric]:
        return {"iou": MulticlassJaccardIndex(self.outputs, average="macro", validate_args=False)}

    def measured(self, outputs: Tensor, targets: Tensor | Targets) -> dict[str, tuple[Tensor, ...]]:
        assert isinstance(targets, Targets)
        return {"iou": (outputs, self.true(targets))}


TASKS: dict[str, type[Classification]] = {
    DEFAULT_TASK: Classification,
    "localisation": Localisation,
    "pose": Pose,
    "segmentation": Segmentation,
}


def find_task(name: str) -> type[Classification]:
    """The named one of ``TASKS``."""
    if name not in TASKS:
        raise InputError(f"unknown task '{name}': there are {', '.join(TASKS)}")
    return TASKS[name]
