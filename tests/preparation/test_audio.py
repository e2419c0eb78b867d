"""Utterances as FLAC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording

from w2vlab.preparation import audio
from w2vlab.preparation.audio import encode_flac, gain_of


def encoded(path: Path, sound: np.ndarray, subtype: str) -> tuple[audio.EncodedAudio, np.ndarray]:
    soundfile.write(path, sound, 16_000, subtype=subtype)
    result = encode_flac(Recording.from_file(path).to_cut())
    with result.file:
        assert len(result.file.read()) == result.num_bytes
        result.file.seek(0)
        return result, soundfile.read(result.file, dtype="float64")[0] * result.gain


@pytest.mark.parametrize("peak", [0.3, 1.0, 1.5, 37.0])
def test_samples_come_back_within_half_a_step(tmp_path: Path, peak: float) -> None:
    sound = np.random.default_rng(0).uniform(-peak, peak, 5_000).astype(np.float32)
    sound[7] = peak
    result, back = encoded(tmp_path / "a.wav", sound, "FLOAT")
    assert result.bits == 24
    assert result.gain == {0.3: 1, 1.0: 2, 1.5: 2, 37.0: 64}[peak]
    assert np.abs(back - sound).max() <= result.gain * 2.0**-24


def test_16_bits_are_exact_and_need_no_more(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).integers(-(2**15), 2**15, 5_000, dtype=np.int16)
    sound[:2] = -(2**15), 2**15 - 1
    result, back = encoded(tmp_path / "a.wav", sound, "PCM_16")
    assert (result.bits, result.gain) == (16, 1)
    assert (back * 2**15 == sound).all()
    result, back = encoded(tmp_path / "b.wav", sound.astype(np.float32) / 2**15 + np.float32(2**-20), "FLOAT")
    assert result.bits == 24


def test_long_utterances_are_encoded_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).uniform(-1.2, 1.2, 20_000).astype(np.float32)
    whole = encoded(tmp_path / "a.wav", sound, "FLOAT")
    monkeypatch.setattr(audio, "BLOCK", 3_000)
    blocks = encoded(tmp_path / "a.wav", sound, "FLOAT")
    assert (blocks[1] == whole[1]).all()
    assert (blocks[0].gain, blocks[0].bits, blocks[0].num_samples) == (2, 24, 20_000)


def test_gains_are_the_least_powers_of_two() -> None:
    step = 2.0**-23
    assert gain_of(-1.0, 1 - step) == 1
    assert gain_of(-1.0, 1.0) == 2
    assert gain_of(-1 - step, 0.0) == 2
    assert gain_of(0.0, 2.0) == 4
    assert gain_of(0.0, 0.0) == 1
