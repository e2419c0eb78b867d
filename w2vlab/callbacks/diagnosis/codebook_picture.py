"""Figure of codebook health: usage of the entries, codes over time, and statistics over updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from w2vlab.callbacks.history import MetricHistory
from w2vlab.types import Seconds
from w2vlab.utils.axis_limits import start_y_axis_at_zero

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Colour-blind safe palette of Okabe and Ito; a codebook has the same colour in all panels."""

_LIMIT = "#777777"
_STYLES = ("-", "--", "-.", ":")

_MAX_SHOWN = 4
"""Codebooks that are drawn as curves; the first ones if there are more."""

_MAX_RASTER = 32
"""Codebooks in the raster of codes over time."""


@dataclass(kw_only=True)
class HealthView:
    """The data of the figure.

    Attributes:
        title: Title with the quantizer and the update.
        history: The statistics of all measurements, by update.
        counts: How often each entry was chosen at the last measurement, shape `(G, V)`.
        codes: The codes of one utterance at the last measurement, shape `(T, G)`.
        frame_seconds: Frame shift, in seconds.
    """

    title: str
    history: MetricHistory
    counts: Tensor
    codes: Tensor
    frame_seconds: Seconds


def draw_codebook_health(view: HealthView) -> Figure:
    """Draws codebook usage, the codes of one utterance, and the statistics over updates."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    figure.suptitle(view.title.replace("$", r"\$"), fontsize=13)
    grid = figure.add_gridspec(2, 12)
    usage, raster = figure.add_subplot(grid[0, :4]), figure.add_subplot(grid[0, 4:])
    _draw_usage(usage, view.counts)
    _draw_raster(raster, view)
    panels = [figure.add_subplot(grid[1, 3 * column : 3 * column + 3]) for column in range(4)]
    _draw_series(panels[0], view, ("perplexity_hard", "perplexity_soft"), "Perplexity (entries)")
    _draw_series(panels[1], view, ("num_dead",), "Dead entries (not chosen on the probe)")
    _draw_series(panels[2], view, ("changed",), "Share of frames with another code")
    _draw_series(panels[3], view, ("next_code_entropy",), "Entropy of the next code (bits a frame)")
    for axes, top in zip(panels, (None, None, 1.0, None), strict=True):
        start_y_axis_at_zero(axes, top)
    return figure


def _draw_usage(axes: Axes, counts: Tensor) -> None:
    size = counts.shape[1]
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sort(dim=1, descending=True).values  # (G, V)
    ranks = torch.arange(1, size + 1)
    for index, share in enumerate(shares[:_MAX_SHOWN]):
        dead = int((share == 0).sum())
        label = f"codebook {index + 1}: {dead} of {size} dead"
        axes.stairs(share.numpy(), torch.arange(size + 1).numpy() + 0.5, label=label, **_style(index))
        if dead:  # shaded, because a line at 0 is invisible on a linear axis
            first = float(ranks[size - dead]) - 0.5
            axes.axvspan(first, size + 0.5, color=_COLOURS[index], alpha=0.08, linewidth=0)
    axes.axhline(1 / size, color=_LIMIT, linestyle="--", linewidth=1, label="uniform usage")
    axes.set_xlim(0.5 - 0.02 * size, size + 0.5)  # margin on the left, so that a single used entry is visible
    axes.set_ylim(0, 1.08 * max(float(shares.max()), 1 / size))
    axes.set_xlabel("rank of the entry (shaded: dead)")
    axes.set_ylabel("share of the frames")
    axes.legend(fontsize=9, frameon=False)
    _finish(axes, _limited_title("Usage, most used first", len(counts), _MAX_SHOWN))


def _draw_raster(axes: Axes, view: HealthView) -> None:
    codes = view.codes[:, :_MAX_RASTER]  # (T, G)
    groups, size = codes.shape[1], view.counts.shape[1]
    # Entry indices are arbitrary, so colours show the usage rank: dark is frequent, light is rare.
    ranks = view.counts.argsort(dim=1, descending=True).argsort(dim=1)  # (G, V)
    shown = torch.stack([ranks[group, codes[:, group]] for group in range(groups)]) + 1  # (G, T)
    image = axes.imshow(
        shown.numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=1,
        vmax=size,
        extent=(0, len(codes) * view.frame_seconds, groups + 0.5, 0.5),
    )
    axes.set_xlabel("time (s)")
    axes.set_ylabel("codebook")
    axes.yaxis.set_major_locator(MaxNLocator(min(groups, 8), integer=True))
    axes.figure.colorbar(image, ax=axes, label="rank of the code, 1 is the most used")
    axes.set_title(_limited_title("Codes of one utterance", view.codes.shape[1], _MAX_RASTER), fontsize=11)


def _draw_series(axes: Axes, view: HealthView, names: tuple[str, ...], title: str) -> None:
    groups = len(view.counts)
    for index in range(min(groups, _MAX_SHOWN)):
        for name in names:
            updates, values = view.history.series(f"{index + 1}/{name}")
            if values:
                soft = name.endswith("_soft")
                style = {**_style(index), **({"alpha": 0.5, "marker": "x"} if soft else {"marker": "o"})}
                kind = " of the probabilities" if soft else ""
                axes.plot(updates, values, markersize=4, label=f"codebook {index + 1}{kind}", **style)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if axes.has_data():
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "needs two measurements", transform=axes.transAxes, ha="center", color=_LIMIT)
    _finish(axes, _limited_title(title, groups, _MAX_SHOWN))


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index], "linestyle": _STYLES[index]}


def _limited_title(title: str, num_codebooks: int, max_shown: int) -> str:
    return title if num_codebooks <= max_shown else f"{title}\n(codebooks 1 to {max_shown} of {num_codebooks})"


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
