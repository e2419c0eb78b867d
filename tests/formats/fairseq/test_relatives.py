"""HuBERT, data2vec audio and WavLM, whose Transformers are wav2vec 2.0's, as features alone; and wav2vec's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.contracts.tiny import audio_batch
from tests.formats.fairseq.models import WAV2VEC2, checkpoint, filled, read, save, tensors_of
from w2vlab.formats.fairseq import write_fairseq
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.types import RandomAddress

HUBERT = {name: value for name, value in WAV2VEC2.items() if not name.startswith(("latent", "quantize", "num_neg"))}
HUBERT |= {"_name": "hubert", "untie_final_proj": True, "label_rate": 50.0, "skip_masked": False}


def hubert_tensors(options: dict[str, Any] = WAV2VEC2) -> dict[str, Tensor]:
    own = {
        "final_proj.weight": torch.ones(4, 8),
        "final_proj.bias": torch.ones(4),
        "label_embs_concat": torch.ones(9, 4),
    }
    return tensors_of(options, heads=False) | own


def context_of(path: Path) -> Tensor:
    model = build_model_of(read_source(path), path)
    assert isinstance(model, MaskedPrediction)
    with torch.no_grad():
        encoding = model.encode(audio_batch((4000,)))
        return model.context(model.context.project(encoding.latents), encoding.padding_mask)


@pytest.mark.parametrize("name", ["hubert", "data2vec_audio"])
def test_the_transformer_is_that_of_wav2vec2(tmp_path: Path, name: str) -> None:
    tensors = hubert_tensors()
    if name == "data2vec_audio":
        del tensors["label_embs_concat"]
        tensors["_ema"] = {"layers.0.fc1.weight": torch.ones(2)}  # type: ignore[assignment]
    path = save(tmp_path / "a.pt", checkpoint(HUBERT | {"_name": name}, tensors))
    model = read(path)
    assert model.missing == ("quantizer", "loss")
    assert model.config["init_args"]["quantizer"]["class_path"].endswith("IdentityQuantizer")
    assert model.origin.architecture == name
    same = save(tmp_path / "b.pt", checkpoint(WAV2VEC2, tensors_of(WAV2VEC2)))
    shared = tensors_of(WAV2VEC2) | tensors_of(WAV2VEC2, heads=False)
    save(same, checkpoint(WAV2VEC2, shared))
    assert torch.equal(context_of(path), context_of(same))
    with pytest.raises(ValueError, match=f"it came from {name}, as features alone"):
        write_fairseq(read_source(path), tmp_path / "out.pt")


def test_dictionaries_of_hubert_s_clusters_do_not_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published files hold `fairseq.data.dictionary.Dictionary`."""
    import sys
    import types

    module = types.ModuleType("fairseq.data.dictionary")
    dictionary = type("Dictionary", (), {"__module__": module.__name__})
    module.Dictionary = dictionary  # type: ignore[attr-defined]
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, module)
    clusters = dictionary()
    clusters.__dict__.update(symbols=["<s>", "0", "1"], count=[1, 1, 1], indices={"0": 1})
    path = save(tmp_path / "a.pt", checkpoint(HUBERT, hubert_tensors(), task_state={"dictionaries": [clusters]}))
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.delitem(sys.modules, name)
    assert read_pickle(path)["task_state"]["dictionaries"][0]["symbols"] == ["<s>", "0", "1"]
    assert read(path).origin.architecture == "hubert"
    assert not any(name.startswith("fairseq") for name in sys.modules)


def test_a_model_without_mask_embedding_says_so(tmp_path: Path) -> None:
    tensors = hubert_tensors()
    del tensors["mask_emb"]
    assert read(save(tmp_path / "a.pt", checkpoint(HUBERT, tensors))).missing == ("quantizer", "loss", "mask_embedding")


def test_data2vec_projects_latents_of_any_width(tmp_path: Path) -> None:
    narrow = HUBERT | {"_name": "data2vec_audio", "encoder_embed_dim": 6, "encoder_attention_heads": 3}
    tensors = tensors_of(WAV2VEC2 | narrow, heads=False)
    projection = {"post_extract_proj.weight": 2 * torch.eye(6), "post_extract_proj.bias": torch.ones(6)}
    path = save(tmp_path / "a.pt", checkpoint(narrow, tensors | projection))
    model = build_model_of(read_source(path), path)
    assert torch.equal(model.context.project(torch.ones(1, 2, 6)), torch.full((1, 2, 6), 3.0))


