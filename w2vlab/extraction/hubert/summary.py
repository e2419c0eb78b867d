"""The table of a chain: a row an iteration, with the controls of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from w2vlab.extraction.hubert.plan import Iteration
from w2vlab.extraction.hubert.record import ChainRecord
from w2vlab.utils.files import write_atomically
from w2vlab.utils.messages import one_line

TABLE, PLAIN = "hubert.md", "table.json"

_HEAD = (
    *("iteration", "units of", "k", "inertia", "bit/s", "updates", "val loss", "val accuracy %"),
    *("probe %", "best layer", "ABX within %", "best layer", "cluster min", "encode min", "fit min"),
)


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name: `1`, `2`, … or the name of a control.
        values: Figures by name, as in the JSON file; without those that are unknown.
    """

    name: str
    values: Mapping[str, Any]

    def cells(self) -> list[str]:
        """Returns the texts of the columns."""
        value = self.values
        return [
            self.name,
            str(value.get("units_of", "")),
            _number(value.get("k")),
            _number(value.get("inertia")),
            _number(value.get("bits_per_second")),
            _number(value.get("update")),
            _decimals(value.get("validation_loss"), 3),
            _percent(value.get("validation_accuracy")),
            _percent(value.get("probe")),
            str(value.get("probe_layer", "")),
            _percent(value.get("abx"), 2),
            str(value.get("abx_layer", "")),
            *(_decimals(value.get(f"{kind}_minutes"), 1) for kind in ("cluster", "encode", "fit")),
        ]


def make_lines(iterations: Sequence[Iteration], record: ChainRecord) -> list[Line]:
    """Returns the rows: one an iteration, then the untrained network and MFCC on the same test utterances."""
    lines = []
    controls: dict[str, Any] = {}
    for iteration in iterations:
        kinds = ("cluster", "encode", "fit", "evaluate")
        steps = {kind: record.steps.get(f"{kind}{iteration.number}") for kind in kinds}
        source = iteration.source or f"iteration {iteration.number - 1}"
        layer = "" if iteration.layer is None else f", layer {iteration.layer}"
        values: dict[str, Any] = {"units_of": f"{source}{layer}", "k": iteration.k}
        for kind, step in steps.items():
            if step is not None:
                values |= step.figures
                values[f"{kind}_minutes"] = round(step.seconds / 60, 2)
        controls = values if "corpus" in values else controls
        lines.append(Line(str(iteration.number), values))
    for name, ending in (("untrained", "_untrained"), ("MFCC", "_mfcc")):
        found = {key: controls[f"{key}{ending}"] for key in ("probe", "abx") if f"{key}{ending}" in controls}
        if found:
            lines.append(Line(name, found))
    return lines


def write_table(lines: Sequence[Line], record: ChainRecord) -> None:
    """Writes the table as Markdown and JSON to the folder of the chain.

    Raises:
        OSError: A file cannot be written.
    """
    rows = [_HEAD, ["---"] * len(_HEAD), *(line.cells() for line in lines)]
    text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
    write_atomically(record.folder / TABLE, text)
    content = [{"iteration": line.name, **line.values} for line in lines]
    write_atomically(record.folder / PLAIN, json.dumps(content, indent=1) + "\n")


def rich_table(lines: Sequence[Line]) -> Table:
    """Returns the table for a terminal, without the columns that are empty."""
    rows = [line.cells() for line in lines]
    shown = [column for column in range(len(_HEAD)) if any(row[column] for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in shown:
        table.add_column(_HEAD[column], justify="left" if column < 2 else "right")
    for row in rows:
        table.add_row(*(Text(one_line(row[column])) for column in shown))
    return table


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _decimals(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: Any, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"
