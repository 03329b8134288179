"""``python -m train fit|validate|test|predict|ensemble|report``: trains a network, ends with accuracy, speed, report.

Every option has a default (LeNet-5 on digits); ``--config train/recipes/NAME.yaml`` gives those of another run, and
``--print_config`` writes them all. What the user must mend is one sentence on stderr and exit status 2.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from train.checkpoints import WholeFiles, check_writable
from train.data import Data
from train.ending import Ending
from train.ensemble import ensemble
from train.errors import Diverged, InputError, one_line
from train.help import short_help, suggested
from train.memory import keep_freed_memory
from train.module import Learner
from train.networks import SIDES
from train.predict import predict
from train.progress import Bar, Lines
from train.quiet import silence_irrelevant
from train.report import draw_confusion, earlier_rows, learning_curve, results, summary
from train.saved import DEFAULT_TASK, check_resumed, find_checkpoint, read_checkpoint
from train.sources import FOLDER, SIDE, SOURCES
from train.tasks import find_task
from train.throughput import Throughput

TRAINER_DEFAULTS = {
    "max_epochs": 30,
    "default_root_dir": "runs",
    "enable_model_summary": False,  # It counts no operations of ours, and parameters are the same for every backend.
    "use_distributed_sampler": False,  # The data module's own sampler gives each process its share.
}


class Parser(LightningArgumentParser):
    """Reports an error as one sentence, without the usage of several screens; its help is two of them."""

    def format_help(self, *args: Any, **keywords: Any) -> str:
        if not any("--model.name" in action.option_strings for action in self._actions):
            return super().format_help(*args, **keywords)
        return short_help(self._actions, self.prog.split()[-1], SOURCES)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # A parser inside jsonargparse, whose error is caught there.
            super().error(message, ex)
        raise InputError(suggested(_shorten(one_line(message)), self._actions)) from ex


def _shorten(message: str) -> str:
    """Makes of jsonargparse's paragraph on a value that fits no type of a union "'value' is none of ..."."""
    union = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: (.*)"
    return re.sub(r"<class '(.+?)'>", r"\1", re.sub(union, r"'\2' is none of \1", message))


