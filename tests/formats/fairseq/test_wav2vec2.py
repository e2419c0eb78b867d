"""wav2vec 2.0 in fairseq's layouts, at toy widths: options, tensors, and there and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch
from tests.formats.fairseq.models import WAV2VEC2, XLSR, checkpoint, filled, read, save, tensors_of
from w2vlab.formats import PublishedModel
from w2vlab.formats.fairseq import is_fairseq, write_fairseq
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import MaskedPrediction
from w2vlab.modules.opening import build_model_of
from w2vlab.types import RandomAddress

NARROW = WAV2VEC2 | {"encoder_embed_dim": 6, "encoder_attention_heads": 3}
"""The Transformer is as wide as the latents: the file has no `post_extract_proj`."""

VARIANTS = {
    "base": WAV2VEC2,
    "XLS-R": XLSR,
    "narrow": NARROW,
    "convolutions with bias": WAV2VEC2 | {"conv_bias": True},
    "deep quantizer": WAV2VEC2 | {"quantizer_depth": 3, "quantizer_factor": 2},
    "gated targets": WAV2VEC2 | {"target_glu": True},
    "continuous targets": WAV2VEC2 | {"quantize_targets": False},
    "quantized inputs": WAV2VEC2 | {"quantize_input": True},
    "quantized inputs of another width": WAV2VEC2 | {"quantize_input": True, "latent_dim": 6},
    "positions of data2vec": WAV2VEC2 | {"pos_conv_depth": 2, "conv_pos": 12},
    "one quantizer": WAV2VEC2 | {"quantize_input": True, "same_quantizer": True},
}


def write(path: Path, options: dict[str, Any], **further: Any) -> Path:
    return save(path, checkpoint(options, tensors_of(options), **further))


def built(path: Path) -> MaskedPrediction:
    model = build_model_of(filled(read(path), path), path)
    assert isinstance(model, MaskedPrediction)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_built_and_written_as_they_came(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "in.pt", VARIANTS[name])
    published = filled(read(path), path)
    assert published.missing == ()
    model = built(path)
    published.weights = model.state_dict()
    assert write_fairseq(published, tmp_path / "out.pt") == []
    before, after = read_pickle(path), read_pickle(tmp_path / "out.pt")
    assert after["cfg"] == before["cfg"]
    assert after["optimizer_history"][0]["num_updates"] == 40
    assert after["model"].keys() == before["model"].keys()
    for tensor_name, tensor in before["model"].items():
        assert torch.equal(after["model"][tensor_name], tensor), tensor_name
    # And it trains.
    batch = audio_batch((4000, 3000))
    output = model.train()(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
    assert torch.isfinite(output.prediction.total)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_of_ours_gets_options_that_are_read_as_the_same_model(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "in.pt", VARIANTS[name], cfg={"criterion": {"_name": "wav2vec", "infonce": True}})
    published = filled(read(path), path)
    published.origin.format = "w2vlab"
    assert write_fairseq(published, tmp_path / "out.pt") == []
    again = filled(read(tmp_path / "out.pt"), path)
    assert again.config == published.config
    assert (again.origin.notes, again.origin.training_notes) == ([], [])
    for tensor_name, tensor in published.weights.items():
        assert torch.equal(again.weights[tensor_name], tensor)


def test_options_are_those_of_the_file(tmp_path: Path) -> None:
    options = XLSR | {
        "dropout": 0.2,
        "attention_dropout": 0.3,
        "activation_dropout": 0.4,
        "dropout_input": 0.5,
        "dropout_features": 0.6,
        "encoder_layerdrop": 0.7,
        "feature_grad_mult": 0.25,
        "logit_temp": 0.2,
        "cross_sample_negatives": 3,
        "codebook_negatives": 4,
        "negatives_from_everywhere": True,
        "mask_prob": 0.5,
        "mask_selection": "uniform",
        "mask_other": 1,
        "no_mask_overlap": True,
        "mask_min_space": 2,
        "require_same_masks": False,
        "mask_dropout": 0.1,
        "mask_channel_prob": 0.3,
        "mask_channel_length": 2,
        "mask_channel_before": True,
    }
    criterion = {"_name": "wav2vec", "infonce": True, "loss_weights": [0.2, 0]}
    path = write(tmp_path / "in.pt", options, task={"normalize": True}, cfg={"criterion": criterion})
    config = read(path).config["init_args"]
    encoder, context = config["encoder"]["init_args"], config["context"]["init_args"]
    assert encoder["layers"] == [[6, 10, 5], [6, 3, 2], [6, 3, 2], [6, 2, 2]]
    assert (encoder["normalization"], encoder["bias"], encoder["normalize_waveform"]) == ("layer", True, True)
    assert encoder["gradient_scale"] == 0.25
    assert context == {
        "model_dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "feedforward_dim": 12,
        "pre_norm": True,
        "position_kernel": 4,
        "position_groups": 2,
        "dropout": 0.2,
        "attention_dropout": 0.3,
        "activation_dropout": 0.4,
        "input_dropout": 0.5,
        "layer_drop": 0.7,
        "activation_checkpointing": True,
        "always_project": False,
        "position_layers": 1,
    }
    assert config["feature_dropout"] == 0.6
    assert config["quantizer"]["init_args"] == {
        "num_codebooks": 2,
        "codebook_size": 3,
        "output_dim": 6,
        "shared_codebook": False,
        "projection_depth": 1,
        "projection_factor": 3,
        "projection_activation": "gelu",
        "temperature_start": 2.0,
        "temperature_end": 0.1,
        "temperature_decay": 0.999995,
    }
    assert config["loss"]["init_args"] == {
        "projection_dim": 4,
        "num_negatives": 5,
        "logit_temperature": 0.2,
        "num_other_negatives": 3,
        "num_codebook_negatives": 4,
        "negatives_from": "anywhere",
        "target_projection": "linear",
    }
    assert config["masking"] == {
        "class_path": "w2vlab.masking.ChannelMasking",
        "init_args": {
            "frames": {
                "class_path": "w2vlab.masking.SpanMasking",
                "init_args": {
                    "probability": 0.5,
                    "length": 2,
                    "equalize": "none",
                    "length_distribution": "uniform",
                    "length_spread": 1.0,
                    "overlap": False,
                    "min_space": 2,
                    "frame_dropout": 0.1,
                },
            },
            "channel_probability": 0.3,
            "channel_length": 2,
            "before": True,
        },
    }
    assert list(config["penalties"]) == ["diversity"]
    assert built(path).penalties["diversity"].weight == 0.2
    # All of them are written again for another origin.
    published = filled(read(path), path)
    published.origin.format = "w2vlab"
    write_fairseq(published, tmp_path / "out.pt")
    written = read_pickle(tmp_path / "out.pt")["cfg"]
    del options["latent_temp"], options["conv_feature_layers"]
    assert written["model"].items() >= options.items()
    assert written["model"]["latent_temp"] == [2.0, 0.1, 0.999995]
    assert written["model"]["conv_feature_layers"] == "[(6, 10, 5)] + [(6, 3, 2)] * 2 + [(6, 2, 2)]"
    assert written["criterion"] == {"_name": "wav2vec", "infonce": True, "log_keys": [], "loss_weights": [0.2, 0.0]}
    assert written["task"]["normalize"]


def test_references_between_options_are_followed(tmp_path: Path) -> None:
    options = WAV2VEC2 | {"conv_pos": "${model.conv_pos_groups}", "conv_pos_groups": 2, "dropout": "???"}
    tensors = tensors_of(options | {"conv_pos": 2})
    path = save(tmp_path / "in.pt", checkpoint(options, tensors, task={"normalize": "${model.conv_bias}"}))
    config = read(path).config["init_args"]
    assert config["context"]["init_args"]["position_kernel"] == 2
    assert config["context"]["init_args"]["dropout"] == 0.1
    assert config["encoder"]["init_args"]["normalize_waveform"] is False
    endless = WAV2VEC2 | {"conv_pos": "${model.conv_pos}"}
    path = save(tmp_path / "endless.pt", checkpoint(endless, tensors_of(WAV2VEC2 | {"conv_pos": 128})))
    assert read(path).config["init_args"]["context"]["init_args"]["position_kernel"] == 128


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_half_precision_stays_half_precision(tmp_path: Path, zipped: bool) -> None:
    halves = {name: tensor.half() for name, tensor in tensors_of(XLSR).items()}
    path = save(tmp_path / "in.pt", checkpoint(XLSR, halves), zipped)
    published = filled(read(path), path)
    assert published.weights["mask_embedding"].dtype == torch.float16
    model = built(path)
    assert model.mask_embedding.dtype == torch.float32
    published.weights = model.state_dict()
    write_fairseq(published, tmp_path / "out.pt")
    after = read_pickle(tmp_path / "out.pt")["model"]
    assert after.keys() == halves.keys()
    for name, tensor in halves.items():
        assert after[name].dtype == torch.float16
        assert torch.equal(after[name], tensor)


def test_a_namespace_is_written_as_a_namespace(tmp_path: Path) -> None:
    options = {name: value for name, value in WAV2VEC2.items() if name != "_name"} | {"arch": "wav2vec2"}
    content = {"args": argparse.Namespace(**options, normalize=True), "model": tensors_of(WAV2VEC2)}
    path = save(tmp_path / "in.pt", content)
    published = filled(read(path), path)
    assert published.config["init_args"]["encoder"]["init_args"]["normalize_waveform"]
    write_fairseq(published, tmp_path / "out.pt")
    after = torch.load(tmp_path / "out.pt", weights_only=False)
    assert after["args"] == content["args"]
    assert after["cfg"] is None


def test_a_changed_model_gets_new_options(tmp_path: Path) -> None:
    path = write(tmp_path / "in.pt", WAV2VEC2, task={"data": "/of/another/computer"})
    published = filled(read(path), path)
    published.config["init_args"]["context"]["init_args"]["dropout"] = 0.25
    write_fairseq(published, tmp_path / "out.pt")
    cfg = read_pickle(tmp_path / "out.pt")["cfg"]
    assert cfg["model"]["dropout"] == 0.25
    assert cfg["task"]["data"] == "."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_fn": "relu"}, r"`activation_fn` must be gelu, but is relu in the options of .*in\.pt: w2vlab's"),
        ({"layer_type": "conformer"}, "`layer_type` must be transformer, but is conformer"),
        ({"conv_pos_batch_norm": True}, "`conv_pos_batch_norm` must be false, but is true"),
        ({"crop_seq_to_multiple": 2}, "`crop_seq_to_multiple` must be 1"),
        ({"relative_position_embedding": True}, "`relative_position_embedding` must be false"),
        ({"extractor_mode": "batch"}, "`extractor_mode` must be default or layer_norm, but is batch"),
        ({"mask_selection": "none"}, "`mask_selection` must be static, uniform"),
        (
            {"conv_feature_layers": "eval('x')"},
            r"`conv_feature_layers` must be a sum of lists of .* but is eval\('x'\)",
        ),
        ({"encoder_layers": "many"}, "`encoder_layers` must be an integer, but is many"),
        ({"encoder_layers": 2.5}, "`encoder_layers` must be an integer, but is 2.5"),
        ({"dropout": [1]}, r"`dropout` must be a number, but is \[1\]"),
        ({"layer_norm_first": "yes"}, "`layer_norm_first` must be true or false, but is yes"),
        ({"latent_temp": "(1, 2)"}, r"`latent_temp` must be 3 numbers, but is \(1, 2\)"),
        ({"latent_temp": "open('x')"}, "`latent_temp` must be 3 numbers"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2 | options, tensors_of(WAV2VEC2)))
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"task": {"sample_rate": 8000}}, "`sample_rate` must be 16000, but is 8000 .* 16 kHz"),
        ({"criterion": {"_name": "wav2vec", "loss_weights": [1, 2, 3]}}, "`loss_weights` must be 2 weights"),
        ({"criterion": {"_name": "wav2vec", "loss_weights": ["x"]}}, "`loss_weights` must be a list of numbers"),
        ({"model": None}, "`cfg.model` of .* must have the options"),
    ],
)
def test_options_of_task_and_criterion_are_checked(tmp_path: Path, cfg: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2, tensors_of(WAV2VEC2), cfg=cfg))
    with pytest.raises(ValueError, match=message):
        read(path)


def test_tensors_that_do_not_belong_to_the_options_are_named(tmp_path: Path) -> None:
    tensors = tensors_of(WAV2VEC2)
    removed = {name: tensor for name, tensor in tensors.items() if name != "encoder.layers.1.fc1.weight"}
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2, removed))
    with pytest.raises(ValueError, match=r"must have the tensors .* but encoder\.layers\.1\.fc1\.weight is missing"):
        read(path)
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2, tensors | {"encoder.layers.2.fc1.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"encoder\.layers\.2\.fc1\.weight is unknown"):
        read(path)
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2, tensors | {"layer_norm.weight": torch.ones(5)}))
    with pytest.raises(ValueError, match=r"norm\.weight \(6; the file: 5\)"):
        built(path)
    path = save(tmp_path / "in.pt", checkpoint(WAV2VEC2, tensors | {"quantizer.vars": torch.ones(1, 4, 2)}))
    with pytest.raises(ValueError, match=r"quantizer\.entries \(2 x 3 x 2; the file: 1 x 4 x 2\)"):
        built(path)


def test_other_files_are_not_of_fairseq() -> None:
    for content in (
        [],
        {"model": {}},
        {"model": 1, "args": {}},
        {"state_dict": {}},
        {"model": {"w": torch.ones(1)}},
        {"args": {}, "model": {1: torch.ones(1)}},
    ):
        assert not is_fairseq(content)


def published(tmp_path: Path, **changes: Any) -> PublishedModel:
    path = write(tmp_path / "in.pt", WAV2VEC2)
    model = filled(read(path), path)
    model.origin.format = "w2vlab"
    for place, value in changes.items():
        config = model.config
        *parts, last = place.split("__")
        for part in parts:
            config = config["init_args"][part]
        config["init_args"][last] = value
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder__activation": "relu"}, "`model.encoder.activation` must be gelu for fairseq, but is relu"),
        ({"encoder__normalization": "group"}, "`model.encoder.normalization` must be first_group or layer"),
        ({"encoder__log_compression": True}, "`model.encoder.log_compression` must be false"),
        ({"context__always_project": True, "context__model_dim": 6}, "`model.context.always_project` must be false"),
        (
            {"context__attention_positions": {"class_path": "w2vlab.positions.RotaryPositions", "init_args": {}}},
            "`model.context.attention_positions` must be null for fairseq, but is RotaryPositions: fairseq's model",
        ),
        ({"context__qkv_bias": False}, "`model.context.qkv_bias` must be true for fairseq, but is false"),
        ({"quantizer__shared_codebook": True}, "`model.quantizer.shared_codebook` must be false"),
        ({"loss__target_projection": "mlp"}, "`model.loss.target_projection` must be linear or glu"),
        ({"context": {"class_path": "w2vlab.contexts.ConformerContext"}}, "`model.context` must be TransformerContext"),
        ({"quantizer": {"class_path": "my.Quantizer"}}, "`model.quantizer` must be Gumbel.* but is my.Quantizer"),
    ],
)
def test_what_fairseq_does_not_have_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_fairseq(published(tmp_path, **changes), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_what_fairseq_would_train_differently_is_noted(tmp_path: Path) -> None:
    model = published(tmp_path, quantizer__annealing="linear", masking__rounding="batch", masking__equalize="exact")
    notes = write_fairseq(model, tmp_path / "out.pt")
    assert [note.partition(";")[0] for note in notes] == [
        "`model.quantizer.annealing` is linear",
        "`model.masking.rounding` is batch",
        "`model.masking.equalize` is exact",
    ]


def test_another_epsilon_of_waveforms_is_noted(tmp_path: Path) -> None:
    model = published(tmp_path, encoder__normalize_waveform=True, encoder__waveform_eps=1e-7)
    (note,) = write_fairseq(model, tmp_path / "out.pt")
    assert note.startswith("`model.encoder.waveform_eps` is 1e-07; fairseq normalizes waveforms with 1e-05")


def test_parts_that_are_missing_are_refused(tmp_path: Path) -> None:
    model = published(tmp_path)
    model.missing = ("quantizer", "loss")
    with pytest.raises(ValueError, match=r"must have the weights of quantizer, loss for fairseq's wav2vec2, but"):
        write_fairseq(model, tmp_path / "out.pt")


def test_projected_latents_of_the_same_width_compute_the_same(tmp_path: Path) -> None:
    """Without `post_extract_proj` the latents enter the Transformer as they are."""
    path = write(tmp_path / "in.pt", NARROW)
    assert "post_extract_proj.weight" not in read_pickle(path)["model"]
    model = built(path)
    latents = torch.randn(1, 4, 6)
    assert_close(model.context.project(latents), latents)
