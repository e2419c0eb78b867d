"""How much audio a corpus has, and how long its utterances are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vlab.data.corpora.tally import Tally
from w2vlab.types import Seconds
from w2vlab.utils.files import replace_atomically

Durations = npt.NDArray[np.float64]

QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}

_EDGES = (0, 0.5, 1, 2, 3, 5, 7.5, 10, 12.5, 15, 20, 25, 30, 60, 300, 1800, 7200)
"""Seconds at which the bars of a histogram begin."""

_BAR = 40


def quantiles(durations: Durations) -> dict[str, Seconds]:
    """Returns quantiles of lengths in seconds, by name."""
    if not len(durations):
        return {}
    found = np.quantile(durations, list(QUANTILES.values())).tolist()
    return {name: round(value, 3) for name, value in zip(QUANTILES, found, strict=True)}


def summarize(durations: Durations, speakers: int) -> dict[str, Any]:
    """Returns figures of a corpus as plain data; `speakers` is None if none is known."""
    counts = np.histogram(durations, [*_EDGES, np.inf])[0].tolist()
    return {
        "utterances": len(durations),
        "hours": round(float(durations.sum()) / 3600, 6),
        "speakers": speakers or None,
        "seconds": quantiles(durations),
        "histogram": {"from_seconds": list(_EDGES), "utterances": counts},
    }


def histogram_lines(histogram: Mapping[str, Sequence[float]]) -> list[str]:
    """Returns the lines of a histogram, without empty bars at its ends."""
    edges, counts = list(histogram["from_seconds"]), [int(number) for number in histogram["utterances"]]
    used = [index for index, number in enumerate(counts) if number]
    lines = []
    for index in range(used[0], used[-1] + 1) if used else ():
        end = f"{edges[index + 1]:g}" if index + 1 < len(edges) else "…"
        bar = "█" * max(round(_BAR * counts[index] / max(counts)), counts[index] > 0)
        lines.append(f"{f'{edges[index]:g} to {end} s':>16}  {counts[index]:>9,}  {bar}".rstrip())
    return lines


def as_plain(tally: Tally) -> dict[str, Any]:
    """Returns a tally as plain data."""
    return {name: {"count": tally.counts[name], "examples": tally.examples[name]} for name in sorted(tally.counts)}


def draw_lengths(path: Path, before: Durations, after: Durations) -> None:
    """Draws the lengths of recordings and of their pieces.

    Raises:
        OSError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, durations, title in zip(
        figure.subplots(1, 2), (before, after), ("before cutting", "after cutting"), strict=True
    ):
        unit, name = (3600.0, "h") if durations.max() > 7200 else (60.0, "min") if durations.max() > 120 else (1.0, "s")
        axes.hist(durations / unit, bins=40, weights=durations / 3600, color="#33608c")
        axes.set(title=title, xlabel=f"length ({name})", ylabel="audio (h)")
        axes.spines[["top", "right"]].set_visible(False)
    with replace_atomically(path) as unfinished:
        # Without the version of Matplotlib, so that the same lengths give the same bytes.
        figure.savefig(unfinished, format="png", dpi=120, metadata={"Software": None})
