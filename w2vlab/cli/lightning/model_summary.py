"""Prints a table of the parts of a model before the run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary.model_summary import NOT_APPLICABLE, get_human_readable_count
from rich.console import Console
from rich.table import Table

_COLUMNS = {"Name": "part", "Type": "class", "Params": "parameters"}


class PartsSummary(ModelSummary):
    """Shows the parts of a model with their parameters.

    Lightning's own table has a column of operations, which would be zeros, because our modules keep no example of the
    input. `w2vlab explain` counts them.
    """

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *_: Any,
        **__: Any,
    ) -> None:
        """Prints the table and, below it, the number of parameters and of trained ones."""
        columns = dict(summary_data)
        table = Table(*_COLUMNS.values(), box=None, pad_edge=False, header_style="bold")
        table.columns[-1].justify = "right"
        for name, kind, number in zip(*(columns[name] for name in _COLUMNS), strict=True):
            own = kind == NOT_APPLICABLE  # parameters outside of parts, such as the embedding of masked frames
            table.add_row("others" if own else name, "" if own else kind, "" if number.strip() == "0" else number)
        console = Console()
        console.print(table, highlight=False)
        fixed = total_parameters - trainable_parameters
        learn = "all of them learn" if not fixed else f"{get_human_readable_count(fixed).strip()} of them are fixed"
        total = get_human_readable_count(total_parameters).strip()
        console.print(f"{total} parameters, {learn}", highlight=False)
