"""Evaluations as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2vlab.evaluation import Evaluation, table_rows
from w2vlab.evaluation.results import Row, majority
from w2vlab.evaluation.unit_quality import UnitData, count_phones

_MODEL, _RANDOM, _MFCC, _LIMIT = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Told apart by any eye (Okabe and Ito)."""

_MAX_CODES = 100
"""Codes in the matrix; of more, the most used ones."""


def draw_evaluation(evaluation: Evaluation, title: str) -> Figure:
    """Draws probe and ABX over the layers, and which codes stand for which phones."""
    figure = Figure(figsize=(15, 8), layout="constrained")
    figure.suptitle(f"{title} on {evaluation.corpus.name}", fontsize=13)
    rows = table_rows(evaluation)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.2])
    probe, errors = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    _draw_layers(probe, rows, "Phone probe: accuracy (%)", "accuracy", majority(evaluation))
    _draw_layers(errors, rows, "ABX within speakers: error (%)", "abx", 0.5 if evaluation.tasks else None)
    _draw_matrix(figure.add_subplot(grid[:, 1]), evaluation)
    return figure


def _draw_layers(axes: Axes, rows: Sequence[Row], title: str, kind: str, chance: float | None) -> None:
    def values(row: Row, control: bool) -> float | None:
        if kind == "accuracy":
            return row.accuracy_random if control else row.accuracy
        return (row.abx_random if control else row.abx).get("within")

    layers = [row for row in rows if not row.name.startswith("MFCC")]
    places = range(len(layers))
    for control, label, colour in ((False, "model", _MODEL), (True, "random network", _RANDOM)):
        drawn = [(x, v) for x, row in zip(places, layers, strict=True) if (v := values(row, control)) is not None]
        if drawn:
            axes.plot([x for x, _ in drawn], [100 * v for _, v in drawn], "o-", color=colour, label=label)
    cepstra = next((values(row, False) for row in rows if row.name.startswith("MFCC")), None)
    if cepstra is not None:
        axes.axhline(100 * cepstra, color=_MFCC, linestyle="--", label="MFCC")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=_LIMIT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if chance is not None:
        axes.axhline(100 * chance, color=_LIMIT, linestyle=":", label="chance")
    axes.set_xticks(list(places), [row.name for row in layers], rotation=30, ha="right", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False)


def _draw_matrix(axes: Axes, evaluation: Evaluation) -> None:
    data = evaluation.model.unit_data
    if data is None or not data.phones:
        axes.text(0.5, 0.5, "no codes, or no phone labels", transform=axes.transAxes, ha="center", color=_LIMIT)
        axes.set_axis_off()
        return
    shares, phones, codes, total = phone_shares(data)
    # Codes beside others of the same phone, phones in the order of their most faithful codes.
    image = axes.imshow(100 * shares.T.numpy(), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    names = [evaluation.corpus.phones[phone] for phone in phones]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("codes (tuples of all codebooks), by their most frequent phone")
    axes.set_xticks([])
    shown = f"the {len(codes)} most used of {total}" if total > len(codes) else f"all {total}"
    axes.set_title(f"Share of each phone in the frames of a code ({shown})", fontsize=11)
    axes.figure.colorbar(image, ax=axes, label="% of the frames of the code")


def phone_shares(data: UnitData) -> tuple[torch.Tensor, list[int], list[int], int]:
    """Returns the picture of codes and phones.

    Args:
        data: Codes and phones of the test utterances.

    Returns:
        The share of each phone in the frames of each code, `(codes, phones)`; which phones and which codes these are,
        in order; and how many codes are used.
    """
    codes, num_codes = data.numbered()["joint"]
    counts = count_phones(data, codes, num_codes)  # (V, P)
    used = counts.sum(dim=1)
    chosen = used.argsort(descending=True)[: min(_MAX_CODES, int((used > 0).sum()))]
    phones = counts.sum(dim=0).argsort(descending=True)
    phones = phones[counts.sum(dim=0)[phones] > 0]
    shares = counts[chosen] / used[chosen, None]  # (codes, P)
    rank = {int(phone): place for place, phone in enumerate(phones)}
    order = sorted(range(len(chosen)), key=lambda c: (rank[int(shares[c].argmax())], -float(shares[c].max())))
    return shares[order][:, phones], phones.tolist(), chosen[order].tolist(), int((used > 0).sum())
