"""Parses and checks the options of `w2vlab fit` without a run."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from w2vlab.cli.errors.problems import message_of
from w2vlab.cli.lightning.lightning_cli import W2VLightningCLI
from w2vlab.cli.logging.no_news import without_routine_messages
from w2vlab.cli.parsing.parser import RunParser
from w2vlab.cli.parsing.precision import resolve_precision
from w2vlab.data import SpeechDataModule
from w2vlab.data.mixtures.sources import read_sources
from w2vlab.modules.checkpoints.initial_weights import without_warm_start
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.registry import part_classes
from w2vlab.utils.options import flat


class ParsedOptions(W2VLightningCLI):
    """Parses the options of a run without building it."""

    def before_instantiate_classes(self) -> None:
        """Creates no folders."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def after_instantiate_classes(self) -> None:
        """Prevents the command from running."""
        self.subcommand = None


class ExplainedRun(ParsedOptions):
    """Parses the options of `fit` and builds the model, without writing files or using a device."""

    settings: Namespace

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of a run; `data.corpus` becomes optional."""
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"data.corpus": "none"})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the options without searching for checkpoints."""
        self.config = self._parsed(parser)
        resolve_precision(self.config[self.config.subcommand].trainer)

    def instantiate_classes(self) -> None:
        """Builds the model and the data module, which checks its options."""
        self.settings = self.config[self.config.subcommand]
        if not is_pretraining(self.settings.model):
            kind = self.settings.model.class_path.rpartition(".")[2]
            raise ValueError(
                f"`model` must be a pretraining objective to be explained, but is {kind}. Explain the run of its "
                "pretrained model."
            )
        sys.stderr.writelines(f"{line}\n" for line in self._carried_over(self.settings))
        self.datamodule = build_data(self.settings.data)
        with nullcontext() if self.settings.ckpt_path is None else without_warm_start():
            self.model = build_pretraining(self.settings.model)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the command `fit`."""
        return {"fit": W2VLightningCLI.subcommands()["fit"]}


def is_pretraining(model: Any) -> bool:
    """Returns whether the options of a model are those of a pretraining objective, or of an unknown class."""
    name = str(model.class_path).rpartition(".")[2]
    return issubclass(part_classes("model").get(name, PretrainingModule), PretrainingModule)


def build_pretraining(model: Any) -> PretrainingModule:
    """Builds a pretraining objective from its options, without loggers and callbacks."""
    parser = RunParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    built: PretrainingModule = parser.instantiate_classes(parser.parse_object({"model": model})).model
    return built


def build_data(data: Any) -> SpeechDataModule:
    """Builds the data module from its options, which checks them and those of its augmentations."""
    parser = RunParser(exit_on_error=False)
    parser.add_class_arguments(SpeechDataModule, "data")
    built: SpeechDataModule = parser.instantiate_classes(parser.parse_object({"data": data})).data
    return built


def check_run(options: Sequence[str]) -> tuple[int | None, dict[str, Any]]:
    """Parses the options of `w2vlab fit`, and builds the model on the meta device so that its parts are checked.

    Args:
        options: Command-line options.

    Returns:
        The number of updates, None if it is not limited; and all options by their dotted names, as plain data.

    Raises:
        ValueError: The run cannot start; the message is that of `w2vlab fit`.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), without_routine_messages():
            cli = ParsedOptions(["fit", *options], Callback())
            config = cli.config["fit"]
            build_data(config.data)
            read_sources(config.data.corpus, "data.corpus")
            read_sources(config.data.validation, "data.validation")
            if is_pretraining(config.model):  # fine-tuning would load its pretrained checkpoint
                with torch.device("meta"):
                    build_pretraining(config.model)
    except SystemExit:
        raise ValueError(errors.getvalue().strip().removeprefix("error: ")) from None
    except (ValueError, TypeError, RuntimeError, OSError) as problem:
        raise ValueError(message_of(problem)) from problem
    updates = config.trainer.max_steps if config.trainer.max_steps >= 0 else None
    text = cli.parser.dump(cli.config, skip_none=False, skip_validation=True, skip_link_targets=False, format="json")
    return updates, dict(flat("", json.loads(text)["fit"]))
