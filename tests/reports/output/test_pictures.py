from __future__ import annotations

import io
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.reports.made_up import config, rows, trial, write_quantizer_sweep, write_run, write_sweep
from w2vlab.reports import make_report, read_runs
from w2vlab.reports.output.pictures import draw_curves, draw_outcomes, draw_perplexity


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_means_with_a_band(tmp_path: Path) -> None:
    for seed, loss in ((1, 2.0), (2, 4.0)):
        write_run(tmp_path / f"a{seed}", config(seed=seed), rows(loss))
    figure = draw_curves(make_report(read_runs([str(tmp_path)])))
    figure.savefig(io.BytesIO())
    loss, accuracy = figure.axes
    assert (loss.get_title(), accuracy.get_title()) == ("Validation loss", "Accuracy among the candidates")
    (line,) = (line for line in loss.lines if len(line.get_xdata()))
    assert list(line.get_xdata()) == [40, 80, 120, 160, 200]
    assert line.get_ydata()[-1] == 3
    (band,) = loss.collections
    edges = band.get_paths()[0].vertices
    at_the_end = sorted({round(float(y), 6) for x, y in edges if x == 200})
    assert at_the_end == [round(3 - 2**0.5, 6), round(3 + 2**0.5, 6)]
    assert legend(figure) == ["all runs (n = 2)"]


def test_runs_validated_at_different_updates_are_separate_lines(tmp_path: Path) -> None:
    for seed, update in ((1, 10), (2, 15)):
        logged = [{"update": update * n, "val/loss/total": 1.0 * n} for n in (1, 2)]
        write_run(tmp_path / f"a{seed}", config(seed=seed), [*logged, {"update": 40 + seed, "val/loss/total": 1.0}])
    figure = draw_curves(make_report(read_runs([str(tmp_path)])))
    assert len(figure.axes) == 1
    assert len([line for line in figure.axes[0].lines if len(line.get_xdata())]) == 2


def test_bars_and_points(tmp_path: Path) -> None:
    report = make_report(read_runs([str(write_quantizer_sweep(tmp_path))]))
    figure = draw_outcomes(report)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes] == ["phone probe %", "ABX within %", "PNMI %"]
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        [100 * line.means[0].mean for line in report.lines]
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == [line.group.name for line in report.lines]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top


def test_a_point_a_run(tmp_path: Path) -> None:
    figure = draw_perplexity(make_report(read_runs([str(write_quantizer_sweep(tmp_path))])))
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_ylabel() == "phone probe %"
    assert [len(line.get_xdata()) for line in figure.axes[0].lines][:4] == [3, 3, 3, 2]
    assert len(legend(figure)) == 4


def test_titles_warn_of_incomparable_losses(tmp_path: Path) -> None:
    figure = draw_curves(make_report(read_runs([str(write_quantizer_sweep(tmp_path))])))
    assert figure.axes[0].get_title() == "Validation loss, not comparable between these groups"


@pytest.mark.parametrize("draw", [draw_curves, draw_outcomes, draw_perplexity])
def test_nothing_to_draw(draw: object, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, "s", [trial("a", {"p": 1}, "failed", "x")])
    figure = draw(make_report(read_runs([str(sweep)])))  # type: ignore[operator]
    figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing recorded"]


@pytest.mark.parametrize("draw", [draw_curves, draw_perplexity])
def test_many_long_names_fit(draw: object, tmp_path: Path) -> None:
    trials = []
    for number in range(9):
        name = f"a_name_that_takes_much_room_{number}"
        write_run(tmp_path / name, config(), rows(2.0))
        trials.append(trial(name, {"p": name}))
    figure = draw(make_report(read_runs([str(write_sweep(tmp_path, "s", trials))])))  # type: ignore[operator]
    figure.savefig(io.BytesIO())
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 < figure.axes[0].get_window_extent().y0
