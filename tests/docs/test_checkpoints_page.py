"""The page on checkpoints: its Python code runs, and its commands open the checkpoints of that code."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tests.evaluation.conftest import write_labelled
from tests.processes import forked
from w2vlab.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/train/checkpoints.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EVALUATIONS = re.findall(r"^ +w2vlab ((?:evaluate|compare) .*)$", PAGE, re.MULTILINE)
QUICK = ["--cache_dir=cache", "--abx_cells=0", "--layers=codes", "--wandb=off", "--device=cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    write_labelled(tmp_path / "voice", 12)
    (tmp_path / "speech").symlink_to(tmp_path / "voice" / "wav")
    return tmp_path


def quickened(example: str) -> str:
    return example.replace("max_steps=2", "max_steps=2, accelerator='cpu', logger=False, enable_checkpointing=False")


def test_python_and_the_commands_open_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    exec(quickened(EXAMPLE), names)
    assert type(names["same"]) is type(names["model"])
    for name, value in names["model"].state_dict().items():
        assert torch.equal(names["same"].state_dict()[name], value)
    assert names["other"].feature_dropout.p == 0.2
    assert names["speller"].pretrained_config["class_path"] == "w2vlab.modules.MaskedPrediction"
    (command,) = [line for line in EVALUATIONS if "--parts" not in line]
    assert main([*shlex.split(command), *QUICK]) == 0
    assert "(without labels)" in capsys.readouterr().out  # the checkpoint names the training data


def test_checkpoints_with_ones_own_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In separate processes that load the module of the part, and in this one, which has not loaded it."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'docs/examples'}{os.pathsep}{ROOT}"}
    own = EXAMPLE.replace("partial(KMeansQuantizer, codebook_size=64)", "partial(LookupFreeQuantizer, num_bits=4)")
    own = f"from lookup_free import LookupFreeQuantizer\n{own.replace('mine.ckpt', 'own.ckpt')}"

    def started(*command: str) -> forked.CompletedProcess[str]:
        return forked.run([sys.executable, *command], env=environment, capture_output=True, text=True)

    trained = started("-c", quickened(own))
    assert trained.returncode == 0, trained.stderr
    assert "to be saved in checkpoints" not in trained.stderr
    (command,) = [line for line in EVALUATIONS if line.startswith("evaluate own.ckpt --parts")]
    words = ["-m", "w2vlab", *shlex.split(command), "--corpus=speech", *QUICK]
    opened = started(*words)
    assert opened.returncode == 0, opened.stderr
    assert main([word for word in words[2:] if "--parts" not in word]) == 1  # here, where it is not loaded
    message = capsys.readouterr().err
    quoted = " ".join(re.search(r"^    error: (?:.+\n)+", PAGE, re.MULTILINE)[0].split())
    for example, here in {
        "sent.ckpt": "own.ckpt",
        "some_package": "lookup_free",
        "Codes": "LookupFreeQuantizer",
    }.items():
        quoted = quoted.replace(example, here)
    assert quoted in message
    assert main(["--parts=nowhere_to_be_found" if "--parts" in word else word for word in words[2:]]) == 1
    message = capsys.readouterr().err
    assert "`parts` must be modules that can be imported, but nowhere_to_be_found cannot" in message
