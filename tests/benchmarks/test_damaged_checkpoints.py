"""Every kind of damage is recognised or harmless; a small version of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import damaged_checkpoints


def test_damage_is_recognised_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_checkpoints(root: Path) -> Path:
        folder = root / "run" / "runs" / "log" / "version_0"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"root": str(root / "run" / "runs"), "continued": []}))
        content: dict[str, Any] = {"loops": {}, "optimizer_states": [], "lr_schedulers": []}
        for update, name in enumerate(("last-previous", "last")):
            state = {"state_dict": {"weight": torch.full((3000,), update)}, "global_step": update, **content}
            torch.save({**state, "pytorch-lightning_version": "2"}, folder / "checkpoints" / f"{name}.ckpt")
        return folder / "checkpoints" / "last.ckpt"

    monkeypatch.setattr(damaged_checkpoints, "make_checkpoints", two_checkpoints)
    counts = tmp_path / "counts.json"
    options = ["--flips=120", "--blocks=20", "--cuts=20", f"--json={counts}"]
    monkeypatch.setattr("sys.argv", ["damaged_checkpoints", *options])
    damaged_checkpoints.main()
    found = json.loads(counts.read_text())
    assert {kind: sum(outcomes.values()) for kind, outcomes in found.items()} == {
        "single bits": 120,
        "overwritten blocks": 20,
        "truncations": 20,
        "foreign files": 14,
        "odd things in place": 8,
    }
    assert {outcome for outcomes in found.values() for outcome in outcomes} == {"recognised", "harmless"}
    assert "| single bits | 120 |" in capsys.readouterr().out
