"""One picture of a run: whether it learns, whether its codebooks live, how fast it goes, and what it has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from w2vlab.callbacks.panels import PRETRAINING, RECOGNITION, Panel
from w2vlab.callbacks.run_view import RunView

_MOST_ABREAST = 4


def draw_run(view: RunView) -> Figure:
    """Draws the panels that have something to show."""
    panels = [panel for panel in (RECOGNITION if view.error_rates else PRETRAINING) if panel.shows(view)]
    rows = _rows(panels)
    figure = Figure(figsize=(4.7 * max(map(len, rows), default=1), 3.75 * max(1, len(rows))), layout="constrained")
    figure.suptitle(view.title.replace("$", r"\$"), fontsize=13)
    if not panels:
        figure.text(0.5, 0.5, "nothing recorded", ha="center", va="center", color="#777777")
        return figure
    # As many columns as can be shared out among each row, so that none has a gap at its end.
    columns = math.lcm(*map(len, rows))
    grid = figure.add_gridspec(len(rows), columns)
    for number, row in enumerate(rows):
        width = columns // len(row)
        for place, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, place * width : (place + 1) * width])
            panel.draw(axes, view)
    return figure


def _rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Shares the panels out among as few rows as hold them, the first ones longer by one where that is not even."""
    if not panels:
        return []
    number = math.ceil(len(panels) / _MOST_ABREAST) if len(panels) != _MOST_ABREAST else 2
    size, more = divmod(len(panels), number)
    rows, start = [], 0
    for index in range(number):
        stop = start + size + (index < more)
        rows.append(panels[start:stop])
        start = stop
    return rows
