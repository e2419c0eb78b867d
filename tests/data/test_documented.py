"""The commands of the documentation page on data."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.conftest import write_ramp
from w2vlab.cli.main import main
from w2vlab.data.audio.probing import EXTENSIONS, SAMPLING_RATE_RANGE, unsupported_reason

PAGE = (Path(__file__).parents[2] / "docs" / "data" / "corpora.md").read_text(encoding="utf-8")


def test_long_recordings_are_cut_as_the_page_says(tmp_path, ready_module, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_ramp(tmp_path / "talks" / "a.wav", 70.0)
    write_ramp(tmp_path / "talks" / "b.flac", 50.0)
    (cut,) = re.findall(r"^    w2vlab (prepare .*)$", PAGE, flags=re.MULTILINE)
    assert main([*cut.replace("FOLDER", "talks").split(), "--cache_dir=cache", "--processes=1"]) == 0
    module = ready_module("pieces", max_seconds=15.625, batch_seconds=40, min_seconds=2.0, num_buckets=2)
    assert re.match(r"pieces: \d utterances \([\d.]+ (s|min)\) to train on", module.summary())
    batches = [*module.train_dataloader(), *module.val_dataloader()]
    assert {len(batch.waveform[0]) for batch in batches} <= {224_000, 199_680, 200_320}


def test_the_page_lists_supported_and_unsupported_formats():
    assert all(f"`{ending}`" in PAGE for ending in EXTENSIONS)
    assert all(unsupported_reason(Path(f"a.{ending}")) for ending in ("m4a", "aac", "wma", "webm", "amr", "aiff"))
    assert f"from {SAMPLING_RATE_RANGE[0] // 1000} to {SAMPLING_RATE_RANGE[1] // 1000} kHz" in PAGE


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_other_formats_are_converted_as_the_page_says(tmp_path):
    (loop,) = re.findall(r"^    (for file in .*)$", PAGE, flags=re.MULTILINE)
    for name in ("a", "b c"):
        soundfile.write(tmp_path / f"{name}.wav", np.sin(np.arange(16_000) / 9), 16_000)
        command = ["ffmpeg", "-v", "error", "-i", f"{name}.wav", "-c:a", "aac", f"{name}.m4a"]
        subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert all(len(soundfile.read(tmp_path / f"{name}.flac")[0]) >= 16_000 for name in ("a", "b c"))
