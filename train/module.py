"""The LightningModule: a network and its task, optimiser and schedule, and what it writes to the logs."""

import math
from typing import Any, cast

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from train.augment import mixup as mix
from train.checkpoints import generator_states, restore_generators
from train.errors import Diverged, InputError, one_line
from train.networks import SIDES, build
from train.networks.speedrun import whiten as whiten_first
from train.optim import BY_STEP, OPTIMIZERS, SCHEDULES, Lookahead, make_optimizer, parameter_groups
from train.saved import DEFAULT_TASK, describe, start_from
from train.scenes import Targets, labels_of
from train.tasks import find_task
from train.views import VIEWS, averaged

RESUMED_WITH = (
    *("optimizer", "lr", "momentum", "nesterov", "weight_decay", "decay_all", "norm_lr"),
    *("schedule", "whiten", "lookahead"),
)


Batch = tuple[Tensor, Tensor | Targets]  # of images [B, C, H, W], and their labels or all that is known of them


class Learner(LightningModule):
    """Trains a network for a task.

    Args:
        name: The network, one of ``train.networks``, or torchvision/NAME or timm/NAME; by default a checkpoint's, or
            the task's.
        backend: Where its convolutions come from: torchconv or torch.
        in_channels: Channels of the images; the data set's.
        num_classes: Classes to tell apart; the data set's.
        task: classification, localisation (class and turned box), pose (class and joints) or segmentation; by default a
            checkpoint's, or classification.
        optimizer: sgd, adam, rmsprop or muon (hidden weights' steps orthogonal).
        lr: Learning rate, the schedule's largest.
        momentum: Of sgd, rmsprop and muon.
        nesterov: Let sgd look ahead along its momentum.
        weight_decay: Of weights, not of biases and batch norms.
        decay_all: Let biases and batch norms decay by the same share a step.
        norm_lr: Learning rate of batch norms, as a multiple of the others'.
        schedule: Of the learning rate: constant, plateau (a tenth when validation stops improving), cosine
            (to zero over the whole training), onecycle (up, then down to zero) or triangle (straight up, then down).
        patience: Epochs without a better validation that plateau waits for.
        coordinate_weight: Of corners' or joints' squared error beside cross-entropy.
        label_smoothing: Share of the target probability spread evenly over all classes.
        mixup: Mix pairs of training images and their labels, in shares drawn from Beta(mixup, mixup); 0: do not.
        channels_last: Keep images and weights with channels innermost in memory.
        fuse: Let torchconv's convolutions do the ReLUs that follow them, and batch norms in evaluation.
        init: How weights are drawn: he, torch (its own way) or dirac (torch's, but the first filters are identities).
        whiten: Let the first convolution whiten patches of the images, fixed; its bias learns for so many epochs.
        lookahead: Steps after which the network is drawn back to its slow average; 0: never.
        activation: Takes the place of the network's own: relu, leaky_relu, gelu, silu, sigmoid or tanh.
        slope: Of leaky_relu, left of zero.
        views: Times a test image is looked at: 1, 2 (mirrored too), 6 (shifted by a pixel), 10 (by two, five places).
        target: Test accuracy, IoU or PCK that the summary tells the time to.
        init_from: A checkpoint whose weights the network starts from, wherever they are of its own shapes.
    """

    def __init__(
        self,
        name: str | None = None,
        backend: str = "torchconv",
        in_channels: int = 1,
        num_classes: int = 10,
        task: str | None = None,
        optimizer: str = "sgd",
        lr: PositiveFloat = 0.02,
        momentum: ClosedUnitInterval = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegativeFloat = 5e-4,
        decay_all: bool = False,
        norm_lr: PositiveFloat = 1.0,
        schedule: str = "onecycle",
        patience: NonNegativeInt = 5,
        coordinate_weight: NonNegativeFloat = 2.0,
        label_smoothing: ClosedUnitInterval = 0.0,
        mixup: NonNegativeFloat = 0.0,
        channels_last: bool = False,
        fuse: bool = False,
        init: str = "he",
        whiten: NonNegativeInt | None = None,
        lookahead: NonNegativeInt = 0,
        activation: str | None = None,
        slope: NonNegativeFloat = 0.01,
        views: int = 1,
        target: ClosedUnitInterval | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        kind = find_task(task or DEFAULT_TASK)
        name = name or kind.network
        for option, value, known in (("optimizer", optimizer, OPTIMIZERS), ("schedule", schedule, SCHEDULES)):
            if value not in known:
                raise InputError(f"unknown {option} '{value}': there are {', '.join(known)}")
        if views not in VIEWS:
            raise InputError(f"there are no {views} views of an image, but {', '.join(map(str, VIEWS))}")
        if nesterov and (optimizer != "sgd" or not momentum):
            raise InputError(f"nesterov is of sgd with momentum, but the optimizer is {optimizer} with {momentum:g}")
        if not kind.of_labels and (mixup or views != 1):
            raise InputError(f"mixup and views are of classification, but the task is {task}")
        self.task = kind(num_classes, float(label_smoothing), float(coordinate_weight))
        self.network_args = {"name": name, "in_channels": in_channels, "num_classes": num_classes}
        if not kind.of_labels:
            self.network_args["task"] = task
        if activation is not None:
            self.network_args["activation"] = activation
            if activation == "leaky_relu":
                self.network_args["slope"] = float(slope)
        self.optimizer, self.schedule, self.patience = optimizer, schedule, patience
        # Plain floats: they go into checkpoints, which may hold no types of jsonargparse's to be read safely.
        self.lr, self.momentum, self.weight_decay = float(lr), float(momentum), float(weight_decay)
        self.nesterov, self.decay_all, self.norm_lr = nesterov, decay_all, float(norm_lr)
        self.whiten = None if whiten is None else int(whiten)
        self.lookahead, self.views, self.target = int(lookahead), views, target
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network = build(name, backend, in_channels, self.task.outputs, fuse, init, activation, float(slope))
        self.network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload] # torch's stub
        if init_from is not None:
            start_from(self.network, init_from)
        self.backend, self.mixup = backend, float(mixup)
        self._generators: dict[str, Any] | None = None  # a checkpoint's
        self.metrics = torch.nn.ModuleDict()
        for part in ("train", "val", "test"):
            self.metrics.update({f"{part}/{measure}": metric for measure, metric in self.task.metrics(part).items()})
            self.metrics[f"{part}/loss"] = MeanMetric(nan_strategy="disable")
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)  # of a classification

    @property
    def options(self) -> dict[str, Any]:
        """What a run that is resumed must be told as before: it is part of the optimiser's and schedule's state."""
        return {name: getattr(self, name) for name in RESUMED_WITH}

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] to what the task says: of a classification logits [B, num_classes]."""
        return self.network(images.contiguous(memory_format=self.memory_format))

    def setup(self, stage: str) -> None:
        """Whitens, before the weights of a run that is resumed are loaded."""
        if self.whiten is not None and stage == "fit":
            if self.trainer.world_size > 1:  # They expect a gradient of each parameter throughout.
                raise InputError("a first layer that is whitened, and then fixed, takes one process, not several")
            self.first = whiten_first(self.network, cast(Any, self.trainer).datamodule.sample())

    def configure_callbacks(self) -> list[Callback]:
        return [Lookahead(self.lookahead)] if self.lookahead else []

    def on_train_epoch_start(self) -> None:
        if self.whiten is not None and self.first.bias is not None:
            self.first.bias.requires_grad_(self.current_epoch < self.whiten)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._mixed(*batch) if self.mixup else self._step("train", batch)
        if not loss.isfinite():
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise Diverged(
                f"the loss is {loss.item():g} at step {self.global_step}, with a learning rate of {rate:g}: "
                "try a smaller --model.lr, or --trainer.gradient_clip_val 1"
            )
        return loss

    def _mixed(self, images: Tensor, targets: Tensor | Targets) -> Tensor:
        """The loss of mixed pairs; the accuracy is that of the label with the larger share."""
        labels = labels_of(targets)
        images, others, share = mix(images, labels, self.mixup, torch.default_generator)
        logits = self(images)
        loss = share * self.task.loss(logits, labels) + (1 - share) * self.task.loss(logits, others)
        return self._measured("train", logits, labels if share >= 0.5 else others, loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step("test", batch)

    def _step(self, part: str, batch: Batch) -> Tensor:
        images, targets = batch
        outputs = averaged(self, images, self.views) if part == "test" else self(images)
        return self._measured(part, outputs, targets, self.task.loss(outputs, targets))

    def _measured(self, part: str, outputs: Tensor, targets: Tensor | Targets, loss: Tensor) -> Tensor:
        self._metric(f"{part}/loss").update(loss.detach(), len(outputs))
        for name, given in self.task.measured(outputs, targets).items():
            if f"{part}/{name}" in self.metrics:
                self._metric(f"{part}/{name}").update(*given)
        if part == "test" and self.task.of_labels:
            self.confusion.update(outputs, labels_of(targets))
        return loss

    def _metric(self, name: str) -> Metric:
        return cast(Metric, self.metrics[name])

    def _log_epoch(self, part: str) -> None:
        # Once an epoch, not at each step: a step of LeNet takes little longer than Lightning's log.
        for name in (name for name in self.metrics if name.startswith(part)):
            # Summed over the processes by the metric, and not again by the log: the process that shows a bar would wait
            # for the others in another order than they for it.
            self.log(name, self._metric(name).compute(), prog_bar=True)
            self._metric(name).reset()

    def on_train_epoch_end(self) -> None:
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")
        if self.task.of_labels:
            self.confused = self.confusion.compute().cpu()  # [class, taken for]
            self.confusion.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser with its schedule."""
        groups = parameter_groups(self.network, self.lr, self.weight_decay, self.norm_lr, self.decay_all)
        optimizer = make_optimizer(self.optimizer, groups, self.momentum, self.nesterov)
        if self.schedule == "constant":
            return optimizer
        if self.schedule == "plateau":
            plateau = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=self.patience)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": f"val/{self.task.watched}"},
            }
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise InputError(f"schedule '{self.schedule}' needs an end: give --trainer.max_epochs or max_steps")
        shape = BY_STEP[self.schedule]
        # A function of the step alone, so that a training can be resumed to another length.
        by_step = LambdaLR(optimizer, lambda step: shape(min(step / steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says in the checkpoint which network its parameters are of, and where the random numbers stand."""
        checkpoint["network"] = self.network_args
        data = cast(Any, self.trainer).datamodule
        checkpoint["data"], checkpoint["kept"] = data.name, data.kept
        checkpoint["options"] = self.options
        checkpoint["generators"] = generator_states()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._generators = checkpoint.get("generators")

    def on_train_start(self) -> None:
        """What a resumed run draws, in dropout say, is what it would have drawn."""
        if self._generators is not None:
            restore_generators(self._generators)

    def check_network(self, network: dict[str, Any], path: str) -> None:
        """Raises `InputError` unless ``network``, from the checkpoint at ``path``, is this module's."""
        if network != self.network_args:
            raise InputError(
                f"checkpoint '{path}' is of {describe(network)}, but the model is {describe(self.network_args)}: "
                "give --config with the config.yaml of the run it comes from"
            )

    def check_data(self, name: str, size: tuple[int, int], scenes: bool) -> None:
        """Raises `InputError` unless the task and the network can have the data ``name``, of that height and width."""
        task, network = self.network_args.get("task"), self.network_args["name"]
        if task and not scenes:
            raise InputError(f"task '{task}' needs more than the labels that '{name}' has: give --data.name pasted")
        given = "x".join(map(str, size))
        if network in SIDES and size != (SIDES[network],) * 2:
            needed = f"{SIDES[network]}x{SIDES[network]}"
            raise InputError(f"model '{network}' takes images of {needed} pixels, but the data's are {given}")
        answer = self._answer(torch.zeros(1, cast(int, self.network_args["in_channels"]), *size))
        if answer != self.task.answer(size):
            raise InputError(
                f"model '{network}' puts out {list(answer)} of an image, but {task or DEFAULT_TASK} takes "
                f"{list(self.task.answer(size))}: leave out --model.name for one that does"
            )

    @torch.no_grad()
    def _answer(self, image: Tensor) -> tuple[int, ...]:
        """The shape of what the network puts out of the only image of a batch."""
        name, given, training = self.network_args["name"], "x".join(map(str, image.shape[2:])), self.training
        try:
            return tuple(self.eval()(image)[0].shape)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"model '{name}' takes no images of {given} pixels: {one_line(error)}") from error
        finally:
            self.train(training)


def load(checkpoint: dict[str, Any], backend: str = "torchconv") -> Learner:
    """The network in a checkpoint, as `read_checkpoint` gives it, with its task."""
    module = Learner(backend=backend, **checkpoint["network"])
    prefix, state = "network.", checkpoint["state_dict"]
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    module.network.load_state_dict(weights)
    return module
