"""One picture of a run: whether it learns, whether its codebooks live, how fast it goes."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter, ScalarFormatter
from torch import Tensor

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.run_view import RunView
from w2vlab.callbacks.throughput import AUDIO_RATE, DATA_WAIT_SHARE, MFU

_TRAIN, _VAL, _SECOND, _LIMIT = "#8fb4d9", "#c8502d", "#3b7d4f", "#777777"


def draw_run(view: RunView) -> Figure:
    """Draws panels over the updates; one that has nothing to show says so."""
    return _draw_recognition(view) if view.error_rates else _draw_pretraining(view)


def _draw_recognition(view: RunView) -> Figure:
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(view.title, fontsize=13)
    (loss, errors), (schedules, speed) = figure.subplots(2, 2)
    _draw_pair(loss, view, "loss/total")
    _finish(loss, "Loss (nats an utterance)")
    for (name, what), colour, marker in zip(view.error_rates.items(), (_VAL, _SECOND), "os", strict=False):
        _draw_line(errors, view.validation, f"val/{name}", f"of {what}s", colour, marker)
    if errors.has_data():
        _draw_limit(errors, 1.0, "as many errors as there are to recognise")
        errors.set_ylim(bottom=0)
    _finish(errors, "Error rates in validation")
    _draw_schedules(schedules, view)
    _draw_speed(speed, view.train)
    return figure


def _draw_pretraining(view: RunView) -> Figure:
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    figure.suptitle(view.title, fontsize=13)
    (loss, accuracy, perplexity), (schedules, speed, usage) = figure.subplots(2, 3)
    _draw_pair(loss, view, "loss/total")
    _finish(loss, "Loss (nats a prediction)")
    _draw_pair(accuracy, view, "accuracy")
    if view.num_candidates and accuracy.has_data():
        _draw_limit(accuracy, 1 / view.num_candidates, f"chance, 1 of {view.num_candidates}")
    _finish(accuracy, "Accuracy among the candidates")
    _draw_perplexity(perplexity, view)
    _finish(perplexity, "Codebook perplexity in validation")
    _draw_schedules(schedules, view)
    _draw_speed(speed, view.train)
    _draw_usage(usage, view.code_counts)
    _finish(usage, "Share of each entry, most used first", over="rank of the entry")
    return figure


def _draw_pair(axes: Axes, view: RunView, metric: str) -> None:
    _draw_line(axes, view.train, f"train/{metric}", "training", _TRAIN)
    _draw_line(axes, view.validation, f"val/{metric}", "validation", _VAL, marker="o")


def _draw_perplexity(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.validation, "val/codebook/perplexity_hard", "of the codes", _VAL, marker="o")
    _draw_line(axes, view.validation, "val/codebook/perplexity_soft", "of the probabilities", _SECOND, marker="s")
    if not axes.has_data():
        return
    _draw_limit(axes, view.num_codes, f"all {view.num_codes} entries alike")
    if view.num_codes > 100:  # a collapse to a few entries must still be seen
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.set_ylim(bottom=0)


def _draw_schedules(axes: Axes, view: RunView) -> None:
    _draw_line(axes, view.train, "learning_rate", "learning rate (left)", _TRAIN)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    handles = list(axes.lines)
    if view.train.last("train/gumbel_temperature") is not None:
        right = axes.twinx()
        _draw_line(right, view.train, "train/gumbel_temperature", "Gumbel temperature (right)", _SECOND)
        right.set_ylim(0, right.get_ylim()[1] * 1.25)  # room for the legend
        right.spines["top"].set_visible(False)
        handles += right.lines
    _finish(axes, "Schedules", handles=handles)


def _draw_speed(axes: Axes, train: MetricHistory) -> None:
    _draw_line(axes, train, AUDIO_RATE, "audio (left)", _TRAIN)
    axes.set_ylim(bottom=0)
    handles = list(axes.lines)
    if any(train.last(name) is not None for name in (MFU, DATA_WAIT_SHARE)):
        right = axes.twinx()
        _draw_line(right, train, MFU, "MFU (right)", _SECOND)
        _draw_line(right, train, DATA_WAIT_SHARE, "waiting for data (right)", _VAL)
        right.set_ylim(0, 1)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        right.spines["top"].set_visible(False)
        handles += right.lines
    _finish(axes, "Speed (seconds of audio a second)", handles=handles)


def _draw_usage(axes: Axes, counts: Tensor | None) -> None:
    if counts is None or not counts.numel():
        return
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sort(dim=1, descending=True).values  # (G, V)
    ranks = torch.arange(1, shares.shape[1] + 1)
    for index, share in enumerate(shares):
        used = share > 0  # an unused entry has no place on a logarithmic axis
        label = f"codebook {index + 1}: {int(used.sum())} of {len(share)} used"
        axes.plot(ranks[used], share[used], label=label, drawstyle="steps-mid")
    _draw_limit(axes, 1 / shares.shape[1], "all alike")
    axes.set_yscale("log")
    axes.set_xlim(0.5, shares.shape[1] + 0.5)


def _draw_line(axes: Axes, history: MetricHistory, name: str, label: str, colour: str, marker: str = "") -> None:
    updates, values = history.series(name)
    if values:
        # Dots tell single validations apart; in a long run they would only be in the way.
        marker = marker if len(values) <= 40 else ""
        axes.plot(updates, values, label=label, color=colour, linewidth=1.2, marker=marker, markersize=4)


def _draw_limit(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=_LIMIT, linestyle="--", linewidth=1, label=label)


def _finish(axes: Axes, title: str, over: str = "update", handles: list[Line2D] | None = None) -> None:
    axes.set_title(title, fontsize=11)
    axes.spines["top"].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", va="center", color=_LIMIT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_xlabel(over)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(handles=axes.get_legend_handles_labels()[0] if handles is None else handles, fontsize=9, frameon=False)
