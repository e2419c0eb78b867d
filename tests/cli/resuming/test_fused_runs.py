"""Whole runs with fused micro-batches: read, fused and drawn for in workers, trained, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from w2vlab.modules.drawing.module import DrawingModule

SIZE = [
    "--trainer.precision=64-true",
    "--data.micro_batches=4",
    "--data.batch_seconds=2",
    "--trainer.check_val_every_n_epoch=null",
]

NOISE = [f"--model.context.{name}=0.2" for name in ("dropout", "attention_dropout", "activation_dropout")]


def last_of(folder: str) -> Path:
    (path,) = Path(folder).rglob("last.ckpt")
    return path


def test_a_run_is_the_same_with_and_without_and_may_change_between(fit: Callable[..., int]) -> None:
    def run(folder: str, *words: str) -> dict[str, torch.Tensor]:
        assert fit(*SIZE, *NOISE, f"--trainer.default_root_dir={folder}", *words) == 0
        checkpoint = torch.load(last_of(folder), weights_only=True)
        assert checkpoint["global_step"] == (2 if folder == "half" else 4)
        weights: dict[str, torch.Tensor] = checkpoint["state_dict"]
        return weights

    expected = run("apart")  # Adam divides gradients near zero by their own size, and so enlarges their rounding
    assert_close(run("fused", "--data.fuse_seconds=4.5"), expected, rtol=0, atol=1e-7)
    run("half", "--data.fuse_seconds=8", "--trainer.max_steps=2")
    resumed = [f"--ckpt_path={last_of('half').resolve()}", "--data.fuse_seconds=4.5"]
    assert_close(run("resumed", *resumed), expected, rtol=0, atol=1e-7)


def test_workers_draw_for_fused_batches(fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    used, draws_of = [], DrawingModule.draws_of

    def watched(self: Any, batch: Any, address: Any) -> Any:
        made = draws_of(self, batch, address)
        used.append((batch.num_micro_batches, made is not None and bool(made.negatives)))
        return made

    monkeypatch.setattr(DrawingModule, "draws_of", watched)
    assert fit(*SIZE, "--data.fuse_seconds=8", "--data.num_workers=1", "--trainer.limit_val_batches=0") == 0
    assert set(used) == {(4, True)}
