"""Pictures of `evaluate` and `compare`: everything is drawn inside of its axes, and no panel is empty."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2vlab.evaluation.comparison import PNMI, PROBE, Compared
from w2vlab.evaluation.evaluate import Evaluation
from w2vlab.evaluation.output.comparison_picture import draw_comparison
from w2vlab.evaluation.output.picture import draw_evaluation
from w2vlab.evaluation.tasks.measure import RepresentationResult, SourceResult
from w2vlab.evaluation.tasks.unit_quality import UnitData
from w2vlab.functional.measures.interval import Interval


def drawn(figure: Figure) -> list[Axes]:
    """Returns the panels; each has something in it."""
    figure.savefig(io.BytesIO())
    panels = [axes for axes in figure.axes if axes.get_title()]
    for axes in panels:
        assert axes.has_data()
        assert not axes.texts
    return panels


def evaluation(phones: bool, codes: bool = True, layers: bool = True) -> Evaluation:
    random = torch.Generator().manual_seed(0)
    units = {f"u{n}": (20 * torch.rand(100, 2, generator=random) ** 2).long() for n in range(5)}
    spoken = {name: torch.randint(0, 3, (100,), generator=random) for name in units} if phones else {}
    probe: Any = SimpleNamespace(accuracy=0.5, majority=0.2)
    measured = [RepresentationResult(name="context", dim=8, probe=probe if phones and layers else None)]
    data = UnitData(codes=units, phones=spoken, codebook_size=20, num_phones=3 * phones) if codes else None
    corpus: Any = SimpleNamespace(name="c $x$", phones=("a", "b", "c") if phones else ())
    seen: Any = None
    model = SourceResult(name="model", representations=measured, units=[], unit_data=data, frames_per_second=50.0)
    return Evaluation(model=model, random=None, mfcc=None, corpus=corpus, tasks=(), seen=seen)


@pytest.mark.parametrize(
    ("phones", "codes", "layers", "titles"),
    [
        (
            True,
            True,
            True,
            ["Phone probe: accuracy (%)", "Share of each phone in the frames of a code (the 100 most used"],
        ),
        (True, False, True, ["Phone probe: accuracy (%)"]),
        (True, True, False, ["Share of each phone in the frames of a code (the 100 most used"]),
        (False, True, True, ["Usage of the entries, most used first"]),
    ],
)
def test_only_measurements_have_panels(phones: bool, codes: bool, layers: bool, titles: list[str]) -> None:
    figure = draw_evaluation(evaluation(phones, codes, layers), "last.ckpt")
    panels = drawn(figure)
    assert [axes.get_title()[: len(title)] for axes, title in zip(panels, titles, strict=True)] == titles
    assert ("without phone labels" in figure.get_suptitle()) == (not phones)


def test_usage_of_the_codes_takes_no_labels() -> None:
    (axes,) = drawn(draw_evaluation(evaluation(phones=False), "last.ckpt"))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *("codebook 1: 20 of 20 used", "codebook 2: 20 of 20 used", "all alike"),
    ]
    low, high = axes.get_ylim()
    for patch in axes.patches:
        values = patch.get_data().values
        assert values.sum() == pytest.approx(100)
        assert low <= 0 < values.max() < high


def compared(names: list[str], having: dict[tuple[str, str], list[str]]) -> list[Compared]:
    return [
        Compared(
            measure=measure,
            representation=representation,
            checkpoint=f"{name}{ending}",
            interval=Interval(0.5 + n / 10, 0.45, 0.75),
            difference=None,
        )
        for (measure, representation), those in having.items()
        for n, name in enumerate(names)
        if name in those
        for ending in ("", ", random network")
    ]


NAMES = ["runs/a/$x$/last.ckpt", "b", "c" * 200]
HAVING = {
    (PROBE, "layer 1"): NAMES[1:],
    (PROBE, "context"): NAMES,
    (PNMI, "codes"): NAMES,
}


@pytest.mark.parametrize("kinds", [{PROBE}, {PNMI}, {PROBE, PNMI}])
def test_dots_are_at_their_ticks(kinds: set[str]) -> None:
    having = {key: those for key, those in HAVING.items() if key[0] in kinds}
    figure = draw_comparison(compared(NAMES, having), NAMES)
    panels = drawn(figure)
    assert len(panels) == len(kinds)
    for axes in panels:
        ticks = {text.get_text(): place for text, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
        (width,) = {round(high - low) for low, high in [axes.get_xlim()]}
        assert width == len(ticks)  # a single tick has its dots around it, and not all over the panel
        dots = [(float(bar[0].get_xdata()[0]), float(bar[0].get_ydata()[0])) for bar in axes.containers]
        low, high = axes.get_ylim()
        for x, y in dots:
            assert low < y < high
            assert min(abs(x - place) for place in ticks.values()) <= 0.2 + 1e-9
        for name, place in ticks.items():
            near = sorted({x for x, _ in dots if abs(x - place) < 0.5})
            those = next(those for (_, representation), those in having.items() if representation == name)
            assert len(near) == len(those)
            assert sum(near) / len(near) == pytest.approx(place)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 6
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0


def test_a_checkpoint_that_only_a_later_panel_has_is_in_the_legend() -> None:
    having = {(PROBE, "context"): ["a"], (PNMI, "codes"): ["a", "b"]}
    figure = draw_comparison(compared(["a", "b"], having), ["a", "b"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("a", "a, random network", "b", "b, random network"),
    ]
