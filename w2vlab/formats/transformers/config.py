"""Options of `config.json` as options of our model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAVEFORM_EPS = 1e-7
"""Epsilon of `Wav2Vec2FeatureExtractor`."""

_FINE_TUNING_SHARE = 0.05
"""The default of `mask_time_prob`, which is for fine-tuning."""


def to_ours(options: Mapping[str, Any], normalizes: bool, projects: bool, quantizes: bool) -> dict[str, Any]:
    """Returns the configuration of our model.

    Args:
        options: What `read_options` returned.
        normalizes: Whether each waveform is brought to zero mean and unit variance.
        projects: Whether latents of the width of the Transformer are projected.
        quantizes: Whether the model has a quantizer and the contrastive loss.
    """
    objective = {
        "quantizer": _part("quantizers.IdentityQuantizer", {}),
        "loss": _part("losses.ContrastiveLoss", {}),
        "penalties": {},
    }
    return _part(
        "modules.MaskedPrediction",
        {
            "encoder": _encoder(options, normalizes),
            "context": _context(options, projects),
            "masking": _masking(options),
            **(_objective(options) if quantizes else objective),
            "feature_dropout": options["feat_quantizer_dropout"],
        },
    )


def training_notes(options: Mapping[str, Any], quantizes: bool) -> list[str]:
    """Returns what a user who trains the model further should know about its options, one sentence each."""
    notes = []
    if quantizes:
        notes.append(
            "The objective is that of transformers: no feature penalty, and the gradient of the encoder is not scaled "
            "(fairseq: 10 and 0.1)."
        )
    if not _masks_frames(options):
        notes.append("config.json masks no frames, so masking has w2vlab's defaults.")
    elif quantizes and options["mask_time_prob"] <= _FINE_TUNING_SHARE:
        notes.append(
            f"mask_time_prob is {options['mask_time_prob']}, for fine-tuning; wav2vec 2.0 was pretrained with 0.65."
        )
    return notes


def _encoder(options: Mapping[str, Any], normalizes: bool) -> dict[str, Any]:
    layers = zip(options["conv_dim"], options["conv_kernel"], options["conv_stride"], strict=True)
    arguments: dict[str, Any] = {
        "layers": [list(layer) for layer in layers],
        "normalization": {"group": "first_group", "layer": "layer"}[options["feat_extract_norm"]],
        "bias": options["conv_bias"],
        "activation": options["feat_extract_activation"],
        "normalize_waveform": normalizes,
        "gradient_scale": 1.0,
    }
    if normalizes:
        arguments["waveform_eps"] = WAVEFORM_EPS
    return _part("encoders.ConvFeatureEncoder", arguments)


def _context(options: Mapping[str, Any], projects: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model_dim": options["hidden_size"],
        "num_layers": options["num_hidden_layers"],
        "num_heads": options["num_attention_heads"],
        "feedforward_dim": options["intermediate_size"],
        "pre_norm": options["do_stable_layer_norm"],
        "position_kernel": options.get("conv_pos_kernel_size", options["num_conv_pos_embeddings"]),
        "position_groups": options["num_conv_pos_embedding_groups"],
        "dropout": options["hidden_dropout"],
        "attention_dropout": options["attention_dropout"],
        "activation_dropout": options["activation_dropout"],
        "input_dropout": options["feat_proj_dropout"],
        "layer_drop": options["layerdrop"],
        "position_layers": options["num_conv_pos_embeddings"] if "conv_pos_kernel_size" in options else 1,
        "always_project": projects and options["hidden_size"] == options["conv_dim"][-1],
    }
    return _part("contexts.TransformerContext", arguments)


def _objective(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns quantizer, loss and penalties."""
    quantizer = {
        "num_codebooks": options["num_codevector_groups"],
        "codebook_size": options["num_codevectors_per_group"],
        "output_dim": options["codevector_dim"],
    }
    loss = {
        "projection_dim": options["proj_codevector_dim"],
        "num_negatives": options["num_negatives"],
        "logit_temperature": options["contrastive_logits_temperature"],
    }
    diversity = _part("losses.DiversityPenalty", {"weight": options["diversity_loss_weight"]})
    return {
        "quantizer": _part("quantizers.GumbelQuantizer", quantizer),
        "loss": _part("losses.ContrastiveLoss", loss),
        "penalties": {"diversity": diversity},
    }


def _masking(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the masking of `configs/masking/huggingface.yaml`, with the numbers of the file."""
    spans: dict[str, Any] = {"probability": 0.65, "length": 10, "min_spans": 2}
    if _masks_frames(options):
        spans = {
            "probability": options["mask_time_prob"],
            "length": options["mask_time_length"],
            "min_spans": max(options["mask_time_min_masks"], 1),
            "equalize": "none",
            "rounding": "batch",
            "last_start": True,
        }
    frames = _part("masking.SpanMasking", spans)
    if not options["apply_spec_augment"] or options["mask_feature_prob"] <= 0:
        return frames
    channels = {
        "frames": frames,
        "channel_probability": options["mask_feature_prob"],
        "channel_length": options["mask_feature_length"],
        "min_channel_spans": options["mask_feature_min_masks"],
        "equalize_channels": False,
    }
    return _part("masking.ChannelMasking", channels)


def _masks_frames(options: Mapping[str, Any]) -> bool:
    return bool(options["apply_spec_augment"] and options["mask_time_prob"] > 0)


def _part(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": f"w2vlab.{name}", "init_args": dict(arguments)}
