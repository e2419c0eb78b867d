"""Folders of transformers with values that nobody meant, or that transformers reads in its own way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.formats.transformers.peers import built, peer, saved
from tests.formats.transformers.test_reading import edited, rewritten
from w2vlab.formats.transformers import read_transformers
from w2vlab.modules.sources import read_source

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(peer("Wav2Vec2Model"), tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dropout": math.nan}, "hidden_dropout must be a finite number, but is nan"),
        ({"mask_time_prob": -math.inf}, "mask_time_prob must be a finite number, but is -inf"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be of at most 1,000 layers, but is 1000000000000"),
        ({"conv_dim": [16] * 5000}, "conv_dim must be of at most 1,000 layers, but is 5000"),
        ({"model_type": "data2vec-audio", "num_conv_pos_embeddings": 10**12}, "num_conv_pos_embeddings must be of at"),
    ],
)
def test_numbers_without_end_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_transformers(edited(folder, **options))


def test_the_newer_of_two_preprocessors_counts_as_in_transformers(folder: Path) -> None:
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False}}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    theirs = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder).do_normalize
    ours = read_transformers(folder).config["init_args"]["encoder"]["init_args"]["normalize_waveform"]
    assert ours is theirs is False


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({"do_normalize": 1}, "do_normalize must be true or false, but is 1 .preprocessor_config.json of"),
        ({"do_normalize": "false"}, "do_normalize must be true or false, but is false"),
        ({"do_normalize": None}, "do_normalize must be true or false, but is None"),
        ({"sampling_rate": "\x1b[31m\n"}, r"sampling_rate must be 16000, but is \\x1b\[31m\\n \("),
    ],
)
def test_preprocessors_that_are_refused(folder: Path, preprocessor: dict[str, Any], message: str) -> None:
    """transformers takes any value as true or false, and `"false"` as true."""
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    with pytest.raises(ValueError, match=message):
        read_transformers(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "config.json must be a JSON file, but cannot be read .it is nested deeper"),
        ('{"model_type": "wav2vec2", "a": "' + "a" * (17 << 20) + '"}', "cannot be read .it has 17 MiB"),
        ("[]", "config.json must be a mapping, but is not"),
        ("{}", "model_type must be one of wav2vec2, .*, but is null"),
    ],
)
def test_a_damaged_configuration_is_not_said_to_be_missing(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_source(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_not_floats_are_refused(folder: Path, dtype: torch.dtype) -> None:
    """Quantized weights mean nothing without their scales; copying would convert them silently."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, "encoder.layer_norm.bias": tensors["encoder.layer_norm.bias"].to(dtype)}

    with pytest.raises(ValueError, match=rf"context.norm.bias is of type {dtype}, and not torch.float32"):
        built(read_transformers(rewritten(folder, change)))


def test_names_of_tensors_are_shown_in_one_line(folder: Path) -> None:
    name = "encoder.\x1b[31m\n" + 5000 * "x"
    with pytest.raises(ValueError, match=r"encoder.\\x1b\[31m\\nx+… is unknown") as problem:
        read_transformers(rewritten(folder, lambda tensors: {**tensors, name: torch.zeros(1)}))
    assert str(problem.value).isprintable()
    assert len(str(problem.value)) < 1000


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("name", ["../a", "a\\b", "..", "", "a\n", "\x1b[31m", "\ud800", 5000 * "a", 7])
def test_an_index_names_files_beside_it(folder: Path, index: str, name: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / index).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="must be an index of") as problem:
        read_transformers(folder)
    assert str(problem.value).isprintable()
