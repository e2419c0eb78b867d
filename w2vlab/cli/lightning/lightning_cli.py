"""`LightningCLI` with the modules and defaults of w2vlab."""

from __future__ import annotations

import json
from argparse import SUPPRESS
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from w2vlab.callbacks import (
    NotFinite,
    ProcessWatch,
    RunCheckpoint,
    RunReport,
    ThroughputMonitor,
    TrainingProgress,
    ValidateFirst,
)
from w2vlab.callbacks.fault_tolerance.checkpoint import (
    find_checkpoint_to_resume,
    find_run_checkpoint,
    refuse_another_run,
)
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.callbacks.records.provenance import RunRecord
from w2vlab.callbacks.run_folder import run_folder
from w2vlab.cli.lightning.accumulation import resolve_accumulation
from w2vlab.cli.lightning.defaults import CHECKPOINT_DEFAULTS, TRAINER_DEFAULTS
from w2vlab.cli.lightning.epochs import resolve_epochs
from w2vlab.cli.lightning.every_run import callbacks_of_every_run
from w2vlab.cli.lightning.memory import without_garbage_collection
from w2vlab.cli.lightning.model_summary import PartsSummary
from w2vlab.cli.lightning.no_profiler import leave_out_profiler
from w2vlab.cli.lightning.rate_monitor import RateMonitor
from w2vlab.cli.lightning.save_config import SaveRunConfig
from w2vlab.cli.lightning.trainer_options import (
    follows_root,
    has_model_summary,
    logger_options,
    run_roots,
    written_folders,
)
from w2vlab.cli.logging.loggers import add_folder_logger, guard, has_fixed_folder
from w2vlab.cli.logging.wandb_server import follow_wandb_mode
from w2vlab.cli.parsing.carried_over import carried_over
from w2vlab.cli.parsing.parser import RunParser, command_line_problem
from w2vlab.cli.parsing.precision import accept_auto, resolve_precision
from w2vlab.cli.parsing.recipe_arguments import with_recipe_paths
from w2vlab.cli.resuming.resume import Start, command_to_resume, differences, find_start, log_if_complete
from w2vlab.cli.resuming.same_run import SameCheckpoint, continue_run
from w2vlab.cli.resuming.warm_start import keep_warm_start
from w2vlab.data import SpeechDataModule
from w2vlab.modules.checkpoints.initial_weights import without_warm_start
from w2vlab.modules.update import TrainedModule
from w2vlab.registry import import_parts
from w2vlab.types import RunError
from w2vlab.utils.files import make_writable