@pytest.mark.parametrize(("depth", "frames", "kernel"), [(2, 12, 6), (3, 10, 3), (5, 4, 3)])
def test_the_positions_of_data2vec(tmp_path: Path, depth: int, frames: int, kernel: int) -> None:
    """Several convolutions that share the frames of `conv_pos`, each with a norm without weights and GELU."""
    options = HUBERT | {"_name": "data2vec_audio", "pos_conv_depth": depth, "conv_pos": frames}
    tensors = tensors_of(WAV2VEC2 | options, heads=False)
    width, groups = WAV2VEC2["encoder_embed_dim"], WAV2VEC2["conv_pos_groups"]
    names = (f"encoder.pos_conv.{layer}.0" for layer in range(depth))
    layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]
    path = save(tmp_path / "a.pt", checkpoint(options, tensors))
    model = build_model_of(read_source(path), path)
    inputs = torch.randn(1, 20, width)
    expected = inputs.transpose(1, 2)
    for weight, bias in layers:
        expected = F.conv1d(expected, weight, bias, padding=kernel // 2, groups=groups)[..., :20]
        expected = F.gelu(F.layer_norm(expected.transpose(1, 2), (width,))).transpose(1, 2)
    assert torch.allclose(model.context.positions(inputs), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("relative_position_embedding", True), ("conv_pos_batch_norm", True)])
def test_other_positions_are_refused_by_name(tmp_path: Path, option: str, value: Any) -> None:
    """Those of WavLM (whose files have the options of the model alone) and of HuBERT in bfloat16."""
    flat = {name: value for name, value in HUBERT.items() if name != "_name"} | {option: value, "normalize": False}
    path = save(tmp_path / "a.pt", {"cfg": flat, "model": hubert_tensors()})
    with pytest.raises(ValueError, match=f"`{option}` must be"):
        read(path)


def test_wavlm_without_relative_positions_is_hubert(tmp_path: Path) -> None:
    flat = {name: value for name, value in HUBERT.items() if name != "_name"} | {"relative_position_embedding": False}
    path = save(tmp_path / "a.pt", {"cfg": flat | {"gru_rel_pos": False}, "model": hubert_tensors()})
    other = save(tmp_path / "b.pt", checkpoint(HUBERT, hubert_tensors()))
    assert torch.equal(context_of(path), context_of(other))


WAV2VEC: dict[str, Any] = {
    "_name": "wav2vec",
    "conv_feature_layers": "[(4, 10, 5), (4, 8, 4), (4, 4, 2)]",
    "conv_aggregator_layers": "[(4, 2, 1), (6, 3, 1)]",
    "prediction_steps": 3,
    "num_negatives": 2,
}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gumbel": {"vq_type": "gumbel", "vq_vars": 5, "activation": "gelu", "vq_depth": 2},
    "gumbel, shared": {"vq_type": "gumbel", "vq_vars": 5, "combine_groups": True},
    "kmeans": {"vq_type": "kmeans", "vq_vars": 5, "vq_gamma": 0.5},
    "kmeans, shared": {"vq_type": "kmeans", "vq_vars": 5, "combine_groups": True, "vq_dim": 4},
    "other options": {"infonce": True, "offset": "2", "agg_zero_pad": True, "skip_connections_feat": True}
    | {"log_compression": False, "residual_scale": 0.25},
    "plain context": {"skip_connections_agg": False, "balanced_classes": True},
}


