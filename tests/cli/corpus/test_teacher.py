"""The commands on a corpus with a checkpoint that has a teacher, whose layers have the codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.extraction.encoding.conftest import write_noise
from tests.helpers.teacher_toys import toy_teacher
from tests.interop.toys import save
from w2vlab.cli.main import main
from w2vlab.extraction.model_frames import ModelFrames
from w2vlab.extraction.sources import Cutting, cutting_of
from w2vlab.quantizers import FileTargets
from w2vlab.units.reading import read_units

SECONDS = (1.0, 0.5, 1.0, 0.7, 1.3, 0.6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of noise, and the checkpoints of a model with codes and of one without."""
    root = tmp_path_factory.mktemp("teacher")
    write_noise(root / "corpus", SECONDS)
    save(toy_teacher(codes=True), root / "codes.ckpt")
    save(toy_teacher(), root / "vectors.ckpt")
    return root


@pytest.fixture
def encode(root: Path, tmp_path: Path):
    """Calls `w2vlab encode` with a checkpoint; returns its status and the folder."""

    def run(checkpoint: str, *options: str) -> tuple[int, Path]:
        small = [f"--cache_dir={root / 'cache'}", "--num_workers=0", "--format=npy", "--accelerator=cpu"]
        words = ["encode", str(root / checkpoint), str(root / "corpus"), str(tmp_path / "out"), *small, *options]
        return main(words), tmp_path / "out"

    return run


def waveforms(root: Path) -> dict[str, torch.Tensor]:
    return {p.stem: torch.from_numpy(soundfile.read(p, dtype="float32")[0]) for p in (root / "corpus").rglob("*.wav")}


def test_codes_are_those_of_the_layers_of_the_teacher(encode, root: Path) -> None:
    status, folder = encode("codes.ckpt", "--what=codes")
    assert status == 0
    model = toy_teacher(codes=True)
    found = read_units(folder)
    audio = waveforms(root)
    assert len(audio) == len(SECONDS)
    for name, waveform in audio.items():
        latents = model.norm(model.encoder(waveform[None], (len(waveform),)))
        with torch.no_grad():
            expected = []
            frames = model.teacher.network.project(latents)
            _, outputs = model.teacher.network.forward_layers(frames, None, (2, 3), True)
            for codebook, layer in enumerate((2, 3)):
                normalized = torch.nn.functional.instance_norm(outputs[layer].transpose(1, 2)).transpose(1, 2)
                entries = model.quantizer.codebook.entries[codebook]
                expected.append(torch.cdist(normalized[0], entries).argmin(dim=-1))
        (utterance,) = (utterance for utterance in found.ids if name in utterance)
        np.testing.assert_array_equal(found.codes(utterance), torch.stack(expected, dim=-1).numpy())


def test_a_regression_has_no_codes(encode, capsys: pytest.CaptureFixture[str]) -> None:
    status, folder = encode("vectors.ckpt", "--what=codes")
    assert status == 1
    assert "has IdentityQuantizer. Use --what=features" in capsys.readouterr().err
    assert not folder.exists()


def test_features_are_those_of_the_student(encode, root: Path) -> None:
    status, folder = encode("vectors.ckpt", "--what=features", "--layers=2")
    assert status == 0
    model = toy_teacher()
    lengths = [len(model.features(waveform)[0]) for waveform in waveforms(root).values()]
    frames = np.concatenate([np.load(path) for path in sorted(folder.rglob("*.npy")) if np.load(path).ndim == 2])
    assert frames.shape == (sum(lengths), 24)


def test_centers_of_a_layer_of_the_student(root: Path, tmp_path: Path, encode) -> None:
    centers = str(tmp_path / "centers.safetensors")
    words = ["cluster", str(root / "vectors.ckpt"), str(root / "corpus"), centers, "--layer=2", "--k=4"]
    assert main([*words, "--num_workers=0", "--accelerator=cpu", f"--cache_dir={root / 'cache'}"]) == 0
    status, folder = encode("vectors.ckpt", "--what=units", f"--centers={centers}")
    assert status == 0
    # These units are targets of HuBERT.
    targets = FileTargets(512, path=str(folder), codebook_size=4)
    assert targets.codebook_size == 4


@pytest.mark.parametrize("normalization", ["first_group", "layer"])
def test_a_long_recording_is_cut_as_for_a_transformer(normalization: str) -> None:
    """A teacher sees all frames of an utterance, although encoder and quantizer may compute each alone."""
    source = ModelFrames(toy_teacher(codes=True, normalization=normalization), codes=True)
    assert cutting_of(source) == Cutting(reach=None, default_seconds=120.0)