class W2VLightningCLI(LightningCLI):
    """Builds a run from YAML and flags, and runs it.

    Options come from YAML and flags only; a checkpoint restores weights and progress, never options.

    Args:
        args: The command and its options.
        phase: Callback that is added to every run.
    """

    def __init__(self, args: list[str], phase: Callback) -> None:
        self._args = args
        self._parsers: list[LightningArgumentParser] = []
        self._start: Start | None = None
        self._same_checkpoint = SameCheckpoint()
        self._watch = ProcessWatch(self._how_to_resume)
        self._derived: list[tuple[Namespace, str]] = []
        command = ["w2vlab", *args]
        self._record = RunRecord(command)
        super().__init__(
            TrainedModule,
            SpeechDataModule,
            subclass_mode_model=True,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"command": command},
            trainer_defaults={
                **TRAINER_DEFAULTS,
                "callbacks": [phase, self._watch, self._same_checkpoint, *callbacks_of_every_run(), self._record],
            },
            parser_class=RunParser,
            parser_kwargs={"prog": "w2vlab"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the module keeps `run_config` for that
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the commands, each with the arguments of the trainer's method that are not options."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed, and options that the trainer does not have."""
        parser.add_argument("--seed_everything", type=int, default=1, help="Seed of every random draw of the run.")
        parser.add_argument(
            "--parts",
            type=str,
            default=SUPPRESS,
            help="Modules with your own parts, separated by commas, which a checkpoint may name.",
        )
        parser.add_argument(
            "--validate_first",
            type=bool,
            default=False,
            help="Whether to validate before the first update too, in place of the sanity check; logged at update 0.",
        )
        parser.add_argument(
            "--new_run",
            type=bool,
            default=False,
            help="Whether a run that resumes is a new one, with another folder and id, and the run that wrote "
            "the checkpoint is not changed. A run with another root folder or logger is always a new one.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks of every run, and links the seed."""
        parser.add_lightning_class_args(ThroughputMonitor, "throughput")  # first, because others show its metrics
        parser.add_lightning_class_args(TrainingProgress, "progress")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(NotFinite, "not_finite")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.seed")
        accept_auto(parser)
        self._parsers.append(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the options, then finds the checkpoint to resume from."""
        self.config = self._parsed(parser)
        config = self.config[self.config.subcommand]
        start = find_start(config.ckpt_path, run_roots(config), training=self.config.subcommand == "fit")
        config.ckpt_path = None if start is None else str(start.checkpoint)
        self._start = self._same_checkpoint.start = start
        resolve_precision(config.trainer, None if start is None else start.config)

    def _parse_ckpt_path(self) -> None:
        """Ignores hyper-parameters in a checkpoint, because Lightning would import the classes that they name."""

    def _parsed(self, parser: LightningArgumentParser) -> Namespace:
        """Parses the options after replacing names of shipped recipes by their paths."""
        try:
            args = with_recipe_paths(self._args)
        except ValueError as ambiguous:
            parser.error(str(ambiguous))
        if problem := command_line_problem(args):
            parser.error(problem)
        with without_garbage_collection():
            parsed = parser.parse_args(args)
        import_parts(parsed[parsed.subcommand].get("parts"))
        return parsed

    def _carried_over(self, config: Namespace) -> list[str]:
        return carried_over(with_recipe_paths(self._args), config)

    def before_instantiate_classes(self) -> None:
        """Sets options that are derived from others."""
        config = self.config[self.subcommand]
        if self._start is not None:
            keep_warm_start(config.model, self._start.config)
        for line in self._carried_over(config):
            rank_zero_info(line)
        follow_wandb_mode(config.trainer)
        for logger in logger_options(config):
            if follows_root(logger):
                self._derived.append((logger.init_args, logger.init_args.save_dir))
                logger.init_args.save_dir = config.trainer.default_root_dir
        if config.trainer.logger or (self.subcommand == "fit" and not config.trainer.fast_dev_run):
            # Loggers search for a git repository around their folder, and warn if the folder does not exist.
            for option, folder in written_folders(config):
                make_writable(Path(folder), option)
        if config.trainer.logger:
            self.trainer_defaults["callbacks"].append(RateMonitor(logging_interval="step"))
        if config.trainer.enable_model_summary is not False and not has_model_summary(config):
            self.trainer_defaults["callbacks"].append(PartsSummary())
        if self.subcommand == "fit" and config.validate_first:
            self.trainer_defaults["callbacks"].append(ValidateFirst())
        unwanted = set()
        if config.trainer.enable_progress_bar is False:
            unwanted.add("progress")
        if config.trainer.enable_checkpointing is False:
            unwanted.add("checkpoint")
        for parser in self._parsers:
            parser.callback_keys = [key for key in parser.callback_keys if key not in unwanted]

    def instantiate_classes(self) -> None:
        """Builds the objects of the run; the weights of a run that resumes are those of its checkpoint."""
        with nullcontext() if self._start is None else without_warm_start():
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Connects the objects of the run, and records which options differ from those of the checkpoint."""
        for options, save_dir in self._derived:
            options.save_dir = save_dir  # the saved default follows another root folder, too
        text = self.parser.dump(
            self.config, skip_none=False, skip_validation=True, skip_link_targets=False, format="json"
        )
        self.model.run_config = json.loads(text)[self.subcommand]
        leave_out_profiler(self.trainer)
        if self.subcommand == "fit":
            add_folder_logger(self.trainer)
        guard(self.trainer.loggers)
        if self.subcommand == "fit":
            if self._start is not None:
                self._record.resumed = self._start.folder
                continue_run(self.trainer, self._start, self.config.fit.new_run, self._record.lock)
                log_if_complete(self._start, self.trainer.max_steps)
            self._refuse_another_run()
        self._watch.watch_start(self.trainer)
        if self.subcommand == "fit":
            resolve_accumulation(self.trainer, self.datamodule)
            resolve_epochs(self.trainer, self.datamodule)
        self.datamodule.require(self.model.min_samples, self.model.units)
        if self._start is not None and self._start.config is not None:
            self._record.changed = differences(self._start.config, self.model.run_config)

    def _refuse_another_run(self) -> None:
        """Raises if the run would overwrite files of another run."""
        checkpoint = find_run_checkpoint(self.trainer)
        if checkpoint is None or self.config[self.subcommand].trainer.fast_dev_run:
            return
        ckpt_path = self.config[self.subcommand].ckpt_path
        if checkpoint.dirpath is not None:
            refuse_another_run(Path(str(checkpoint.dirpath)), ckpt_path)
        elif has_fixed_folder(self.trainer):
            refuse_another_run(run_folder(self.trainer) / "checkpoints", ckpt_path)

    def fit(self, **kwargs: Any) -> None:
        """Trains; logs the command to resume if the run is interrupted."""
        try:
            self.trainer.fit(**kwargs)
        except Stopped as stop:
            self._log_how_to_resume(stop.signal.name)
            raise SystemExit(stop.status) from None
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            self._log_how_to_resume("SIGINT")
            raise SystemExit(130) from None
        else:
            self._log_pending_validation()
            self._fail_unless_saved()

    def _log_how_to_resume(self, signal: str) -> None:
        self._log_lost_state()
        rank_zero_info(f"Interrupted by {signal} at update {self.trainer.global_step}. {self._how_to_resume()}")

    def _log_lost_state(self) -> None:
        if (problem := self._lost_state()) is not None:
            rank_zero_info(problem)

    def _fail_unless_saved(self) -> None:
        """Raises if the last state of the run is not saved."""
        if (problem := self._lost_state()) is not None:
            raise RunError(problem)

    def _lost_state(self) -> str | None:
        checkpoint = find_run_checkpoint(self.trainer)
        return None if checkpoint is None else checkpoint.describe_unsaved_state(self.trainer.global_step)

    def _log_pending_validation(self) -> None:
        """Logs how to run a pending validation, because Lightning does nothing if no update is left."""
        start, last = self._start, self.trainer.max_steps
        if (
            start is not None
            and start.validation_is_due
            and self.trainer.enable_validation
            and 0 <= last <= start.update
        ):
            command = command_to_resume(["validate", *self._args[1:]], start.checkpoint)
            rank_zero_info(f"The run was stopped in the validation after its last update. Run it with: {command}")

    def _how_to_resume(self) -> str:
        if self._args[:1] != ["fit"]:
            return "Run the command again."
        trainer = getattr(self, "trainer", None)  # not set yet if a process dies early
        start = None if self._start is None else self._start.checkpoint
        checkpoint = start if trainer is None else find_checkpoint_to_resume(trainer) or start
        if checkpoint is None:
            return "There is no checkpoint to resume from."
        return f"Resume with: {command_to_resume(self._args, checkpoint, self.config.fit.new_run)}"
