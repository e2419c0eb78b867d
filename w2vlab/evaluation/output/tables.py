"""Evaluations as tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from w2vlab.evaluation import Evaluation, table_rows
from w2vlab.evaluation.results import Row, majority
from w2vlab.evaluation.tasks.unit_quality import UnitQuality
from w2vlab.utils.messages import count, duration

PLAIN_WIDTH = 200
"""Columns if the output is not a terminal."""

WITHOUT_PHONES = (
    "There are no phone labels, so what needs none is measured: codes used, bits a second and run lengths. "
    "Purity, mutual information, ABX and the phone probe need labels (festvox-ru has some)."
)


def print_evaluation(evaluation: Evaluation, title: str, console: Console) -> None:
    """Prints the results of a checkpoint beside its controls."""
    corpus = evaluation.corpus
    test = corpus.split.test
    lines = [
        f"{title} on {corpus.name}: {count(len(test), 'utterance')} ({duration(corpus.seconds(test))}) to measure on, "
        f"{len(corpus.split.train)} to learn from, by {corpus.split.rule}",
        f"test utterances that the pretraining had: {evaluation.seen}",
    ]
    for line in lines:
        console.print(line, style="bold" if line is lines[0] else None, highlight=False, soft_wrap=True)
    if corpus.alignments:
        console.print(_representations(evaluation), highlight=False)
        console.print(_notes(evaluation), style="dim", highlight=False, soft_wrap=True)
    else:
        console.print(WITHOUT_PHONES, highlight=False, soft_wrap=True)
    if any(source.units for source in evaluation.sources):
        console.print(_units(evaluation), highlight=False)
    slow = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in evaluation.seconds.items() if seconds >= 1)
    if slow:
        console.print(f"time: {slow}", style="dim", highlight=False, soft_wrap=True)


def table(*columns: str, num_left: int = 1) -> Table:
    """Returns an empty table whose first `num_left` columns are text."""
    made = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in made.columns[num_left:]:
        column.justify = "right"
    return made


def percent(value: float | None) -> str:
    """Returns a share in per cent; nothing for None."""
    return "" if value is None else f"{100 * value:.1f}"


def _representations(evaluation: Evaluation) -> Table:
    speakers = [task.speakers for task in evaluation.tasks]
    columns = ["representation", "width", "phone probe %", "labels shifted %", "random network %"]
    for name in speakers:
        columns += [f"ABX {name} error %", "random network %"]
    made = table(*columns)
    for row in table_rows(evaluation):
        made.add_row(*_cells(row, speakers))
    return made


def _cells(row: Row, speakers: Sequence[str]) -> list[str]:
    cells = [row.name, str(row.dim), percent(row.accuracy), percent(row.accuracy_shifted), percent(row.accuracy_random)]
    for name in speakers:
        cells += [percent(row.abx.get(name)), percent(row.abx_random.get(name))]
    return cells


def _notes(evaluation: Evaluation) -> str:
    notes = []
    share = majority(evaluation)
    if share is not None:
        notes.append(
            f"{count(len(evaluation.corpus.phones), 'phone')}; the most frequent one always: {percent(share)} %"
        )
    for task in evaluation.tasks:
        cells = f"{len(task.cells):,} of {task.num_possible:,} cells"
        notes.append(
            f"ABX {task.speakers} speakers: {cells}, averaged over neighbours, speakers, pairs of phones; chance 50 %"
        )
    if not evaluation.tasks:
        notes.append("no ABX: it was left out, or no two phones have the same neighbours")
    return "; ".join(notes)


def _units(evaluation: Evaluation) -> Table:
    made = table(
        "codes of",
        "unit",
        "used",
        "phone purity %",
        "code purity %",
        "PNMI %",
        "corrected %",
        "shuffled %",
        "bit/s",
        "of changes",
        "with lengths",
        "frames a run",
        num_left=2,
    )
    for source in evaluation.sources:
        for unit in source.units:
            made.add_row(source.name, *unit_cells(unit))
    return made


def unit_cells(unit: UnitQuality) -> list[str]:
    """Returns a unit's row of text."""
    pnmi = unit.pnmi, unit.pnmi_corrected, unit.pnmi_shuffled
    return [
        unit.name,
        f"{unit.num_used} of {unit.num_codes}" if unit.name != "joint" else f"{unit.num_used}",
        *(percent(value) for value in (unit.phone_purity, unit.cluster_purity, *pnmi)),
        *(f"{bits:.0f}" for bits in (unit.bits.frames, unit.bits.runs, unit.bits.runs_with_lengths)),
        f"{unit.run_frames:.2f}",
    ]
