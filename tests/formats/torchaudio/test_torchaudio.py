"""State dictionaries of torchaudio: the same features, in both directions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.formats.torchaudio.models import (
    GROUP,
    LAYER,
    LAYOUTS,
    build,
    complete,
    contexts,
    peer,
    read,
    their_contexts,
)
from w2vlab.formats.files.tensors import open_safetensors
from w2vlab.formats.torchaudio import read_torchaudio, write_torchaudio


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def layout(request):
    arguments = LAYOUTS[request.param]
    theirs = peer(arguments)
    return arguments, theirs, build(read(theirs.state_dict(), arguments))


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**31), num_samples=st.integers(400, 3000), batch=st.integers(1, 3), level=st.floats(1e-2, 2.0)
)
def test_all_layers_are_those_of_torchaudio(layout, seed, num_samples, batch, level):
    _, theirs, ours = layout
    waveform = torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(seed)) * level
    assert_close(contexts(ours, waveform), their_contexts(theirs, waveform), rtol=1e-5, atol=1e-5)


def test_there_and_back_gives_the_same_bytes(layout, tmp_path):
    arguments, theirs, _ = layout
    state = theirs.state_dict()
    for name in ("model.pt", "model.safetensors"):
        path = tmp_path / name
        write_torchaudio(read(state, arguments), path)
        found = torch.load(path, weights_only=True) if name.endswith("pt") else dict(open_safetensors(path)[0])
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_what_is_written_is_loaded_strictly_and_read_without_options(layout, tmp_path):
    arguments, _, _ = layout
    published = read(peer(arguments, seed=1).state_dict(), arguments)
    ours = build(published)
    path = tmp_path / "model.pt"
    # Dropouts are not stated by weights; the file beside them has those of our configuration.
    context = published.config["init_args"]["context"]["init_args"]
    context |= {"input_dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3, "dropout": 0.4}
    write_torchaudio(replace(published, weights=ours.state_dict()), path)
    stated = json.loads(path.with_suffix(".json").read_text())["arguments"]
    assert stated == arguments
    theirs = torchaudio.models.wav2vec2_model(**stated).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    waveform = torch.randn(2, 2000)
    assert_close(contexts(ours, waveform), their_contexts(theirs, waveform), rtol=1e-5, atol=1e-5)
    again = complete(read_torchaudio(torch.load(path, weights_only=True), path))
    assert again.config == published.config
    assert again.origin.notes == []


@pytest.mark.parametrize(("arguments", "is_equal"), [(GROUP, False), (LAYER, True)], ids=["group norm", "layer norm"])
def test_padding_enters_their_group_norm_and_not_ours_by_design(arguments, is_equal):
    """So that padded batches agree for layer norms alone; an utterance alone always does."""
    waveform = torch.randn(2, 4000)
    waveform[1, 1500:] = 0
    lengths = (4000, 1500)
    theirs = peer(arguments)
    ours = build(read(theirs.state_dict(), arguments))
    frames = ours.encoder.num_frames(1500)
    in_batch = contexts(ours, waveform, lengths)[-1][1, :frames]
    assert_close(in_batch, contexts(ours, waveform[1:, :1500])[-1][0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        other = theirs(waveform, torch.tensor(lengths))[0][1, :frames]
    difference = (in_batch - other).norm() / in_batch.norm()
    assert difference < 1e-5 if is_equal else difference > 0.05
