"""A configuration of ours as fairseq's options; what fairseq does not have is refused by our name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w2vlab.formats.fairseq.defaults import WAV2VEC, WAV2VEC2
from w2vlab.formats.fairseq.layers import format_layers
from w2vlab.formats.fairseq.masked import (
    CONTEXT_OPTIONS,
    LOSS_OPTIONS,
    MIN_STACKED_KERNEL,
    NORMALIZATIONS,
    QUANTIZER_OPTIONS,
    TEMPERATURES,
)
from w2vlab.formats.fairseq.parts import Part

_EPS = 1e-5
"""What fairseq adds to the variance of waveforms."""


@dataclass(kw_only=True)
class Theirs:
    """Options of fairseq.

    Attributes:
        name: Name of the model: `wav2vec2` or `wav2vec`.
        model: Options of the model.
        normalize: Option of the task.
        criterion: Options of the criterion.
        notes: What fairseq would do differently, one sentence each.
    """

    name: str
    model: dict[str, Any]
    normalize: bool
    criterion: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def options_of(config: Mapping[str, Any]) -> Theirs:
    """Returns fairseq's options for a model.

    Args:
        config: Configuration of the pretraining model, with all options.

    Raises:
        ValueError: It has an option that fairseq does not have and that changes the outputs.
    """
    model = Part(config, "model")
    if model.kind == "TeacherPrediction":
        raise ValueError(
            "`model` must be MaskedPrediction or FuturePrediction for fairseq, but is TeacherPrediction. Write its "
            "student with --format=huggingface, torchaudio or onnx, or all of it with --format=safetensors."
        )
    model.require_class("MaskedPrediction", "FuturePrediction")
    return _masked(model) if model.kind == "MaskedPrediction" else _future(model)


def _encoder(encoder: Part, normalizations: tuple[str, ...]) -> list[str]:
    """Checks the encoder; returns notes."""
    encoder.require_class("ConvFeatureEncoder")
    encoder.require("normalization", *normalizations)
    if not encoder["normalize_waveform"] or encoder["waveform_eps"] == _EPS:
        return []
    return [
        f"`{encoder.place}.waveform_eps` is {encoder['waveform_eps']}; fairseq normalizes waveforms with {_EPS}, so "
        "the outputs for quiet audio differ."
    ]


def _masked(model: Part) -> Theirs:
    encoder, context, loss = model.part("encoder"), model.part("context"), model.part("loss")
    notes = _encoder(encoder, tuple(NORMALIZATIONS.values()))
    for name, value in {"activation": "gelu", "log_compression": False, "skip_connections": False}.items():
        encoder.require(name, value)
    context.require_class("TransformerContext")
    context.require("attention_positions", None)
    context.require("qkv_bias", True)
    model.require("target_encoder", None)
    theirs = {name: value for name, value in WAV2VEC2.items()}
    theirs |= {
        "conv_feature_layers": format_layers(encoder["layers"]),
        "extractor_mode": {ours: mode for mode, ours in NORMALIZATIONS.items()}[encoder["normalization"]],
        "conv_bias": encoder["bias"],
        "feature_grad_mult": encoder["gradient_scale"],
        "dropout_features": model["feature_dropout"],
    }
    theirs |= {option: context[name] for name, option in CONTEXT_OPTIONS.items()}
    if context["position_layers"] > 1:
        if context["position_kernel"] < MIN_STACKED_KERNEL:
            context.refuse("position_kernel", f"at least {MIN_STACKED_KERNEL} if `position_layers` is above 1")
        frames = context["position_kernel"] * context["position_layers"]
        theirs |= {"pos_conv_depth": context["position_layers"], "conv_pos": frames}
    notes += model.differing({"target_gradient": True})
    criterion: dict[str, Any] = {"_name": "wav2vec", "infonce": True, "log_keys": []}
    if loss.kind == "ContrastiveLoss":
        notes += _heads(model, loss, theirs)
    else:
        notes.append(f"`{loss.place}` is {loss.kind}, which fairseq does not have.")
    _check_projection(model)
    notes += _masking(model.part("masking"), theirs)
    weights, other = _penalties(model)
    names = (["diversity"] if theirs["quantize_targets"] or theirs["quantize_input"] else []) + ["feature"]
    criterion["loss_weights"] = [weights.get(name, 0.0) for name in names]
    return Theirs(
        name="wav2vec2",
        model=theirs,
        normalize=encoder["normalize_waveform"],
        criterion=criterion,
        notes=notes + other,
    )


def _check_projection(model: Part) -> None:
    """Checks the input projection: fairseq has it if the widths differ, and always for quantized inputs."""
    context = model.part("context")
    if model["inputs"] == "continuous":
        if model.part("encoder")["layers"][-1][0] == context["model_dim"]:
            context.require("always_project", False)
        return
    quantizer = model.part("quantizer" if model["input_quantizer"] is None else "input_quantizer")
    if quantizer["output_dim"] == context["model_dim"]:
        context.require("always_project", True)


def _heads(model: Part, loss: Part, theirs: dict[str, Any]) -> list[str]:
    """Fills in the options of quantizer and loss."""
    loss.require("target_projection", "linear", "glu")
    theirs |= {option: loss[name] for name, option in LOSS_OPTIONS.items()}
    theirs |= {
        "final_dim": loss["projection_dim"],
        "target_glu": loss["target_projection"] == "glu",
        "negatives_from_everywhere": loss["negatives_from"] == "anywhere",
    }
    quantizer = model.part("quantizer")
    quantizer.require_class("GumbelQuantizer", "IdentityQuantizer")
    notes = [] if loss["negatives"] is None else [f"`{loss.place}.negatives` is a sampler that fairseq does not have."]
    quantizers: list[tuple[Part, int]] = []  # with the width that fairseq gives to it if `latent_dim` is 0
    if quantizer.kind == "GumbelQuantizer":
        theirs["quantize_targets"] = True
        quantizers.append((quantizer, loss["projection_dim"]))
    if model["inputs"] == "quantized":
        shared = model["input_quantizer"] is None
        theirs |= {"quantize_input": True, "same_quantizer": shared}
        if not shared:
            quantizers.append((model.part("input_quantizer"), theirs["encoder_embed_dim"]))
    return notes + _quantizers(quantizers, theirs)


def _quantizers(quantizers: list[tuple[Part, int]], theirs: dict[str, Any]) -> list[str]:
    """Fills in the options of one or two quantizers, which fairseq has once."""
    notes: list[str] = []
    options: list[dict[str, Any]] = []
    for quantizer, _ in quantizers:
        quantizer.require_class("GumbelQuantizer")
        quantizer.require("shared_codebook", False)
        if quantizer["projection_depth"] > 1:
            quantizer.require("projection_activation", "gelu")
        options.append({option: quantizer[name] for name, option in QUANTIZER_OPTIONS.items()})
        options[-1]["latent_temp"] = [quantizer[name] for name in TEMPERATURES]
        notes += quantizer.differing({"annealing": "exponential", "hard": True, "noise": True})
    widths = {quantizer["output_dim"] for quantizer, _ in quantizers}
    as_default = all(quantizer["output_dim"] == default for quantizer, default in quantizers)
    if any(found != options[0] for found in options) or not (as_default or len(widths) == 1):
        raise ValueError("`model.input_quantizer` must have the options of `model.quantizer` for fairseq.")
    if quantizers:
        theirs |= options[0] | {"latent_dim": 0 if as_default else widths.pop()}
    return notes


def _masking(masking: Part, theirs: dict[str, Any]) -> list[str]:
    if masking.kind == "ChannelMasking":
        theirs |= {
            "mask_channel_prob": masking["channel_probability"],
            "mask_channel_length": masking["channel_length"],
            "mask_channel_before": masking["before"],
        }
        notes = masking.differing({"min_channel_spans": 0, "equalize_channels": True})
        return notes + _masking(masking.part("frames"), theirs)
    if masking.kind != "SpanMasking":
        return [f"`{masking.place}` is {masking.kind}, which fairseq does not have; it masks spans."]
    theirs |= {
        "mask_prob": masking["probability"],
        "mask_length": masking["length"],
        "mask_selection": masking["length_distribution"],
        "mask_other": masking["length_spread"],
        "no_mask_overlap": not masking["overlap"],
        "mask_min_space": masking["min_space"],
        "require_same_masks": masking["equalize"] != "none",
        "mask_dropout": masking["frame_dropout"],
    }
    expected = {
        "min_spans": 2,
        "rounding": "utterance",
        "count_from": "utterance",
        "extra_spans": 0,
        "replacement": False,
        "last_start": False,
        "edge_frames": None,
    }
    notes = masking.differing(expected)
    if masking["equalize"] not in ("fewest", "none"):
        notes += masking.differing({"equalize": "fewest"})
    return notes


def _penalties(model: Part) -> tuple[dict[str, float], list[str]]:
    """Returns the weights of fairseq's further terms by our names, and notes on the terms that it does not have."""
    penalties = model["penalties"]
    if penalties is None:
        return {"diversity": 0.1, "feature": 10.0} if model.kind == "MaskedPrediction" else {}, []
    weights: dict[str, float] = {}
    notes: list[str] = []
    for name, config in penalties.items():
        penalty = Part(config, f"model.penalties.{name}")
        known = {"DiversityPenalty": "diversity", "FeaturePenalty": "feature"}.get(penalty.kind)
        if known is None:
            notes.append(f"`{penalty.place}` is {penalty.kind}, which fairseq does not have.")
        else:
            weights[known] = penalty["weight"]
    return weights, notes


