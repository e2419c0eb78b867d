"""`w2vlab fit` on units of a file, with its callbacks; `explain` and the errors before training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.unit_files import write_units
from w2vlab.frame_grid import FrameGrid

Fit = Callable[..., int]
RUN = Path("runs/w2vlab/version_0")
CALLBACKS = ["CodebookHealth", "CollapseWatchdog", "GradientFlow"]
HUBERT = [
    *("--model.quantizer=FileTargets", "--model.quantizer.codebook_size=5", "--model.penalties={}"),
    *("--model.loss=CodePredictionLoss", "--model.loss.similarity=cosine", "--model.loss.unmasked_weight=1"),
]


def units(folder: Path, left_out: int = 0, codebooks: int = 1) -> str:
    """Units at 100 Hz of the utterances of the tiny run."""
    grid, draws = FrameGrid(160, 400), np.random.default_rng(0)
    lengths = {f"u{number:02}.wav": 16_000 + 100 * number for number in range(left_out, 24)}
    codes = {name: draws.integers(5, size=(grid.num_frames(size), codebooks)) for name, size in lengths.items()}
    return str(write_units(folder / f"units-{left_out}-{codebooks}.parquet", codes, grid, 5))


def test_a_run_with_its_callbacks_and_its_resumption(fit: Fit, tmp_path: Path) -> None:
    options = [*HUBERT, f"--model.quantizer.path={units(tmp_path)}", *(f"--trainer.callbacks+={n}" for n in CALLBACKS)]
    assert fit(*options) == 0
    rows = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert any("train/unmasked_accuracy" in row for row in rows)
    assert (RUN / "codebook_health.json").is_file()
    assert fit(*options, "--trainer.max_steps=6", "--ckpt_path=last") == 0


def test_several_files_are_given_as_a_list(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [units(tmp_path), units(tmp_path, codebooks=2)]
    options = [*HUBERT, f"--model.quantizer.path=[{','.join(paths)}]", "--model.quantizer.num_codebooks=3"]
    assert fit(*options, "--print_config") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["quantizer"]["init_args"]["path"] == paths
    assert fit(*options, "--trainer.max_steps=2") == 0


def test_what_is_wrong_with_a_file_is_said_in_a_line(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        ([], "`model.quantizer.path` must be a file or a folder of units, but units does not exist."),
        ([f"--model.quantizer.path={units(tmp_path, left_out=3)}"], "it lacks 3 of 24 utterances."),
        (
            [f"--model.quantizer.path={units(tmp_path)}", "--model.quantizer.codebook_size=4"],
            "`model.quantizer.codebook_size` must be 5, the entries of a codebook of",
        ),
    ):
        assert fit(*HUBERT, *options) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
