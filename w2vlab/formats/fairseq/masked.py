"""fairseq's wav2vec 2.0, and the Transformers of its relatives, as a configuration of `MaskedPrediction`."""

from __future__ import annotations

from typing import Any

from w2vlab.formats.fairseq.defaults import CRITERION, TASK, defaults_of
from w2vlab.formats.fairseq.options import Options, Stored

ENCODER = "w2vlab.encoders.ConvFeatureEncoder"
CONTEXT = "w2vlab.contexts.TransformerContext"
GUMBEL = "w2vlab.quantizers.GumbelQuantizer"
IDENTITY = "w2vlab.quantizers.IdentityQuantizer"

CONTEXT_OPTIONS = {
    "model_dim": "encoder_embed_dim",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "feedforward_dim": "encoder_ffn_embed_dim",
    "pre_norm": "layer_norm_first",
    "position_kernel": "conv_pos",
    "position_groups": "conv_pos_groups",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "dropout_input",
    "layer_drop": "encoder_layerdrop",
    "activation_checkpointing": "checkpoint_activations",
}
QUANTIZER_OPTIONS = {
    "num_codebooks": "latent_groups",
    "codebook_size": "latent_vars",
    "projection_depth": "quantizer_depth",
    "projection_factor": "quantizer_factor",
}
TEMPERATURES = ("temperature_start", "temperature_end", "temperature_decay")
LOSS_OPTIONS = {
    "num_negatives": "num_negatives",
    "logit_temperature": "logit_temp",
    "num_other_negatives": "cross_sample_negatives",
    "num_codebook_negatives": "codebook_negatives",
}
MIN_STACKED_KERNEL = 3
"""Fewest frames of a positional convolution if there are several."""

NORMALIZATIONS = {"default": "first_group", "layer_norm": "layer"}


def part(class_path: str, **options: Any) -> dict[str, Any]:
    """Returns the configuration of a part."""
    return {"class_path": class_path, "init_args": options}


def read_normalize(stored: Stored, outer: Stored | None = None) -> bool:
    """Returns whether waveforms are normalized, and checks their sample rate.

    Args:
        stored: The options of the pretrained model.
        outer: The options of its fine-tuning, which has the same.
    """
    states = [options for options in (stored, outer) if options is not None]
    for options in states:
        task = Options(options, "task", TASK)
        task.require("sample_rate", 16_000, "w2vlab's models take 16 kHz")
    for options in states:
        if options.states("task", "normalize"):
            return bool(Options(options, "task", TASK)["normalize"])
    stored.notes.append("`normalize` is not in the file; waveforms are not normalized, fairseq's default.")
    return False


def read_masked(stored: Stored, normalize: bool, heads: bool) -> dict[str, Any]:
    """Returns the configuration of a model with fairseq's Transformer.

    Options that change its outputs and that w2vlab does not have are refused. Those that change training alone are
    noted.

    Args:
        stored: The options of the file.
        normalize: Whether waveforms are normalized.
        heads: Whether the file has the quantizer and the projections of wav2vec 2.0's loss.

    Raises:
        ValueError: An option cannot be expressed.
    """
    options = Options(stored, "model", defaults_of("wav2vec2", stored.layout))
    _refuse_other_networks(options)
    layers = options.layers("conv_feature_layers")
    mode = options["extractor_mode"]
    if mode not in NORMALIZATIONS:
        options.refuse("extractor_mode", "default or layer_norm")
    arguments: dict[str, Any] = {
        "encoder": part(
            ENCODER,
            layers=layers,
            normalization=NORMALIZATIONS[mode],
            bias=options["conv_bias"],
            activation="gelu",
            log_compression=False,
            skip_connections=False,
            normalize_waveform=normalize,
            gradient_scale=options["feature_grad_mult"],
        ),
        "context": part(
            CONTEXT, **{ours: options[theirs] for ours, theirs in CONTEXT_OPTIONS.items()} | _positions(options)
        ),
        "masking": _masking(options),
        "feature_dropout": options["dropout_features"],
        "inputs": "continuous",
        "quantizer": part(IDENTITY),
    }
    if heads:
        arguments |= _heads(options)
    elif options["quantize_input"]:
        options.refuse("quantize_input", "false in a fine-tuned model", "w2vlab fine-tunes one quantizer")
    quantizer = arguments.get("input_quantizer") or arguments["quantizer"]
    quantized = arguments["inputs"] == "quantized"
    width = quantizer["init_args"]["output_dim"] if quantized else layers[-1][0]
    # Quantized inputs, and all inputs of data2vec, are projected even if they have the Transformer's width.
    projects = quantized or stored.name == "data2vec_audio"
    arguments["context"]["init_args"]["always_project"] = projects and width == options["encoder_embed_dim"]
    return part("w2vlab.modules.MaskedPrediction", **arguments)


def _refuse_other_networks(options: Options) -> None:
    options.require("layer_type", "transformer", "w2vlab has no such layer in fairseq's form")
    options.require("activation_fn", "gelu", "w2vlab's Transformer has no other activation")
    options.require("conv_pos_batch_norm", False, "w2vlab's positional convolution has weight normalization")
    options.require("relative_position_embedding", False, "w2vlab has no (gated) relative positions")
    options.require("crop_seq_to_multiple", 1, "w2vlab keeps all frames")


