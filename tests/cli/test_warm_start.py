"""`--model.init_from`: a new run with the weights of another model, which it needs once."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import RUN as TINY
from w2vlab.cli.lightning.parsed import check_run
from w2vlab.cli.main import main

Fit = Callable[..., int]
LOGS = Path("runs/w2vlab")
SOURCE = Path("source.ckpt")
RUN, NEXT_RUN, LAST_RUN = (LOGS / f"version_{number}" for number in (1, 2, 3))
KMEANS = "--model.quantizer=KMeansQuantizer"
STOP_AT_2 = "--trainer.max_steps=2"


@pytest.fixture
def warm(fit: Fit) -> Fit:
    """Calls `w2vlab fit` in a folder with the checkpoint of another run of two updates."""
    assert fit(STOP_AT_2, "--seed_everything=5") == 0
    shutil.copy(LOGS / "version_0/checkpoints/last.ckpt", SOURCE)
    return lambda *args: fit(f"--model.init_from={SOURCE}", *args)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def model_options(folder: Path) -> dict[str, Any]:
    options: dict[str, Any] = saved(folder)["w2vlab_config"]["model"]["init_args"]
    written = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert written["init_from"] == options["init_from"]
    return options


def test_a_warm_start_is_logged_and_recorded(warm: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert warm(STOP_AT_2, KMEANS) == 0
    assert sum(message.startswith(f"Warm start from {SOURCE} (w2vlab):") for message in caplog.messages) == 1
    found = record(RUN)["warm_start"]
    assert found["source"] == str(SOURCE)
    new = {part["part"]: part["why"] for part in found["parts"] if not part["loaded"]}
    assert new["quantizer"] == "another quantizer: KMeansQuantizer, the source has GumbelQuantizer"
    assert {part["part"] for part in found["parts"] if part["loaded"]} == {
        *("encoder", "norm", "context", "mask_embedding")
    }
    assert {part["why"] for part in found["parts"] if part["loaded"]} == {""}
    assert "warm_start" not in record(LOGS / "version_0")
    assert saved(RUN)["global_step"] == 2
    assert model_options(RUN)["init_from"] == str(SOURCE)


def test_the_source_is_not_read_again(warm: Fit, caplog: pytest.LogCaptureFixture) -> None:
    """It is gone when the run resumes, is validated, and its checkpoint is evaluated."""
    assert warm(STOP_AT_2) == 0
    SOURCE.unlink()
    with caplog.at_level(logging.INFO):
        assert warm("--ckpt_path=last") == 0
        assert saved(RUN)["global_step"] == 4
        assert main(["validate", f"--config={RUN / 'config.yaml'}", f"--ckpt_path={RUN}/checkpoints/last.ckpt"]) == 0
    assert sum(message.startswith("Warm start from ") for message in caplog.messages) == 1
    found = record(RUN)
    assert found["warm_start"]["source"] == str(SOURCE)
    (resumed,) = found["continued"]
    assert resumed["changed"] == {}
    assert "warm_start" not in resumed
    assert model_options(RUN)["init_from"] == str(SOURCE)


def test_a_resumed_run_is_that_of_an_undisturbed_one(warm: Fit) -> None:
    assert warm("--trainer.default_root_dir=whole") == 0
    assert warm(STOP_AT_2) == 0
    assert warm("--ckpt_path=last") == 0
    one, other = (saved(folder)["state_dict"] for folder in (Path("whole/w2vlab/version_0"), RUN))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_source_has_no_effect_in_a_run_that_resumes(
    warm: Fit, fit: Fit, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint keeps its own; nothing is said if the option is left out."""
    assert warm(STOP_AT_2) == 0
    with caplog.at_level(logging.WARNING):
        assert fit("--model.init_from=gone.ckpt", "--trainer.max_steps=3", "--ckpt_path=last") == 0
    (said,) = (message for message in caplog.messages if "init_from" in message)
    assert said.startswith("model.init_from gone.ckpt has no effect, because this run resumes")
    assert f"whose run had {SOURCE}" in said
    assert model_options(RUN)["init_from"] == str(SOURCE)
    assert record(RUN)["continued"][-1]["changed"] == {}
    caplog.clear()
    assert fit("--ckpt_path=last") == 0
    assert not any("init_from" in message for message in caplog.messages)
    assert model_options(RUN)["init_from"] == str(SOURCE)


def test_validation_without_a_checkpoint_is_that_of_the_source(
    warm: Fit, tiny_config: Path, capsys: pytest.CaptureFixture
) -> None:
    """There the options alone say which model it is."""
    command = ["validate", f"--config={tiny_config}", "--trainer.logger=false"]
    seen = []
    for options in ([f"--model.init_from={SOURCE}"], [f"--ckpt_path={SOURCE}"]):
        capsys.readouterr()
        assert main([*command, *options]) == 0
        seen.append([line for line in capsys.readouterr().out.splitlines() if "val/loss/contrastive" in line])
    assert seen[0] == seen[1] != []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.init_from=gone.ckpt"], "`model.init_from` must be an existing"),
        (
            ["--model.init_from_parts=[quantizer]", KMEANS],
            "`model.init_from_parts` must be parts that fit, but quantizer",
        ),
        (["--model.init_from_parts=[context]", "--model.context.pre_norm=true"], "`pre_norm` is true, the source has"),
        (["--model.init_from_parts=[decoder]"], "`model.init_from_parts` must be parts of the model that have weights"),
    ],
)
def test_a_source_that_does_not_fit_is_an_error_in_a_line(
    warm: Fit, capsys: pytest.CaptureFixture, options: list[str], message: str
) -> None:
    assert warm(*options) == 1
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in error


def test_explain_shows_it(warm: Fit, tiny_config: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["explain", f"--config={tiny_config}", "--no_gradients", f"--model.init_from={SOURCE}", KMEANS]
    capsys.readouterr()
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"Warm start from {SOURCE} (w2vlab)")
    table = {line.split()[0]: line.rstrip().split(maxsplit=3)[1:] for line in lines[start + 2 : start + 8]}
    assert table["encoder"][0] == "loaded"
    # The options of parts that the command line builds are known.
    assert len(table["encoder"]) == 2
    assert table["quantizer"][0] == "new"
    assert table["quantizer"][2] == "another quantizer: KMeansQuantizer, the source has GumbelQuantizer"
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["warm_start"]
    assert {part["part"]: part["loaded"] for part in found["parts"]}["quantizer"] is False
    assert main([*command[:3], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warm_start"] is None
    # With --ckpt_path the weights are those of the checkpoint.
    SOURCE.unlink()
    assert main([*command, "--json", "--ckpt_path=last"]) == 0
    assert json.loads(capsys.readouterr().out)["warm_start"] is None


def test_a_sweep_checks_the_source_of_its_trials_before_the_first_one(warm: Fit, tiny_config: Path) -> None:
    _, options = check_run([f"--config={tiny_config}", f"--model.init_from={SOURCE}"])
    assert options["model.init_from"] == str(SOURCE)
    with pytest.raises(ValueError, match=r"`model.init_from` must be an existing .* but is gone\.ckpt"):
        check_run([f"--config={tiny_config}", "--model.init_from=gone.ckpt"])


def test_the_tiny_run_has_no_warm_start_by_default() -> None:
    assert "init_from" not in TINY["model"]["init_args"]
