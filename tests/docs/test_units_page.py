"""The page on units and features: its commands run in order, and its code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.extraction.encoding.conftest import write_noise
from tests.interop.toys import save, toy_model
from w2vlab.cli.main import main
from w2vlab.extraction.sources import open_source
from w2vlab.extraction.writing.writer import FORMATS
from w2vlab.units.centers import Centers, write_centers

PAGE = (Path(__file__).parents[2] / "docs/train/units.md").read_text(encoding="utf-8")
COMMANDS = [line for line in re.findall(r"^    w2vlab (encode .*)$", PAGE, re.MULTILINE) if "hf:" not in line]


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that the page names; its corpus is the one in FOLDER."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    folder = Path("runs/w2vlab/ID/checkpoints")
    folder.mkdir(parents=True)
    save(toy_model(), folder / "last.ckpt")
    Path("last.ckpt").symlink_to(folder / "last.ckpt")
    write_noise(tmp_path / "FOLDER", (0.5, 0.6, 0.7, 0.8))
    write_noise(tmp_path / "wav", (0.6,) * 4)
    for number, path in enumerate(sorted(Path("wav").iterdir())):
        path.rename(f"wav/ru_000{number}.wav")
    lines = [f"ru_000{number}.wav\t9600" for number in range(4)]
    Path("train.tsv").write_text("\n".join([str(tmp_path / "wav"), *lines]) + "\n")
    source = open_source("last.ckpt", "features", "1")
    (stream,) = source.streams
    write_centers(
        Centers(vectors=torch.randn(5, stream.dim), grid=source.grid, stream="layer 1"), Path("centers.safetensors")
    )


@pytest.mark.usefixtures("_here")
def test_commands_and_code_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        layers = re.sub(r"--layers \S+", "--layers 0,1", command.replace("festvox-ru", "FOLDER"))
        assert main([*shlex.split(layers), "--accelerator=cpu", "--num_workers=0"]) == 0, capsys.readouterr().err
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks[:3]:
        if "pandas" not in block:
            exec(compile(block, "docs/train/units.md", "exec"), names)
    assert names["units"].codes("ru_0001.wav").shape == (names["units"].grid.num_frames(9600), 1)
    with_mfcc = open_source("mfcc", "features")
    assert np.asarray(names["fourth"]).shape == (with_mfcc.grid.num_frames(9600), 39)


def test_every_format_has_a_row() -> None:
    rows, _, _ = PAGE.partition("## Resuming")
    assert tuple(re.findall(r"^\| `(\w+)`(?: \(default\))? \|", rows, re.MULTILINE)) == FORMATS
