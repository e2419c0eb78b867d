"""One picture of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2vlab.evaluation.comparison import PNMI, PROBE, Compared

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by any eye (Okabe and Ito); a checkpoint keeps its colour in all panels."""

_CONTROL = "#777777"


def draw_comparison(compared: Sequence[Compared], checkpoints: Sequence[str]) -> Figure:
    """Draws every figure with its interval, a panel for each kind; before training is hollow."""
    kinds = [kind for kind in (PROBE, "ABX within", "ABX across", PNMI) if any(c.measure == kind for c in compared)]
    figure = Figure(figsize=(6 * len(kinds), 5.5), layout="constrained")
    titles = {PROBE: "Phone probe: accuracy (%)", PNMI: "PNMI of the codes, corrected (%)"}
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        _draw(axes, [entry for entry in compared if entry.measure == kind], checkpoints)
        axes.set_title(titles.get(kind, f"{kind} speakers: error (%)"), fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=9, frameon=False)
    return figure


def _draw(axes: Axes, entries: Sequence[Compared], checkpoints: Sequence[str]) -> None:
    kept = [entry for entry in entries if entry.checkpoint != "MFCC"]
    places = {name: place for place, name in enumerate(dict.fromkeys(entry.representation for entry in kept))}
    step = 0.8 / max(1, len(checkpoints))
    told = set()
    for entry in kept:
        name = entry.checkpoint.removesuffix(", before training")
        index = list(checkpoints).index(name)
        hollow = name != entry.checkpoint
        colour = _COLOURS[index % len(_COLOURS)]
        interval = entry.interval
        label = None if entry.checkpoint in told else entry.checkpoint
        told.add(entry.checkpoint)
        axes.errorbar(
            places[entry.representation] + (index - (len(checkpoints) - 1) / 2) * step,
            100 * interval.value,
            yerr=[[100 * max(0.0, interval.value - interval.low)], [100 * max(0.0, interval.high - interval.value)]],
            fmt="o",
            color=colour,
            markerfacecolor="white" if hollow else colour,
            alpha=0.6 if hollow else 1.0,
            capsize=2,
            label=label,
        )
    for entry in entries:
        if entry.checkpoint == "MFCC":
            axes.axhline(100 * entry.interval.value, color=_CONTROL, linestyle="--", label="MFCC")
    axes.set_xticks(list(places.values()), list(places), rotation=30, ha="right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
