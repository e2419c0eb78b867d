"""Resuming a run with a teacher: what cannot be resumed is an error of one line, and other options are printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.tiny_runs import tiny_run


def test_the_command_names_what_cannot_resume(
    fit: Callable[..., int], tiny_config: Path, tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    """Another size of the teacher is an error; other options of it are printed, those that change no tensor."""
    config = f"--config={tiny_run(tiny_config, tmp_path, 'data2vec')}"
    assert fit("--trainer.max_steps=1", "--trainer.default_root_dir=masked") == 0
    assert fit(config, "--trainer.max_steps=1") == 0
    for changes, problem in (
        (["--ckpt_path=masked/w2vlab/version_0/checkpoints/last.ckpt"], "must be a checkpoint with a teacher"),
        (["--ckpt_path=last", "--model.context.num_layers=3"], "these differ: context.layers.2"),
        (["--ckpt_path=last", "--model.context.model_dim=12"], "must be a checkpoint of the same model"),
        (["--ckpt_path=last", "--model.teacher.combine=concatenate"], "must be a checkpoint of the same model"),
        (
            ["--ckpt_path=last", "--model.teacher.layers=5"],
            "`model.teacher.layers` must be at most the layers of `model.context` (2), but is 5",
        ),
        (["--ckpt_path=last", "--model.teacher.decay=.nan"], "`model.teacher.decay` must be from 0 to 1"),
    ):
        capsys.readouterr()
        assert fit(config, "--trainer.max_steps=2", *changes) != 0
        error = capsys.readouterr().err
        assert problem in error, error
        assert "Traceback" not in error
    caplog.clear()
    changes = ["--model.teacher.layers=1", "--model.teacher.end_decay=0.99", "--model.masked_copies=2"]
    assert fit(config, "--trainer.max_steps=2", "--ckpt_path=last", *changes) == 0
    named = [record.message for record in caplog.records if record.name == "w2vlab.cli.resuming.resume"]
    assert named == [
        "resuming with model.masked_copies 2, the checkpoint had 1",
        "resuming with model.teacher.end_decay 0.99, the checkpoint had 0.9999",
        "resuming with model.teacher.layers 1, the checkpoint had 2",
    ]
