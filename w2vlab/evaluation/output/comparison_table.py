"""The comparison of several checkpoints as a table of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from w2vlab.evaluation import Evaluation
from w2vlab.evaluation.comparison import Compared
from w2vlab.evaluation.output.tables import table
from w2vlab.functional.measures.interval import Interval
from w2vlab.utils.messages import count


def short_names(paths: Sequence[Path]) -> list[str]:
    """Returns a short name for each path: without the folders that all paths begin with, and without the ending."""
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
