from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.probes.finding import Bar, ProbeResult
from w2vlab.callbacks.records.examples import log_examples
from w2vlab.callbacks.records.panels import PRETRAINING, RECOGNITION
from w2vlab.callbacks.records.picture import _split_into_rows, draw_run
from w2vlab.callbacks.records.run_view import RunView
from w2vlab.callbacks.records.summary import print_summary, summarize
from w2vlab.callbacks.speed.limits import Shares


def make_view(
    train: MetricHistory,
    validation: MetricHistory,
    num_candidates: int | None = None,
    code_counts: torch.Tensor | None = None,
    num_codes: int = 0,
    **options: Any,
) -> RunView:
    return RunView(
        title="A title",
        train=train,
        validation=validation,
        num_candidates=num_candidates,
        code_counts=code_counts,
        num_codes=num_codes,
        **options,
    )


def run_view(codebooks: bool) -> RunView:
    train, validation = MetricHistory(), MetricHistory()
    for update in range(10, 110, 10):
        speed = {"learning_rate": 1e-4, "train/audio_seconds_per_second": 50.0}
        if codebooks:
            speed |= {"train/throughput/mfu": 0.4321, "train/throughput/data_wait_share": 0.007}
        temperature = {"train/gumbel_temperature": 2.0} if codebooks else {}
        train.record(update, {"train/loss/total": 5 - update / 100, "train/accuracy": 0.2, **speed, **temperature})
    for update, loss in ((50, 4.0), (100, 3.0)):
        codes = {"codebook/perplexity_hard": 6.0, "codebook/perplexity_soft": 7.5, "codebook/num_used": 9.0}
        values = {"loss/total": loss, "accuracy": 0.5, **(codes if codebooks else {})}
        validation.record(update, {f"val/{name}": value for name, value in values.items()})
    counts = torch.tensor([[5.0, 0, 3, 2, 1, 1, 1, 1], [9.0, 1, 0, 0, 0, 0, 0, 0]]) if codebooks else None
    return make_view(train, validation, 5, counts, 16 if codebooks else 0, chance_loss=math.log(5))


def test_the_summary_has_the_shares_of_a_mixture() -> None:
    view = run_view(codebooks=False)
    assert "audio by corpus" not in summarize(view, 60)
    view.train.record(200, {"data/share/en": 0.25, "data/share/it": 0.75})
    assert summarize(view, 60)["audio by corpus"] == "it 75.0 %, en 25.0 %"
    view.planned_shares = {"en": 0.26, "it": 0.74}
    assert summarize(view, 60)["audio by corpus"] == "it 75.0 % (planned 74.0), en 25.0 % (planned 26.0)"


PROBE_RESULT = ProbeResult(
    "Phones named",
    (Bar("trained", 0.58, 0.56, 0.6), Bar("before", 0.49, 0.48, 0.5), Bar("MFCC", 0.72, 0.71, 0.73)),
    {"phones named": "58.0 %", "before training": "49.0 %"},
)


def labels(figure: Figure, title: str) -> list[str]:
    (axes,) = (axes for axes in figure.axes if axes.get_title() == title)
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else [text.get_text() for text in axes.texts]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_picture_of_a_complete_run() -> None:
    figure = draw_run(replace(run_view(codebooks=True), probe=PROBE_RESULT))
    figure.savefig(io.BytesIO())
    assert figure.get_suptitle() == "A title"
    assert labels(figure, "Loss (nats a prediction)") == [
        *("training", "validation", "chance: ln 5, without penalties"),
    ]
    assert labels(figure, "Phones named") == ["58.0 %", "49.0 %", "72.0 %"]
    (bars,) = (axes for axes in figure.axes if axes.get_title() == "Phones named")
    assert [patch.get_height() for patch in bars.patches] == [0.58, 0.49, 0.72]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["trained", "before", "MFCC"]
    drawn = [bar.errorbar[2][0] for bar in bars.containers if isinstance(bar, BarContainer)]
    intervals = [segment[:, 1].tolist() for lines in drawn for segment in lines.get_segments()]
    assert intervals == [pytest.approx(ends) for ends in ([0.56, 0.6], [0.48, 0.5], [0.71, 0.73])]
    assert labels(figure, "Accuracy among the candidates") == ["training", "validation", "chance, 1 of 5"]
    assert labels(figure, "Codebook perplexity in validation") == [
        *("of the codes", "of the probabilities", "uniform usage of 16 entries"),
    ]
    assert labels(figure, "Schedules") == ["learning rate (left)", "Gumbel temperature (right)"]
    assert labels(figure, "Speed (seconds of audio a second)") == [
        *("audio (left)", "MFU (right)", "waiting for data (right)"),
    ]
    assert labels(figure, "Share of each entry, most used first") == [
        *("codebook 1: 7 of 8 used", "codebook 2: 2 of 8 used", "uniform usage"),
    ]


