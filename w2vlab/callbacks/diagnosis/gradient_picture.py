"""Figure of a gradient matrix: a row for each part, a column for each term."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from w2vlab.callbacks.diagnosis.gradient_matrix import GradientMatrix

_ZERO_COLOUR = "#ededed"
_DECADES = 4
"""Colours span this many powers of ten below the largest norm; smaller norms have the last colour."""


def draw_gradient_matrix(
    matrix: GradientMatrix, title: str, unit: str = "nats a prediction", without_gradient: Sequence[str] = ()
) -> Figure:
    """Draws the norm of each gradient, and its cosine with the total gradient of its part.

    Colours are logarithmic, each cell shows its number, and "0" is an exactly zero gradient.

    Args:
        matrix: The gradient matrix.
        title: Title with the model and the update.
        unit: Unit of the norms.
        without_gradient: Parts that are named as having no gradient, such as a teacher.
    """
    terms, parts = matrix.terms, matrix.parts
    # The figure is wide enough for the names of the columns and for the title.
    column = max(1.0, 0.09 * max(map(len, (*terms, "all terms"))))
    label = 0.085 * max(map(len, parts))
    width = max(column * (2 * len(terms) + 1) + label + 3.2, 0.085 * len(title) + 0.5, 7.0)
    figure = Figure(figsize=(width, 0.42 * len(parts) + 2.1), layout="constrained")
    figure.suptitle(title, fontsize=12)
    lengths, directions = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": [len(terms) + 1, len(terms)], "wspace": 0.04}
    )

    norms = np.vstack([matrix.norms.numpy(), matrix.total.numpy()[None]]).T  # (parts, terms + 1)
    seen = norms[np.isfinite(norms) & (norms > 0)]
    longest = float(seen.max()) if seen.size else 1.0
    by_length = LogNorm(longest / 10**_DECADES, longest, clip=True)
    _draw_cells(lengths, norms, (*terms, "all terms"), colormaps["viridis"], by_length, _format_norm)
    lengths.axvline(len(terms) - 0.5, color="black", linewidth=1.5)
    lengths.set_yticks(range(len(parts)), parts)
    lengths.set_title("Norm of the gradient", fontsize=11)
    bar = figure.colorbar(ScalarMappable(by_length, "viridis"), ax=lengths, extend="min")
    bar.set_label(unit)

    cosines = matrix.cosines.masked_fill(matrix.norms == 0, -math.inf).numpy().T  # (parts, terms)
    by_cosine = Normalize(-1, 1)
    _draw_cells(directions, cosines, terms, colormaps["PuOr"], by_cosine, _format_cosine)
    directions.tick_params(axis="y", left=False, labelleft=False)
    directions.set_title("Cosine with all terms", fontsize=11)
    figure.colorbar(ScalarMappable(by_cosine, "PuOr"), ax=directions).set_label("-1 against, 1 along")
    if without_gradient:
        figure.supxlabel(f"no gradient, by design: {', '.join(without_gradient)}", fontsize=10)
    return figure


def _draw_cells(
    axes: Axes,
    values: np.ndarray,
    columns: tuple[str, ...],
    colours: Colormap,
    scale: Normalize,
    format_value: Callable[[float], str],
) -> None:
    """Draws one cell for each of `values` `(rows, columns)`; zero and non-finite values are grey."""
    for row, column in np.ndindex(values.shape):
        value, text = float(values[row, column]), format_value(float(values[row, column]))
        colour = colours(scale(value)) if math.isfinite(value) and text != "0" else to_rgba(_ZERO_COLOUR)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        # Text is black or white by the luminance of the cell (Rec. 709).
        bright = np.dot(colour[:3], (0.2126, 0.7152, 0.0722)) > 0.45
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="black" if bright else "white")
    axes.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _format_norm(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def _format_cosine(value: float) -> str:
    return "" if value == -math.inf else f"{value:+.2f}"
