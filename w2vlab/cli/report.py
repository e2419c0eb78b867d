"""`w2vlab report`: a comparison of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from w2vlab.cli.errors.problems import report_problem
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser, names
from w2vlab.reports.output.plain import report_as_plain_data
from w2vlab.reports.output.rendering import Cells, print_table, render_cells, render_csv, render_latex, render_markdown
from w2vlab.reports.repeating import repeat_command
from w2vlab.reports.report import Report, make_report
from w2vlab.reports.sources.reading import find_single_run, read_runs
from w2vlab.utils.files import SWEEP_RECORD

_PLAIN_WIDTH = 300
"""Columns if the output is not a terminal, so that a row stays one line."""


@dataclass(kw_only=True)
class ReportOptions:
    """Compares runs: mean and standard deviation over seeds, differences from a baseline, and cost.

    Differences have a 95 % confidence interval. A run is the folder of a run or of a sweep, or a folder with any of
    these below it; a folder of Weights & Biases; or wandb:ENTITY/PROJECT, optionally followed by /GROUP or /RUN.

      w2vlab report runs/sweeps/quantizers_small
      w2vlab report runs/w2vlab --by model.quantizer,model.quantizer.codebook_size --baseline GumbelQuantizer
      w2vlab report --repeat runs/w2vlab/ID | sh

    Attributes:
        runs: Folders of runs, or runs of Weights & Biases.
        by: Options to group runs by, with commas between; by default a sweep's parameters, or the fewest options in
            which runs differ.
        metric: Metrics to compare, with commas between; by default evaluations, and validations of runs without one.
        baseline: The group that the others are compared with; by default the first.
        format: Format of the printed table.
        folder: Folder of report.md, .tex, .csv and .json and of pictures; by default the sweep's folder, else report.
        repeat: Only print the command that repeats this run.
    """

    runs: list[str] = field(default_factory=list)
    by: list[str] | str | None = None
    metric: list[str] | str | None = None
    baseline: str | None = None
    format: Literal["terminal", "markdown", "latex", "csv"] = "terminal"
    folder: Path | None = None
    repeat: str | None = None

    def __post_init__(self) -> None:
        if self.repeat is not None and self.runs:
            raise ValueError("--repeat takes one run, and no others beside it.")
        if self.repeat is None and not self.runs:
            raise ValueError(
                "report needs at least one RUN: the folder of a run or of a sweep, or wandb:ENTITY/PROJECT."
            )
        self.by = None if self.by is None else names(self.by, "by")
        self.metric = None if self.metric is None else names(self.metric, "metric")


def run(words: Sequence[str]) -> int:
    """Reports on runs.

    Args:
        words: What follows `report` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    options = CommandParser(ReportOptions, "report", "runs").parse(words)
    try:
        if options.repeat is not None:
            sys.stdout.write(repeat_command(find_single_run(options.repeat)))
            return 0
        by, metric = (None if value is None else list(value) for value in (options.by, options.metric))
        report = make_report(read_runs(options.runs), by, metric, options.baseline)
        cells = render_cells(report)
        _show(report, cells, options.format)
        written = _write(report, cells, options.folder or _folder(options.runs))
    except (ValueError, OSError) as problem:
        return report_problem(problem)
    sys.stderr.write(f"{written}\n")
    return 0


def _folder(runs: list[str]) -> Path:
    only = Path(runs[0]) if len(runs) == 1 else None
    return only if only is not None and (only / SWEEP_RECORD).is_file() else Path("report")


def _show(report: Report, cells: Cells, form: str) -> None:
    if form == "terminal":
        print_table(cells, output_console(_PLAIN_WIDTH))
        return
    if form == "csv":
        sys.stdout.write(render_csv(report))
        sys.stderr.write("".join(f"{note}\n" for note in cells.notes))
        return
    sys.stdout.write(render_markdown(cells) if form == "markdown" else render_latex(cells))


def _write(report: Report, cells: Cells, folder: Path) -> str:
    from w2vlab.reports.output.pictures import draw_curves, draw_outcomes, draw_perplexity  # they take most of the time

    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": render_markdown(cells),
        "report.tex": render_latex(cells),
        "report.csv": render_csv(report),
        "report.json": json.dumps(report_as_plain_data(report), indent=1, allow_nan=False, default=str) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    pictures = {"curves.png": draw_curves, "outcomes.png": draw_outcomes, "perplexity.png": draw_perplexity}
    for name, draw in pictures.items():
        draw(report).savefig(folder / name, dpi=120)
    return f"Written: {folder}/{', '.join((*texts, *pictures))}"
