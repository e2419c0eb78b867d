"""`w2vlab prepare`: a corpus made ready for training."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from w2vlab.cli.corpus.prepare_options import PrepareOptions
from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.messages import count, duration, one_line

if TYPE_CHECKING:
    from w2vlab.preparation.preparing import Prepared

_PLAIN_WIDTH = 100


def run(words: Sequence[str]) -> int:
    """Prepares a corpus, and prints what was written.

    Args:
        words: What follows `prepare` on the command line.

    Returns:
        Exit status: 0 done, now or before, 1 it cannot be done, 2 wrong usage, 130, 143 or 138 ended by SIGINT, SIGTERM
        or SIGUSR1.
    """
    options = CommandParser(PrepareOptions, "prepare", ("source", "out")).parse(words)
    from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
    from w2vlab.cli.logging.no_news import without_routine_messages
    from w2vlab.types import RunError

    console = output_console(_PLAIN_WIDTH, highlight=False)
    try:
        with without_routine_messages(), messages_shown(logging.INFO), signal_handler(stop_at_once):
            if options.list:
                print_corpora(console)
            else:
                _prepare(options, console)
    except Stopped as stop:
        sys.stderr.write(
            f"\n{stop.signal.name}: ended early; {one_line(str(options.out))} keeps what is complete, and the same "
            "command resumes.\n"
        )
        return stop.status
    except user_errors(OSError, RunError) as problem:
        return report_problem(problem)
    return 0


def _prepare(options: PrepareOptions, console: Console) -> None:
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.preparation.preparing import prepare
    from w2vlab.preparation.settings import Settings

    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    found = []
    for prepared in prepare(settings, ProgressReporter(Console(stderr=True)).stage):
        print_prepared(prepared, console)
        found.append(prepared)
    if len(found) > 1:
        print_parts(found, console)


def print_corpora(console: Console) -> None:
    """Prints the names that can be a source."""
    from w2vlab.data.corpora.packaged.asterisk import GROUP
    from w2vlab.data.corpora.sample_corpora import NAMES
    from w2vlab.preparation.recipes import find_recipes

    console.print(f"Sample corpora: {', '.join((*NAMES, GROUP))}", soft_wrap=True, markup=False)
    console.print(f"`sample` is the first that this system can get, `{GROUP}` all of its languages.\n", markup=False)
    table = Table("recipe of lhotse", "download", "options, as --recipe.NAME=VALUE", box=None, pad_edge=False)
    for recipe in find_recipes().values():
        table.add_row(recipe.name, "yes" if recipe.download else "no", ", ".join(recipe.option_names()))
    console.print(table)
    console.print("\nWithout a download, the first option is the folder of the corpus.", markup=False)


def print_prepared(prepared: Prepared, console: Console) -> None:
    """Prints the figures of a prepared folder, and what was left out and cut."""
    from w2vlab.preparation.folder import LEFT_OUT

    content, folder = prepared.content, one_line(str(prepared.folder))

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    part = content.get("part")
    if not part:
        _print_figures(content, console)
    for text in remarks(content):
        line(one_line(f"* {part}: {text}" if part else f"* {text}"))
    if any(found["count"] > len(found["examples"]) for found in content["left_out"].values()):
        line(f"* all that were left out are in {os.path.join(folder, LEFT_OUT)}")
    checked = f"; the checksums of {count(prepared.checked, 'file')} agree" if prepared.checked else ""
    size = sum(content["files"].values()) / 2**20
    done = f"Done before ({str(content.get('date', ''))[:10]})" if prepared.before else "Written"
    line(f"{done}: {folder} ({count(len(content['files']), 'file')}, {size:,.1f} MiB{checked})")
    if not part:
        line(f"Train on it with --data.corpus={folder}")


def _print_figures(content: Mapping[str, Any], console: Console) -> None:
    from w2vlab.preparation.summary import histogram_lines

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in summary_rows(content):
        table.add_row(name, value)
    console.print(table)
    lines = ["", "utterances by length:", *histogram_lines(content["summary"]["histogram"]), ""]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def summary_rows(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the rows of the table: names and values."""
    summary = content["summary"]
    seconds = summary["seconds"]
    rows = [
        ("utterances", f"{summary['utterances']:,}"),
        ("audio", duration(3600 * summary["hours"])),
        ("speakers", f"{summary['speakers']:,}" if summary["speakers"] else "not known"),
        *((f"length, {name}", f"{value:,.2f} s") for name, value in seconds.items()),
    ]
    if "bits" in content:
        shards = sum(name.endswith(".tar") for name in content["files"])
        depth = ", ".join(f"{number:,} of {bits} bits" for bits, number in sorted(content["bits"].items()))
        rows += [("shards", f"{shards:,}"), ("FLAC", depth)]
    return rows


def remarks(content: Mapping[str, Any]) -> list[str]:
    """Returns lines on recordings that were cut, and on utterances that were left out or converted."""
    lines = []
    cutting = content.get("cutting")
    if cutting:
        dropped = (
            f"; {duration(cutting['seconds_dropped'])} without speech dropped" if cutting["split"] == "vad" else ""
        )
        if cutting["texts_dropped"]:
            dropped += f"; {count(cutting['texts_dropped'], 'text')} that belonged to several pieces dropped"
        lines.append(
            f"cut {count(cutting['recordings'], 'recording')} ({duration(3600 * cutting['hours'])}) longer than "
            f"{cutting['max_seconds']:g} s into {count(cutting['pieces'], 'piece')} "
            f"({duration(3600 * cutting['hours_of_pieces'])}){dropped}"
        )
    if content.get("gains"):
        scaled = count(content["gains"], "utterance")
        lines.append(f"scaled {scaled} with samples outside [-1, 1), and kept the factor")
    for reason, found in content["left_out"].items():
        lines.append(f"left out {count(found['count'], 'utterance')}: {reason} ({_examples(found)})")
    for note, found in content["notes"].items():
        lines.append(f"{count(found['count'], 'utterance')} {note} ({_examples(found)})")
    return lines


def _examples(found: Mapping[str, Any]) -> str:
    more = ["…"] if found["count"] > len(found["examples"]) else []
    return ", ".join([*found["examples"], *more])


def print_parts(found: Sequence[Prepared], console: Console) -> None:
    """Prints a table of the parts of a corpus, and how to train on them."""
    from w2vlab.data.corpus_advice import mapping_text

    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("utterances", "audio", "speakers", "5 %", "median", "95 %", "longest"):
        table.add_column(name, justify="right")
    for prepared in found:
        rows = dict(summary_rows(prepared.content))
        lengths = (rows[f"length, {name}"] for name in ("5 %", "median", "95 %", "max"))
        table.add_row(Path(prepared.folder).name, rows["utterances"], rows["audio"], rows["speakers"], *lengths)
    console.print("")
    console.print(table)
    folders = {Path(one.folder).name: one_line(str(one.folder)) for one in found}
    one = next(iter(folders.values()))
    text = f"Train on one with --data.corpus={one}, on all with --data.corpus='{mapping_text(folders)}'"
    console.print(text, soft_wrap=True, markup=False)
