"""Figures of groups of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from w2vlab.reports.grouping import Group
from w2vlab.reports.outcomes import ACCURACY, EXPLAINED, LOSS, PERPLEXITY, Outcome
from w2vlab.reports.report import Report
from w2vlab.reports.statistics import compute_mean
from w2vlab.utils.comparable import depends_on_objective
from w2vlab.utils.messages import one_line

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""Colour-blind safe palette of Okabe and Ito; a group has the same colour, line and marker in all figures."""

_LINES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")

_Style = dict[str, Any]

_FAINT = "#777777"

_SHORT_NAME = 40
"""Maximum length of a group's name in a legend."""


def _styles(groups: Sequence[Group]) -> list[_Style]:
    styles = []
    for index in range(len(groups)):
        cycle = index // len(_COLOURS)
        styles.append(
            {
                "color": _COLOURS[index % len(_COLOURS)],
                "linestyle": _LINES[cycle % len(_LINES)],
                "marker": _MARKERS[cycle % len(_MARKERS)],
            }
        )
    return styles


_TITLES = {
    ACCURACY: "Accuracy among the candidates",
    EXPLAINED: "Share of the targets' variance that is explained",
}


def draw_curves(report: Report) -> Figure:
    """Draws validation metrics over updates: the mean of each group, plus and minus one standard deviation."""
    groups = [line.group for line in report.lines]
    second = _first_logged(groups, (ACCURACY, EXPLAINED, "val/wer", "val/cer", "val/per"))
    panels = [(LOSS, "Validation loss" + _warning(report, LOSS))]
    if second:
        panels.append((second, _TITLES.get(second, f"{second[4:].upper()} in validation")))
    width = 6.5 * len(panels)
    figure = Figure(figsize=(width, 4.5 + _legend_height(groups, width)), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for group, style in zip(groups, _styles(groups), strict=True):
            _draw_curve(axes, group, metric, style)
        _finish(axes, title)
        axes.set_xlabel("update")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _add_legend(figure, groups)
    return figure


def _draw_curve(axes: Axes, group: Group, metric: str, style: _Style) -> None:
    series = [found for run in group.runs if (found := run.series(metric))]
    if not series:
        return
    common = sorted(set.intersection(*(set(found) for found in series)))
    marker = style["marker"] if len(common) <= 20 else ""
    if len(common) < 2 and len(series) > 1:  # validated at different updates, so no mean
        for found in series:
            axes.plot(list(found), list(found.values()), **{**style, "marker": marker}, linewidth=1, markersize=3)
        return
    means = [compute_mean([found[update] for found in series]) for update in common]
    middle = [mean.mean for mean in means]
    axes.plot(common, middle, **{**style, "marker": marker}, linewidth=1.5, markersize=4)
    spread = [mean.deviation or 0.0 for mean in means]
    if any(spread):
        low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(common, low, high, color=style["color"], alpha=0.15, linewidth=0)


def draw_outcomes(report: Report) -> Figure:
    """Draws a bar for each group and outcome, with one standard deviation as error bar, and a point for each run."""
    groups = [line.group for line in report.lines]
    number = max(1, len(report.outcomes))
    figure = Figure(figsize=(2.5 + 4 * number, 1.4 + 0.42 * max(2, len(groups))), layout="constrained")
    panels = figure.subplots(1, number, squeeze=False, sharey=True)[0]
    for index, (axes, outcome) in enumerate(zip(panels, report.outcomes, strict=False)):
        for y, (line, style) in enumerate(zip(report.lines, _styles(groups), strict=True)):
            mean = line.means[index]
            if not mean.number:
                continue
            middle, spread = outcome.scale * mean.mean, outcome.scale * (mean.deviation or 0.0)
            axes.barh(y, middle, height=0.7, color=style["color"], alpha=0.55)
            if mean.deviation is not None:
                axes.errorbar(middle, y, xerr=spread, color="black", capsize=3, linewidth=1.2)
            values = [outcome.scale * value for value in _values(line.group, outcome)]
            axes.plot(values, [y + 0.25] * len(values), "o", color=style["color"], markersize=4)
            text = outcome.text(mean.mean) + ("" if mean.deviation is None else f" ± {outcome.text(mean.deviation)}")
            right = max(*values, middle + spread, 0.0)
            axes.annotate(text, (right, y), (5, 0), textcoords="offset points", va="center", fontsize=8)
        _finish(axes, outcome.label + ("\nnot comparable" if _warning(report, outcome.metric) else ""), grid="x")
        axes.margins(x=0.25)
    if not report.outcomes:
        _finish(panels[0], "outcomes")
    panels[0].set_yticks(range(len(groups)), [_escape(group.name) for group in groups], fontsize=9)
    panels[0].set_ylim(len(groups) - 0.4, -0.6)  # the first group at the top, as in the table
    return figure


def draw_perplexity(report: Report) -> Figure:
    """Draws each run's codebook perplexity against its first outcome."""
    groups = [line.group for line in report.lines]
    figure = Figure(figsize=(7, 4.8 + _legend_height(groups, 7)), layout="constrained")
    axes = figure.subplots()
    outcome = next((outcome for outcome in report.outcomes if outcome.metric not in (LOSS, PERPLEXITY)), None)
    outcome = outcome or (report.outcomes[0] if report.outcomes else None)
    smallest, largest = math.inf, 0.0
    for group, style in zip(groups, _styles(groups), strict=True):
        points = []
        for run in group.runs:
            perplexity, value = run.value(PERPLEXITY), run.value(outcome.metric) if outcome else None
            if perplexity is not None and value is not None and math.isfinite(perplexity) and math.isfinite(value):
                points.append((perplexity, value * (outcome.scale if outcome else 1)))
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, linestyle="", color=style["color"], marker=style["marker"], markersize=7, alpha=0.8)
            smallest, largest = min(smallest, *xs), max(largest, *xs)
    if largest > 20 * smallest > 0:
        axes.set_xscale("log")
    _finish(axes, f"{outcome.label if outcome else 'outcome'} by codebook perplexity, a point a run")
    axes.set_xlabel("perplexity of the codes in the last validation")
    axes.set_ylabel(outcome.label.replace("$", r"\$") if outcome else "")
    _add_legend(figure, groups)
    return figure


