"""What torchaudio cannot express is refused by the option's name, or written in another way that computes the same."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torchaudio
from torch.testing import assert_close

from tests.formats.torchaudio.models import GROUP, LAYER, build, complete, contexts, peer, read, their_contexts
from w2vlab.formats import Origin, PublishedModel
from w2vlab.formats.torchaudio import read_torchaudio, write_torchaudio


def published():
    return read(peer(GROUP).state_dict(), GROUP)


@pytest.mark.parametrize(
    ("part", "option", "value", "rule"),
    [
        ("encoder", "normalization", "group", "must be first_group or layer for torchaudio, .* but is group"),
        ("encoder", "activation", "relu", "must be gelu for torchaudio, which has nothing else, but is relu"),
        ("encoder", "log_compression", True, "must be false for torchaudio, which has nothing else, but is true"),
        ("encoder", "skip_connections", True, "must be false for torchaudio, which has nothing else, but is true"),
        (
            "context",
            "attention_positions",
            {"class_path": "w2vlab.positions.RotaryPositions", "init_args": {}},
            "must be null for torchaudio, which has nothing else, but is RotaryPositions",
        ),
        ("context", "qkv_bias", False, "must be true for torchaudio, which has nothing else, but is false"),
    ],
)
def test_options_that_torchaudio_does_not_have(tmp_path, part, option, value, rule):
    model = published()
    model.config = deepcopy(model.config)
    model.config["init_args"][part]["init_args"][option] = value
    with pytest.raises(ValueError, match=rf"`model\.{part}\.{option}` {rule}"):
        write_torchaudio(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_parts_that_torchaudio_does_not_have(tmp_path):
    model = published()
    model.config = deepcopy(model.config)
    model.config["init_args"]["context"]["class_path"] = "w2vlab.contexts.ConformerContext"
    with pytest.raises(
        ValueError, match=r"`model\.context` must be TransformerContext for torchaudio, .* ConformerCon"
    ):
        write_torchaudio(model, tmp_path / "model.pt")
    model = replace(published(), config={"class_path": "w2vlab.modules.FuturePrediction", "init_args": {}})
    with pytest.raises(ValueError, match=r"`model` must be MaskedPrediction .*, but is FuturePrediction"):
        write_torchaudio(model, tmp_path / "model.pt")
    model = published()
    model.config = deepcopy(model.config)
    model.config["init_args"]["inputs"] = "quantized"
    with pytest.raises(ValueError, match=r"`model\.inputs` must be continuous for torchaudio"):
        write_torchaudio(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"`out` must not end with \.json"):
        write_torchaudio(published(), tmp_path / "model.json")


def test_a_model_without_projection_is_written_with_the_identity(tmp_path):
    arguments = {**GROUP, "encoder_embed_dim": 16}
    model = read(peer(arguments).state_dict(), arguments)
    config = deepcopy(model.config)
    config["init_args"]["context"]["init_args"]["always_project"] = False
    weights = {name: tensor for name, tensor in model.weights.items() if "input_projection" not in name}
    ours = PublishedModel(config=config, weights=weights, missing=model.missing, origin=Origin(format="w2vlab"))
    notes = write_torchaudio(ours, tmp_path / "model.pt")
    assert "torchaudio always projects latents, so that a projection by the identity was written." in notes
    theirs = torchaudio.models.wav2vec2_model(**arguments).eval()
    theirs.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    waveform = torch.randn(1, 1000)
    assert_close(contexts(build(ours), waveform), their_contexts(theirs, waveform), rtol=1e-5, atol=1e-5)


def test_normalized_waveforms_are_stated_beside_the_weights(tmp_path):
    """torchaudio's model does not normalize: that is before it, as in its pipelines."""
    model = complete(read(peer(LAYER).state_dict(), LAYER, normalize_waveform=True))
    model.config["init_args"]["encoder"]["init_args"]["waveform_eps"] = 1e-3
    notes = write_torchaudio(model, tmp_path / "model.pt")
    content = json.loads((tmp_path / "model.json").read_text())
    assert (content["normalize_waveform"], content["sample_rate"]) == (True, 16_000)
    assert any("does not normalize waveforms" in note for note in notes)
    theirs = torchaudio.models.wav2vec2_model(**content["arguments"]).eval()
    theirs.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    waveform = 0.1 * torch.randn(1, 1000) + 0.05
    expected = their_contexts(theirs, torch.nn.functional.layer_norm(waveform, waveform.shape, eps=1e-3))
    for ours in (model, complete(read_torchaudio(theirs.state_dict(), tmp_path / "model.pt"))):
        assert_close(contexts(build(ours), waveform), expected, rtol=1e-5, atol=1e-5)
