"""CollapseWatchdog on runs with a teacher: each kind of collapse, and healthy ones."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.callbacks.toy_runs import silence, teacher_model, tones
from tests.modules.training import fit
from w2vlab.callbacks import CollapseWatchdog
from w2vlab.callbacks.diagnosis.readings import get_run_settings, reduce_metrics
from w2vlab.losses import CodePredictionLoss
from w2vlab.masking import NoMasking
from w2vlab.quantizers import EMAQuantizer

CLUSTERS = {"quantizer": partial(EMAQuantizer, num_codebooks=2, codebook_size=8, decay=0.9), "loss": CodePredictionLoss}
DINOSR = {"combine": "concatenate", "output": "layer"}
AT_ONCE: dict[str, Any] = {"decay": 0.0, "end_decay": 0.0, "norm": "none"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder of `collapse.json`."""
    monkeypatch.chdir(tmp_path)


def watch(model: Any, batches: Any, updates: int) -> list[dict[str, Any]]:
    """Trains, and returns the reports."""
    dog = CollapseWatchdog(every=5, window=50, patience=100)
    fit(model, batches * math.ceil(updates / len(batches)), updates, callbacks=[dog])
    return dog.events


@pytest.mark.filterwarnings("ignore:`teacher.decay` is 0")
@pytest.mark.parametrize(
    ("teacher", "parts", "batches", "updates", "expected", "cure"),
    [
        # The teacher follows at once, and its targets are not normalized: smaller and smaller, and all predicted alike.
        # Which of the two is detected first depends on the seed.
        (AT_ONCE, {}, tones, 130, "constant_predictions constant_targets", "--model.teacher.norm=instance"),
        # All frames of the audio are equal, and so are the targets.
        ({}, {}, silence, 200, "constant_targets", "--model.loss=CodePredictionLoss --model.quantizer=EMAQuantizer"),
        # The student sees the frames that it predicts, as the teacher does.
        ({}, {"masking": NoMasking}, tones, 160, "copied_targets", "--model.masking=SpanMasking"),
        (DINOSR, {**CLUSTERS, "masking": NoMasking}, tones, 160, "copied_targets", "--model.masking=SpanMasking"),
        # Clusters that follow too slowly, of targets that shrink: each codebook is down to one code.
        (
            {**AT_ONCE, "combine": "concatenate"},
            {**CLUSTERS, "quantizer": partial(EMAQuantizer, num_codebooks=2, codebook_size=8)},
            tones,
            80,
            "few_codes",
            "--model.optimizer.lr=0.0025",
        ),
    ],
)
def test_runs_that_collapse(teacher, parts, batches, updates, expected, cure) -> None:
    events = watch(teacher_model(teacher, **parts), batches(), updates)
    event = next(event for event in events if event["signature"] in expected.split())
    assert cure in [fix["flags"] for fix in event["cures"]]
    assert ("The teacher equals the student" in event["seen"]) == (teacher is AT_ONCE)


@pytest.mark.parametrize(
    ("teacher", "parts"),
    [
        ({}, {}),  # data2vec
        (DINOSR, CLUSTERS),
        (DINOSR, {**CLUSTERS, "loss": partial(CodePredictionLoss, layers=[1, 2])}),  # SpidR
    ],
    ids=["data2vec", "DinoSR", "SpidR"],
)
def test_healthy_runs_have_no_reports(teacher, parts) -> None:
    assert watch(teacher_model(teacher, **parts), tones(), 200) == []


def test_readings_of_a_regression() -> None:
    """What a run does not have is not there: no accuracy and no codes."""
    model = teacher_model({"decay": 0.5, "end_decay": 0.5, "copied": []})
    before = [weight.detach().clone() for weight in model.context.parameters()]
    record = fit(model, tones(), 1)
    metrics = {name: torch.tensor(value) for name, value in record.metrics[0].items()}
    trainer: Any = SimpleNamespace(callback_metrics=metrics)
    values = reduce_metrics(trainer, model)
    assert set(values) == {
        *("loss", "masked", "explained", "target_variance", "prediction_variance", "teacher_distance"),
    }
    # After one update the teacher is half way between the weights before and after it.
    pairs = [(old, new.detach()) for old, new in zip(before, model.context.parameters(), strict=True)]
    apart = sum(float((0.5 * (old - new)).square().sum()) for old, new in pairs)
    norm = sum(float(new.square().sum()) for _, new in pairs)
    assert values["teacher_distance"] == pytest.approx(math.sqrt(apart / norm), rel=1e-4)


def test_settings_of_a_run_with_a_teacher() -> None:
    model = teacher_model({"norm": "layer"})
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    trainer: Any = SimpleNamespace(
        optimizers=[optimizer], accumulate_grad_batches=1, gradient_clip_val=None, precision="32-true", global_step=3
    )
    settings = get_run_settings(trainer, model, {})
    assert (settings.loss, settings.masking, settings.teacher_norm) == ("RegressionLoss", "SpanMasking", "layer")
    assert settings.teacher_decay == pytest.approx(0.99)
