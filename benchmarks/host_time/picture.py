"""Draws what the host does in an update, over its time."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Spans = dict[str, list[tuple[str, float, float]]]

KINDS = {
    "masks": "masks and counts",
    "distractors": "distractors",
    "model": "the module, without any network",
    "batches": "receiving batches",
    "logs": "sums, gradient norm, logs",
    "loop": "Lightning and callbacks",
}
"""What each kind of span is."""


def draw(spans: Spans, micro_batches: int, path: Path) -> None:
    """Draws the spans of an update of each checkout, one above the other, on the same axis.

    Args:
        spans: Kind, start and end in seconds of each span, by checkout.
        micro_batches: Micro-batches of the update.
        path: The picture.
    """
    figure, axes = plt.subplots(figsize=(8, 2.2), layout="constrained")
    for color, (kind, label) in enumerate(KINDS.items()):
        for row, found in enumerate(spans.values()):
            pieces = [(1000 * start, 1000 * (end - start)) for of, start, end in found if of == kind]
            name = label if row == 0 else None
            axes.broken_barh(pieces, (-row - 0.35, 0.7), facecolor=f"C{color}", linewidth=0, label=name)
    axes.set_yticks([-row for row in range(len(spans))], list(spans))
    axes.set(xlabel=f"host time of an update of {micro_batches} micro-batches (ms)")
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
