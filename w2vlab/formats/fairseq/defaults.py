"""fairseq's defaults (commit 3d262bb2), for options that a file lacks because it is older than they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vlab.formats.fairseq.options import Layout

TASK: Mapping[str, Any] = {"normalize": False, "sample_rate": 16_000}

CRITERION: Mapping[str, Any] = {"infonce": False, "loss_weights": None}

WAV2VEC2: Mapping[str, Any] = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "final_dim": 0,
    "layer_norm_first": False,
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "conv_bias": False,
    "logit_temp": 0.1,
    "quantize_targets": False,
    "quantize_input": False,
    "same_quantizer": False,
    "target_glu": False,
    "feature_grad_mult": 1.0,
    "quantizer_depth": 1,
    "quantizer_factor": 3,
    "latent_vars": 320,
    "latent_groups": 2,
    "latent_dim": 0,
    "mask_length": 10,
    "mask_prob": 0.65,
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "require_same_masks": True,
    "mask_dropout": 0.0,
    "mask_channel_length": 10,
    "mask_channel_prob": 0.0,
    "mask_channel_before": False,
    "mask_channel_selection": "static",
    "no_mask_channel_overlap": False,
    "num_negatives": 100,
    "negatives_from_everywhere": False,
    "cross_sample_negatives": 0,
    "codebook_negatives": 0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "pos_conv_depth": 1,
    "latent_temp": (2.0, 0.5, 0.999995),
    "checkpoint_activations": False,
    "crop_seq_to_multiple": 1,
}
"""Options of `wav2vec2`, most of which HuBERT, data2vec audio and WavLM have as well."""

OF_RELATIVES: Mapping[str, Any] = {
    "conv_pos_batch_norm": False,  # HuBERT
    "relative_position_embedding": False,  # WavLM
}
"""Options of models with the same Transformer that change what the weights mean."""

WAV2VEC: Mapping[str, Any] = {
    "prediction_steps": 12,
    "sample_distance": None,
    "cross_sample_negatives": 0,
    "num_negatives": 10,
    "conv_feature_layers": "[(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2), (512, 1, 1), "
    "(512, 1, 1), (512, 1, 1)]",
    "conv_aggregator_layers": "[(512, 2, 1), (512, 3, 1), (512, 4, 1), (512, 5, 1), (512, 6, 1), (512, 7, 1), "
    "(512, 8, 1), (512, 9, 1), (512, 10, 1), (512, 11, 1), (512, 12, 1), (512, 13, 1)]",
    "dropout": 0.0,
    "dropout_features": 0.0,
    "dropout_agg": 0.0,
    "aggregator": "cnn",
    "no_conv_bias": False,
    "agg_zero_pad": False,
    "skip_connections_feat": False,
    "skip_connections_agg": True,
    "residual_scale": 0.5,
    "log_compression": True,
    "balanced_classes": False,
    "project_features": "none",
    "non_affine_group_norm": False,
    "offset": "auto",
    "activation": "relu",
    "vq_type": "none",
    "vq_vars": 320,
    "vq_groups": 2,
    "vq_dim": 0,
    "vq_depth": 1,
    "combine_groups": False,
    "vq_temp": (2.0, 0.5, 0.999995),
    "vq_gamma": 0.25,
    "infonce": False,
}

_IN_NAMESPACES: Mapping[str, Mapping[str, Any]] = {
    "wav2vec2": {
        "conv_feature_layers": "[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]",
    },
    "wav2vec": {
        "num_negatives": 1,
        "conv_feature_layers": "[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3",
        "conv_aggregator_layers": "[(512, 3, 1)] * 9",
        "skip_connections_agg": False,
        "log_compression": False,
    },
}
"""What the command line of 2020 (commit 621e8341) had as defaults, before options became nested dictionaries."""


def defaults_of(model: str, layout: Layout) -> Mapping[str, Any]:
    """Returns the defaults of `wav2vec` or `wav2vec2` in files of a layout."""
    defaults = WAV2VEC if model == "wav2vec" else {**WAV2VEC2, **OF_RELATIVES}
    return {**defaults, **_IN_NAMESPACES[model]} if layout == "args" else defaults
