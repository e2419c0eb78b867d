"""`w2vlab import`: a model of another project as a checkpoint."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.cli.parsing.exchange_options import ImportOptions
from w2vlab.utils.messages import one_line

if TYPE_CHECKING:
    from w2vlab.interop.importing import Import

_INTERRUPTED = 130
_PLAIN_WIDTH = 100

_MISSING = {
    "quantizer": "without codes, `w2vlab evaluate` measures the contexts alone; pretraining starts with a new one",
    "loss": "pretraining starts with new projections",
    "mask_embedding": "training that masks frames starts with a new vector for them",
}
"""What it means that a part is missing."""


def run(words: Sequence[str]) -> int:
    """Imports a model, and prints what it has.

    Args:
        words: What follows `import` on the command line.

    Returns:
        Exit status: 0 done, 1 it cannot be done, 2 wrong usage, 130 interrupted.
    """
    options = CommandParser(ImportOptions, "import", ("source", "out")).parse(words)
    try:
        with messages_shown(logging.WARNING):
            done = import_source(options)
    except KeyboardInterrupt:
        sys.stderr.write("\nSIGINT: ended early; nothing was written.\n")
        return _INTERRUPTED
    except user_errors(OSError) as problem:
        return report_problem(problem)
    _print(done, options)
    return 0


def import_source(options: ImportOptions) -> Import:
    """Imports a model.

    Raises:
        ValueError: The source or an option cannot be used.
        OSError: A file cannot be written.
    """
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.interop.importing import import_model
    from w2vlab.registry import load_parts

    load_parts()
    return import_model(options.source, options.out, options=options.options or None, overwrite=options.overwrite)


def _print(done: Import, options: ImportOptions) -> None:
    console = output_console(_PLAIN_WIDTH, highlight=False)
    model, origin = done.model, done.model.origin
    kind = f"{origin.format}, {one_line(origin.architecture)}" if origin.architecture else origin.format
    console.print(f"Read: {one_line(options.source)} ({kind})", soft_wrap=True, markup=False)
    table = Table("part", "tensors", "weights", "from", box=None, pad_edge=False)
    for part, (tensors, weights) in done.parts.items():
        table.add_row(part, f"{tensors:,}", f"{weights:,}", "new" if part in model.missing else "the file")
    console.print(table)
    for part in model.missing:
        if part in _MISSING and (model.vocabulary is None or part == "mask_embedding"):
            console.print(f"* Not in the file: {part}; {_MISSING[part]}.", soft_wrap=True, markup=False)
    if model.vocabulary is not None:
        units = " ".join(repr(entry) if entry.isspace() else entry for entry in model.vocabulary.entries[1:])
        console.print(f"Units ({len(model.vocabulary) - 1}): {one_line(units, 400)}", soft_wrap=True, markup=False)
    for note in [*origin.notes, *origin.training_notes]:
        console.print(f"* {one_line(note)}", soft_wrap=True, markup=False)
    size = sum(file.stat().st_size for file in done.files) / 2**20
    written = " and ".join(one_line(str(file)) for file in done.files)
    console.print(f"Written: {written} ({size:,.1f} MiB). Next:", soft_wrap=True, markup=False)
    for command in _next_commands(done):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def _next_commands(done: Import) -> list[str]:
    checkpoint, options = (shlex.quote(str(file)) for file in done.files)
    fine_tune = f"w2vlab fit --config configs/finetune/ctc.yaml --model.checkpoint={checkpoint}"
    export = f"w2vlab export {checkpoint} FOLDER --format huggingface"
    if done.model.vocabulary is not None:
        return [fine_tune, export]
    more = f"w2vlab fit --config continue_pretraining --config {options} --model.init_from={checkpoint}"
    return [f"w2vlab evaluate {checkpoint}", fine_tune, f"{more} --data.corpus=FOLDER", export]
