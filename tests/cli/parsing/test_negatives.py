"""The sampler of negatives is swapped by a flag or a file, like any other part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from w2vlab.modules import PretrainingModule
from w2vlab.negatives import CodebookNegatives, CombinedNegatives, OtherUtterancesNegatives, SameUtteranceNegatives

COMBINED = """\
class_path: CombinedNegatives
init_args:
  samplers:
  - class_path: SameUtteranceNegatives
    init_args: {num_negatives: 3, negatives_from: anywhere}
  - class_path: CodebookNegatives
    init_args: {num_negatives: 2}
  - OtherUtterancesNegatives
"""
ONLY_A_SAMPLER = "--model.loss.num_negatives=100"  # the tiny run's number is a shorthand for another sampler


def test_a_file_with_samplers_trains_and_its_checkpoint_has_them(fit: Callable[..., int], tmp_path: Path) -> None:
    Path("negatives.yaml").write_text(COMBINED)
    assert fit(ONLY_A_SAMPLER, "--model.loss.negatives=negatives.yaml", "--trainer.max_steps=1") == 0
    (path,) = tmp_path.rglob("last.ckpt")
    negatives = PretrainingModule.load_from_checkpoint(path).loss.negatives
    assert isinstance(negatives, CombinedNegatives)
    kinds = SameUtteranceNegatives, CodebookNegatives, OtherUtterancesNegatives
    assert [type(sampler) for sampler in negatives.samplers] == list(kinds)
    assert negatives.num_negatives == 3 + 2 + 100
    assert negatives.uses_every_frame
    assert not [name for name in torch.load(path, weights_only=True)["state_dict"] if "negatives" in name]


def test_a_flag_names_the_sampler_and_its_options(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--model.loss.negatives=CodebookNegatives", "--model.loss.negatives.num_negatives=7"
    assert fit(*flags, "--print_config") == 0
    loss = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["loss"]["init_args"]
    assert loss["negatives"] == {"class_path": "w2vlab.negatives.CodebookNegatives", "init_args": {"num_negatives": 7}}


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        (
            "CodebokNegatives",
            2,
            "error: Unknown negatives 'CodebokNegatives'. Known: CodebookNegatives, CombinedNegatives, "
            "OtherUtterancesNegatives, SameUtteranceNegatives. Did you mean CodebookNegatives?",
        ),
        (
            "CodebookNegatives",  # beside the number of the tiny run
            1,
            "error: `model.loss.num_negatives` must be 100, its default, if `model.loss.negatives` is given, but is 5. "
            "Set the sampler's own options, below `model.loss.negatives`.",
        ),
    ],
)
def test_refused_samplers(
    name: str, status: int, message: str, fit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(f"--model.loss.negatives={name}") == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "{class_path: CodebookNegatives, init_args: {number: 3}}",
            "`model.loss.negatives` has no option 'number', as CodebookNegatives takes none of that name. Known: "
            "num_negatives.",
        ),
        (
            "{class_path: CodebookNegatives, init_args: {targets: {dim: 3}}}",
            "`model.loss.negatives.targets` must not be given: it follows from the neighbouring parts. Leave it out.",
        ),
        ("[CodebookNegatives]", "or null, but is ['CodebookNegatives']."),
        (
            "{class_path: CombinedNegatives, init_args: {samplers: [CodebokNegatives]}}",
            "Unknown negatives 'CodebokNegatives'. Known: CodebookNegatives, CombinedNegatives, "
            "OtherUtterancesNegatives, SameUtteranceNegatives. Did you mean CodebookNegatives?",
        ),
        (
            "{class_path: CombinedNegatives, "
            "init_args: {samplers: [{class_path: CodebookNegatives, init_args: {n: 3}}]}}",
            "`model.loss.negatives.samplers` has no option 'n', as CodebookNegatives takes none of that name. Known: "
            "num_negatives.",
        ),
    ],
)
def test_messages_name_the_sampler(
    value: str, message: str, fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"num_negatives": 100, "negatives": yaml.safe_load(value)}
    (tmp_path / "negatives.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"loss": {"init_args": loss}}}}))
    assert fit("--config=negatives.yaml") == 2
    error = capsys.readouterr().err
    assert error.endswith(f"{message}\n")
    assert "Namespace" not in error