def test_picture_omits_panels_without_data() -> None:
    figure = draw_run(run_view(codebooks=False))
    figure.savefig(io.BytesIO())
    assert titles(figure) == [
        *(
            "Loss (nats a prediction)",
            "Accuracy among the candidates",
            "Schedules",
            "Speed (seconds of audio a second)",
        ),
    ]
    assert labels(figure, "Schedules") == ["learning rate (left)"]
    assert labels(figure, "Speed (seconds of audio a second)") == ["audio (left)"]


def visible_marks(axes: Axes) -> int:
    """Counts visible marks: line segments, markers and bars, but not limits."""
    across = [line for line in axes.lines if line.get_linestyle() == "--"]
    lines = [line for line in axes.lines if line not in across]
    marked = (
        len(line.get_xdata()) if line.get_marker() not in ("", "None") else len(line.get_xdata()) - 1 for line in lines
    )
    return sum(max(0, number) for number in marked) + len(axes.patches)


def with_rows(rows: int, *, codebooks: bool = True) -> RunView:
    """A view with that many rows of training, and as many validations."""
    view = run_view(codebooks)
    view.train.rows, view.validation.rows = view.train.rows[:rows], view.validation.rows[:rows]
    counts = torch.tensor([[5.0, 0], [0, 9.0]]) if codebooks else None  # one entry of each is used
    return replace(view, code_counts=counts, probe=PROBE_RESULT if codebooks else None)


@pytest.mark.parametrize("codebooks", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_no_panel_looks_empty(rows: int, codebooks: bool) -> None:
    """A short run may have one logged row of training and one validation only."""
    figure = draw_run(with_rows(rows, codebooks=codebooks))
    figure.savefig(io.BytesIO())
    assert len(titles(figure)) == {True: (2, 7, 7), False: (0, 4, 4)}[codebooks][rows]
    assert all(visible_marks(axes) for axes in figure.axes)


@pytest.mark.parametrize("rows", [1, 2])
def test_markers_and_lines_are_within_their_axes(rows: int) -> None:
    """Also if values are close together and far above 0, where markers were clipped at the upper edge."""
    view = with_rows(rows)
    for row in view.train.rows:
        row |= {"train/throughput/data_wait_share": 0.0, "train/throughput/mfu": 1.0}
    figure = draw_run(view)
    figure.savefig(io.BytesIO())
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for line in axes.lines:
            if line.get_linestyle() != "--" and line.get_marker() not in ("", "None"):
                values = [float(value) for value in line.get_ydata()]
                assert low + 0.02 * (high - low) < min(values) <= max(values) < high - 0.02 * (high - low)


def test_values_that_are_not_finite_are_not_drawn() -> None:
    train, validation = MetricHistory(), MetricHistory()
    train.record(10, {"train/loss/total": math.nan, "train/accuracy": 0.2, "learning_rate": 1e-4})
    validation.record(10, {"val/loss/total": math.inf})
    figure = draw_run(make_view(train, validation, 5, torch.zeros(2, 8), 16))
    figure.savefig(io.BytesIO())
    assert titles(figure) == ["Accuracy among the candidates", "Schedules"]


@pytest.mark.parametrize("number", range(1, 8))
def test_panels_fill_the_picture(number: int) -> None:
    rows = _split_into_rows(PRETRAINING[:number])
    assert [panel for row in rows for panel in row] == list(PRETRAINING[:number])
    assert [len(row) for row in rows] == {1: [1], 2: [2], 3: [3], 4: [2, 2], 5: [3, 2], 6: [3, 3], 7: [4, 3]}[number]


def test_a_validation_before_training_is_a_point_at_0() -> None:
    view = run_view(codebooks=True)
    view.validation.rows.insert(0, {"update": 0, "val/loss/total": 4.6})
    figure = draw_run(view)
    (loss,) = (axes for axes in figure.axes if axes.get_title().startswith("Loss"))
    (line,) = (line for line in loss.lines if line.get_label() == "validation")
    assert (line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) == (0, 4.6, "o")
    assert summarize(view, 1.0)["validation loss"] == "4.6 before training, 3 at the end"


def test_a_single_validation_is_not_the_end_of_training() -> None:
    view = run_view(codebooks=True)
    view.validation.rows[:] = [{"update": 0, "val/loss/total": 4.6}]
    assert summarize(view, 1.0)["validation loss"] == "4.6 before training; there was no later validation"


@pytest.mark.parametrize("kind", ["excluded", "equal"])
@pytest.mark.parametrize(("share", "collapsed"), [(0.9, False), (1.0, True)])
def test_a_meaningless_accuracy_is_not_shown(kind: str, share: float, collapsed: bool) -> None:
    view = run_view(codebooks=True)
    view.validation.record(150, {"val/accuracy": 1.0, f"val/{kind}_negatives": share})
    accuracy = summarize(view, 1.0)["validation accuracy"]
    assert ("the codebook has collapsed" in accuracy) == collapsed
    assert ("5.0 times" in accuracy) != collapsed


@pytest.mark.parametrize(("codebooks", "panels"), [(True, 7), (False, 4)])
def test_labels_do_not_overlap(codebooks: bool, panels: int) -> None:
    figure = draw_run(replace(run_view(codebooks), probe=PROBE_RESULT if codebooks else None))
    figure.savefig(io.BytesIO())
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_title()]
    assert len(boxes) == panels
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_empty_run_can_be_drawn() -> None:
    figure = draw_run(make_view(MetricHistory(), MetricHistory()))
    figure.savefig(io.BytesIO())
    assert not figure.axes
    assert [text.get_text() for text in figure.texts if text.get_text() != "A title"] == ["nothing recorded"]


