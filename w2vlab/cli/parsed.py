"""A command line that is parsed, and of which nothing is run."""

from __future__ import annotations

from typing import Any

from w2vlab.cli.lightning_cli import W2VLightningCLI
from w2vlab.cli.parser import RunParser
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.registry import part_classes


class ParsedOptions(W2VLightningCLI):
    """Parses the options of a run, and builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Makes no folders."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def after_instantiate_classes(self) -> None:
        """Has nothing run."""
        self.subcommand = None


def is_pretraining(model: Any) -> bool:
    """Tells whether the options of a model are those of a pretraining objective, or of a class of someone's own."""
    name = str(model.class_path).rpartition(".")[2]
    return issubclass(part_classes("model").get(name, PretrainingModule), PretrainingModule)


def build_pretraining(model: Any) -> PretrainingModule:
    """Builds a pretraining objective from its options, without the loggers and callbacks of a run."""
    parser = RunParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    built: PretrainingModule = parser.instantiate_classes(parser.parse_object({"model": model})).model
    return built
