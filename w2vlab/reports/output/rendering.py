"""Rendering of a report for terminals, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2vlab.reports.grouping import ABSENT, shorten_keys
from w2vlab.reports.outcomes import Outcome
from w2vlab.reports.report import Line, Report
from w2vlab.reports.run import Cost
from w2vlab.reports.statistics import Difference, Mean
from w2vlab.utils.messages import count, one_line

BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The table as text.

    Attributes:
        columns: Heads of the columns.
        num_left: Number of columns, from the left, that contain text and are left-aligned; the others are numbers.
        rows: Rows with one cell for each column.
        notes: Notes below the table.
    """

    columns: list[str]
    num_left: int
    rows: list[list[str]]
    notes: list[str]


def render_cells(report: Report) -> Cells:
    """Formats every cell."""
    keys = [one_line(key) for key in shorten_keys(report.grouping.keys)] or ["runs"]
    columns = [*keys, "seeds"]
    compares = len(report.lines) > 1
    for outcome in report.outcomes:
        columns += [one_line(outcome.label), "difference"] if compares else [one_line(outcome.label)]
    columns += ["time", "audio h", "updates", "peak GiB"]
    columns += ["published"] if report.published else []
    rows = [_row(report, line, index == report.baseline, compares) for index, line in enumerate(report.lines)]
    notes = [*_legend(report, compares), *report.notes]
    return Cells(columns=columns, num_left=len(keys), rows=rows, notes=notes)


def _row(report: Report, line: Line, is_baseline: bool, compares: bool) -> list[str]:
    row = [*(line.group.labels or ("all",)), str(len(line.group.runs))]
    for outcome, mean, found in zip(report.outcomes, line.means, line.differences, strict=True):
        row.append(_mean_text(outcome, mean))
        if compares:
            row.append(BASELINE if is_baseline else _difference_text(outcome, found))
    row += _cost_texts(line.cost)
    return [*row, line.published or ABSENT] if report.published else row


def _mean_text(outcome: Outcome, mean: Mean) -> str:
    if not mean.number:
        return ABSENT
    text = outcome.text(mean.mean)
    return text if mean.deviation is None else f"{text} ± {outcome.text(mean.deviation)}"


def _difference_text(outcome: Outcome, found: Difference | None) -> str:
    if found is None:
        return ABSENT
    value = outcome.text(found.value, "+")
    if found.low is None or found.high is None:
        return f"{value} [{ABSENT}]"
    return f"{value} [{outcome.text(found.low, '+')}, {outcome.text(found.high, '+')}]"


def _cost_texts(cost: Cost) -> list[str]:
    def text(value: float | None, form: Callable[[float], str]) -> str:
        return ABSENT if value is None else form(value)

    return [
        text(cost.seconds, lambda value: str(timedelta(seconds=round(value)))),
        text(cost.audio_seconds, lambda value: f"{value / 3600:.3g}"),
        text(cost.updates, lambda value: f"{value:g}" if value < 1e6 else f"{value:.3g}"),
        text(cost.peak_memory_gib, lambda value: f"{value:.2f}"),
    ]


def _legend(report: Report, compares: bool) -> list[str]:
    texts = [
        f"{count(report.num_runs, 'run')}; mean ± standard deviation over seeds (n - 1); costs are means of a run."
    ]
    if compares:
        name = report.lines[report.baseline].group.name
        texts.append(
            f"Differences are from {name}, with a 95 % confidence interval (Welch's t); "
            f"[{ABSENT}] if a group has one seed only."
        )
    if report.published is not None:
        texts.append(f"Published: {report.published.outcome} ({report.published.source}).")
    return texts


def print_table(cells: Cells, console: Console) -> None:
    """Prints the table to a terminal."""
    # As `Text`, because rich would interpret markup and emoji names in strings.
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, head in enumerate(cells.columns):
        table.add_column(Text(head), justify="left" if index < cells.num_left else "right")
    for row in cells.rows:
        table.add_row(*map(Text, row))
    console.print(table, highlight=False)
    for note in cells.notes:
        console.print(Text(note), style="dim", soft_wrap=True)


def render_markdown(cells: Cells) -> str:
    """Returns a Markdown table, and each note as a paragraph."""

    def line(entries: Sequence[str]) -> str:
        return "| " + " | ".join(escape_markdown(entry).replace("`", r"\`") for entry in entries) + " |"

    rule = ["---" if index < cells.num_left else "---:" for index in range(len(cells.columns))]
    lines = [line(cells.columns), "| " + " | ".join(rule) + " |", *map(line, cells.rows), ""]
    return "\n".join([*lines, *(f"{_paragraph(note)}\n" for note in cells.notes)])


def escape_markdown(text: str) -> str:
    """Escapes HTML, cell separators, emphasis, images and links, but not the brackets of intervals."""
    text = re.sub(r"([\\|*])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\](?=\s*[(\[:])", r"\]", text).replace("![", r"!\[")


def _paragraph(text: str) -> str:
    """Escapes the start of a note, so that Markdown does not parse it as a heading or a list."""
    text = re.sub(r"^([#+=~-])", r"\\\1", escape_markdown(text.strip()))
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", text)


_ESCAPED = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",  # noqa: RUF001
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "…": r"\ldots{}",
}


def render_latex(cells: Cells) -> str:
    """Returns a LaTeX table that needs the package `booktabs`, with the notes in small type below it."""
    last = "r" * (len(cells.columns) - cells.num_left)
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * cells.num_left}{last}}}",
        "\\toprule",
        _latex_line(cells.columns),
        "\\midrule",
        *map(_latex_line, cells.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    notes = [f"\n\\par{{\\footnotesize {escape_latex(note)}\\par}}" for note in cells.notes]
    return "\n".join(lines) + "\n" + "".join(notes) + "\n"


def _latex_line(entries: Sequence[str]) -> str:
    line = " & ".join(escape_latex(entry) for entry in entries) + r" \\"
    # After the `\\` of the previous row, LaTeX would parse a bracket as its option, and a star as its variant.
    return f"{{}}{line}" if line[:1] in ("[", "*") else line


def escape_latex(text: str) -> str:
    """Escapes special characters of LaTeX, and typesets signed numbers in math mode."""
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    return re.sub(r"(?<![\w.)}$-])([+-]\d[\d.]*)", r"$\1$", escaped)


def render_csv(report: Report) -> str:
    """Returns the report as CSV: a row for each group, unrounded and unscaled, with empty cells for missing values."""
    heads = [*(map(one_line, report.grouping.keys) if report.grouping.keys else ["runs"]), "seeds"]
    for outcome in report.outcomes:
        parts = ("mean", "deviation", "number", "difference", "low", "high")
        heads += [f"{outcome.metric}:{part}" for part in parts]
    heads += ["seconds", "audio_seconds", "updates", "peak_memory_gib", "published"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(escape_csv, heads))
    for line in report.lines:
        row: list[object] = [*map(escape_csv, line.group.labels or ("all",)), len(line.group.runs)]
        for mean, found in zip(line.means, line.differences, strict=True):
            row += [mean.mean if mean.number else None, mean.deviation, mean.number]
            row += [None] * 3 if found is None else [found.value, found.low, found.high]
        cost = line.cost
        row += [cost.seconds, cost.audio_seconds, cost.updates, cost.peak_memory_gib, line.published]
        writer.writerow(row)
    return file.getvalue()


def escape_csv(text: str) -> str:
    """Prefixes a name that a spreadsheet would parse as a formula with an apostrophe."""
    is_formula = text[:1] in ("=", "+", "-", "@") and not _is_number(text)
    return f"'{text}" if is_formula else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
