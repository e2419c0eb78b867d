"""Layers, codes and units as sources of frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.contracts.tiny import TINY_LAYERS, audio_batch, build_model
from w2vlab.contexts import GRUContext
from w2vlab.encoders import ConvFeatureEncoder, LogMelEncoder
from w2vlab.extraction.model_frames import ModelFrames, file_digest, open_model, parse_layers
from w2vlab.extraction.sources import Cutting, Stream, cutting_of, open_source
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import IdentityQuantizer

LENGTHS = (9_000, 16_000, 12_345)


@pytest.fixture(scope="module")
def model() -> PretrainingModule:
    torch.manual_seed(0)
    return build_model(MaskedPrediction).eval()


def test_layers_and_contexts_of_each_utterance(model: PretrainingModule) -> None:
    source = ModelFrames(model, layers=(0, 1), context=True)
    batch = audio_batch(LENGTHS)
    found = dict(source(batch))
    assert list(found) == list(batch.ids)
    assert [stream.name for stream in source.streams] == ["layer 0", "layer 1", "context"]
    for row, (name, samples) in enumerate(zip(batch.ids, LENGTHS, strict=True)):
        alone = batch.waveform[row, :samples]
        expected = model.features(alone, layers=[0, 1])
        for number in (0, 1):
            frames = found[name][f"layer {number}"]
            assert frames.shape == (model.num_frames(samples), source.streams[number].dim)
            assert torch.allclose(frames, expected[number][0], atol=1e-5)
        assert torch.allclose(found[name]["context"], model.features(alone)[0], atol=1e-5)
    assert source.min_samples == model.encoder.receptive_field
    assert cutting_of(source).reach is None


def test_codes_are_those_of_the_model(model: PretrainingModule) -> None:
    source = ModelFrames(model, codes=True)
    batch = audio_batch(LENGTHS)
    expected = model.codes(batch.waveform, LENGTHS)
    for row, (_, frames) in enumerate(source(batch)):
        assert torch.equal(frames["codes"], expected[row, : model.num_frames(LENGTHS[row])])
    quantizer = model.quantizer
    assert source.streams == (Stream(name="codes", dim=quantizer.num_codebooks, codebook_size=quantizer.codebook_size),)


def test_layers_above_the_highest_are_not_computed(model: PretrainingModule) -> None:
    source = ModelFrames(model, layers=(0,))

    def refuse(*_: object) -> None:
        raise AssertionError("a layer above was computed")

    layer = next(module for module in model.context.modules() if type(module).__name__ == "TransformerLayer")
    hook = layer.register_forward_hook(refuse)
    try:
        assert len(list(source(audio_batch(LENGTHS)))) == 3
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("normalization", "reach", "seconds"),
    [("layer", 0, 60.0), ("first_group", None, None), ("group", None, 120.0)],
)
def test_what_cutting_does_to_codes(normalization: str, reach: int | None, seconds: float | None) -> None:
    encoder = partial(ConvFeatureEncoder, layers=TINY_LAYERS["encoder"], normalization=normalization)
    source = ModelFrames(build_model(MaskedPrediction, encoder=encoder), codes=True)
    assert cutting_of(source) == Cutting(reach=reach, default_seconds=seconds)


def test_a_level_of_the_whole_recording_is_not_of_a_piece() -> None:
    layers = TINY_LAYERS["encoder"]
    encoder = partial(ConvFeatureEncoder, layers=layers, normalization="layer", normalize_waveform=True)
    source = ModelFrames(build_model(MaskedPrediction, encoder=encoder), codes=True)
    assert cutting_of(source) == Cutting(reach=None, default_seconds=None)
    mel = ModelFrames(build_model(MaskedPrediction, encoder=partial(LogMelEncoder, num_mels=8)), codes=True)
    assert cutting_of(mel) == Cutting(reach=None, default_seconds=120.0)


def test_names_of_layers(model: PretrainingModule) -> None:
    context = model.context_network()
    assert parse_layers("1, 0", context) == ((0, 1), False)
    assert parse_layers("context", context) == ((), True)
    assert parse_layers("all,context", context) == (tuple(range(len(parse_layers("all", context)[0]))), True)
    for wrong in ("7", "-1", "latents", "1.5"):
        with pytest.raises(
            ValueError, match=rf"^`layers` must be numbers from 0 to \d, context or all, .* has {wrong}"
        ):
            parse_layers(wrong, context)
    with pytest.raises(ValueError, match="but is empty"):
        parse_layers(" ,", context)
    recurrent = build_model(FuturePrediction, context=GRUContext).context_network()
    assert parse_layers("all", recurrent) == ((), True)
    with pytest.raises(ValueError, match=r"^`layers` must be context for GRUContext"):
        parse_layers("1", recurrent)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    missing = tmp_path / "centers.safetensors"
    for arguments, message in (
        ({"what": "units"}, "^`centers` must be a file of centers for units, but is None"),
        ({"what": "codes", "centers": missing}, "^`centers` must be left out for codes"),
        ({"what": "codes", "layers": "1"}, "^`layers` must be left out for codes, but is '1'"),
        ({"what": "units", "layers": "1", "centers": missing}, "the layer of units is that of the centers"),
        ({"what": "features"}, "^`source` must be an existing checkpoint file"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source("nothing.ckpt", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`source` must be a model with codebooks for codes, but is mfcc"):
        open_source("mfcc", "codes")
    with pytest.raises(ValueError, match=r"^`layers` must be left out for log-mel"):
        open_source("log-mel", "features", "1")


def test_a_model_without_codebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(MaskedPrediction, quantizer=IdentityQuantizer)
    path = tmp_path / "model.ckpt"
    path.touch()
    monkeypatch.setattr("w2vlab.extraction.model_frames.read_source", lambda *_, **__: _Published())
    monkeypatch.setattr("w2vlab.extraction.model_frames.build_model_of", lambda *_: model)
    with pytest.raises(
        ValueError, match=r"^`source` must be a model with codebooks for codes, .* has IdentityQuantizer"
    ):
        open_model(str(path), None)
    opened = open_model(str(path), "context")
    assert opened.provenance == {
        "source": str(path),
        "path": str(path),
        "blake2b": file_digest(path),
        "layer": "context",
    }


class _Published:
    class origin:
        notes = ()


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights 1")
    before = file_digest(weights.parent)
    assert before == file_digest(weights.parent)
    weights.write_bytes(b"weights 2")  # as another training of the same model
    assert before != file_digest(weights.parent)
    weights.write_bytes(b"weights 1")
    assert before == file_digest(weights.parent)
    weights.rename(weights.with_name("other.safetensors"))
    assert before != file_digest(weights.parent)
