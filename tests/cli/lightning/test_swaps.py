"""A class that replaces another one has its own defaults, and options that were set for the other one are logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vlab.cli.main import main

MODEL = ["--model=MaskedPrediction", "--data.corpus=none"]


@pytest.fixture
def parts(capsys: pytest.CaptureFixture[str]) -> Any:
    def parsed(*args: str) -> dict[str, Any]:
        assert main(["fit", *args, "--print_config"]) == 0
        found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        return found

    return parsed


@pytest.mark.parametrize(
    "args",
    [
        ["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.002"],
        ["--model.optimizer", "torch.optim.Adam", "--model.optimizer.init_args.lr", "0.002"],
        ["--config=adam.yaml"],
    ],
    ids=["flags", "words", "file"],
)
@pytest.mark.parametrize("model", ["MaskedPrediction", "FuturePrediction", "CTCFineTuning"])
def test_an_optimizer_has_its_own_defaults(
    args: list[str], model: str, parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of the default class: in Adam, the weight decay of AdamW would be an L2 term."""
    monkeypatch.chdir(tmp_path)
    text = "model: {init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.002}}}}"
    Path("adam.yaml").write_text(text)
    whole = [f"--model={model}", "--data.corpus=none"]
    if model == "CTCFineTuning":
        whole += ["--model.units=characters", "--model.checkpoint=none", "--data.crop_to_shortest=false"]
    found = parts(*whole, *args)["optimizer"]
    assert found["class_path"] == "torch.optim.Adam"
    expected = {"lr": 0.002, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    assert {name: found["init_args"][name] for name in expected} == expected


def test_a_default_class_without_its_own_options_keeps_its_defaults(parts: Any) -> None:
    found = parts(*MODEL, "--model.optimizer.lr=0.002")["optimizer"]
    assert found["class_path"] == "w2vlab.optim.Wav2Vec2AdamW"
    assert (found["init_args"]["lr"], found["init_args"]["betas"]) == (0.002, [0.9, 0.98])


def test_every_other_part_has_its_own_defaults(parts: Any) -> None:
    """Each shares the name of an option with the default class, and has another value."""
    found = parts(
        *MODEL,
        "--model.quantizer=ResidualQuantizer",
        "--model.context=GRUContext",
        "--model.scheduler=torch.optim.lr_scheduler.LinearLR",
        "--model.penalties.feature=DiversityPenalty",
    )
    assert found["quantizer"]["init_args"]["num_codebooks"] == 8
    assert found["quantizer"]["init_args"]["codebook_size"] == 1024
    assert (found["context"]["init_args"]["num_layers"], found["context"]["init_args"]["dropout"]) == (1, 0.0)
    assert found["scheduler"]["init_args"]["end_factor"] == 1.0
    assert found["penalties"]["feature"]["init_args"]["weight"] == 0.1


def test_options_of_the_class_before_are_kept_and_logged(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--model.optimizer=torch.optim.Adam", "--model.quantizer=KMeansQuantizer", "--model.quantizer.gamma=0.5"]
    assert main(["explain", f"--config={tiny_config}", "--no_gradients", *args]) == 0
    stderr = capsys.readouterr().err
    assert "`model.optimizer` is Adam now, and keeps the options set for AdamW: lr 0.001." in stderr
    assert (
        "`model.quantizer` is KMeansQuantizer now, and keeps the options set for GumbelQuantizer: codebook_size 8."
        in stderr
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.1"],
        ["--model.optimizer=AdamW"],
        ["--model.quantizer=IdentityQuantizer"],
        [],
    ],
    ids=["set again", "the same class", "nothing of that name", "no swap"],
)
def test_if_nothing_is_kept_nothing_is_logged(
    args: list[str],
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", f"--config={tiny_config}", "--no_gradients", *args]) == 0
    assert "was set for" not in capsys.readouterr().err
