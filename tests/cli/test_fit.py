"""Whole runs, from the command line to the files that they leave."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.cli.main import main
from w2vlab.modules import MaskedPrediction, PretrainingModule

Fit = Callable[..., int]
RUN, NEXT_RUN = Path("runs/w2vlab/version_0"), Path("runs/w2vlab/version_1")


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def test_run_leaves_all_its_files_in_one_folder(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    assert {path.name for path in RUN.iterdir()} == {
        *("checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "metrics.jsonl"),
        *("report.json", "report.png", "run.json"),
    }
    assert {path.name for path in Path().iterdir()} == {"runs"}
    output = capsys.readouterr().out
    assert "validation loss" in output
    assert f"checkpoints: {RUN / 'checkpoints'}" in output
    assert f"picture: {RUN / 'report.png'}" in output


def test_checkpoint_of_the_last_update_is_there(fit: Fit) -> None:
    assert fit("--trainer.max_steps=3") == 0  # the only validation is after the second
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert load(RUN / "checkpoints" / "update-2.ckpt")["global_step"] == 2


def test_config_of_a_run_repeats_it(fit: Fit, tiny_config: Path) -> None:
    assert fit("--model.quantizer=KMeansQuantizer", "--seed_everything=7") == 0
    config = RUN / "config.yaml"
    first = config.read_text().splitlines()[0]
    assert first.startswith(f"# w2vlab fit --config={tiny_config} ")
    assert "--model.quantizer=KMeansQuantizer" in first
    assert main(["fit", f"--config={config}"]) == 0
    before, after = (yaml.safe_load((run / "config.yaml").read_text()) for run in (RUN, NEXT_RUN))
    assert before == after
    first_weights, second_weights = (load(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (RUN, NEXT_RUN))
    assert first_weights.keys() == second_weights.keys()
    assert all(torch.equal(first_weights[name], second_weights[name]) for name in first_weights)


@pytest.mark.parametrize("model", ["MaskedPrediction", "FuturePrediction", "TeacherPrediction", "CTCFineTuning"])
def test_defaults_of_a_model_can_be_saved_and_read_back(
    model: str, fit: Fit, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert main(["fit", f"--model={model}", "--data.corpus=none", "--print_config"]) == 0
    Path("saved.yaml").write_text(capsys.readouterr().out)
    assert main(["fit", "--config=saved.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == Path("saved.yaml").read_text()
    assert not [warning for warning in recwarn if "Unable to serialize" in str(warning.message)]


def test_seed_reaches_model_and_data(fit: Fit) -> None:
    assert fit("--seed_everything=7", "--trainer.max_steps=1") == 0
    config = load(RUN / "checkpoints" / "last.ckpt")["w2vlab_config"]
    assert config["model"]["init_args"]["seed"] == 7
    assert config["data"]["seed"] == 7


def test_model_is_rebuilt_from_its_checkpoint_alone(fit: Fit) -> None:
    assert fit("--trainer.max_steps=1", "--model.quantizer.codebook_size=6") == 0
    module = PretrainingModule.load_from_checkpoint(RUN / "checkpoints" / "last.ckpt")
    assert isinstance(module, MaskedPrediction)
    assert module.quantizer.codebook_size == 6


def test_default_logger_is_offline_and_can_be_left_out(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--print_config", logger=[]) == 0
    logger = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    assert logger["class_path"].endswith("WandbLogger")
    assert logger["init_args"]["offline"] is True
    assert fit("--trainer.max_steps=1", logger=["--trainer.logger=false"]) == 0
    assert {path.name for path in RUN.iterdir()} == {
        *("checkpoints", "config.yaml", "metrics.jsonl", "report.json", "report.png", "run.json"),
    }


def test_logger_follows_the_root_folder(fit: Fit) -> None:
    assert fit("--trainer.default_root_dir=elsewhere", "--trainer.max_steps=1") == 0
    assert (Path("elsewhere") / "w2vlab" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    assert not Path("runs").exists()


def test_trial_run_leaves_nothing(fit: Fit) -> None:
    assert fit("--trainer.fast_dev_run=1") == 0
    assert not [path for path in Path("runs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("option", ["enable_progress_bar", "enable_checkpointing"])
def test_callbacks_can_be_switched_off(option: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(f"--trainer.{option}=false", "--trainer.max_steps=1") == 0
    assert (RUN / "checkpoints").exists() == (option != "enable_checkpointing")
    assert ("100 %, update 1:" in capsys.readouterr().out) == (option != "enable_progress_bar")


def test_run_without_validation(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.limit_val_batches=0") == 0
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert any("validation loss" in line and "–" in line for line in capsys.readouterr().out.splitlines())  # noqa: RUF001


def test_validation_before_the_first_update_is_an_option(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(run: Path) -> list[dict[str, Any]]:
        found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in row.items() if "seconds" not in k and "throughput" not in k} for row in found]

    assert fit() == 0
    capsys.readouterr()
    assert fit("--validate_first=true", "--trainer.max_steps=3") == 0
    assert "0 %, update 0, validation: loss " in capsys.readouterr().out
    before, *after = rows(NEXT_RUN)
    assert (before["update"], "val/loss/total" in before) == (0, True)
    assert [row for row in after if row["update"] <= 2] == [row for row in rows(RUN) if row["update"] <= 2]
    assert fit("--validate_first=true", "--ckpt_path=last") == 0
    resumed = rows(NEXT_RUN)
    assert [row["update"] for row in resumed if "val/loss/total" in row] == [0, 2, 4]
    for row, expected in zip(resumed[-2:], rows(RUN)[-2:], strict=True):  # of the last update and its validation
        assert row["update"] == 4
        assert row.items() <= expected.items()


def test_last_resumes_the_newest_run(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    assert fit("--trainer.max_steps=3") == 0
    assert fit("--trainer.max_steps=6", "--ckpt_path=last", "--model.loss.logit_temperature=0.2") == 0
    differences = [record.message for record in caplog.records if record.name == "w2vlab.cli.resuming.resume"]
    assert differences == ["resuming with model.loss.logit_temperature 0.2, the checkpoint had 0.1"]
    report = json.loads((RUN / "report.json").read_text())
    assert [row["update"] for row in report["train"]] == [2, 4, 6]
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert not NEXT_RUN.exists()


def test_last_without_a_run_starts_from_the_beginning(fit: Fit) -> None:
    assert fit("--ckpt_path=last", "--trainer.max_steps=1") == 0
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 1


def test_validate_needs_a_checkpoint_where_one_was_asked_for(
    fit: Fit, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = ["validate", f"--config={tiny_config}", "--trainer.logger=false", "--ckpt_path=last"]
    assert main(validate) == 1
    assert "error: `ckpt_path` is 'last', but there is no last.ckpt below runs." in capsys.readouterr().err
    assert fit() == 0
    last = json.loads((RUN / "report.json").read_text())["validation"][-1]
    capsys.readouterr()
    assert main(validate) == 0
    output = capsys.readouterr().out
    assert str(last["val/loss/total"])[:8] in output  # the same digits, however many of them the table has room for


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_unusable_checkpoint_is_named(damage: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("broken.ckpt")
    if damage == "cut":
        torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "foreign":
        torch.save([1, 2, 3], path)
    assert fit(f"--ckpt_path={path}") == 1
    error = capsys.readouterr().err
    assert "error: `ckpt_path` must be" in error
    assert "broken.ckpt" in error
    assert "Traceback" not in error


class InterruptAfter(Callback):
    """Presses Ctrl-C.

    Args:
        update: After this many updates.
    """

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.update:
            raise KeyboardInterrupt


class FailBeforeTraining(Callback):
    """A problem with the training data, found after the sanity check of the validation."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise ValueError("`batch_seconds` must be more.")