def wav2vec_tensors(o: dict[str, Any]) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, kernel in enumerate((10, 8, 4)):
        shapes[f"feature_extractor.conv_layers.{index}.0.weight"] = (4, 4 if index else 1, kernel)
        shapes |= {f"feature_extractor.conv_layers.{index}.2.{kind}": (4,) for kind in ("weight", "bias")}
    for index, (before, after, kernel) in enumerate(((4, 4, 2), (4, 6, 3))):
        name = f"feature_aggregator.conv_layers.{index}"
        shapes |= {f"{name}.1.weight": (after, before, kernel), f"{name}.1.bias": (after,)}
        shapes |= {f"{name}.3.weight": (after,), f"{name}.3.bias": (after,)}
    if o.get("skip_connections_agg", True):
        shapes["feature_aggregator.residual_proj.1.weight"] = (6, 4, 1)
    shapes["wav2vec_predictions.project_to_steps.weight"] = (6, 4, 1, 3)
    shapes["wav2vec_predictions.project_to_steps.bias"] = (4,)
    groups = 1 if o.get("combine_groups") else 2
    if o.get("vq_type") == "kmeans":
        shapes["vector_quantizer.embedding"] = (5, groups, 2)
        shapes["vector_quantizer.projection.0.weight"] = (4, 2, 1)
        shapes |= {f"vector_quantizer.projection.1.{kind}": (4,) for kind in ("weight", "bias")}
    if o.get("vq_type") == "gumbel":
        shapes["vector_quantizer.vars"] = (1, groups * 5, 2)
        deep = o.get("vq_depth", 1) > 1
        if deep:
            shapes["vector_quantizer.weight_proj.0.0.weight"] = (8, 4)
            shapes["vector_quantizer.weight_proj.0.0.bias"] = (8,)
        last = "vector_quantizer.weight_proj" + (".1" if deep else "")
        shapes |= {f"{last}.weight": (10, 8 if deep else 4), f"{last}.bias": (10,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_wav2vec_is_built_trained_and_written(tmp_path: Path, name: str) -> None:
    options = WAV2VEC | QUANTIZERS[name]
    criterion = {"_name": "wav2vec", "infonce": options.get("infonce", False)}
    if options.get("vq_type") == "kmeans":
        criterion["loss_weights"] = [1.0]
    path = save(tmp_path / "a.pt", checkpoint(options, wav2vec_tensors(options), cfg={"criterion": criterion}))
    published = read_source(path)
    assert published.origin.notes == []
    model = build_model_of(published, path)
    assert isinstance(model, FuturePrediction)
    batch = audio_batch((4000, 3000))
    output = model.train()(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
    assert torch.isfinite(output.prediction.total)
    published.weights = model.state_dict()
    before = read_pickle(path)
    for origin in ("fairseq", "w2vlab"):
        published.origin.format = origin
        assert write_fairseq(published, tmp_path / "out.pt") == []
        after = read_pickle(tmp_path / "out.pt")
        assert after["model"].keys() == before["model"].keys()
        assert all(torch.equal(after["model"][key], tensor) for key, tensor in before["model"].items())
        assert read_source(tmp_path / "out.pt").config == published.config
    del options["conv_feature_layers"], options["conv_aggregator_layers"], options["_name"]
    options.pop("vq_dim", None)
    assert after["cfg"]["model"].items() >= options.items()


def test_old_namespaces_have_other_defaults(tmp_path: Path) -> None:
    """Until 2020 the command line added neither logarithms nor skip connections by itself."""
    import argparse

    options = {name: value for name, value in WAV2VEC.items() if name not in ("_name", "num_negatives")}
    tensors = wav2vec_tensors({"skip_connections_agg": False})
    path = save(tmp_path / "a.pt", {"args": argparse.Namespace(arch="audio_cpc", **options), "model": tensors})
    config = read(path).config["init_args"]
    assert config["encoder"]["init_args"]["log_compression"] is False
    assert config["context"]["init_args"]["skip_connections"] is False
    assert config["loss"]["init_args"]["num_negatives"] == 1
    write_fairseq(filled(read(path), path), tmp_path / "out.pt")
    assert torch.load(tmp_path / "out.pt", weights_only=False)["args"].arch == "audio_cpc"


def test_the_diversity_of_vq_wav2vec_is_not_divided_by_its_entries(tmp_path: Path) -> None:
    options = WAV2VEC | QUANTIZERS["gumbel"]
    cfg = {"criterion": {"_name": "wav2vec", "loss_weights": [0.5]}}
    path = save(tmp_path / "a.pt", checkpoint(options, wav2vec_tensors(options), cfg=cfg))
    assert build_model_of(read_source(path), path).penalties["diversity"].weight == 0.5 * 2 * 5
    published = read_source(path)
    published.origin.format = "w2vlab"
    write_fairseq(published, tmp_path / "out.pt")
    assert read_pickle(tmp_path / "out.pt")["cfg"]["criterion"]["loss_weights"] == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "gru"}, "`aggregator` must be cnn, but is gru .* over the utterances of a batch"),
        ({"no_conv_bias": True}, "`no_conv_bias` must be false"),
        ({"non_affine_group_norm": True}, "`non_affine_group_norm` must be false"),
        ({"project_features": "same"}, "`project_features` must be none, but is same"),
        ({"conv_aggregator_layers": "[(4, 2, 2)]"}, "`conv_aggregator_layers` must be of stride 1"),
        ({"activation": "tanh"}, "`activation` must be relu or gelu, but is tanh"),
        ({"vq_type": "other"}, "`vq_type` must be none, gumbel or kmeans, but is other"),
        ({"vq_type": "kmeans", "vq_dim": 8}, "`vq_dim` must be 4, but is 8"),
        ({"offset": "soon"}, "`offset` must be auto or an integer, but is soon"),
    ],
)
def test_options_of_wav2vec_that_cannot_be_expressed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.pt", checkpoint(WAV2VEC | options, wav2vec_tensors(WAV2VEC)))
    with pytest.raises(ValueError, match=message):
        read(path)


def test_what_only_trains_otherwise_is_noted(tmp_path: Path) -> None:
    options = WAV2VEC | {"dropout": 0.1, "dropout_agg": 0.2, "cross_sample_negatives": 3, "sample_distance": 40}
    notes = read(save(tmp_path / "a.pt", checkpoint(options, wav2vec_tensors(WAV2VEC)))).origin.training_notes
    for option in ("dropout_agg", "cross_sample_negatives", "sample_distance", "dropout"):
        assert any(note.startswith(f"`{option}` was ") for note in notes)


def test_models_of_text_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", checkpoint({"_name": "roberta"}, {"encoder.layers.0.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"must be a model of speech, but has no `feature_extractor` \(roberta\)"):
        read(path)