def test_summary_of_a_run_with_codebooks() -> None:
    assert summarize(run_view(codebooks=True), 3725.4) == {
        "validation loss": "4 at first, 3 at the end",
        "validation accuracy": "0.500, chance is 0.200 (2.5 times that)",
        "codebook perplexity": "6.0 of the codes, 7.5 of the probabilities",
        "codes used": "9 of 16",
        "speed": "50 s of audio a second, MFU 43.2 %, 0.7 % waiting for data (medians of the run)",
        "limited by": "–",  # noqa: RUF001
        "time": "1:02:05",
    }


def test_speed_is_a_median_over_the_run() -> None:
    """The last window has 2.6 s of audio a second, because the CPU was busy."""
    view = run_view(codebooks=True)
    slow = {"train/audio_seconds_per_second": 2.6, "train/throughput/mfu": math.nan}
    view.train.record(110, {**view.train.rows[-1], **slow})
    assert summarize(view, 1.0)["speed"].startswith("50 s of audio a second, MFU 43.2 %")


def test_what_limits_the_run_is_a_median_over_it() -> None:
    view = run_view(codebooks=True)
    for update, host in ((110, 0.9), (120, 0.1), (130, 0.1)):
        shares = Shares(data=0.0, host=host, memory=0.3 * (1 - host), products=0.7 * (1 - host))
        view.train.record(update, {**view.train.rows[-1], **shares.metrics()})
    assert summarize(view, 1.0)["limited by"] == "products: 63 % of the time; memory 27 %, host 10 %, data 0 %"


def test_the_final_probe_is_in_the_table() -> None:
    summary = summarize(replace(run_view(codebooks=True), probe=PROBE_RESULT), 1.0)
    assert list(summary)[3:6] == ["codes used", "phones named", "before training"]
    assert summary["before training"] == "49.0 %"


def test_summary_has_dashes_for_missing_metrics() -> None:
    summary = summarize(run_view(codebooks=False), 0)
    assert summary["codebook perplexity"] == summary["codes used"] == "–"  # noqa: RUF001
    assert summary["speed"] == "50 s of audio a second (medians of the run)"


