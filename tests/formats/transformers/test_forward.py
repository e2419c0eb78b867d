"""Forward passes of folders of transformers, against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.formats.transformers.peers import LARGE, LAYOUTS, hidden_states, opened, peer, saved
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.modules.masked_prediction import MaskedPrediction

pytest.importorskip("transformers")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Absolute, of values of about 1."""

Opened = Callable[..., tuple[Any, MaskedPrediction]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Builds a model of transformers and opens its folder, once for each layout."""
    cache: dict[str, tuple[Any, MaskedPrediction]] = {}

    def build(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, MaskedPrediction]:
        key = f"{name} {dtype} {sorted(options.items())}"
        if key not in cache:
            model = peer(name, **options).to(dtype)
            cache[key] = model, opened(saved(model, tmp_path_factory.mktemp("folder"))).to(dtype)
        return cache[key]

    return build


def network(model: Any) -> Any:
    """Returns the model without its head."""
    return getattr(model, model.base_model_prefix, model)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.integers(30, 900),
    seed=st.integers(0, 2**31),
    amplitude=st.floats(1e-3, 1.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_all_hidden_states_are_those_of_transformers(
    pair: Opened, layout: str, samples: int, seed: int, amplitude: float, dtype: torch.dtype
) -> None:
    """In single precision at full level only: there, transformers' group norm rounds quiet audio to 3e-5."""
    theirs, ours = pair("Wav2Vec2ForPreTraining", dtype, **LAYOUTS[layout])
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    check(theirs, ours, noise if dtype == torch.float32 else amplitude * noise)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Wav2Vec2Model", {}),
        ("Wav2Vec2Model", LARGE),
        ("HubertModel", {}),
        ("HubertModel", LARGE),
        ("Data2VecAudioModel", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
        ("Data2VecAudioModel", {"conv_pos_kernel_size": 4, "num_conv_pos_embeddings": 2, "conv_bias": True}),
        ("UniSpeechModel", {}),
        ("UniSpeechSatModel", {}),
    ],
)
def test_models_without_a_quantizer(pair: Opened, name: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(name, **options)
    assert ours.num_codes == 0, "nobody reads codes of a random codebook"
    check(theirs, ours, torch.randn(2, 700))


@torch.no_grad()
def check(theirs: Any, ours: MaskedPrediction, waveform: Tensor) -> None:
    expected = network(theirs)(waveform, output_hidden_states=True)
    found = hidden_states(ours, waveform)
    assert len(found) == len(expected.hidden_states) == theirs.config.num_hidden_layers + 1
    tolerance = TOLERANCE[waveform.dtype]
    for layer, (state, wanted) in enumerate(zip(found[:-1], expected.hidden_states, strict=False)):
        assert torch.allclose(state, wanted, atol=tolerance, rtol=tolerance), f"layer {layer}"
    assert torch.allclose(found[-1], expected.last_hidden_state, atol=tolerance, rtol=tolerance), "last layer"


def test_padded_batches_of_layer_norm_models_agree(pair: Opened) -> None:
    theirs, ours = pair("Wav2Vec2Model", **LARGE)
    waveform, lengths = torch.randn(2, 800), (800, 410)
    waveform[1, lengths[1] :] = 0
    mask = torch.arange(800)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        expected = theirs(waveform, attention_mask=mask.long()).last_hidden_state
    found = hidden_states(ours, waveform, lengths)[-1]
    frames = ours.encoder.num_frames(lengths[1])
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.allclose(found[1, :frames], expected[1, :frames], atol=1e-6)


def test_padded_batches_of_group_norm_models_differ_by_design(pair: Opened) -> None:
    """The group norm of transformers includes padding; ours gives what the utterance gives alone."""
    theirs, ours = pair("Wav2Vec2Model")
    waveform, lengths = torch.randn(2, 800), (800, 410)
    waveform[1, lengths[1] :] = 0
    alone = waveform[1:, : lengths[1]]
    frames = ours.encoder.num_frames(lengths[1])
    with torch.no_grad():
        mask = torch.arange(800)[None] < torch.tensor(lengths)[:, None]
        padded = theirs(waveform, attention_mask=mask.long()).last_hidden_state[1, :frames]
        expected = theirs(alone).last_hidden_state[0]
    found = hidden_states(ours, waveform, lengths)[-1][1, :frames]
    assert torch.allclose(found, expected, atol=1e-5)
    assert (padded - expected).abs().max() > 1e-2, "transformers' padded batch differs from the utterance alone"


@pytest.mark.parametrize(("samples", "frames"), [(10, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_lengths_at_the_edge_of_a_frame(samples: int, frames: int) -> None:
    """Those of BASE: 400 samples a frame, every 320. transformers has -1 frames in 10 samples."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    network = SimpleNamespace(config=Wav2Vec2Config())
    theirs = int(Wav2Vec2Model._get_feat_extract_output_lengths(network, torch.tensor(samples)))
    assert theirs == (-1 if samples == 10 else frames)
    assert ConvFeatureEncoder().num_frames(samples) == frames


@pytest.mark.parametrize("amplitude", [1.0, 1e-2, 1e-4])
def test_normalized_waveforms_are_those_of_the_feature_extractor(tmp_path: Path, amplitude: float) -> None:
    """With its epsilon of 1e-7; fairseq's 1e-5 differs on quiet audio."""
    from transformers import Wav2Vec2FeatureExtractor

    theirs = peer("Wav2Vec2Model", **LARGE)
    ours = opened(saved(theirs, tmp_path, do_normalize=True))
    waveform = amplitude * torch.randn(1, 800)
    extract = Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = extract(waveform[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = theirs(inputs).last_hidden_state
    assert torch.allclose(hidden_states(ours, waveform)[-1], expected, atol=1e-5)
    if amplitude < 1e-3:
        ours.encoder.waveform_eps = 1e-5
        assert not torch.allclose(hidden_states(ours, waveform)[-1], expected, atol=1e-2)