class TrainCLI(LightningCLI):
    """Lightning's command line with our logs and checkpoints; input is checked before the training starts."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.mode": "max", "checkpoint.filename": "best-{epoch:03d}"})
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.in_channels", "model.in_channels", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except UnicodeDecodeError as error:
            raise InputError(f"what --config names is not text: {error.reason} at byte {error.start}") from error
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        if config.seed_everything is not None and config.seed_everything is not True and config.seed_everything < 0:
            raise InputError(f"--seed_everything must be at least 0, got {config.seed_everything}")
        model, data = config.model, config.data
        if config.ckpt_path in ("last", "best"):
            run = f"{(model.name or '*').replace('/', '-')}-{data.name or '*'}"
            config.ckpt_path = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir, run)
        self.ckpt_path: str | None = config.ckpt_path
        if self.ckpt_path is None and subcommand != "fit":
            raise InputError(f"{subcommand} needs a trained network: give its checkpoint with --ckpt_path")
        self.saved = read_checkpoint(self.ckpt_path) if self.ckpt_path else None
        network = self.saved["network"] if self.saved else {}
        model.task = model.task or network.get("task", DEFAULT_TASK)
        task = find_task(model.task)
        if model.name is None:
            model.name = network.get("name", task.network)
            model.activation = model.activation or network.get("activation")
        data.name = data.name or (self.saved or {}).get("data", task.data)
        if data.name == FOLDER and data.side is None:
            kept = (self.saved or {}).get("kept")
            data.side = kept["side"] if kept else SIDES.get(model.name, SIDE)
        config.checkpoint.monitor = config.checkpoint.monitor or f"val/{task.watched}"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with a CSV and a TensorBoard log in one directory, unless another logger was asked for."""
        options = self.config_init[self.subcommand]
        root, checkpoints = options.trainer.default_root_dir, options.checkpoint.dirpath
        self.folders = [folder for folder in (root, checkpoints) if folder is not None]
        if options.trainer.logger is None:
            name = f"{options.model.network_args['name'].replace('/', '-')}-{options.data.name}"
            table = CSVLogger(root, name)
            self.folders.append(table.log_dir)
            kwargs["logger"] = [table, TensorBoardLogger(root, name, table.version, default_hp_metric=False)]
        if options.data.validation == 0:  # No checkpoint is the best.
            options.checkpoint.monitor, options.checkpoint.save_top_k = None, 0
        self.throughput = Throughput()
        # After every epoch, to resume from; ModelCheckpoint's own save_last does so only where the epoch was the best.
        self.last = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
        ending = Ending(lambda: self.last.best_model_path, _complain, self._draw)
        own = [self.throughput, Lines(self.throughput), self.last, ending]
        if options.trainer.enable_progress_bar is None:
            options.trainer.enable_progress_bar = sys.stdout.isatty()
        if options.trainer.enable_progress_bar:
            own.append(Bar())
        options.trainer.callbacks = [*(options.trainer.callbacks or []), *own]
        if not options.trainer.plugins:
            options.trainer.plugins = [WholeFiles()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:  # Lightning's own words on an option of the trainer's.
            raise InputError(str(error)) from error

    def after_instantiate_classes(self) -> None:
        """Checks what was given before the trainer starts further processes, so that it is said once."""
        if self.saved is not None:
            if self.saved.get("kept") and self.datamodule.name == FOLDER:
                self.datamodule.take(self.saved["kept"], self.ckpt_path)
            self.model.check_network(self.saved["network"], self.ckpt_path)
            if self.subcommand == "fit" and self.ckpt_path is not None:
                check_resumed(self.saved, self.ckpt_path, self.model.options, self.trainer.max_epochs)
        data = self.datamodule
        self.model.check_data(data.name, data.size, data.source.scene is not None)
        if self.model.schedule == "plateau" and not self.datamodule.validation:
            raise InputError("schedule 'plateau' watches the validation, but --data.validation is 0")
        self.datamodule.prepare_data()
        self.datamodule.setup()
        for folder in self.folders:  # Last, so that a run that is refused leaves none.
            rank_zero_only(check_writable)(folder)

    def before_fit(self) -> None:
        """Notes the options beside the metrics, which those of the run that is resumed begin."""
        earlier = earlier_rows(self.ckpt_path, self.saved["global_step"]) if self.ckpt_path and self.saved else []
        for logger in self.trainer.loggers:
            logger.log_hyperparams({**self.model.network_args, **self.model.options})
            if isinstance(logger, CSVLogger) and self.trainer.is_global_zero:
                logger.experiment.metrics = earlier

    def after_fit(self) -> None:
        """Tests what the training ended with, draws the learning curve, prints the summary.

        Not the best checkpoint, which is there too: on few validation images the best is so by luck, and the schedules
        that go to zero end on a better one.
        """
        (metrics,) = self.trainer.test(self.model, self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            curve = self._draw()
            page = self._report(curve.parent) if curve is not None else None
            reached = metrics[f"test/{self.model.task.watched}"], self.model.target
            print(summary(results(metrics), reached, self.throughput, self.last.best_model_path, curve, page))

    def after_test(self) -> None:
        """Prints what was measured; of a classification the errors, and where the confusion matrix was drawn."""
        metrics = self.trainer.callback_metrics
        if not self.trainer.is_global_zero:
            return
        if not self.model.task.of_labels:
            for name, value in results(metrics).items():
                print(f"{f'test {name}':16}{value:.2%}")
            return
        log = self._log_dir()
        matrix = draw_confusion(log, self.model.confused, self.datamodule.source.classes) if log else None
        print(f"top-1 error       {1 - metrics['test/accuracy']:.2%}")
        print(f"top-5 error       {1 - metrics['test/top5_accuracy']:.2%}")
        print(f"confusion matrix  {matrix or 'none'}")

    def _log_dir(self) -> Path | None:
        """The folder of the run, where it is logged as a table."""
        folders = [Path(logger.log_dir) for logger in self.trainer.loggers if isinstance(logger, CSVLogger)]
        return folders[0] if folders else None

    def _report(self, folder: Path) -> Path | None:
        """The run's page, which is made with torchconv; where it was put. A run on torch's layers may have none."""
        try:
            from train.run_report import report
        except ImportError:
            return None
        return report([folder], self.model, self.datamodule)

    def _draw(self) -> Path | None:
        """The learning curve of the run, if there is anything to draw; where it was put."""
        folder = self._log_dir()
        if not self.trainer.is_global_zero or folder is None or not (folder / "metrics.csv").exists():
            return None
        return learning_curve(folder)


@rank_zero_only
def _complain(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)


def _report_runs(arguments: list[str]) -> None:
    """Its page is made with torchconv, which the other commands can do without."""
    from train.run_report import report_runs

    report_runs(arguments)


OWN_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "predict": predict,
    "ensemble": ensemble,
    "report": _report_runs,
}


def main() -> int:
    """Runs the command line of this process; its exit status."""
    silence_irrelevant()
    keep_freed_memory()
    try:
        if sys.argv[1:2] and sys.argv[1] in OWN_COMMANDS:
            OWN_COMMANDS[sys.argv[1]](sys.argv[2:])
            return 0
        TrainCLI(
            Learner,
            Data,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
        )
    except (InputError, MisconfigurationException) as error:
        _complain(one_line(error))
        return 2
    except Diverged as error:
        _complain(one_line(error))
        return 1
    except SIGTERMException:  # `Ending` has said it.
        return 143
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # Lightning makes this of a KeyboardInterrupt.
        if isinstance(error.__context__, KeyboardInterrupt):
            return 130
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
