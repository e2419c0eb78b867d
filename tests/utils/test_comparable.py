"""Which runs have losses that can be compared: with a teacher, and with several losses."""

from __future__ import annotations

from typing import Any

import pytest

from w2vlab.utils.comparable import depends_on_objective, describe_objective_differences
from w2vlab.utils.options import flat

CONTRASTIVE = {"class_path": "ContrastiveLoss", "init_args": {"num_negatives": 100, "projection_dim": 128}}
CODES = {"class_path": "CodePredictionLoss", "init_args": {"similarity": "linear", "unmasked_weight": 0.0}}


def differences(*models: dict[str, Any]) -> str:
    configs = [{"model": {"class_path": "TeacherPrediction", "init_args": model}} for model in models]
    return describe_objective_differences([dict(flat("", config)) for config in configs])


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


def term(loss: dict[str, Any], weight: float = 1.0, layer: int | None = None) -> dict[str, Any]:
    return {"loss": loss, "weight": weight, "layer": layer}


def several(**terms: Any) -> dict[str, Any]:
    return {"loss": CONTRASTIVE, "losses": {"contrastive": term(CONTRASTIVE), "codes": term(CODES)} | terms}


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        (several(codes=term(CODES, weight=0.5)), "the loss"),
        (several(contrastive=term(CONTRASTIVE, layer=2)), "the loss"),
        (several(codes=term(part("RegressionLoss"))), "the loss"),
        (several(third=term(CODES)), "the loss"),
        (several(contrastive=term(part("ContrastiveLoss", num_negatives=50))), "their negatives"),
        (several(codes=term(part("CodePredictionLoss", unmasked_weight=1.0))), "the frames that are not masked"),
        ({"loss": CONTRASTIVE}, "the loss, their negatives"),
        ({"loss": CONTRASTIVE, "losses": None}, "the loss, their negatives"),
    ],
)
def test_several_losses(second: dict[str, Any], difference: str) -> None:
    assert differences(several(), second) == difference
    assert differences(second, second) == ""


def test_how_candidates_are_scored_changes_no_unit() -> None:
    other = part("CodePredictionLoss", similarity="cosine", projection_dim=64, logit_temperature=0.2)
    assert differences(several(), several(codes=term(other))) == ""
    assert differences({"loss": CODES}, {"loss": other}) == ""


def test_a_single_loss_has_no_effect_beside_several() -> None:
    assert differences(several(), several() | {"loss": CODES}) == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (part("RegressionLoss", beta=0.0, scale=None), part("RegressionLoss", beta=0.25, scale=None)),
        (part("RegressionLoss", beta=0.0, scale=None), part("RegressionLoss", beta=0.0, scale=1.0)),
        (part("CodePredictionLoss", layers=None), part("CodePredictionLoss", layers=[3, 4])),
        (part("FuturePredictionLoss", num_steps=12), part("FuturePredictionLoss", num_steps=8)),
    ],
)
def test_what_an_error_costs(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert differences({"loss": first}, {"loss": second}) == "the loss"


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ({"layers": 8}, {"layers": 4}, "the teacher"),
        ({"norm": "instance"}, {"norm": "layer"}, "the teacher"),
        ({"layers": 8}, {"layers": 8}, ""),
    ],
)
def test_teachers(first: dict[str, Any], second: dict[str, Any], difference: str) -> None:
    assert (
        differences({"teacher": part("EMATeacher", **first)}, {"teacher": part("EMATeacher", **second)}) == difference
    )


def test_a_teacher_has_the_network_of_the_student() -> None:
    """The targets of another network are others, and their error is summed over another width."""
    small, large, dropped = (
        part("TransformerContext", model_dim=width, dropout=dropout)
        for width, dropout in ((192, 0.1), (256, 0.1), (192, 0.2))
    )
    teacher = part("EMATeacher", layers=3)
    assert differences({"teacher": teacher, "context": small}, {"teacher": teacher, "context": large}) == (
        "the network of the teacher"
    )
    assert differences({"teacher": teacher, "context": small}, {"teacher": teacher, "context": dropped}) == ""
    assert differences({"context": small}, {"context": large}) == ""


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ({"quantizer": part("Centers", centers="a")}, {"quantizer": part("Centers", centers="b")}, "the units"),
        (
            {"quantizer": part("FiniteScalarQuantizer", levels=[8, 5])},
            {"quantizer": part("FiniteScalarQuantizer", levels=[8, 8])},
            "the number of code entries",
        ),
        (
            {"target_encoder": part("LogMelEncoder", stack=2)},
            {"target_encoder": part("LogMelEncoder", stack=4)},
            "the encoder of the targets",
        ),
        ({"target_encoder": None}, {}, ""),
    ],
)
def test_other_targets(first: dict[str, Any], second: dict[str, Any], difference: str) -> None:
    assert differences(first, second) == difference


@pytest.mark.parametrize(
    ("metric", "depends"),
    [
        ("val/accuracy/codes", True),
        ("train/masked_accuracy/upper", True),
        ("val/explained_variance/lower", True),
        ("val/accuracy", True),
        ("val/loss/codes", True),
        ("val/codebook/perplexity_hard", False),
        ("evaluation/context/accuracy", False),
        ("val/wer", False),
    ],
)
def test_metrics_of_an_objective(metric: str, depends: bool) -> None:
    assert depends_on_objective(metric) == depends
