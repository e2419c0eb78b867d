"""`w2vlab compare`: several checkpoints on the same utterances, with intervals."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from w2vlab.cli.evaluation_options import (
    OPTIONS,
    EvaluationParser,
    ProgressReporter,
    add_options,
    device_named,
)
from w2vlab.cli.evaluation_tables import PLAIN_WIDTH, table
from w2vlab.cli.evaluation_wandb import log_tables
from w2vlab.cli.fit import USER_ERRORS, messages_shown
from w2vlab.cli.problems import report_problem
from w2vlab.evaluation import Evaluation, as_dict, evaluate, load_model, make_tasks, open_corpus
from w2vlab.evaluation.comparison import Compared, compare
from w2vlab.files import cache_root
from w2vlab.functional.interval import Interval
from w2vlab.registry import load_parts
from w2vlab.wording import count

_HELP = f"""\
Usage: w2vlab compare CHECKPOINT CHECKPOINT… [OPTIONS]

Measures checkpoints as `w2vlab evaluate` does, on the same utterances and cells, and says how far figures and their
differences from those of the first checkpoint could be off because of the test utterances: 95 % intervals of the
jackknife, which leaves out one after another, and for ABX of subsampling, which divides them into parts. Weights that
another seed or run would have given are not in that. PNMI is corrected for its bias, so that models with different
numbers of codes can be compared.

  w2vlab compare runs/w2vlab/ONE/checkpoints/last.ckpt runs/w2vlab/TWO/checkpoints/last.ckpt

Options:
{OPTIONS}\
  --folder DIR        Where the results go (comparison).
"""


@messages_shown(logging.WARNING)
def run(options: list[str]) -> int:
    """Compares checkpoints.

    Args:
        options: What follows `compare` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    parser = EvaluationParser("w2vlab compare", add_help=False, allow_abbrev=False)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    add_options(parser)
    own = parser.parse_args(options)
    if len(own.checkpoints) < 2:
        parser.error("compare takes at least 2 checkpoints, but was given 1.")
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    folder = own.folder or Path("comparison")
    try:
        load_parts()
        cache = cache_root(own.cache_dir)
        modules = {
            name: load_model(path, device_named(own.device))
            for name, path in zip(short_names(own.checkpoints), own.checkpoints, strict=True)
        }
        shortest = max(400, *(module.encoder.receptive_field for module in modules.values()))
        corpus = open_corpus(own.corpus, cache, own.split, own.num_train, own.num_test, shortest)
        if not corpus.alignments:
            raise ValueError(
                f"`corpus` must have phone labels for a comparison, but {corpus.name} has none; "
                "`w2vlab evaluate` measures what needs none."
            )
        tasks = make_tasks(corpus, own.abx_cells, own.abx_utterances == "all", own.seed)
        evaluations: dict[str, Evaluation] = {}
        for name, module in modules.items():
            reporter = ProgressReporter(Console(stderr=True), f"{name}: ")
            mfcc = next((other.mfcc for other in evaluations.values()), None)
            evaluations[name] = evaluate(
                module, corpus, cache, own.layers, tasks, own.batch_seconds, reporter, mfcc=mfcc
            )
        compared = compare(evaluations)
        print_comparison(compared, evaluations, console)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "checkpoints": {name: str(path) for name, path in zip(modules, own.checkpoints, strict=True)},
            "compared": [asdict(entry) for entry in compared],
            "evaluations": {name: as_dict(evaluation) for name, evaluation in evaluations.items()},
        }
        (folder / "comparison.json").write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        from w2vlab.cli.comparison_picture import draw_comparison  # with matplotlib

        draw_comparison(compared, list(modules)).savefig(folder / "comparison.png", dpi=100)
        logged = log_tables(evaluations, folder, "comparison.png", own.wandb, "comparison")
    except (*USER_ERRORS, OSError) as problem:
        return report_problem(problem)
    console.print(f"Written: {folder}/comparison.json, comparison.png{logged}", highlight=False, soft_wrap=True)
    return 0


def short_names(paths: Sequence[Path]) -> list[str]:
    """Returns what tells paths apart: without the folders at their begin that all have, and without the ending."""
    parts = [path.absolute().with_suffix("").parts for path in paths]
    common = 0
    while all(len(p) > common + 1 for p in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    names = ["/".join(piece for piece in p[common:] if piece != "checkpoints") for p in parts]
    return [f"{name} ({names[:i].count(name) + 1})" if names[:i].count(name) else name for i, name in enumerate(names)]


def print_comparison(compared: Sequence[Compared], evaluations: dict[str, Evaluation], console: Console) -> None:
    """Prints one line a figure, those of the same kind together."""
    first = next(iter(evaluations))
    corpus = evaluations[first].corpus
    console.print(
        f"{count(len(corpus.split.test), 'utterance')} of {corpus.name}; in brackets 95 % intervals over utterances",
        style="bold",
    )
    for name, evaluation in evaluations.items():
        console.print(f"{name} had of them in pretraining: {evaluation.seen}", highlight=False, soft_wrap=True)
    console.print(_table(compared, first), highlight=False)


def _table(compared: Sequence[Compared], first: str) -> Table:
    made = table("measure", "of", "checkpoint", "%", f"more than {first}, in points", num_left=3)
    before = None
    for entry in compared:
        kind = (entry.measure, entry.representation)
        made.add_row(
            *(kind if kind != before else ("", "")),
            entry.checkpoint,
            _text(entry.interval),
            "" if entry.difference is None else _text(entry.difference, sign="+"),
        )
        before = kind
    return made


def _text(interval: Interval, sign: str = "") -> str:
    points = replace(interval, value=100 * interval.value, low=100 * interval.low, high=100 * interval.high)
    return f"{points.value:{sign}.1f} [{points.low:{sign}.1f}, {points.high:{sign}.1f}]"
