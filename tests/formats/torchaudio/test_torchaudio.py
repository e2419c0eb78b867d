"""State dictionaries of torchaudio: the same features, in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from w2vlab.formats.files.tensors import open_safetensors
from w2vlab.formats.torchaudio import read_torchaudio, write_torchaudio
from w2vlab.modules import PretrainingModule
from w2vlab.modules.checkpoints import build_model, fill_defaults
from w2vlab.modules.sources import copy_weights
from w2vlab.types import AudioBatch

CONVS = [(16, kernel, stride) for kernel, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]]

GROUP = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": CONVS,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 24,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.2,
    "encoder_ff_interm_features": 40,
    "encoder_ff_interm_dropout": 0.3,
    "encoder_dropout": 0.4,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}
LAYER = {**GROUP, "extractor_mode": "layer_norm", "encoder_layer_norm_first": True, "extractor_conv_bias": True}

LAYOUTS = {
    "wav2vec2_base, wav2vec2_large, hubert_base": GROUP,
    "wav2vec2_large_lv60k, wav2vec2_xlsr_300m, _1b, _2b": LAYER,
    "hubert_large, hubert_xlarge": {**LAYER, "extractor_conv_bias": False},
    "group norm, bias, pre-norm": {**GROUP, "extractor_conv_bias": True, "encoder_layer_norm_first": True},
    "layer norm, post-norm, odd positions": {**LAYER, "encoder_layer_norm_first": False, "encoder_pos_conv_kernel": 7},
    "other convolutions, one group": {
        **GROUP,
        "extractor_conv_layer_config": [(8, 8, 4), (12, 5, 3), (20, 2, 1)],
        "encoder_pos_conv_groups": 1,
    },
    "equal widths": {**GROUP, "encoder_embed_dim": 16},
}

LABELS = ["-", "|", "e", "t", "'"]


def peer(arguments, seed=0):
    """A model of torchaudio in which no two tensors are alike."""
    torch.manual_seed(seed)
    model = torchaudio.models.wav2vec2_model(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def options_of(arguments, **more):
    """What the shapes of a toy model do not state."""
    return {
        "num_heads": arguments["encoder_num_heads"],
        "pre_norm": arguments["encoder_layer_norm_first"],
        "strides": [stride for _, _, stride in arguments["extractor_conv_layer_config"]],
        "normalize_waveform": False,
        **more,
    }


def complete(published):
    config = fill_defaults(published.config, PretrainingModule, "it", exclude=("optimizer", "scheduler"))
    return replace(published, config=config)


def read(state, arguments, source=Path("model.pt"), **more):
    return complete(read_torchaudio(state, source, options_of(arguments, **more)))


def build(published):
    model = build_model(published.config, PretrainingModule, "it")
    copy_weights(model, published, "it")
    return model.eval()


@torch.no_grad()
def contexts(model, waveform, num_samples=None):
    """The output of each Transformer layer, then the contexts."""
    layers = []
    hooks = [layer.register_forward_hook(lambda _, __, output: layers.append(output)) for layer in model.context.layers]
    samples = tuple([waveform.shape[1]] * len(waveform) if num_samples is None else num_samples)
    encoding = model.encode(AudioBatch(waveform=waveform, num_samples=samples, ids=("",) * len(samples)))
    context = model.context(model.context.project(encoding.latents), encoding.padding_mask)
    for hook in hooks:
        hook.remove()
    return [*layers, context]


@torch.no_grad()
def their_contexts(model, waveform, lengths=None):
    return [*model.extract_features(waveform, lengths)[0], model(waveform, lengths)[0]]


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


def test_what_we_write_is_loaded_strictly_and_states_everything(layout, tmp_path):
    arguments, _, ours = layout
    published = read(peer(arguments, seed=1).state_dict(), arguments)
    ours = build(published)
    path = tmp_path / "model.pt"
    write_torchaudio(replace(published, weights=ours.state_dict()), path)
    stated = json.loads(path.with_suffix(".json").read_text())
    expected = {**arguments, "extractor_conv_layer_config": [list(conv) for conv in CONVS]}
    if arguments["extractor_conv_layer_config"] != CONVS:
        expected["extractor_conv_layer_config"] = [list(c) for c in arguments["extractor_conv_layer_config"]]
    theirs = torchaudio.models.wav2vec2_model(**stated["arguments"]).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    waveform = torch.randn(2, 2000)
    assert_close(contexts(ours, waveform), their_contexts(theirs, waveform), rtol=1e-5, atol=1e-5)
    # Without options: the arguments beside the file state the dropouts, too, which our reader cannot see in weights.
    again = complete(read_torchaudio(torch.load(path, weights_only=True), path))
    assert again.origin.notes == []
    own = again.config["init_args"]["context"]["init_args"]
    found = {
        name: own[name]
        for name in ("input_dropout", "attention_dropout", "activation_dropout", "dropout", "layer_drop")
    }
    stated = stated["arguments"]
    assert list(found.values()) == [
        stated[f"encoder_{name}"]
        for name in ("projection_dropout", "attention_dropout", "ff_interm_dropout", "dropout", "layer_drop")
    ]
    assert {key: again.config["init_args"][key] for key in ("encoder", "context")}["encoder"] == published.config[
        "init_args"
    ]["encoder"]
    assert stated.keys() == expected.keys()
    dropouts = {name for name in expected if "drop" in name}
    assert {name: stated[name] for name in stated if name not in dropouts} == {
        name: expected[name] for name in expected if name not in dropouts
    }


def test_padding_enters_their_group_norm_and_not_ours_by_design():
    waveform = torch.randn(2, 4000)
    waveform[1, 1500:] = 0
    lengths = (4000, 1500)
    for name, arguments in (("group", GROUP), ("layer", LAYER)):
        theirs = peer(arguments)
        ours = build(read(theirs.state_dict(), arguments))
        frames = ours.encoder.num_frames(1500)
        own, other = contexts(ours, waveform, lengths)[-1][1], theirs(waveform, torch.tensor(lengths))[0][1]
        alone = contexts(ours, waveform[1:, :1500])[-1][0]
        assert_close(own[:frames], alone, rtol=1e-5, atol=1e-5)
        difference = (own - other)[:frames].norm() / own[:frames].norm()
        assert difference > 0.05 if name == "group" else difference < 1e-5
