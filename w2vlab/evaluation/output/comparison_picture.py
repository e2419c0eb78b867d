"""One picture of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2vlab.evaluation.comparison import OF_RANDOM, PNMI, PROBE, Compared
from w2vlab.utils.messages import one_line

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Safe for colour-blind readers (Okabe and Ito); a checkpoint has the same colour in all panels."""

_CONTROL = "#777777"
_MFCC = "MFCC"

_LONGEST_NAME = 50


_STEP = 0.2
"""Distance between checkpoints, in units of the distance between representations."""


def draw_comparison(compared: Sequence[Compared], checkpoints: Sequence[str]) -> Figure:
    """Draws every figure with its interval, a panel for each kind; hollow markers are random networks."""
    kinds = [kind for kind in (PROBE, "ABX within", "ABX across", PNMI) if any(c.measure == kind for c in compared)]
    titles = {PROBE: "Phone probe: accuracy (%)", PNMI: "PNMI of the codes, corrected (%)"}
    numbers = [len({entry.representation for entry in _drawn(compared, kind)}) for kind in kinds]
    widths = [max(3.0, 1.5 + 0.75 * number) for number in numbers]
    names = {entry.checkpoint: _shown(entry.checkpoint) for entry in compared}
    columns = max(1, int(sum(widths) / (0.09 * max(map(len, names.values()), default=1) + 0.6)))
    height = 5.0 + 0.22 * -(-len(names) // columns)
    figure = Figure(figsize=(max(sum(widths), 6.0), height), layout="constrained")
    panels = figure.subplots(1, max(1, len(kinds)), squeeze=False, width_ratios=widths or [1])[0]
    handles: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=False):
        entries = [entry for entry in compared if entry.measure == kind]
        for name, handle in _draw(axes, entries, checkpoints).items():
            handles.setdefault(name, handle)
        axes.set_title(titles.get(kind, f"{kind} speakers: error (%)"), fontsize=11)
    if not kinds:
        panels[0].text(0.5, 0.5, "nothing to compare without phone labels", ha="center", color=_CONTROL)
        panels[0].set_axis_off()
    labels = [names[name] for name in handles]
    figure.legend(
        list(handles.values()),
        labels,
        loc="outside lower center",
        ncols=min(columns, max(1, len(labels))),
        fontsize=9,
        frameon=False,
    )
    return figure


def _drawn(compared: Sequence[Compared], kind: str) -> list[Compared]:
    return [entry for entry in compared if entry.measure == kind and entry.checkpoint != _MFCC]


def _shown(name: str) -> str:
    """Returns the end of a name, with dollar signs escaped, because Matplotlib would typeset a formula between two."""
    name = one_line(name)
    return (name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}").replace("$", r"\$")


def _draw(axes: Axes, entries: Sequence[Compared], checkpoints: Sequence[str]) -> dict[str, Any]:
    """Draws one kind of figure; returns the legend handle of each checkpoint."""
    kept = [entry for entry in entries if entry.checkpoint != _MFCC]
    places = {name: place for place, name in enumerate(dict.fromkeys(entry.representation for entry in kept))}
    # Only checkpoints that have this representation are drawn around its tick, without gaps for others.
    there = {
        name: [c for c in checkpoints if any(_of(e) == c and e.representation == name for e in kept)] for name in places
    }
    handles: dict[str, Any] = {}
    for entry in kept:
        name = _of(entry)
        colour = _COLOURS[list(checkpoints).index(name) % len(_COLOURS)]
        hollow = name != entry.checkpoint
        interval, beside = entry.interval, there[entry.representation]
        step = min(_STEP, 0.8 / len(beside))
        handle = axes.errorbar(
            places[entry.representation] + (beside.index(name) - (len(beside) - 1) / 2) * step,
            100 * interval.value,
            yerr=[[100 * max(0.0, interval.value - interval.low)], [100 * max(0.0, interval.high - interval.value)]],
            fmt="o",
            color=colour,
            markerfacecolor="white" if hollow else colour,
            alpha=0.6 if hollow else 1.0,
            capsize=2,
        )
        handles.setdefault(entry.checkpoint, handle)
    for entry in entries:
        if entry.checkpoint == _MFCC:
            handles[_MFCC] = axes.axhline(100 * entry.interval.value, color=_CONTROL, linestyle="--")
    axes.set_xticks(list(places.values()), list(places), rotation=30, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xlim(-0.5, max(1, len(places)) - 0.5)  # otherwise the dots of a single tick would be spread over the panel
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return handles


def _of(entry: Compared) -> str:
    return entry.checkpoint.removesuffix(OF_RANDOM)
