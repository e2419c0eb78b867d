"""Figure of a run: losses, codebook usage, schedules, speed, and the result of the final probe."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from w2vlab.callbacks.records.panels import PRETRAINING, RECOGNITION, Panel
from w2vlab.callbacks.records.run_view import RunView

_MAX_COLUMNS = 4


def draw_run(view: RunView) -> Figure:
    """Draws the panels that the run has data for."""
    panels = [panel for panel in (RECOGNITION if view.error_rates else PRETRAINING) if panel.shows(view)]
    rows = _split_into_rows(panels)
    figure = Figure(figsize=(4.7 * max(map(len, rows), default=1), 3.75 * max(1, len(rows))), layout="constrained")
    figure.suptitle(view.title.replace("$", r"\$"), fontsize=13)
    if not panels:
        figure.text(0.5, 0.5, "nothing recorded", ha="center", va="center", color="#777777")
        return figure
    # The least common multiple, so that the panels of each row fill its width.
    columns = math.lcm(*map(len, rows))
    grid = figure.add_gridspec(len(rows), columns)
    for number, row in enumerate(rows):
        width = columns // len(row)
        for index, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, index * width : (index + 1) * width])
            panel.draw(axes, view)
    return figure


def _split_into_rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Splits the panels evenly into as few rows as possible; if uneven, the first rows have one more."""
    if not panels:
        return []
    num_rows = math.ceil(len(panels) / _MAX_COLUMNS) if len(panels) != _MAX_COLUMNS else 2
    size, remainder = divmod(len(panels), num_rows)
    rows, start = [], 0
    for index in range(num_rows):
        stop = start + size + (index < remainder)
        rows.append(panels[start:stop])
        start = stop
    return rows
