"""`w2vlab encode`: features, codes or units of a corpus."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from w2vlab.cli.corpus.encode_options import EncodeOptions
from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.messages import count, duration, one_line

_PLAIN_WIDTH = 100


def run(words: Sequence[str]) -> int:
    """Encodes a corpus, and prints what was written.

    Args:
        words: What follows `encode` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage, 130, 143 or 138 ended by SIGINT, SIGTERM or SIGUSR1.
    """
    options = CommandParser(EncodeOptions, "encode", ("source", "data", "out")).parse(words)
    from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
    from w2vlab.cli.logging.no_news import without_routine_messages

    try:
        with without_routine_messages(), messages_shown(logging.INFO), signal_handler(stop_at_once):
            content = encode_corpus(options)
    except Stopped as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one of the processes
            sys.stderr.write(
                f"\n{stop.signal.name}: ended early; {one_line(str(options.out))} keeps the complete shards, and the "
                "same command resumes after them.\n"
            )
        return stop.status
    except user_errors(OSError) as problem:
        return report_problem(problem)
    if content:
        print_encoding(content, options, output_console(_PLAIN_WIDTH, highlight=False))
    return 0


def encode_corpus(options: EncodeOptions) -> Mapping[str, Any]:
    """Encodes a corpus.

    Returns:
        The content of `encoding.json`; empty on processes other than the first.

    Raises:
        ValueError: The source, the data or an option cannot be used.
        RunError: It cannot be completed.
        Stopped: A signal has ended it.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.extraction.encoding.encoding import Encoding
    from w2vlab.extraction.encoding.settings import EncodingSettings
    from w2vlab.extraction.sources import open_source
    from w2vlab.registry import import_parts, load_parts

    load_parts()
    import_parts(options.parts)
    source = open_source(options.source, options.what, options.layers, options.centers)
    names = [field.name for field in fields(EncodingSettings)]
    settings = EncodingSettings(**{name: getattr(options, name) for name in names})
    return Encoding(source, settings).run(ProgressReporter(Console(stderr=True)).stage)


def print_encoding(content: Mapping[str, Any], options: EncodeOptions, console: Console) -> None:
    """Prints the table of an encoding, and what was left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in summary_rows(content):
        table.add_row(name, value)
    console.print(table)
    if "statistics" in content:
        from w2vlab.extraction.statistics import statistics_table

        console.print(
            f"\n{statistics_table(content['statistics'], content['streams'][0]['name'])}\n",
            soft_wrap=True,
            markup=False,
        )
    for line in remarks(content):
        console.print(one_line(line), soft_wrap=True, markup=False)
    size = sum(content["files"].values()) / 2**20
    files = count(len(content["files"]), "file")
    console.print(
        f"Written: {one_line(str(options.out))} ({files} of {content['format']}, {size:,.1f} MiB, and encoding.json)",
        soft_wrap=True,
        markup=False,
    )


def summary_rows(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the rows of the table: names and values."""
    rate = 16_000 / content["grid"]["stride"]
    rows = [
        ("utterances", f"{content['utterances']:,}"),
        ("audio", duration(3600 * content["hours"])),
        ("frames", f"{content['frames']:,}"),
        ("frames a second", f"{rate:g}"),
    ]
    for stream in content["streams"]:
        shape = f"{stream['dim']} dimensions"
        if stream["codebook_size"]:
            shape = f"{count(stream['dim'], 'codebook')} of {stream['codebook_size']}"
        rows.append((stream["name"], shape))
    return rows


def remarks(content: Mapping[str, Any]) -> list[str]:
    """Returns lines on utterances that were left out, and on recordings that were cut."""
    out, cut = content["left_out"], content["cut"]
    lines = []
    for reason, found in out["unusable"].items():
        lines.append(f"* left out {count(found['count'], 'utterance')}: {reason} ({', '.join(found['examples'])})")
    if out["too_short"]["count"]:
        ids = out["too_short"]["ids"]
        lines.append(f"* left out {count(out['too_short']['count'], 'utterance')}: too short for a frame ({ids[0]})")
    if out["unreadable"]["count"]:
        name, reason = next(iter(out["unreadable"]["reasons"].items()))
        lines.append(
            f"* left out {count(out['unreadable']['count'], 'utterance')} that could not be read: {name} {reason}"
        )
    if cut["utterances"]:
        context = f", with {cut['context_seconds']:g} s of context" if cut["context_seconds"] else ""
        lines.append(
            f"* computed {count(cut['utterances'], 'recording')} in pieces of {cut['chunk_seconds']:g} s{context}"
        )
    return lines
