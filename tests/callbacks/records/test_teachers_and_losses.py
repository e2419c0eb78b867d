"""The picture and the summary of runs with a teacher, and of runs with several losses."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.callbacks.records.test_picture_and_summary import labels, make_view, run_view, titles
from tests.contracts.tiny import build_model, factory
from tests.modules.teaching.toys import teacher_model
from tests.modules.training import constant_rate, fit, make_batches, plain_sgd
from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.records.picture import draw_run
from w2vlab.callbacks.records.report import RunReport
from w2vlab.callbacks.records.run_view import RunView
from w2vlab.callbacks.records.summary import summarize
from w2vlab.interfaces import LossTerm
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, RegressionLoss
from w2vlab.modules import MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer

DECAY = "decay of the teacher (right)"


def taught_view(codebooks: bool, decays: tuple[float, ...] = (0.99, 0.995, 0.999)) -> RunView:
    view = run_view(codebooks)
    for update, decay in enumerate(decays):
        view.train.record(200 + update, {"learning_rate": 1e-4, "train/teacher_decay": decay})
    return view


def axes_of(figure: Figure, label: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if label in [line.get_label() for line in axes.lines])
    return axes


@pytest.mark.parametrize("codebooks", [True, False])
def test_the_decay_of_the_teacher_is_a_schedule(codebooks: bool) -> None:
    figure = draw_run(taught_view(codebooks))
    figure.savefig(io.BytesIO())
    temperature = ["Gumbel temperature (right)"] if codebooks else []
    assert labels(figure, "Schedules") == ["learning rate (left)", *temperature, DECAY]
    axes = axes_of(figure, DECAY)
    (line,) = axes.lines
    assert np.asarray(line.get_ydata()).tolist() == [0.99, 0.995, 0.999]
    low, high = axes.get_ylim()
    assert 0.98 < low < 0.99 < 0.999 < high < 1.01  # from 0 on, it would be a line at the top
    if codebooks:  # an axis of its own, beside that of the temperature
        of_temperature, of_decay = (
            axes_of(figure, label).yaxis.get_tightbbox() for label in ("Gumbel temperature (right)", DECAY)
        )
        assert of_temperature is not None
        assert of_decay is not None
        assert not of_temperature.overlaps(of_decay)
        panels = (axes.get_tightbbox() for axes in figure.axes if axes.get_title())
        assert not [other for other in panels if other is not None and of_decay.overlaps(other)]


def test_a_frozen_teacher_is_drawn() -> None:
    figure = draw_run(taught_view(False, (1.0, 1.0)))
    figure.savefig(io.BytesIO())
    assert labels(figure, "Schedules") == ["learning rate (left)", DECAY]


def several_view(*losses: str, num_candidates: int, **accuracies: float) -> RunView:
    train, validation = MetricHistory(), MetricHistory()
    for update in (10, 20):
        train.record(update, {"train/loss/total": 9.0})
        values = {f"val/accuracy/{name}": value for name, value in accuracies.items()}
        validation.record(update, {"val/loss/total": 9.0, **values})
    return replace(make_view(train, validation), num_candidates=num_candidates, losses=losses)


def test_chance_is_that_of_the_first_of_several_losses() -> None:
    """The others have other numbers of candidates."""
    view = several_view("contrastive", "codes", num_candidates=5, contrastive=0.4, codes=0.1)
    figure = draw_run(view)
    figure.savefig(io.BytesIO())
    assert titles(figure) == ["Loss (weighted sum)", "Accuracy among the candidates"]
    assert labels(figure, "Loss (weighted sum)") == ["training", "validation"]
    assert labels(figure, "Accuracy among the candidates") == [
        *("contrastive, validation", "chance of contrastive, 1 of 5", "codes, validation"),
    ]
    rows = summarize(view, 60)
    assert rows["validation accuracy, contrastive"] == "0.400, chance is 0.200 (2.0 times that)"
    assert rows["validation accuracy, codes"] == "0.100"
    assert "validation accuracy" not in rows


def test_a_regression_first_leaves_the_accuracy_of_the_second_without_chance() -> None:
    view = several_view("regression", "codes", num_candidates=0, codes=0.3)
    figure = draw_run(view)
    figure.savefig(io.BytesIO())
    assert labels(figure, "Accuracy among the candidates") == ["codes, validation"]
    rows = summarize(view, 60)
    assert rows["validation accuracy, regression"] == "–"  # noqa: RUF001
    assert rows["validation accuracy, codes"] == "0.300"


@pytest.mark.parametrize("collapsed", ["contrastive", "lower"])
def test_a_meaningless_accuracy_is_that_of_its_loss(collapsed: str) -> None:
    view = several_view("contrastive", "lower", num_candidates=5, contrastive=1.0, lower=1.0)
    ending = "" if collapsed == "contrastive" else "/lower"
    view.validation.record(30, {f"val/excluded_negatives{ending}": 1.0})
    rows = summarize(view, 60)
    found = {name for name in ("contrastive", "lower") if "meaningless" in rows[f"validation accuracy, {name}"]}
    assert found == {collapsed}


def report_of(model: PretrainingModule, folder: Path) -> dict[str, Any]:
    batches = make_batches(2, 1, 3)
    fit(model, batches, 2, validation=batches, callbacks=[RunReport()], default_root_dir=str(folder))
    (path,) = folder.rglob("report.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_run_with_a_teacher_has_its_decay(tmp_path: Path) -> None:
    assert "train/teacher_decay" in report_of(teacher_model(), tmp_path)["train"][-1]


CONTRASTIVE = LossTerm(loss=factory(ContrastiveLoss), layer=1)
CODES = LossTerm(loss=factory(CodePredictionLoss))


@pytest.mark.parametrize(
    ("objective", "losses", "with_chance"),
    [
        (MaskedPrediction, {"contrastive": CONTRASTIVE, "codes": CODES}, ["contrastive"]),
        (MaskedPrediction, {"codes": CODES, "contrastive": CONTRASTIVE}, ["codes"]),
        (TeacherPrediction, {"regression": LossTerm(loss=factory(RegressionLoss)), "codes": CODES}, []),
    ],
)
def test_runs_with_several_losses(objective: Any, losses: Any, with_chance: list[str], tmp_path: Path) -> None:
    model = build_model(
        objective,
        losses=losses,
        quantizer=factory(EMAQuantizer),
        optimizer=plain_sgd,
        scheduler=constant_rate,
        penalties={},
    )
    content = report_of(model, tmp_path)
    rows = {
        name.removeprefix("validation accuracy, "): row for name, row in content["summary"].items() if "acc" in name
    }
    assert list(rows) == list(losses)
    assert [name for name, row in rows.items() if "chance" in row] == with_chance
    for name in with_chance:
        assert f"chance is {1 / (model.num_candidates or 0):.3f}" in rows[name]
