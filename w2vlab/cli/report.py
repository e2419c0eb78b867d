"""`w2vlab report`: runs side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from w2vlab.cli.problems import report_problem
from w2vlab.files import SWEEP_RECORD
from w2vlab.reports.reading import find_single_run, read_runs
from w2vlab.reports.rendering import Cells, print_table, render_cells, render_csv, render_latex, render_markdown
from w2vlab.reports.repeating import repeat_command
from w2vlab.reports.report import Report, make_report, report_as_plain_data

_PLAIN_WIDTH = 300
"""Columns where the output is no terminal: a row stays one line."""

_FORMATS = ("terminal", "markdown", "latex", "csv")

_HELP = """\
Usage: w2vlab report RUN… [OPTIONS]
       w2vlab report --repeat RUN

Lays runs side by side: mean and standard deviation over seeds, differences from a baseline with a 95 % confidence
interval, and what they cost. RUN is the folder of a run or of a sweep, or one with any of these below it; a folder of
Weights & Biases; or wandb:ENTITY/PROJECT, with /GROUP or /RUN behind it if wanted.

  w2vlab report runs/sweeps/quantizers_small
  w2vlab report runs/w2vlab --by model.quantizer,model.quantizer.codebook_size --baseline GumbelQuantizer
  w2vlab report --repeat runs/w2vlab/ID | sh

Options:
  --by KEY[,KEY…]       Options to group runs by; by default a sweep's parameters, or the fewest in which runs differ.
  --metric NAME[,…]     What to compare; by default evaluations, and validations where a run has none.
  --baseline GROUP      The group that the others are compared with; by default the first.
  --format FORMAT       terminal, markdown, latex or csv (terminal).
  --folder DIR          Where report.md, .tex, .csv and .json and pictures go: the sweep's folder, else report.
  --repeat RUN          Print the command that repeats a run, and do nothing else.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nSee w2vlab report --help.\n")


def run(options: list[str]) -> int:
    """Reports on runs.

    Args:
        options: What follows `report` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage.
    """
    if options in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    parser = _Parser("w2vlab report", add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--by", type=_names)
    parser.add_argument("--metric", type=_names)
    parser.add_argument("--baseline")
    parser.add_argument("--format", choices=_FORMATS, default="terminal")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeat")
    own = parser.parse_args(options)
    if own.repeat is not None and own.runs:
        parser.error("--repeat takes one run, and no others beside it.")
    if own.repeat is None and not own.runs:
        parser.error("report needs at least one RUN: the folder of a run or of a sweep, or wandb:ENTITY/PROJECT.")
    try:
        if own.repeat is not None:
            sys.stdout.write(repeat_command(find_single_run(own.repeat)))
            return 0
        report = make_report(read_runs(own.runs), own.by, own.metric, own.baseline)
        cells = render_cells(report)
        _show(report, cells, own.format)
        written = _write(report, cells, own.folder or _folder(own.runs))
    except (ValueError, OSError) as problem:
        return report_problem(problem)
    sys.stderr.write(f"{written}\n")
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, but is {text!r}.")
    return names


def _folder(runs: list[str]) -> Path:
    only = Path(runs[0]) if len(runs) == 1 else None
    return only if only is not None and (only / SWEEP_RECORD).is_file() else Path("report")


def _show(report: Report, cells: Cells, form: str) -> None:
    if form == "terminal":
        print_table(cells, Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH))
        return
    if form == "csv":
        sys.stdout.write(render_csv(report))
        sys.stderr.write("".join(f"{note}\n" for note in cells.notes))
        return
    sys.stdout.write(render_markdown(cells) if form == "markdown" else render_latex(cells))


def _write(report: Report, cells: Cells, folder: Path) -> str:
    from w2vlab.reports.pictures import draw_curves, draw_outcomes, draw_perplexity  # they take most of the time

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