def recognition_view(*rates: str, course: Sequence[tuple[int, float]] = ((10, 0.9), (20, 0.45), (30, 0.5))) -> RunView:
    train, validation = MetricHistory(), MetricHistory()
    for update, rate in course:
        train.record(update, {"train/loss/total": 200 * rate, "learning_rate": 1e-4})
        validation.record(update, {"val/loss/total": 100 * rate, **{f"val/{name}": rate for name in rates}})
    named = {name: {"wer": "word", "cer": "character", "per": "phone"}[name] for name in rates}
    return make_view(train, validation, error_rates=named)


@pytest.mark.parametrize(
    ("rates", "shown"), [(("wer", "cer"), ["of words", "of characters"]), (("per",), ["of phones"])]
)
def test_recognition_is_drawn_by_its_errors(rates: tuple[str, ...], shown: list[str]) -> None:
    figure = draw_run(recognition_view(*rates))
    figure.savefig(io.BytesIO())
    assert labels(figure, "Loss (nats an utterance)") == ["training", "validation"]
    assert labels(figure, "Error rates in validation") == [*shown, "100 % errors"]
    assert titles(figure) == ["Loss (nats an utterance)", "Error rates in validation", "Schedules"]
    assert len(titles(figure)) < len(RECOGNITION)


def test_summary_of_recognition() -> None:
    summary = summarize(recognition_view("wer", "cer"), 60)
    assert list(summary) == [
        *("validation loss", "word error rate", "character error rate", "speed", "limited by", "time"),
    ]
    assert summary["word error rate"] == "45.0 % at best, 50.0 % at the end"


def test_recognition_before_its_first_validation() -> None:
    view = recognition_view("per", course=())
    assert list(summarize(view, 60)) == ["validation loss", "phone error rate", "speed", "limited by", "time"]
    assert summarize(view, 60)["phone error rate"] == "–"  # noqa: RUF001
    assert not draw_run(view).axes


def test_examples_are_aligned(caplog: pytest.LogCaptureFixture) -> None:
    table = Mock()
    with caplog.at_level("INFO"):
        log_examples([("a.wav", "one two", "on to")], [table], 7)
        log_examples([], [table], 8)
    assert caplog.messages == ["Recognised after update 7:\n  a.wav: 'one two'\n  recognised: 'on to'"]
    table.log_table.assert_called_once_with(
        "val/examples", columns=["utterance", "transcript", "recognised"], data=[["a.wav", "one two", "on to"]], step=7
    )


def test_paths_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a" * 200 + "[bold].png"
    print_summary("A title", {"time": "0:00:01"}, {"picture": path})
    assert f"picture: {path}\n" in capsys.readouterr().out


def regression_view() -> RunView:
    train, validation = MetricHistory(), MetricHistory()
    for update in (10, 20):
        shares = {"explained_variance": 0.02 * update, "prediction_variance": 0.9, "target_variance": 0.7}
        train.record(update, {f"train/{name}": value for name, value in {"loss/total": 2.0, **shares}.items()})
        validation.record(update, {f"val/{name}": value for name, value in {"loss/total": 3.0, **shares}.items()})
    return replace(make_view(train, validation), num_candidates=0)


def test_a_regression_has_no_accuracy_and_no_codes() -> None:
    """What is not there is left out: neither a zero nor chance level."""
    view = regression_view()
    assert summarize(view, 60) == {
        "validation loss": "3 at first, 3 at the end",
        "explained": "40.0 % of the variance of the targets",
        "targets": "70.0 % of their mean square is variance over time",
        "speed": "–",  # noqa: RUF001
        "limited by": "–",  # noqa: RUF001
        "time": "0:01:00",
    }
    figure = draw_run(view)
    figure.savefig(io.BytesIO())
    assert titles(figure) == [
        *("Loss (a prediction)", "Share of the targets' variance that is explained"),
        "Variance over time, of the mean square",
    ]
    assert labels(figure, "Loss (a prediction)") == ["training", "validation"]
    assert labels(figure, "Variance over time, of the mean square") == ["of the teacher's layers", "of the predictions"]
    assert all(visible_marks(axes) for axes in figure.axes)


def test_a_regression_without_a_validation_has_no_rows_of_it() -> None:
    view = replace(regression_view(), validation=MetricHistory())
    assert list(summarize(view, 60)) == ["validation loss", "speed", "limited by", "time"]
