"""Commands that are ended by a scheduler or a crash, and resume."""

from __future__ import annotations

import csv
import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.testing import assert_close

from tests.cli.resuming.test_fused_runs import last_of
from tests.cli.resuming.test_same_run import update_of
from tests.helpers.tiny_runs import tiny_run
from tests.processes import forked
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.cli.main import main
from w2vlab.cli.resuming.resume import Start
from w2vlab.cli.resuming.same_run import SameCheckpoint
from w2vlab.types import RunError

ROOT = Path(__file__).parents[3]


class SignalAfter(Callback):
    """Sends a signal to the whole group of processes, those that read data included.

    Args:
        update: After this many updates.
        number: The signal.
    """

    def __init__(self, update: int, number: int) -> None:
        self.update = update
        self.number = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.update:
            os.killpg(0, self.number)


def rows(folder: Path) -> list[dict[str, float]]:
    """Of `metrics.jsonl`, without values that depend on the clock and on earlier measurements."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in row.items() if "seconds" not in name and "throughput" not in name} for row in found]


class StopInValidation(Callback):
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise Stopped(signal.SIGTERM)


def losses(folder: Path) -> dict[str, str]:
    """As they were written, to the last digit, by update."""
    with (folder / "metrics.csv").open() as file:
        return {row["step"]: row["train/loss/total"] for row in csv.DictReader(file) if row["train/loss/total"]}


@pytest.mark.parametrize(
    ("objective", "number", "status"),
    [
        ("wav2vec 2.0", "SIGTERM", 143),
        ("data2vec", "SIGINT", 130),
        ("SpidR", "SIGTERM", 143),
        ("w2v-BERT", "SIGINT", 130),
    ],
)
@pytest.mark.usefixtures("fit")
def test_an_interrupted_and_killed_run_equals_an_uninterrupted_one(
    tiny_config: Path, tmp_path: Path, objective: str, number: str, status: int
) -> None:
    """Bit by bit: what is logged, and student, teacher, codebooks and optimizer in the checkpoint at the end."""
    config = tiny_run(tiny_config, tmp_path, objective)
    options = [f"--config={config}", "--trainer.log_every_n_steps=1", "--trainer.accumulate_grad_batches=2"]
    options += ["--trainer.val_check_interval=4", "--data.num_workers=1", "--checkpoint.every=3"]
    options += ["--trainer.max_steps=9", "--trainer.logger=CSVLogger", "--trainer.logger.name=w2vlab"]
    options += [] if "w" in objective else ["--model.masked_copies=2"]
    assert main(["fit", *options, "--trainer.default_root_dir=whole"]) == 0

    def start(update: int, number: int) -> forked.CompletedProcess[str]:
        callback = "tests.cli.resuming.test_resume_processes.SignalAfter"
        command = [sys.executable, "-m", "w2vlab", "fit", *options, "--ckpt_path=last"]
        command += [f"--trainer.callbacks={callback}", f"--trainer.callbacks.{update=}"]
        return forked.run(
            [*command, f"--trainer.callbacks.number={int(number)}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )

    ended = start(2, signal.Signals[number])
    assert ended.returncode == status, ended.stderr
    assert "There is no last.ckpt below runs: starting from the beginning." in ended.stderr
    assert f"Interrupted by {number} at update 2. Resume with: w2vlab fit " in ended.stderr
    assert "Traceback" not in ended.stderr
    killed = start(7, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert "version_0/checkpoints/last.ckpt" in killed.stderr
    assert update_of(last_of("runs")) < 7  # the updates since then are computed again
    assert main(["fit", *options, "--ckpt_path=last"]) == 0

    whole = losses(Path("whole/w2vlab/version_0"))
    assert len(set(whole.values())) == 9
    assert list(losses(Path("runs/w2vlab/version_0")).items()) == list(whole.items())
    assert rows(Path("runs/w2vlab/version_0")) == rows(Path("whole/w2vlab/version_0"))
    assert [path.name for path in Path("runs/w2vlab").iterdir()] == ["version_0"]
    found, expected = (torch.load(last_of(folder), weights_only=True) for folder in ("runs", "whole"))
    assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=0)
    assert_close(found["optimizer_states"], expected["optimizer_states"], rtol=0, atol=0)


def test_signal_before_training_has_its_status_too(
    fit: Callable[..., int], tiny_config: Path, monkeypatch: Any, capsys: Any
) -> None:
    def prepare(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("w2vlab.data.SpeechDataModule.prepare_data", prepare)
    assert fit() == 143
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr("w2vlab.cli.fit.load_parts", lambda: prepare(None))
    assert main(["fit", f"--config={tiny_config}"]) == 143
    assert "Ended by SIGTERM.\n" in capsys.readouterr().err


def test_validation_that_is_pending_is_logged(fit: Callable[..., int], caplog: Any) -> None:
    stop = "tests.cli.resuming.test_resume_processes.StopInValidation"
    assert fit("--trainer.max_steps=2", f"--trainer.callbacks={stop}", "--trainer.num_sanity_val_steps=0") == 143
    caplog.clear()
    assert fit("--trainer.max_steps=2", "--ckpt_path=last") == 0
    (logged,) = (text for text in caplog.messages if text.startswith("The run was stopped in the validation"))
    words = shlex.split(logged.partition("Run it with: w2vlab ")[2])
    assert words[0] == "validate"
    caplog.clear()
    assert main(words) == 0
    assert fit("--trainer.max_steps=4", "--ckpt_path=last") == 0
    assert not any(text.startswith("The run was stopped in the validation") for text in caplog.messages)


def test_processes_must_resume_from_the_same_checkpoint(monkeypatch: Any) -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device="cpu"))

    def found(run: str, update: int = 4) -> SameCheckpoint:
        callback = SameCheckpoint()
        path = Path("disk", run, "checkpoints", "last.ckpt")
        callback.start = Start(path, update, path.parent.parent, None, validation_is_due=False, is_newest=True)
        return callback

    found("one").setup(trainer, None, "fit")
    monkeypatch.setattr("w2vlab.cli.resuming.same_run.is_distributed", lambda: True)
    for other, differ in (
        (found("one"), ""),
        (SameCheckpoint(), "update 4 on 0; the beginning on 1, 2"),
        (found("two"), "update 4 on 0; update 4 of another run on 1, 2"),
    ):
        places = torch.tensor(other._place())
        monkeypatch.setattr(
            "w2vlab.cli.resuming.same_run.all_gather", lambda own, places=places: torch.stack([own, places, places])
        )
        message = rf"from: {differ}\. The folder .* all nodes share"
        with pytest.raises(RunError, match=message) if differ else nullcontext():
            found("one").setup(trainer, None, "fit")


def test_a_stopped_run_logs_that_its_state_is_lost(fit: Callable[..., int], monkeypatch: Any, caplog: Any) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("w2vlab.callbacks.fault_tolerance.atomic_io.AtomicCheckpointIO._write_and_sync", write)
    stop = ["--trainer.callbacks=tests.cli.test_fit.InterruptAfter", "--trainer.callbacks.update=2"]
    assert fit("--trainer.max_steps=3", *stop) == 130
    lost = "The state at update 2 could not be written ([Errno 28] No space left on device): no checkpoint was written."
    assert any(message.startswith(lost) for message in caplog.messages)
    assert any(message.endswith("There is no checkpoint to resume from.") for message in caplog.messages)
    assert not list(Path().rglob("*.ckpt*"))


def test_conflict_with_the_checkpoint_is_named(fit: Callable[..., int], capsys: Any, caplog: Any) -> None:
    assert fit("--trainer.max_steps=2") == 0
    changes = ["--data.batch_seconds=6", "--data.num_workers=1", "--model.optimizer.lr=0.01"]
    changes += ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1", "--data.accept_changes=true"]
    assert fit("--trainer.max_steps=3", "--ckpt_path=last", *changes) == 0
    named = [record.message for record in caplog.records if record.name == "w2vlab.cli.resuming.resume"]
    assert named == [
        "resuming with data.batch_seconds 6.0, the checkpoint had 5.0",
        "resuming with model.optimizer.lr 0.01, the checkpoint had 0.001",
        "resuming with trainer.gradient_clip_val 1, the checkpoint had None",
        "resuming with trainer.precision bf16-mixed, the checkpoint had 32-true",
    ]
    start = json.loads(Path("runs/w2vlab/version_0/run.json").read_text())["continued"][-1]
    assert start["changed"]["trainer.precision"] == ["32-true", "bf16-mixed"]
    assert start["changed"].keys() == {line.split()[2] for line in named}
    for change, problem in (
        ("--model.optimizer=torch.optim.SGD", "`model.optimizer` must be torch.optim.AdamW"),
        ("--model.quantizer.codebook_size=6", "quantizer.codebook"),
    ):
        capsys.readouterr()
        assert fit("--trainer.max_steps=4", "--ckpt_path=last", change) == 1
        error = capsys.readouterr().err
        assert problem in error
        assert "Traceback" not in error