def _positions(options: Options) -> dict[str, Any]:
    """Returns the options of the positional convolutions; several, as in data2vec, share the frames of a single one."""
    depth = options["pos_conv_depth"]
    if depth <= 1:
        return {"position_layers": 1}
    return {"position_layers": depth, "position_kernel": max(MIN_STACKED_KERNEL, options["conv_pos"] // depth)}


def _heads(options: Options) -> dict[str, Any]:
    model_dim = options["encoder_embed_dim"]
    final_dim = options["final_dim"] if options["final_dim"] > 0 else model_dim
    width = options["latent_dim"] if options["latent_dim"] > 0 else final_dim
    arguments: dict[str, Any] = {
        "loss": part(
            "w2vlab.losses.ContrastiveLoss",
            projection_dim=final_dim,
            negatives_from="anywhere" if options["negatives_from_everywhere"] else "targets",
            target_projection="glu" if options["target_glu"] else "linear",
            **{ours: options[theirs] for ours, theirs in LOSS_OPTIONS.items()},
        ),
    }
    if options["quantize_targets"]:
        arguments["quantizer"] = _quantizer(options, width)
    if options["quantize_input"]:
        shared = options["same_quantizer"] and options["quantize_targets"]
        input_width = width if shared else options["latent_dim"] if options["latent_dim"] > 0 else model_dim
        options.note_unless("dropout_input", 0.0, "fairseq applies it before the quantizer, w2vlab after it")
        arguments["inputs"] = "quantized"
        arguments["input_quantizer"] = None if shared else _quantizer(options, input_width)
    return arguments | _penalties(options)


def _quantizer(options: Options, width: int) -> dict[str, Any]:
    return part(
        GUMBEL,
        output_dim=width,
        shared_codebook=False,
        projection_activation="gelu",
        **{ours: options[theirs] for ours, theirs in QUANTIZER_OPTIONS.items()},
        **dict(zip(TEMPERATURES, options["latent_temp"], strict=True)),
    )


def _penalties(options: Options) -> dict[str, Any]:
    """Returns the further terms of the objective; nothing, for the published ones, if the file has no criterion."""
    weights = read_loss_weights(options.stored)
    if weights is None:
        return {}
    names = (["diversity"] if options["quantize_targets"] or options["quantize_input"] else []) + ["feature"]
    if len(weights) == 1:
        weights = weights * len(names)
    if weights and len(weights) != len(names):
        Options(options.stored, "criterion", CRITERION).refuse("loss_weights", f"{len(names)} weights")
    classes = {"diversity": "w2vlab.losses.DiversityPenalty", "feature": "w2vlab.losses.FeaturePenalty"}
    penalties = {
        name: part(classes[name], weight=weight) for name, weight in zip(names, weights, strict=False) if weight
    }
    return {"penalties": penalties}


def read_loss_weights(stored: Stored) -> list[float] | None:
    """Returns the weights of the further terms of the loss; None if the file has no criterion."""
    criterion = stored.group("criterion")
    named = criterion.get("criterion") if stored.layout == "args" else criterion.get("_name")
    if named is None and "loss_weights" not in criterion:
        stored.training_notes.append("The criterion is not in the file; the loss has the published weights.")
        return None
    options = Options(stored, "criterion", CRITERION)
    weights = options["loss_weights"]
    if isinstance(weights, str):
        weights = None if weights in ("", "None") else weights.strip("[]()").split(",")
    try:
        return [] if weights is None else [float(weight) for weight in weights]
    except (TypeError, ValueError):
        options.refuse("loss_weights", "a list of numbers")


def _masking(options: Options) -> dict[str, Any]:
    length, probability = options["mask_length"], options["mask_prob"]
    spans: dict[str, Any] = {"equalize": "fewest" if options["require_same_masks"] else "none"}
    if 0 < probability < length:
        spans |= {"probability": probability, "length": length}
    else:
        options.stored.training_notes.append(f"`mask_prob` was {probability}: masking keeps w2vlab's defaults.")
    selection = options["mask_selection"]
    if selection not in ("static", "uniform", "normal", "poisson"):
        options.refuse("mask_selection", "static, uniform, normal or poisson")
    spans["length_distribution"] = selection
    if selection in ("uniform", "normal"):
        spans["length_spread"] = options["mask_other"]
    if options["no_mask_overlap"]:
        spans |= {"overlap": False, "min_space": options["mask_min_space"]}
    if options["mask_dropout"]:
        spans["frame_dropout"] = options["mask_dropout"]
    masking = part("w2vlab.masking.SpanMasking", **spans)
    channels = options["mask_channel_prob"]
    if not channels > 0:
        return masking
    options.note_unless("mask_channel_selection", "static", "w2vlab's spans of channels have one length")
    options.note_unless("no_mask_channel_overlap", False, "w2vlab's spans of channels may overlap")
    return part(
        "w2vlab.masking.ChannelMasking",
        frames=masking,
        channel_probability=channels,
        channel_length=options["mask_channel_length"],
        before=options["mask_channel_before"],
    )