def _future(model: Part) -> Theirs:
    encoder, context = model.part("encoder"), model.part("context")
    loss, quantizer = model.part("loss"), model.part("quantizer")
    notes = _encoder(encoder, ("group",))
    encoder.require("bias", False)
    context.require_class("ConvContext")
    context.require("activation", encoder["activation"])
    if encoder["skip_connections"] and context["skip_connections"]:
        context.require("residual_scale", encoder["residual_scale"])
    quantizer.require_class("IdentityQuantizer", "GumbelQuantizer", "KMeansQuantizer")
    loss.require_class("FuturePredictionLoss")
    infonce = loss["objective"] == "infonce"
    weights, other = _penalties(model)
    notes += other + encoder.differing({"gradient_scale": 1.0})
    notes += [f"`model.penalties.{name}` is not among wav2vec's terms." for name in weights if name != "diversity"]
    theirs = {name: value for name, value in WAV2VEC.items()}
    theirs |= {
        "conv_feature_layers": format_layers(encoder["layers"]),
        "activation": encoder["activation"],
        "log_compression": encoder["log_compression"],
        "skip_connections_feat": encoder["skip_connections"],
        "residual_scale": (context if context["skip_connections"] else encoder)["residual_scale"],
        "conv_aggregator_layers": format_layers([(width, kernel, 1) for width, kernel in context["layers"]]),
        "agg_zero_pad": context["padding"] == "zeros",
        "dropout": context["dropout"],
        "skip_connections_agg": context["skip_connections"],
        "dropout_features": model["feature_dropout"],
        "prediction_steps": loss["num_steps"],
        "num_negatives": loss["num_negatives"],
        "offset": "auto" if loss["offset"] is None else str(loss["offset"]),
        "balanced_classes": loss["balanced_classes"],
        "infonce": infonce,
    }
    loss_weights = None
    if quantizer.kind != "IdentityQuantizer":
        shape = {"vq_groups": "num_codebooks", "vq_vars": "codebook_size", "combine_groups": "shared_codebook"}
        theirs |= {option: quantizer[name] for option, name in shape.items()}
    if quantizer.kind == "KMeansQuantizer":
        theirs |= {"vq_type": "kmeans", "vq_gamma": quantizer["gamma"]}
        loss_weights = [1.0]
    if quantizer.kind == "GumbelQuantizer":
        if quantizer["output_dim"] != encoder["layers"][-1][0]:
            quantizer.refuse("output_dim", "the width of the encoder")
        if quantizer["projection_depth"] > 1:
            quantizer.require("projection_factor", 2)
            quantizer.require("projection_activation", encoder["activation"])
        theirs |= {"vq_type": "gumbel", "vq_depth": quantizer["projection_depth"]}
        theirs["vq_temp"] = [quantizer[name] for name in TEMPERATURES]
        notes += quantizer.differing({"annealing": "exponential", "hard": True, "noise": True})
        if "diversity" in weights:  # fairseq does not divide this term by the number of entries
            loss_weights = [weights["diversity"] / (quantizer["num_codebooks"] * quantizer["codebook_size"])]
    criterion = {"_name": "wav2vec", "infonce": infonce, "loss_weights": loss_weights, "log_keys": []}
    return Theirs(
        name="wav2vec", model=theirs, normalize=encoder["normalize_waveform"], criterion=criterion, notes=notes
    )
