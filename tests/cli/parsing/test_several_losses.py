"""Several losses in YAML and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vlab.cli.main import main

TERMS = """
model:
  class_path: MaskedPrediction
  init_args:
    losses:
      contrastive:
        loss: {class_path: ContrastiveLoss, init_args: {num_negatives: 7}}
        layer: 2
      codes:
        loss: CodePredictionLoss
        weight: 0.7
"""


@pytest.fixture
def several(tmp_path: Path) -> str:
    path = tmp_path / "several.yaml"
    path.write_text(TERMS, encoding="utf-8")
    return str(path)


def resolved(capsys: pytest.CaptureFixture, *arguments: str) -> Any:
    assert main(["fit", *arguments, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def loss_of(config: Any) -> Any:
    return config["model"]["init_args"]["losses"]


def test_flags_change_one_term(several: str, capsys: pytest.CaptureFixture) -> None:
    found = loss_of(
        resolved(
            *(capsys, "--config", several),
            *("--model.losses.codes.weight=0.5", "--model.losses.contrastive.loss.num_negatives=9"),
        )
    )
    assert list(found) == ["contrastive", "codes"]
    assert (found["codes"]["weight"], found["contrastive"]["weight"]) == (0.5, 1.0)
    assert (found["contrastive"]["layer"], found["codes"]["layer"]) == (2, None)
    assert found["contrastive"]["loss"]["init_args"]["num_negatives"] == 9
    assert found["codes"]["loss"]["class_path"] == "w2vlab.losses.CodePredictionLoss"


def test_what_is_printed_is_read_again(several: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = resolved(capsys, "--config", several)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(first), encoding="utf-8")
    assert resolved(capsys, "--config", str(again)) == first


def test_a_mapping_replaces_a_loss_and_a_mapping(several: str, capsys: pytest.CaptureFixture) -> None:
    one = "--model.losses={only: {loss: CodePredictionLoss}}"
    for arguments in ((), ("--config", several)):
        assert list(loss_of(resolved(capsys, "--model=MaskedPrediction", *arguments, one))) == ["only"]
    single = resolved(capsys, "--config", several, "--model.losses=null", "--model.loss=CodePredictionLoss")
    assert loss_of(single) is None
    assert single["model"]["init_args"]["loss"]["class_path"] == "w2vlab.losses.CodePredictionLoss"


def test_an_option_of_the_default_loss_needs_no_class(capsys: pytest.CaptureFixture) -> None:
    found = resolved(capsys, "--model=MaskedPrediction", "--model.loss.num_negatives=50")
    assert found["model"]["init_args"]["loss"]["init_args"]["num_negatives"] == 50


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--model.losses.codes.weights=1",
            "`model.losses.codes` has no option 'weights', as LossTerm takes none of that",
        ),
        ("--model.losses.codes.loss=CodeLoss", "Unknown loss 'CodeLoss'. Known: CodePredictionLoss, ContrastiveLoss, "),
        ("--model.losses.codes.layer=upper", "`model.losses.codes.layer` must be of type int or null, but is upper."),
        ("--model.losses.codes.weight=null", "`model.losses.codes.weight` must be of type float, but is None."),
        ("--model.losses.new.weight=1", "`model.losses.new.loss` must be given, by a flag or in a --config."),
        ("--model.losses={a: {loss: null}}", "`model.losses.a.loss` must be given, by a flag or in a --config."),
        (
            "--model.losses={a: CodePredictionLoss}",
            "`model.losses.a` must be a mapping with `loss`, but is CodePredictionLoss. Write {loss: CodePre",
        ),
        (
            "--model.losses.codes=CodePredictionLoss",
            "`model.losses.codes` must be a mapping with `loss`, but is CodePredictionLoss.",
        ),
    ],
)
def test_mistakes_get_one_line(several: str, flag: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--config", several, flag]) == 2
    assert message in capsys.readouterr().err


def test_an_option_of_a_single_loss_is_no_name_of_a_loss(capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--model=MaskedPrediction", "--model.loss=ContrastiveLoss", "--model.loss.num_negative=3"]) == 2
    assert "`model.loss` has no option 'num_negative', as ContrastiveLoss takes none" in capsys.readouterr().err
