"""Signatures in logged metrics, and suggested fixes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.tiny import build_model, factory
from w2vlab.callbacks import CollapseWatchdog
from w2vlab.callbacks.diagnosis.cures import RunSettings, suggest_fixes
from w2vlab.callbacks.diagnosis.readings import Reading, TaskSettings, compute_chance_loss, reduce_metrics
from w2vlab.callbacks.diagnosis.signatures import diagnose
from w2vlab.interfaces import LossTerm
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss
from w2vlab.modules import MaskedPrediction

BASE = TaskSettings(num_candidates=101, num_codebooks=2, codebook_size=320)
SIGNATURES = CollapseWatchdog().signatures
HEALTHY = {"loss": 2.1, "accuracy": 0.5, "perplexity": 200.0, "excluded": 0.02}
TAUGHT = {"loss": 1.0, "explained": 0.4, "target_variance": 0.7, "prediction_variance": 0.9, "masked": 0.5}
TEACHER = {**TAUGHT, "teacher_distance": 0.1}
REGRESSION = TaskSettings(num_candidates=0)
COLLAPSED = {"loss": 0.0, "accuracy": 1.0, "perplexity": 2.0, "excluded": 1.0}


def readings(count=10, first=6000, **values):
    """Rows whose values are constant, or lists."""
    series = {name: value if isinstance(value, list) else [value] * count for name, value in values.items()}
    return [Reading(first + 10 * n, **{name: value[n] for name, value in series.items()}) for n in range(count)]


def names(rows, task=BASE, length=10, patience=5000):
    return [detection.name for detection in diagnose(rows, task, SIGNATURES, length, patience)]


def test_a_healthy_run_has_no_signature():
    assert names(readings(**HEALTHY)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (COLLAPSED, ["collapsed"]),
        ({**HEALTHY, "loss": math.log(101), "accuracy": 0.01, "excluded": 0.0}, ["uninformed"]),
        # In float16 all scores may round to the same, and the accuracy then depends on who counts ties.
        ({**HEALTHY, "loss": math.log(101), "accuracy": 0.42, "excluded": 0.0}, ["uninformed"]),
        ({**HEALTHY, "loss": 5.5, "accuracy": 0.011}, ["at_chance"]),
        ({**HEALTHY, "perplexity": 3.0}, ["few_codes"]),
        ({**HEALTHY, "excluded": [0.2] * 5 + [0.6] * 5}, ["equal_negatives"]),
        ({**HEALTHY, "excluded": 0.95}, ["equal_negatives"]),
        ({**HEALTHY, "loss": 0.05, "accuracy": 0.999}, ["always_right"]),
        ({**HEALTHY, "loss": math.nan}, ["not_finite"]),
        ({**COLLAPSED, "loss": math.inf}, ["not_finite"]),
    ],
)
def test_each_signature(values, expected):
    assert names(readings(**values)) == expected


@pytest.mark.parametrize(
    "values",
    [
        {**HEALTHY, "perplexity": [3.0] * 9 + [20.0]},  # one batch shows that codes are used
        {**HEALTHY, "perplexity": [2.2 + 0.4 * n for n in range(10)]},  # it recovers
        {**HEALTHY, "loss": [4.8 - 0.04 * n for n in range(10)], "excluded": 0.0},  # passes ln 101
        {**HEALTHY, "excluded": 0.6},  # high, but constant
        {**HEALTHY, "excluded": [0.1] * 5 + [0.4] * 5},  # rises, but low
        {**HEALTHY, "accuracy": [0.999] * 9 + [0.9]},
        {**HEALTHY, "loss": [math.nan] * 9 + [2.0]},
        {**HEALTHY, "accuracy": 0.013},
    ],
)
def test_similar_metrics_without_a_signature(values):
    assert names(readings(**values)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"target_variance": 0.005}, ["constant_targets"]),
        ({"target_variance": 0.005, "prediction_variance": 0.001}, ["constant_targets"]),
        ({"target_variance": [0.001 * (n + 1) for n in range(10)]}, []),  # it recovers
        ({"target_variance": [0.005] * 9 + [0.02]}, []),
        ({"prediction_variance": 0.001}, ["constant_predictions"]),
        ({"prediction_variance": [0.001] * 9 + [0.02]}, []),
        ({"explained": 0.95, "masked": 0.0}, ["copied_targets"]),
        ({"explained": 0.995, "masked": 0.0}, ["copied_targets"]),
        ({"explained": 0.95}, []),  # an easy task
        ({"explained": 0.995}, ["always_right"]),
        ({"explained": 0.5, "masked": 0.0}, []),
        ({"explained": 0.95, "masked": 0.0, "teacher_distance": None}, []),  # targets that are no teacher's
        ({"loss": math.nan, "target_variance": 0.005}, ["not_finite"]),
    ],
)
def test_signatures_of_a_regression_on_a_teacher(values, expected):
    assert names(readings(**{**TEACHER, **values}), REGRESSION) == expected


def test_patience_applies_to_constant_targets_and_predictions():
    for name in ("target_variance", "prediction_variance"):
        assert names(readings(first=4800, **{**TEACHER, name: 0.001}), REGRESSION) == []
        assert names(readings(first=4910, **{**TEACHER, name: 0.001}), REGRESSION) != []


def test_codes_of_a_teacher():
    task = TaskSettings(num_candidates=256, num_codebooks=8, codebook_size=256)
    healthy = {"loss": 2.0, "accuracy": 0.5, "perplexity": 900.0, "target_variance": 0.7, "masked": 0.5}
    healthy["teacher_distance"] = 0.1
    assert names(readings(**healthy), task) == []
    assert names(readings(**{**healthy, "perplexity": 8.5}), task) == ["few_codes"]
    assert names(readings(**{**healthy, "target_variance": 0.001, "perplexity": 8.5}), task) == ["constant_targets"]
    assert names(readings(**{**healthy, "accuracy": 0.95, "masked": 0.0}), task) == ["copied_targets"]


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_the_first_of_several_losses_is_read_without_its_weight(weight):
    losses = {
        "contrastive": LossTerm(loss=factory(ContrastiveLoss), weight=weight),
        "codes": LossTerm(loss=factory(CodePredictionLoss)),
    }
    model = build_model(MaskedPrediction, losses=losses)
    model.num_candidates = 5
    logged = {"train/loss/contrastive": torch.tensor(weight * 4.0), "train/accuracy": torch.tensor(0.5)}
    values = reduce_metrics(SimpleNamespace(callback_metrics=logged), model)
    # The head of a loss with the weight 0 is not trained: that its accuracy is at chance says nothing.
    assert values == ({"loss": pytest.approx(4.0), "accuracy": 0.5} if weight else {"loss": 0.0})
    rows = [Reading(6000 + 10 * n, **values) for n in range(10)]
    assert names(rows, TaskSettings(num_candidates=2)) == (["at_chance"] if weight else [])
    assert compute_chance_loss(model) is None
    single = build_model(MaskedPrediction)
    single.num_candidates = 5
    assert compute_chance_loss(single) == pytest.approx(math.log(5))


def test_a_teacher_that_equals_the_student_is_named():
    same = {**TEACHER, "teacher_distance": 0.0, "target_variance": 0.001}
    (detection,) = diagnose(readings(**same), REGRESSION, SIGNATURES, 10, 0)
    assert detection.message.endswith("The teacher equals the student: its decay is 0.")


def test_a_signature_needs_a_complete_window():
    assert names(readings(count=9, **COLLAPSED)) == []
    assert names(readings(count=30, **{**COLLAPSED, "perplexity": [99.0] * 20 + [2.0] * 10})) == ["collapsed"]
    assert names(readings(count=2, **{**HEALTHY, "loss": math.nan})) == ["not_finite"]
    assert names(readings(count=1, **{**HEALTHY, "loss": math.nan})) == []


def test_patience_applies_to_chance_level_but_not_to_collapse():
    ignorant = {**HEALTHY, "loss": math.log(101), "accuracy": 0.01, "excluded": 0.0}
    assert names(readings(first=4800, **ignorant)) == []
    assert names(readings(first=4910, **ignorant)) == ["uninformed"]
    assert names(readings(first=10, **COLLAPSED)) == ["collapsed"]


def test_runs_without_codebooks_or_negatives():
    assert names(readings(loss=2.0, accuracy=0.5), TaskSettings(num_candidates=101)) == []
    assert names(readings(loss=0.0, accuracy=1.0, excluded=1.0), TaskSettings(num_candidates=101)) == [
        "equal_negatives"
    ]
    named = TaskSettings(
        num_candidates=320, num_codebooks=2, codebook_size=320
    )  # codes are named: loss 0 is all there is to see
    assert names(readings(loss=0.0, accuracy=1.0, perplexity=2.0), named) == ["collapsed"]
    assert names(readings(loss=math.log(320), accuracy=0.003, perplexity=90.0), named) == ["uninformed"]


def test_distractors_that_count_as_wrong_collapse_to_the_loss_at_chance_level():
    task = TaskSettings(num_candidates=11, objective="logistic", num_codebooks=2, codebook_size=320)
    level = 11 * math.log(11) - 10 * math.log(10)
    assert names(readings(loss=level, accuracy=0.0, perplexity=2.0, equal=1.0), task) == ["collapsed"]
    assert names(readings(loss=level, accuracy=0.0, perplexity=99.0, equal=0.1), task) == ["uninformed"]


def test_the_published_losses_are_in_the_message():
    (detection,) = diagnose(
        readings(**{**HEALTHY, "loss": 4.6151, "accuracy": 0.01, "excluded": 0.0}), BASE, SIGNATURES, 10, 5000
    )
    assert "stays at 4.615 nats (6.658 bits), ln 101, chance level for 101 candidates" in detection.message


@given(st.integers(1, 200), st.floats(0, 0.9))
@settings(deadline=None)
def test_the_chance_loss_is_the_minimum_over_equal_predictions(negatives, excluded):
    """One score s for all candidates, minimised on a grid over the published formulas."""
    reading = Reading(0, 0.0, 0.0, excluded=excluded)
    task = TaskSettings(num_candidates=1 + negatives)
    assert task.chance_loss(reading) == pytest.approx(math.log(1 + negatives * (1 - excluded)))
    scores = np.linspace(-12, 12, 24_001)
    true, false = np.logaddexp(0, -scores), np.logaddexp(0, scores)
    plain = Reading(0, 0.0, 0.0)
    expected = (true + negatives * false).min()
    task = TaskSettings(num_candidates=1 + negatives, objective="logistic")
    assert task.chance_loss(plain) == pytest.approx(expected, abs=1e-4)
    balanced = (true + false).min()
    task = TaskSettings(num_candidates=1 + negatives, objective="balanced_logistic")
    assert task.chance_loss(plain) == pytest.approx(balanced, abs=1e-4)


@given(
    st.lists(
        st.tuples(*[st.floats(0, 20), st.floats(0, 1), st.floats(2, 640), st.floats(0, 1)]), min_size=10, max_size=10
    )
)
@settings(deadline=None)
def test_implied_signatures_are_not_reported(rows):
    found = diagnose([Reading(6000 + n, *row) for n, row in enumerate(rows)], BASE, SIGNATURES, 10, 0)
    explained = {name for detection in found for name in detection.implies}
    assert not explained & {detection.name for detection in found}


def flags(signature, **facts):
    return [fix.flags for fix in suggest_fixes(signature, RunSettings(learning_rate=1e-3, **facts))]


@pytest.mark.parametrize("signature", [signature.name for signature in SIGNATURES])
def test_every_signature_has_a_fix(signature):
    assert "--model.optimizer.lr=0.0005" in flags(signature)


def test_fixes_are_for_this_run():
    given = {"pressure": ("DiversityPenalty", 0.15), "feature": ("FeaturePenalty", 10.0)}
    assert "--model.penalties.pressure.weight=0.3" in flags("few_codes", has_probabilities=True, penalties=given)
    defaults = {"diversity": ("DiversityPenalty", 0.1), "feature": ("FeaturePenalty", 10.0)}
    # Penalties on the command line replace the default ones, so that all of them are listed.
    assert (
        "--model.penalties.feature=FeaturePenalty --model.penalties.diversity=DiversityPenalty "
        "--model.penalties.diversity.weight=0.2"
    ) in flags("few_codes", has_probabilities=True, penalties=defaults, default_penalties=True)
    assert "--model.penalties.diversity=DiversityPenalty --model.penalties.diversity.weight=0.1" in flags(
        "few_codes", has_probabilities=True
    )
    assert not any("penalties" in flag for flag in flags("few_codes"))
    assert "--model.quantizer=EMAQuantizer" in flags("collapsed", quantizer="KMeansQuantizer")
    assert "--model.quantizer=EMAQuantizer" not in flags("collapsed", quantizer="EMAQuantizer")
    fixed = "--model.encoder=LogMelEncoder", "--model.quantizer=RandomProjectionQuantizer"
    assert " ".join(fixed) in flags("collapsed", encoder="ConvFeatureEncoder", quantizer="KMeansQuantizer")
    # Frozen codes can collapse too if the encoder learns.
    assert fixed[0] in flags("collapsed", encoder="ConvFeatureEncoder", quantizer="RandomProjectionQuantizer")
    assert not set(fixed) & set(flags("collapsed", encoder="LogMelEncoder", quantizer="RandomProjectionQuantizer"))
    assert "--model.quantizer.temperature_end=1" in flags("collapsed", temperatures=(2.0, 0.5))
    assert not any("temperature" in flag for flag in flags("collapsed", temperatures=(0.5, 0.5)))
    assert "--model.encoder.normalize_waveform=true" in flags("uninformed", normalizes_waveform=False)
    assert "--model.encoder.normalize_waveform=true" not in flags("uninformed", normalizes_waveform=True)
    assert "--trainer.precision=bf16-mixed" in flags("not_finite", half_precision=True)
    assert "--trainer.accumulate_grad_batches=8" in flags("at_chance", accumulate=2)


def test_fixes_of_a_teacher_are_for_this_run() -> None:
    slow = "--model.teacher.decay=0.999 --model.teacher.end_decay=0.9999"
    clusters = "--model.loss=CodePredictionLoss --model.quantizer=EMAQuantizer"
    assert slow in flags("constant_targets", teacher_decay=0.0)
    assert slow not in flags("constant_targets", teacher_decay=0.9995)
    assert slow not in flags("constant_predictions")  # a run without a teacher
    assert "--model.teacher.norm=instance" in flags("constant_predictions", teacher_decay=0.9, teacher_norm="none")
    assert "--model.teacher.norm=instance" not in flags("constant_predictions", teacher_norm="layer")
    assert clusters in flags("constant_targets", teacher_decay=0.9995, loss="RegressionLoss")
    assert clusters not in flags("constant_targets", teacher_decay=0.9995, loss="CodePredictionLoss")
    assert "--model.masking=SpanMasking" in flags("copied_targets", masking="NoMasking")


def test_codes_of_a_file_are_changed_by_another_file_alone() -> None:
    for signature in SIGNATURES:
        found = flags(signature.name, quantizer="FileTargets", codebook_size=100, has_given_codes=True)
        assert not [flag for flag in found if "--model.quantizer=" in flag or "codebook_size" in flag]
    assert "--model.quantizer.path=UNITS" in flags("few_codes", quantizer="FileTargets", has_given_codes=True)


def test_a_learning_rate_of_zero_cannot_be_halved() -> None:
    flags = [fix.flags for fix in suggest_fixes("at_chance", RunSettings(learning_rate=0.0))]
    assert flags
    assert not any("optimizer.lr" in flag for flag in flags)
