"""`w2vlab evaluate`: what a checkpoint has learned of speech."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.evaluation_options import EvaluateOptions
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.files import EVALUATION, cache_root

if TYPE_CHECKING:
    from w2vlab.evaluation import Evaluation


def run(words: Sequence[str]) -> int:
    """Evaluates one checkpoint, and prints and writes the results.

    Args:
        words: What follows `evaluate` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    options = CommandParser(EvaluateOptions, "evaluate", "checkpoint").parse(words)
    try:
        with messages_shown(logging.WARNING):
            _print_and_write(evaluate_checkpoint(options), options)
    except user_errors(OSError) as problem:
        return report_problem(problem)
    return 0


def evaluate_checkpoint(options: EvaluateOptions) -> Evaluation:
    """Measures one checkpoint and its controls.

    Raises:
        ValueError: The checkpoint, the corpus or another option cannot be used.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.evaluation import evaluate, load_model, make_tasks, open_corpus
    from w2vlab.evaluation.devices import device_named
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.registry import import_parts, load_parts

    load_parts()
    import_parts(options.parts)
    module = load_model(options.checkpoint, device_named(options.device))
    cache = cache_root(options.cache_dir)
    shortest = max(module.encoder.receptive_field, 400)
    corpus = open_corpus(options.corpus, cache, options.split, options.num_train, options.num_test, shortest)
    tasks = make_tasks(corpus, options.max_cells, options.abx_utterances == "all", options.seed)
    reporter = ProgressReporter(Console(stderr=True))
    return evaluate(module, corpus, cache, options.layers, tasks, options.batch_seconds, reporter)


def result_folder(checkpoint: Path) -> Path:
    """Returns the default folder of the results of a checkpoint: `evaluation/<its name>` in the folder of its run.

    That of a model of the Hugging Face Hub (`hf:ORG/NAME`) is `evaluation/ORG--NAME`.
    """
    if str(checkpoint).startswith("hf:"):
        return Path("evaluation", str(checkpoint).removeprefix("hf:").replace("/", "--"))
    folder = checkpoint.absolute().parent
    run = folder.parent if folder.name == "checkpoints" else folder
    return run / "evaluation" / checkpoint.stem


def _print_and_write(evaluation: Evaluation, options: EvaluateOptions) -> None:
    from w2vlab.cli.logging.evaluation_wandb import log_evaluation
    from w2vlab.cli.logging.wandb_server import mode_for_tables
    from w2vlab.evaluation import as_dict
    from w2vlab.evaluation.output.picture import draw_evaluation
    from w2vlab.evaluation.output.tables import PLAIN_WIDTH, print_evaluation
    from w2vlab.evaluation.results import as_plain_split

    console = output_console(PLAIN_WIDTH)
    checkpoint, folder = options.checkpoint, options.folder or result_folder(options.checkpoint)
    print_evaluation(evaluation, str(checkpoint), console)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"checkpoint": str(checkpoint), **as_dict(evaluation)}
    (folder / EVALUATION).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    (folder / "split.json").write_text(json.dumps(as_plain_split(evaluation.corpus.split), indent=1), encoding="utf-8")
    draw_evaluation(evaluation, str(checkpoint)).savefig(folder / "evaluation.png", dpi=100)
    logged = log_evaluation(evaluation, checkpoint, folder, mode_for_tables(options.wandb))
    console.print(
        f"Written: {folder}/evaluation.json, evaluation.png, split.json{logged}", highlight=False, soft_wrap=True
    )
