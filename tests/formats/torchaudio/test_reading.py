"""What a state dictionary of torchaudio does not state, other names of its tensors, and files that are refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
import torchaudio
from torch.testing import assert_close

from tests.formats.torchaudio.models import (
    GROUP,
    LAYER,
    build,
    contexts,
    options_of,
    peer,
    perturbed,
    read,
    their_contexts,
)
from w2vlab.formats import HEAD
from w2vlab.formats.torchaudio import is_torchaudio, read_torchaudio, write_torchaudio

SOURCE = Path("model.pt")
POSITIONS = "encoder.transformer.pos_conv_embed.conv"
NEW = (f"{POSITIONS}.parametrizations.weight.original0", f"{POSITIONS}.parametrizations.weight.original1")
CTC = {**GROUP, "aux_num_out": 6}


@functools.cache
def _state(aux=None):
    return peer({**GROUP, "aux_num_out": aux}).state_dict()


def state(aux=None):
    return dict(_state(aux))


PUBLISHED = {
    "wav2vec2_base": (768, 12, 12, 3072, False),
    "wav2vec2_large": (1024, 24, 16, 4096, False),
    "wav2vec2_large_lv60k": (1024, 24, 16, 4096, True),
    "wav2vec2_xlsr_300m": (1024, 24, 16, 4096, True),
    "wav2vec2_xlsr_1b": (1280, 48, 16, 5120, True),
    "wav2vec2_xlsr_2b": (1920, 48, 16, 7680, True),
    "hubert_base": (768, 12, 12, 3072, False),
    "hubert_large": (1024, 24, 16, 4096, True),
    "hubert_xlarge": (1280, 48, 16, 5120, True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_need_no_options_and_what_is_assumed_is_noted(name):
    with torch.device("meta"):
        tensors = getattr(torchaudio.models, name)().state_dict()
    model = read_torchaudio(tensors, SOURCE)
    encoder, context = (model.config["init_args"][part]["init_args"] for part in ("encoder", "context"))
    width, num_layers, num_heads, feedforward, is_large = PUBLISHED[name]
    assert encoder == {
        "layers": [[512, 10, 5], *[[512, 3, 2]] * 4, *[[512, 2, 2]] * 2],
        "normalization": "layer" if is_large else "first_group",
        "bias": is_large and not name.startswith("hubert"),
        "normalize_waveform": is_large,
    }
    assert context == {
        "model_dim": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "feedforward_dim": feedforward,
        "pre_norm": is_large,
        "position_kernel": 128,
        "position_groups": 16,
    }
    assert [note.split("`")[1] for note in model.origin.notes] == ["normalize_waveform", "num_heads", "pre_norm"]
    assert model.missing == ("quantizer", "loss", "mask_embedding")


@pytest.mark.parametrize("form", ["older names", "no weight norm", "pipeline"])
def test_other_names(form, tmp_path):
    tensors = state()
    if form == "older names":
        tensors[f"{POSITIONS}.weight_g"], tensors[f"{POSITIONS}.weight_v"] = (tensors.pop(name) for name in NEW)
    elif form == "no weight norm":
        norms, direction = (tensors.pop(name) for name in NEW)
        tensors[f"{POSITIONS}.weight"] = direction * norms / direction.norm(dim=(0, 1), keepdim=True)
    else:
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    assert is_torchaudio(tensors)
    published = read(tensors, GROUP)
    waveform = torch.randn(1, 1000)
    theirs = their_contexts(peer(GROUP), waveform)
    assert_close(contexts(build(published), waveform), theirs, rtol=1e-5, atol=1e-5)
    write_torchaudio(published, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    if form == "older names":  # as it came
        assert found.keys() == tensors.keys()
    torchaudio.models.wav2vec2_model(**GROUP).load_state_dict(found, strict=True)


def test_hubert_in_pretraining_is_read_with_its_mask_embedding():
    arguments = {name: value for name, value in LAYER.items() if name != "aux_num_out"}
    masks = {"mask_prob": 0.8, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10}
    spacing = {"no_mask_overlap": False, "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_length": 10}
    channels = {"mask_channel_selection": "static", "mask_channel_other": 0.0, "mask_channel_min_space": 1}
    rest = {"no_mask_channel_overlap": False, "skip_masked": False, "skip_nomask": False, "num_classes": 7}
    theirs = torchaudio.models.hubert_pretrain_model(
        **arguments, **masks, **spacing, **channels, **rest, final_dim=5, feature_grad_mult=0.1
    )
    theirs = perturbed(theirs)
    published = read(theirs.state_dict(), LAYER)
    assert (published.origin.architecture, published.missing) == ("HuBERTPretrainModel", ("quantizer", "loss"))
    ours = build(published)
    assert torch.equal(ours.mask_embedding, theirs.mask_generator.mask_embedding)
    waveform = torch.randn(2, 1500)
    assert_close(contexts(ours, waveform), their_contexts(theirs.wav2vec2, waveform), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "entries"),
    [
        (["-", "|", "e", "t", "'", "<unk>"], ["<blank>", " ", "e", "t", "'", "<unk>"]),
        (["e", "|", "t", "[UNK]", "[PAD]", "'"], ["<blank>", "e", " ", "t", "<unk>", "'"]),
        (["<s>", "<pad>", "</s>", "<unk>", "|", "e"], ["<blank>", "<pad>", "</s>", "<unk>", " ", "e"]),
        (["-", "|", "e"], ["<blank>", "<pad>", "</s>", "<unk>", " ", "e"]),
        (["-", "aa", "b", "|", "d", "e"], ["<blank>", "aa", "b", "|", "d", "e"]),
    ],
)
def test_ctc_with_labels_there_and_back(labels, entries, tmp_path):
    tensors = state(6)
    published = read(tensors, CTC, labels=labels)
    assert published.vocabulary.entries == tuple(entries)
    assert published.vocabulary.units == ("phones" if "aa" in labels else "characters")
    ours = build(published)
    waveform = torch.randn(2, 1000)
    logits = torch.nn.functional.linear(contexts(ours, waveform)[-1], *(published.weights[name] for name in HEAD))
    stated = published.origin.options["labels"]
    rows = [stated.index("[PAD]"), 0, 1, 2, 3, 5] if "[PAD]" in labels else list(range(6))
    with torch.no_grad():
        assert_close(logits, peer(CTC)(waveform)[0][..., rows], rtol=1e-5, atol=1e-5)
    path = tmp_path / "model.pt"
    write_torchaudio(published, path)
    found = torch.load(path, weights_only=True)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    beside = json.loads(path.with_suffix(".json").read_text())
    assert (beside["labels"], beside["arguments"]["aux_num_out"]) == (stated, 6)
    assert read_torchaudio(found, path).vocabulary == published.vocabulary


def test_labels_are_asked_for_and_checked():
    with pytest.raises(ValueError, match=r"`labels` must be given for model\.pt.*: 6 units in the order of the rows"):
        read(state(6), CTC)
    with pytest.raises(ValueError, match=r"`labels` must have 6 entries, .*, but has 4"):
        read(state(6), CTC, labels=["-", "a", "b", "c"])
    with pytest.raises(ValueError, match="`labels` must differ from each other, but 'a' is there more than once"):
        read(state(6), CTC, labels=["-", "a", "b", "c", "a", "d"])
    published = read(state(6), CTC, labels=[])
    assert published.vocabulary is None
    assert not set(HEAD) & published.weights.keys()
    assert "was left out" in published.origin.notes[0]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"num_heads": None}, r"`num_heads` must be given for model\.pt, because its width, 24, is not"),
        ({"num_heads": 5}, "`num_heads` must divide the width of model.pt, 24, but is 5"),
        ({"num_heads": "four"}, "`num_heads` must be a positive number, but is 'four'"),
        ({"strides": [5, 2]}, r"`strides` must have 7 numbers, .*, but is \[5, 2\]"),
        ({"strides": "52"}, "`strides` must be a list of positive numbers, but is '52'"),
        ({"pre_norm": 1}, "`pre_norm` must be true or false, but is 1"),
        ({"labels": "-|e"}, "`labels` must be a list of texts"),
        ({"heads": 4}, r"`heads` must be an option of torchaudio's state dictionaries \(num_heads, pre_norm, strides"),
    ],
)
def test_options_are_checked(given, rule):
    with pytest.raises(ValueError, match=rule):
        read_torchaudio(state(), SOURCE, {**options_of(GROUP), **given})


def test_strides_are_asked_for_if_the_kernels_are_not_published():
    arguments = {**GROUP, "extractor_conv_layer_config": [[8, 8, 4], [12, 5, 3]]}
    with pytest.raises(ValueError, match=r"`strides` must be given for model\.pt: one for each of the 2 convolutions"):
        read(peer(arguments).state_dict(), arguments, strides=None)


def changed(**changes):
    tensors = state()
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


LAST = "encoder.transformer.layers.2.final_layer_norm.bias"
CONV = "feature_extractor.conv_layers.1.conv.weight"


@pytest.mark.parametrize(
    ("tensors", "rule"),
    [
        (changed(**{LAST: None}), f"but {LAST} is missing"),
        (changed(**{"encoder.more": torch.zeros(2)}), "but encoder.more is unknown"),
        (changed(**{CONV: torch.zeros(16, 16)}), f"{CONV} of model.pt must have 3 dimensions"),
        (changed(**{CONV: torch.zeros(16, 16, 3).to(torch.int8)}), f"but {CONV} is of type torch.int8"),
        (changed(**{NEW[1]: torch.zeros(24, 7, 16)}), "must have groups of equal width, but 24 channels have filters"),
        (changed(**{"encoder.feature_projection.projection.weight": None}), "projection.weight is missing"),
        ({"weight": torch.zeros(2)}, "must be a state dictionary of torchaudio's Wav2Vec2Model, but is not"),
        (
            {**{f"model.{name}": tensor for name, tensor in state().items()}, "other\n": torch.zeros(2)},
            r"must have the tensors of a Wav2Vec2Model alone, but has other\\n",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_in_a_line(tensors, rule):
    with pytest.raises(ValueError, match=rule) as caught:
        read(tensors, GROUP)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_name_both():
    published = read(changed(**{LAST: torch.zeros(23)}), GROUP)
    with pytest.raises(ValueError, match=r"context\.layers\.2\.feedforward_norm\.bias \(24; the file: 23\)"):
        build(published)


def test_wavlm_is_refused_by_the_name_of_its_positions():
    arguments = {name: value for name, value in GROUP.items() if name != "extractor_conv_layer_config"}
    theirs = torchaudio.models.wavlm_model(
        **arguments,
        extractor_conv_layer_config=[tuple(conv) for conv in GROUP["extractor_conv_layer_config"]],
        encoder_num_buckets=8,
        encoder_max_distance=16,
    )
    assert is_torchaudio(theirs.state_dict())
    with pytest.raises(ValueError, match="but is a WavLM: w2vlab has no gated relative positions"):
        read(theirs.state_dict(), GROUP)


def test_half_precision_is_kept_as_long_as_it_is_exact(tmp_path):
    tensors = {name: tensor.half() for name, tensor in state().items()}
    published = read(tensors, GROUP)
    assert published.origin.dtypes.keys() == tensors.keys()
    published.weights = {name: tensor.float() for name, tensor in published.weights.items()}  # as in a module
    published.weights["norm.bias"] = published.weights["norm.bias"] + 1e-6
    write_torchaudio(published, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    other = {name for name, tensor in found.items() if tensor.dtype != torch.float16}
    assert other == {"encoder.feature_projection.layer_norm.bias"}
    assert all(torch.equal(found[name], tensors[name]) for name in found.keys() - other)


def test_a_wrong_file_of_arguments_is_named_and_another_json_is_left_alone(tmp_path):
    path = tmp_path / "model.pt"
    write_torchaudio(read(state(), GROUP), path)
    beside = path.with_suffix(".json")
    content = json.loads(beside.read_text())
    content["arguments"]["encoder_num_heads"] = "many"
    beside.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model\.json must have the arguments of torchaudio\.models\.wav2vec2_model"):
        read_torchaudio(state(), path)
    for text in ("{}", "[]", "{", json.dumps({"model": "other"})):
        beside.write_text(text)
        with pytest.raises(ValueError, match="`num_heads` must be given"):
            read_torchaudio(state(), path)