def _warning(report: Report, metric: str) -> str:
    """Returns a suffix for the title of a metric that is not comparable between the groups; otherwise empty."""
    incomparable = report.objective_differences and depends_on_objective(metric)
    return ", not comparable between these groups" if incomparable else ""


def _values(group: Group, outcome: Outcome) -> list[float]:
    values = (run.value(outcome.metric) for run in group.runs)
    return [value for value in values if value is not None and math.isfinite(value)]


def _first_logged(groups: Sequence[Group], metrics: Sequence[str]) -> str | None:
    return next((m for m in metrics if any(run.series(m) for group in groups for run in group.runs)), None)


def _shorten(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= _SHORT_NAME else f"{name[: _SHORT_NAME - 1]}…"


def _escape(name: str) -> str:
    """Shortens a name and escapes dollar signs, between which Matplotlib would parse a formula."""
    return _shorten(name).replace("$", r"\$")


def _legend_columns(groups: Sequence[Group], width: float) -> int:
    """Returns how many names fit side by side, from an upper bound of the width of a letter and a line, in inches."""
    longest = max((len(_shorten(group.name)) for group in groups), default=0)
    return max(1, min(4, len(groups), int(width / (0.085 * (longest + 8) + 0.6))))


def _legend_height(groups: Sequence[Group], width: float) -> float:
    return 0.22 * math.ceil(len(groups) / _legend_columns(groups, width))


def _add_legend(figure: Figure, groups: Sequence[Group]) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot([], [], label=f"{_escape(group.name)} (n = {len(group.runs)})", linewidth=1.5, markersize=5, **style)[
            0
        ]
        for group, style in zip(groups, _styles(groups), strict=True)
    ]
    columns = _legend_columns(groups, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _finish(axes: Axes, title: str, grid: Literal["both", "x"] = "both") -> None:
    axes.set_title(title.replace("$", r"\$"), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, alpha=0.3)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", va="center", color=_FAINT)
