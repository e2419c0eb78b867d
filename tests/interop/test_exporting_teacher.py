"""`w2vlab export` of a model with a teacher: the student leaves, and the teacher stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch

import w2vlab
from tests.helpers.teacher_toys import toy_teacher
from tests.interop.toys import save
from w2vlab.cli.main import main
from w2vlab.interop.comparison.speech import synthetic_voice
from w2vlab.modules import MaskedPrediction, TeacherPrediction

DATA2VEC = {"normalization": "layer", "position_layers": 3, "position_kernel": 9}


@pytest.fixture(autouse=True)
def waveform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """A second of a synthetic voice, which is also a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    waveform = synthetic_voice(1.0)[0].float()
    soundfile.write("voice.wav", waveform.numpy(), 16_000, subtype="FLOAT")
    return waveform


def export(model: TeacherPrediction, out: str, format: str) -> int:
    save(model, Path("last.ckpt"))
    return main(["export", "last.ckpt", out, f"--format={format}", "--audio=voice.wav"])


@pytest.mark.parametrize(
    ("options", "architecture"),
    [({}, "Wav2Vec2Model"), ({"codes": True}, "Wav2Vec2Model"), (DATA2VEC, "Data2VecAudioModel")],
    ids=["data2vec", "dinosr", "positions of data2vec"],
)
def test_transformers_gets_the_student(
    options: dict, architecture: str, waveform: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    model = toy_teacher(**options)
    assert export(model, "folder", "huggingface") == 0  # the outputs of transformers are equal
    assert "The student is written; teacher, quantizer and loss are not." in capsys.readouterr().out
    assert json.loads(Path("folder/config.json").read_text())["architectures"] == [architecture]
    opened = w2vlab.load("folder")
    assert isinstance(opened, MaskedPrediction)
    torch.testing.assert_close(opened.features(waveform), model.features(waveform), atol=1e-5, rtol=1e-5)
    card = Path("folder/README.md").read_text()
    assert ("DinoSR (Liu et al. 2023" if options.get("codes") else "data2vec (Baevski et al. 2022") in card
    trained = sum(p.numel() for name, p in model.state_dict().items() if not name.startswith("teacher."))
    assert f"* Parameters: {trained:,}" in card


def test_torchaudio_gets_the_student(capsys: pytest.CaptureFixture[str]) -> None:
    assert export(toy_teacher(codes=True), "student.pt", "torchaudio") == 0
    assert "no mask embedding, teacher, quantizer or loss" in capsys.readouterr().out


def test_onnx_gets_the_student(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert export(toy_teacher(), "student.onnx", "onnx") == 0
    assert "contexts" in capsys.readouterr().out


def test_safetensors_has_the_teacher_too(waveform: torch.Tensor) -> None:
    model = toy_teacher(codes=True)
    assert export(model, "all.safetensors", "safetensors") == 0
    opened = w2vlab.load("all.safetensors")
    assert isinstance(opened, TeacherPrediction)
    assert opened.codes(waveform).equal(model.codes(waveform))


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("fairseq", {}, "`model` must be MaskedPrediction or FuturePrediction for fairseq, but is TeacherPrediction"),
        ("torchaudio", DATA2VEC, "`model.context.position_layers` must be 1 for torchaudio"),
    ],
)
def test_what_cannot_be_written_is_refused(
    format: str, options: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(toy_teacher(**options), "out.pt", format) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert not Path("out.pt").exists()
