"""The panels of a run's figure; each knows whether the run has data for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter, ScalarFormatter

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.records.run_view import RunView
from w2vlab.callbacks.throughput import AUDIO_RATE, DATA_WAIT_SHARE, MFU
from w2vlab.utils.axis_limits import start_y_axis_at_zero

_TRAIN, _VAL, _SECOND, _LIMIT = "#8fb4d9", "#c8502d", "#3b7d4f", "#777777"

_HARD, _SOFT = "val/codebook/perplexity_hard", "val/codebook/perplexity_soft"
_RATE, _TEMPERATURE, _DECAY = "learning_rate", "train/gumbel_temperature", "train/teacher_decay"
_EXPLAINED, _OF_TARGETS, _OF_PREDICTIONS = (
    f"val/{name}" for name in ("explained_variance", "target_variance", "prediction_variance")
)

_MAX_MARKERS = 40
"""Maximum number of values that are drawn with markers; more markers would overlap."""


@dataclass(frozen=True)
class Panel:
    """A panel of the figure.

    Attributes:
        draw: Draws the panel.
        shows: Returns whether the run has data for the panel.
    """

    draw: Callable[[Axes, RunView], None]
    shows: Callable[[RunView], bool]


def _has(*names: str) -> Callable[[RunView], bool]:
    return lambda view: any(_finite(history, name) for history in (view.train, view.validation) for name in names)


def _has_accuracy(view: RunView) -> bool:
    stages = ("val",) if view.losses else ("train", "val")
    return _has(*(f"{stage}/{metric}" for stage in stages for metric in view.accuracies.values()))(view)


def _finite(history: MetricHistory, name: str) -> bool:
    return any(math.isfinite(value) for value in history.series(name)[1])


def _draw_loss(axes: Axes, view: RunView) -> None:
    _draw_pair(axes, view, "loss/total")
    if view.chance_loss is not None:
        candidates = view.num_candidates or 0
        is_choice = candidates > 1 and math.isclose(view.chance_loss, math.log(candidates))
        cost = f"ln {candidates}" if is_choice else f"{view.chance_loss:.3g}"
        _draw_limit(axes, view.chance_loss, f"chance: {cost}, without penalties")
    unit = "nats an utterance" if view.error_rates else "a prediction" if view.is_regression else "nats a prediction"
    unit = "weighted sum" if view.losses else unit
    _finish(axes, f"Loss ({unit})")


def _draw_accuracy(axes: Axes, view: RunView) -> None:
    for (loss, metric), colour, marker in zip(view.accuracies.items(), cycle((_VAL, _SECOND, _TRAIN)), cycle("os^")):
        if loss:
            _draw_line(axes, view.validation, f"val/{metric}", f"{loss}, validation", colour, marker)
        else:
            _draw_pair(axes, view, metric)
        if candidates := view.candidates_of(loss):
            _draw_limit(axes, 1 / candidates, f"chance{f' of {loss}' if loss else ''}, 1 of {candidates}")
    _finish(axes, "Accuracy among the candidates")


def _draw_explained(axes: Axes, view: RunView) -> None:
    _draw_pair(axes, view, "explained_variance")
    start_y_axis_at_zero(axes, 1.0)
    _finish(axes, "Share of the targets' variance that is explained")


def _draw_variances(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.validation, _OF_TARGETS, "of the teacher's layers", _VAL, marker="o")
    _draw_line(axes, view.validation, _OF_PREDICTIONS, "of the predictions", _SECOND, marker="s")
    start_y_axis_at_zero(axes, 1.0)
    _finish(axes, "Variance over time, of the mean square")


def _draw_errors(axes: Axes, view: RunView) -> None:
    for (name, unit), colour, marker in zip(view.error_rates.items(), (_VAL, _SECOND), "os", strict=False):
        _draw_line(axes, view.validation, f"val/{name}", f"of {unit}s", colour, marker)
    _draw_limit(axes, 1.0, "100 % errors")
    start_y_axis_at_zero(axes)
    _finish(axes, "Error rates in validation")


def _draw_perplexity(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.validation, _HARD, "of the codes", _VAL, marker="o")
    _draw_line(axes, view.validation, _SOFT, "of the probabilities", _SECOND, marker="s")
    _draw_limit(axes, view.num_codes, f"uniform usage of {view.num_codes} entries")
    if view.num_codes > 100:  # logarithmic, so that a collapse to a few entries is visible
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        start_y_axis_at_zero(axes)
    _finish(axes, "Codebook perplexity in validation")


def _draw_schedules(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.train, _RATE, "learning rate (left)", _TRAIN)
    start_y_axis_at_zero(axes)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    handles = list(axes.lines)
    others = [
        (name, label, colour)
        for name, label, colour in (
            (_TEMPERATURE, "Gumbel temperature (right)", _SECOND),
            (_DECAY, "decay of the teacher (right)", _VAL),
        )
        if _finite(view.train, name)
    ]
    for number, (name, label, colour) in enumerate(others):
        right = axes.twinx()
        right.spines["right"].set_position(("outward", 44 * number))
        right.tick_params(axis="y", labelcolor=colour if len(others) > 1 else "black")
        _draw_line(right, view.train, name, label, colour)
        if name == _TEMPERATURE:
            start_y_axis_at_zero(right)
        else:  # near 1, where differences are small
            right.ticklabel_format(axis="y", useOffset=False)
        bottom, top = right.get_ylim()
        right.set_ylim(top=top + 0.25 * (top - bottom))  # space for the legend
        right.spines["top"].set_visible(False)
        handles += right.lines
    _finish(axes, "Schedules", handles=handles)


def _draw_speed(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.train, AUDIO_RATE, "audio (left)", _TRAIN)
    start_y_axis_at_zero(axes)
    handles = list(axes.lines)
    if any(_finite(view.train, name) for name in (MFU, DATA_WAIT_SHARE)):
        right = axes.twinx()
        _draw_line(right, view.train, MFU, "MFU (right)", _SECOND)
        _draw_line(right, view.train, DATA_WAIT_SHARE, "waiting for data (right)", _VAL)
        start_y_axis_at_zero(right, 1.0)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        right.spines["top"].set_visible(False)
        handles += right.lines
    _finish(axes, "Speed (seconds of audio a second)", handles=handles)


def _draw_usage(axes: Axes, view: RunView) -> None:
    assert view.code_counts is not None, "otherwise the panel is not shown"
    counts = view.code_counts
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sort(dim=1, descending=True).values  # (G, V)
    ranks = torch.arange(1, shares.shape[1] + 1)
    for index, share in enumerate(shares):
        used = share > 0  # 0 cannot be drawn on a logarithmic axis
        label = f"codebook {index + 1}: {int(used.sum())} of {len(share)} used"
        marker = "o" if used.sum() == 1 else ""
        axes.plot(ranks[used], share[used], label=label, drawstyle="steps-mid", marker=marker)
    _draw_limit(axes, 1 / shares.shape[1], "uniform usage")
    axes.set_yscale("log")
    axes.set_xlim(0.5, shares.shape[1] + 0.5)
    _finish(axes, "Share of each entry, most used first", x_label="rank of the entry")


def _draw_probe(axes: Axes, view: RunView) -> None:
    assert view.probe is not None, "otherwise the panel is not shown"
    bars = view.probe.bars
    for x, (bar, colour) in enumerate(zip(bars, (_VAL, _TRAIN, _LIMIT), strict=False)):
        interval = [[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]]
        axes.bar(x, bar.value, color=colour, width=0.6, yerr=interval, capsize=5, ecolor="black")
        axes.annotate(
            f"{100 * bar.value:.1f} %", (x, bar.high), (0, 4), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_xticks(range(len(bars)), [bar.name for bar in bars], fontsize=9)
    axes.set_ylim(0, min(1.15, 1.2 * max(bar.high for bar in bars)) or 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_title(view.probe.title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


LOSS = Panel(_draw_loss, _has("train/loss/total", "val/loss/total"))
SCHEDULES = Panel(_draw_schedules, _has(_RATE, _TEMPERATURE, _DECAY))
SPEED = Panel(_draw_speed, _has(AUDIO_RATE, MFU, DATA_WAIT_SHARE))
PRETRAINING = (
    LOSS,
    Panel(_draw_accuracy, _has_accuracy),
    Panel(_draw_explained, _has("train/explained_variance", _EXPLAINED)),
    Panel(_draw_perplexity, _has(_HARD, _SOFT)),
    Panel(_draw_usage, lambda view: view.code_counts is not None and bool(view.code_counts.sum() > 0)),
    Panel(_draw_variances, _has(_OF_TARGETS, _OF_PREDICTIONS)),
    SCHEDULES,
    SPEED,
    Panel(_draw_probe, lambda view: view.probe is not None and bool(view.probe.bars)),
)
RECOGNITION = (
    LOSS,
    Panel(_draw_errors, lambda view: _has(*(f"val/{name}" for name in view.error_rates))(view)),
    SCHEDULES,
    SPEED,
)


def _draw_pair(axes: Axes, view: RunView, metric: str) -> None:
    _draw_line(axes, view.train, f"train/{metric}", "training", _TRAIN)
    _draw_line(axes, view.validation, f"val/{metric}", "validation", _VAL, marker="o")


def _draw_line(axes: Axes, history: MetricHistory, name: str, label: str, colour: str, marker: str = "") -> None:
    updates, values = history.series(name)
    if not any(map(math.isfinite, values)):
        return
    if sum(map(math.isfinite, values)) == 1:  # a line of one point is invisible
        marker = marker or "o"
    elif len(values) > _MAX_MARKERS:
        marker = ""
    axes.plot(updates, values, label=label, color=colour, linewidth=1.2, marker=marker, markersize=4)


def _draw_limit(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=_LIMIT, linestyle="--", linewidth=1, label=label)


def _finish(axes: Axes, title: str, x_label: str = "update", handles: list[Line2D] | None = None) -> None:
    axes.set_title(title, fontsize=11)
    axes.spines["top"].set_visible(False)
    axes.set_xlabel(x_label)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(handles=axes.get_legend_handles_labels()[0] if handles is None else handles, fontsize=9, frameon=False)
