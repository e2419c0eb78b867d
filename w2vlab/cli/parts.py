"""`w2vlab parts [FAMILY]`: the parts for each slot."""

from __future__ import annotations

import sys

from rich.markup import escape
from rich.table import Table

from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.catalog import Catalog
from w2vlab.registry import FAMILIES, family_named

_HELP = f"""\
Usage: w2vlab parts [FAMILY]

Lists the parts that can be chosen by name, including those of installed plugins.

Families: {", ".join(family.plural for family in FAMILIES.values())}.
The options of a part: w2vlab fit --model=MaskedPrediction --model.quantizer.help KMeansQuantizer
"""

_PLAIN_WIDTH = 200
"""Columns if the output is not a terminal."""


def run(args: list[str]) -> int:
    """Prints the table; `args` may hold one family, singular or plural.

    Returns:
        Exit status: 0, or 2 for wrong usage.
    """
    if args in (["-h"], ["--help"]):
        sys.stdout.write(_HELP)
        return 0
    if len(args) > 1:
        sys.stderr.write(f"error: `w2vlab parts` takes one family, but was given {' '.join(args)}.\n")
        return 2
    try:
        families = [family_named(args[0]).name] if args else list(FAMILIES)
    except ValueError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    catalog = Catalog()
    table = Table("family", "name", "description", "paper", box=None, pad_edge=False, header_style="bold")
    table.columns[1].no_wrap = True
    for family in families:
        for part in catalog.parts(family):
            table.add_row(part.family, part.name, escape(part.summary), escape(part.reference))
    console = output_console(_PLAIN_WIDTH)
    console.print(table, highlight=False)
    for warning in catalog.problems:
        sys.stderr.write(f"warning: {warning}\n")
    return 0
