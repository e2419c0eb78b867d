"""`w2vlab export`: a model in the format of another project."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser, names
from w2vlab.cli.parsing.exchange_options import ExportOptions
from w2vlab.utils.messages import one_line

if TYPE_CHECKING:
    from w2vlab.interop.comparison.comparing import Comparison
    from w2vlab.interop.exporting import Written

_INTERRUPTED = 130
_PLAIN_WIDTH = 100


def run(words: Sequence[str]) -> int:
    """Exports a model, and prints what was written and how it compares.

    Args:
        words: What follows `export` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, or an output deviates, 2 wrong usage, 130 interrupted.
    """
    options = CommandParser(ExportOptions, "export", ("source", "out")).parse(words)
    written: Written | None = None
    try:
        with messages_shown(logging.WARNING):
            written = write_model(options)
            console = output_console(_PLAIN_WIDTH, highlight=False)
            _print_files(written, console)
            comparison = compare_model(written, options)
            print_comparison(comparison, console)
    except KeyboardInterrupt:
        state = "nothing was written" if written is None else "the files are complete, but were not compared"
        sys.stderr.write(f"\nSIGINT: ended early; {state}.\n")
        return _INTERRUPTED
    except user_errors(OSError) as problem:
        return report_problem(problem)
    if comparison.is_equal:
        return 0
    sys.stderr.write(
        f"error: The model of {one_line(str(options.out))} deviates by {comparison.largest:.2g}, more than 1e-4. The "
        "files are kept, so that the reason can be found; do not use them.\n"
    )
    return 1


def write_model(options: ExportOptions) -> Written:
    """Writes a model.

    Raises:
        ValueError: The source or an option cannot be used.
        OSError: A file cannot be written.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.interop.exporting import write
    from w2vlab.registry import import_parts, load_parts

    load_parts()
    import_parts(options.parts)
    return write(
        options.source,
        options.out,
        options.format,
        options=options.options or None,
        plain=options.plain,
        overwrite=options.overwrite,
    )


def compare_model(written: Written, options: ExportOptions) -> Comparison:
    """Compares a model that was written.

    Raises:
        ValueError: A file of speech cannot be read, or what was written cannot be loaded.
    """
    from w2vlab.interop.exporting import compare

    audio = [] if options.audio is None else names(options.audio, "audio")
    return compare(written, audio=audio, cache_dir=options.cache_dir)


def _print_files(written: Written, console: Console) -> None:
    size = sum(file.stat().st_size for file in written.files) / 2**20
    inside = written.files if written.out.is_dir() else written.files[1:]
    more = f" with {', '.join(file.name for file in inside)}" if inside else ""
    console.print(f"Written: {one_line(str(written.out))}{more} ({size:,.1f} MiB)", soft_wrap=True, markup=False)
    for note in written.notes:
        console.print(f"* {one_line(note)}", soft_wrap=True, markup=False)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the largest deviation of each output, and what was not compared."""
    if comparison.peer is not None:
        console.print(f"Compared with {comparison.peer} on {comparison.speech}:", soft_wrap=True, markup=False)
        table = Table("output", "values", "largest deviation", box=None, pad_edge=False)
        for name, deviation in comparison.deviations.items():
            what = f"{deviation.largest:.1e}" if name != "codes" else f"{100 * deviation.largest:.3g} % differ"
            table.add_row(name, f"{deviation.num_values:,}", what)
        console.print(table)
    for remark in comparison.remarks:
        console.print(one_line(remark), soft_wrap=True, markup=False)
