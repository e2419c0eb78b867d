"""A tiny labelled corpus: each phone is a tone with small variations."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.contracts.tiny import build_model
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.evaluation import EvaluationCorpus, open_corpus
from w2vlab.modules import MaskedPrediction

RATE = 16_000
PITCHES = {"pau": 0.0, "a": 300.0, "b": 700.0, "c": 1500.0}


def write_labelled(root: Path, utterances: int, seed: int = 0, labels: bool = True) -> Path:
    """Writes utterances of about 1.5 s in `root/wav`, and their labels in `root/lab`, as in a Festival voice."""
    (root / "wav").mkdir(parents=True)
    (root / "lab").mkdir()
    draw = np.random.default_rng(seed)
    for number in range(utterances):
        phones = ["pau", *draw.choice(["a", "b", "c"], 12).tolist(), "pau"]
        audio, lines, end = [], ["#"], 0.0
        for phone in phones:
            samples = int(draw.integers(1200, 2400))
            tone = np.sin(2 * np.pi * PITCHES[phone] * draw.uniform(0.95, 1.05) * np.arange(samples) / RATE)
            audio.append((0.3 if phone != "pau" else 0.0) * tone + 0.01 * draw.normal(size=samples))
            end += samples / RATE
            lines.append(f"{end:.5f} 125 {phone}")
        name = f"u{number:02}"
        soundfile.write(root / "wav" / f"{name}.wav", np.concatenate(audio), RATE)
        if labels:
            (root / "lab" / f"{name}.lab").write_text("\n".join(lines) + "\n")
    return root / "wav"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled"), 16)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def corpus(labelled: Path, shared_cache: Path) -> EvaluationCorpus:
    names = [path.name for path in sorted(labelled.glob("*.wav"))]
    split = labelled.parent / "split.json"
    split.write_text(json.dumps({"train": names[:9], "test": names[9:]}))
    return open_corpus(str(labelled), shared_cache, str(split))


def make_model(seed: int = 0, **parts: Any) -> MaskedPrediction:
    """A tiny model with a frame rate of 50 Hz, as speech models have, so that sequences are short."""
    torch.manual_seed(seed)
    encoder = partial(ConvFeatureEncoder, layers=[(8, 10, 5), (8, 8, 8), (8, 8, 8)])
    model: MaskedPrediction = build_model(MaskedPrediction, encoder=encoder, **parts)
    return model


@pytest.fixture
def model() -> MaskedPrediction:
    return make_model()
