"""`w2vlab evaluate`: what a checkpoint has learned of speech."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from rich.console import Console

from w2vlab.cli.evaluation_options import (
    OPTIONS,
    EvaluationParser,
    ProgressReporter,
    add_options,
    device_named,
    result_folder,
)
from w2vlab.cli.evaluation_tables import PLAIN_WIDTH, print_evaluation
from w2vlab.cli.evaluation_wandb import log_evaluation
from w2vlab.cli.fit import USER_ERRORS, messages_shown
from w2vlab.cli.problems import report_problem
from w2vlab.evaluation import Evaluation, as_dict, evaluate, load_model, make_tasks, open_corpus
from w2vlab.evaluation.results import as_plain_split
from w2vlab.files import EVALUATION, cache_root
from w2vlab.registry import import_parts, load_parts

_HELP = f"""\
Usage: w2vlab evaluate CHECKPOINT [OPTIONS]

Measures a pretrained model on labelled speech, its weights frozen and nothing masked: its codes as units
(purity, mutual information with phones, bits a second), the ABX error and a linear phone probe of every layer. Beside
each figure stand its controls: the same network before training, labels shifted by 0.3 s, and cepstra (MFCC).

  w2vlab evaluate runs/w2vlab/ID/checkpoints/last.ckpt
  w2vlab evaluate last.ckpt --corpus FOLDER --layers 0,2,4,codes

Options:
{OPTIONS}\
  --folder DIR        Where the results go; by default evaluation/NAME in the folder of the checkpoint's run.
"""


@messages_shown(logging.WARNING)
def run(options: list[str]) -> int:
    """Evaluates one checkpoint.

    Args:
        options: What follows `evaluate` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    parser = EvaluationParser("w2vlab evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path)
    add_options(parser)
    own = parser.parse_args(options)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    try:
        load_parts()
        import_parts(own.parts)
        module = load_model(own.checkpoint, device_named(own.device))
        cache = cache_root(own.cache_dir)
        shortest = max(module.encoder.receptive_field, 400)
        corpus = open_corpus(own.corpus, cache, own.split, own.num_train, own.num_test, shortest)
        tasks = make_tasks(corpus, own.abx_cells, own.abx_utterances == "all", own.seed)
        reporter = ProgressReporter(Console(stderr=True))
        evaluation = evaluate(module, corpus, cache, own.layers, tasks, own.batch_seconds, reporter)
        folder = own.folder or result_folder(own.checkpoint)
        print_evaluation(evaluation, str(own.checkpoint), console)
        _write(evaluation, own.checkpoint, folder)
        logged = log_evaluation(evaluation, own.checkpoint, folder, own.wandb)
    except (*USER_ERRORS, OSError) as problem:
        return report_problem(problem)
    console.print(
        f"Written: {folder}/evaluation.json, evaluation.png, split.json{logged}", highlight=False, soft_wrap=True
    )
    return 0


def _write(evaluation: Evaluation, checkpoint: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"checkpoint": str(checkpoint), **as_dict(evaluation)}
    (folder / EVALUATION).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    (folder / "split.json").write_text(json.dumps(as_plain_split(evaluation.corpus.split), indent=1), encoding="utf-8")
    from w2vlab.cli.evaluation_picture import draw_evaluation  # with matplotlib

    draw_evaluation(evaluation, str(checkpoint)).savefig(folder / "evaluation.png", dpi=100)
