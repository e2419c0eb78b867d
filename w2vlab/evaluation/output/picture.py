"""Evaluations as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2vlab.evaluation import Evaluation, table_rows
from w2vlab.evaluation.results import Row, majority
from w2vlab.evaluation.tasks.unit_quality import UnitData, count_phones
from w2vlab.utils.messages import one_line

_MODEL, _RANDOM, _MFCC, _LIMIT = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Safe for colour-blind readers (Okabe and Ito)."""

_CODEBOOKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Colours of the codebooks whose usage is drawn; of more codebooks, the first ones."""

_MAX_CODES = 100
"""Most codes in the matrix; of more, the most used ones."""


def draw_evaluation(evaluation: Evaluation, title: str) -> Figure:
    """Draws the results: probe and ABX over the layers, and the phones of each code.

    Without phone labels, it draws the codebook usage.
    """
    rows = table_rows(evaluation)
    over_layers: list[Callable[[Axes], None]] = []
    if any(row.accuracy is not None for row in rows):
        over_layers.append(
            lambda axes: _draw_layers(axes, rows, "Phone probe: accuracy (%)", "accuracy", majority(evaluation))
        )
    if any("within" in row.abx for row in rows):
        over_layers.append(lambda axes: _draw_layers(axes, rows, "ABX within speakers: error (%)", "abx", 0.5))
    data = evaluation.model.unit_data
    number = max(1, len(over_layers))
    width = 7.0 * bool(over_layers) + 8.0 * (data is not None)
    figure = Figure(figsize=(width or 8.0, 4.0 * number + 0.5 * (not over_layers)), layout="constrained")
    name = evaluation.corpus.name if evaluation.corpus.phones else f"{evaluation.corpus.name}, without phone labels"
    figure.suptitle(one_line(f"{title} on {name}").replace("$", r"\$"), fontsize=13)
    columns = bool(over_layers) + (data is not None)
    grid = figure.add_gridspec(number, max(1, columns), width_ratios=[1, 1.2] if columns == 2 else None)
    for place, draw in enumerate(over_layers):
        draw(figure.add_subplot(grid[place, 0]))
    if data is not None:
        (_draw_matrix if data.phones else _draw_usage)(figure.add_subplot(grid[:, -1]), evaluation, data)
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
    if chance is not None:
        axes.axhline(100 * chance, color=_LIMIT, linestyle=":", label="chance")
    axes.set_xticks(
        list(places), [row.name for row in layers], rotation=30, ha="right", rotation_mode="anchor", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False)


def _draw_usage(axes: Axes, _: Evaluation, data: UnitData) -> None:
    """Draws the usage of each entry of each codebook, which needs no labels."""
    codes = torch.cat(list(data.codes.values()))  # (T, G)
    size = data.codebook_size
    for group in range(min(codes.shape[1], len(_CODEBOOKS))):
        counts = torch.bincount(codes[:, group], minlength=size).double()
        shares = 100 * (counts / counts.sum()).sort(descending=True).values
        used = int((counts > 0).sum())
        label = f"codebook {group + 1}: {used} of {size} used"
        axes.stairs(shares.numpy(), torch.arange(size + 1).numpy() + 0.5, label=label, color=_CODEBOOKS[group])
    axes.axhline(100 / size, color=_LIMIT, linestyle="--", linewidth=1, label="all alike")
    axes.set_xlim(0.5 - 0.02 * size, size + 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rank of the entry")
    axes.set_ylabel("% of the frames")
    more = f" (codebooks 1 to {len(_CODEBOOKS)} of {codes.shape[1]})" if codes.shape[1] > len(_CODEBOOKS) else ""
    axes.set_title(f"Usage of the entries, most used first{more}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False)


def _draw_matrix(axes: Axes, evaluation: Evaluation, data: UnitData) -> None:
    shares, phones, codes, total = phone_shares(data)
    # Codes of the same phone are side by side, and phones are in the order of their purest codes.
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