class FailAfter(InterruptAfter):
    """A bug.

    Args:
        update: After this many updates.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.update:
            raise ValueError("a bug")


def test_interrupted_run_logs_how_to_resume(
    fit: Fit, tiny_config: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    callback = ["--trainer.callbacks=tests.cli.test_fit.InterruptAfter", "--trainer.callbacks.update=3"]
    assert fit(*callback, "--ckpt_path", "last") == 130
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert "update 3" in capsys.readouterr().out  # the report
    (message,) = [record.message for record in caplog.records if record.message.startswith("Interrupted")]
    assert message.startswith(f"Interrupted by SIGINT at update 3. Resume with: w2vlab fit --config={tiny_config} ")
    assert message.endswith(f"{callback[1]} --ckpt_path={RUN / 'checkpoints' / 'last.ckpt'}")
    # Of two runs in one folder, each is resumed by the command that it has printed.
    assert fit("--trainer.max_steps=2", "--model.quantizer.codebook_size=6") == 0
    command = shlex.split(message.partition("Resume with: w2vlab ")[2])
    assert main([word for word in command if "callbacks" not in word]) == 0
    assert [load(run / "checkpoints" / "last.ckpt")["global_step"] for run in (RUN, NEXT_RUN)] == [4, 2]


def test_interrupt_before_the_first_checkpoint_writes_one(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    callback = ["--trainer.callbacks=tests.cli.test_fit.InterruptAfter", "--trainer.callbacks.update=1"]
    assert fit(*callback) == 130
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 1
    assert "no checkpoint was written" not in capsys.readouterr().out


def test_interrupt_before_anything_is_done(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    callback = ["--trainer.callbacks=tests.cli.test_fit.InterruptAfter", "--trainer.callbacks.update=0"]
    assert fit(*callback, "--trainer.accumulate_grad_batches=2") == 130
    assert "Interrupted by SIGINT at update 0. There is no checkpoint to resume from." in caplog.messages


def test_bug_keeps_its_traceback_and_the_last_state(fit: Fit) -> None:
    with pytest.raises(ValueError, match="a bug"):
        fit("--trainer.callbacks=tests.cli.test_fit.FailAfter", "--trainer.callbacks.update=3")
    assert load(RUN / "checkpoints" / "last.ckpt")["global_step"] == 3


def test_problem_with_the_data_has_no_traceback(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.callbacks=tests.cli.test_fit.FailBeforeTraining") == 1
    assert "error: `batch_seconds` must be more.\n" in capsys.readouterr().err


def test_a_run_whose_updates_are_all_skipped_fails(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    penalties = {"feature": {"class_path": "FeaturePenalty", "init_args": {"weight": 1e38}}}  # its term overflows
    assert fit(f"--model.penalties={json.dumps(penalties)}", "--trainer.max_steps=2") == 1
    assert "error: No update was made: all 2 had a loss or gradient that is not finite" in capsys.readouterr().err
    assert json.loads((RUN / "run.json").read_text())["status"] == "failed"


def test_control_c(tiny_config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "w2vlab", "fit", f"--config={tiny_config}", "--trainer.max_steps=100000"]
    run = subprocess.Popen(
        [*command, "--trainer.logger=false"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A process started in the background by a script ignores SIGINT, and so would this one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    output, error = run.communicate()
    assert run.returncode == 130, error
    assert "validation loss" in output
    assert "--ckpt_path=runs/w2vlab/version_0/checkpoints/last.ckpt" in error
    assert "Traceback" not in error
