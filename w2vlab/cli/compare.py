"""`w2vlab compare`: several checkpoints on the same utterances, with intervals."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.evaluation_options import CompareOptions
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.files import cache_root

if TYPE_CHECKING:
    from w2vlab.evaluation import Evaluation


def run(words: Sequence[str]) -> int:
    """Compares checkpoints, and prints and writes the results.

    Args:
        words: What follows `compare` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    options = CommandParser(CompareOptions, "compare", "checkpoints").parse(words)
    try:
        with messages_shown(logging.WARNING):
            _print_and_write(evaluate_checkpoints(options), options)
    except user_errors(OSError) as problem:
        return report_problem(problem)
    return 0


def evaluate_checkpoints(options: CompareOptions) -> dict[str, Evaluation]:
    """Measures several checkpoints on the same utterances and cells; returns the results by short names.

    Raises:
        ValueError: A checkpoint, the corpus or another option cannot be used.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.evaluation import evaluate, load_model, make_tasks, open_corpus
    from w2vlab.evaluation.devices import device_named
    from w2vlab.evaluation.output.comparison_table import short_names
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.registry import import_parts, load_parts

    load_parts()
    import_parts(options.parts)
    cache = cache_root(options.cache_dir)
    paths = [Path(path) for path in options.checkpoints]
    modules = {
        name: load_model(path, device_named(options.device))
        for name, path in zip(short_names(paths), paths, strict=True)
    }
    shortest = max(400, *(module.encoder.receptive_field for module in modules.values()))
    corpus = open_corpus(options.corpus, cache, options.split, options.num_train, options.num_test, shortest)
    if not corpus.alignments:
        raise ValueError(
            f"`corpus` must have phone labels for a comparison, but {corpus.name} has none; "
            "`w2vlab evaluate` measures what needs none."
        )
    tasks = make_tasks(corpus, options.max_cells, options.abx_utterances == "all", options.seed)
    evaluations: dict[str, Evaluation] = {}
    for name, module in modules.items():
        reporter = ProgressReporter(Console(stderr=True), f"{name}: ")
        mfcc = next((other.mfcc for other in evaluations.values()), None)
        evaluations[name] = evaluate(
            module, corpus, cache, options.layers, tasks, options.batch_seconds, reporter, mfcc=mfcc
        )
    return evaluations


def _print_and_write(evaluations: dict[str, Evaluation], options: CompareOptions) -> None:
    from w2vlab.cli.logging.evaluation_wandb import log_tables
    from w2vlab.cli.logging.wandb_server import mode_for_tables
    from w2vlab.evaluation import as_dict
    from w2vlab.evaluation.comparison import compare
    from w2vlab.evaluation.output.comparison_picture import draw_comparison
    from w2vlab.evaluation.output.comparison_table import print_comparison
    from w2vlab.evaluation.output.tables import PLAIN_WIDTH

    console = output_console(PLAIN_WIDTH)
    folder = options.folder
    compared = compare(evaluations)
    print_comparison(compared, evaluations, console)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "checkpoints": dict(zip(evaluations, options.checkpoints, strict=True)),
        "compared": [asdict(entry) for entry in compared],
        "evaluations": {name: as_dict(evaluation) for name, evaluation in evaluations.items()},
    }
    (folder / "comparison.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    draw_comparison(compared, list(evaluations)).savefig(folder / "comparison.png", dpi=100)
    logged = log_tables(evaluations, folder, "comparison.png", mode_for_tables(options.wandb), "comparison")
    console.print(f"Written: {folder}/comparison.json, comparison.png{logged}", highlight=False, soft_wrap=True)
