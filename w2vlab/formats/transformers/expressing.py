"""Options of our model as options of `config.json`; what transformers cannot express is refused by our name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vlab.formats.transformers.config import WAVEFORM_EPS

_ENCODER = {
    "activation": ("gelu", "transformers has the same activation in the positional convolution, where ours is GELU"),
    "log_compression": (False, "transformers has no logarithm after the convolutions"),
    "skip_connections": (False, "transformers has no skip connections between convolutions"),
}
"""The only value of an option of the encoder that transformers has, and why."""

_CONTEXT = {
    "attention_positions": (None, "the attention of transformers' wav2vec 2.0 has no positions"),
    "qkv_bias": (True, "the projections to queries, keys and values of transformers have a bias"),
}
"""Likewise of the context network."""

_GUMBEL = {
    "projection_depth": (1, "the scores of transformers' quantizer are a single matrix"),
    "shared_codebook": (False, "each group of transformers' quantizer has its own entries"),
}

_TRAINING: dict[str, dict[str, Any]] = {
    "quantizer": {"hard": True, "noise": True},
    "loss": {
        "num_other_negatives": 0,
        "num_codebook_negatives": 0,
        "negatives_from": "targets",
        "negatives": None,
    },
}
"""Options that only training sees, and the only value that transformers has."""

_TAUGHT = "TeacherPrediction"
"""The objective with a teacher, of which the student alone is written."""

_NORMALIZATIONS = {"first_group": "group", "layer": "layer"}


def check_expressible(config: Mapping[str, Any], quantizes: bool) -> None:
    """Checks that transformers has the model.

    Args:
        config: Configuration of our model, with all options.
        quantizes: Whether quantizer and loss are written.

    Raises:
        ValueError: It does not; the error names the option.
    """
    _check_class("model", config, "MaskedPrediction", _TAUGHT)
    options = _arguments(config)
    _check_class("model.encoder", options["encoder"], "ConvFeatureEncoder")
    encoder = _arguments(options["encoder"])
    if encoder["normalization"] not in _NORMALIZATIONS:
        why = "transformers has no group norm after every convolution"
        _refuse("model.encoder.normalization", " or ".join(_NORMALIZATIONS), encoder["normalization"], why)
    _check_options("model.encoder", encoder, _ENCODER)
    _check_class("model.context", options["context"], "TransformerContext")
    _check_options("model.context", _arguments(options["context"]), _CONTEXT)
    if is_data2vec(config):
        _check_data2vec(_arguments(options["context"]), encoder, quantizes)
    why = "transformers' models have continuous inputs"
    _check_options("model", options, {"inputs": ("continuous", why)})
    if quantizes:
        _check_options("model", options, {"target_encoder": (None, "transformers quantizes the latents of the inputs")})
        _check_class("model.quantizer", options["quantizer"], "GumbelQuantizer", "IdentityQuantizer")
        _check_options("model.quantizer", _arguments(options["quantizer"]), _GUMBEL)
        _check_class("model.loss", options["loss"], "ContrastiveLoss")
        why = "transformers projects targets by a single matrix"
        _check_options("model.loss", _arguments(options["loss"]), {"target_projection": ("linear", why)})


def is_data2vec(config: Mapping[str, Any]) -> bool:
    """Returns whether a model has the positions of data2vec."""
    return bool(_arguments(_arguments(config)["context"]).get("position_layers", 1) > 1)


def _check_data2vec(context: Mapping[str, Any], encoder: Mapping[str, Any], quantizes: bool) -> None:
    """Checks that data2vec has the rest of a model with its positions."""
    if quantizes or context["pre_norm"] or encoder["normalization"] != "layer":
        why = (
            "only its data2vec has several positional convolutions, and it has layer norms in the encoder, norms after "
            "each block, and no quantizer"
        )
        _refuse("model.context.position_layers", "1", context["position_layers"], why)


def has_codebooks(config: Mapping[str, Any]) -> bool:
    """Returns whether a model quantizes latents as its targets; not what a teacher computes, which is left out."""
    if _name(config) == _TAUGHT:
        return False
    return _name(_arguments(config).get("quantizer", {})) not in ("IdentityQuantizer", "FileTargets")


def predicts_units(config: Mapping[str, Any]) -> bool:
    """Returns whether the targets of a model are units of a file, which makes a wav2vec 2.0 a HuBERT."""
    return _name(_arguments(config).get("quantizer", {})) == "FileTargets"


def normalizes_waveform(config: Mapping[str, Any]) -> bool:
    """Returns whether a model brings waveforms to zero mean and unit variance."""
    return bool(_arguments(_arguments(config)["encoder"]).get("normalize_waveform"))


def to_theirs(config: Mapping[str, Any], quantizes: bool, masks: bool) -> dict[str, Any]:
    """Returns the options of `config.json` that a model decides.

    Args:
        config: Configuration of our model, that `check_expressible` accepts; options may be missing.
        quantizes: Whether quantizer and loss are written.
        masks: Whether the mask embedding is written; transformers has one if it masks anything.
    """
    options = _arguments(config)
    encoder, context = _arguments(options["encoder"]), _arguments(options["context"])
    layers = encoder["layers"]
    found = {
        "conv_dim": [layer[0] for layer in layers],
        "conv_kernel": [layer[1] for layer in layers],
        "conv_stride": [layer[2] for layer in layers],
        "num_feat_extract_layers": len(layers),
        "conv_bias": encoder["bias"],
        "feat_extract_activation": encoder["activation"],
        "feat_extract_norm": _NORMALIZATIONS[encoder["normalization"]],
        "hidden_size": context["model_dim"],
        "num_hidden_layers": context["num_layers"],
        "num_attention_heads": context["num_heads"],
        "intermediate_size": context["feedforward_dim"],
        "do_stable_layer_norm": context["pre_norm"],
        **_positions(context),
        "num_conv_pos_embedding_groups": context["position_groups"],
        "hidden_dropout": context["dropout"],
        "attention_dropout": context["attention_dropout"],
        "activation_dropout": context["activation_dropout"],
        "feat_proj_dropout": context["input_dropout"],
        "layerdrop": context["layer_drop"],
        "feat_quantizer_dropout": options.get("feature_dropout", 0.0),
        **_masking(options["masking"], masks),
    }
    return found | (_pretraining(options) if quantizes else {})


def lost(config: Mapping[str, Any], quantizes: bool, has_loss: bool) -> list[str]:
    """Returns what the folder does not have of a model or has in another way, one sentence each.

    Args:
        config: Configuration of our model.
        quantizes: Whether quantizer and loss are written.
        has_loss: Whether the model has a loss that was trained.
    """
    options = _arguments(config)
    encoder = _arguments(options["encoder"])
    notes = []
    if encoder["normalization"] == "first_group" and encoder.get("padding", "exclude") == "exclude":
        notes.append(
            "The group norm of transformers includes padding, so padded batches differ from w2vlab's; utterances alone "
            "do not."
        )
    if encoder.get("normalize_waveform") and encoder.get("waveform_eps", 1e-5) != WAVEFORM_EPS:
        notes.append(
            f"Wav2Vec2FeatureExtractor adds {WAVEFORM_EPS} to the variance of a waveform and not "
            f"{encoder.get('waveform_eps', 1e-5)}, so quiet audio is louder there."
        )
    if quantizes:
        notes.append(
            "The temperature of the quantizer is not saved: transformers starts at 2. It has no feature penalty and no "
            "factor of the encoder's gradient."
        )
        for part, values in _TRAINING.items():
            found = _arguments(options[part])
            notes += [
                f"`model.{part}.{name}` is {_shown(found[name])}; transformers trains with {_shown(value)}."
                for name, value in values.items()
                if name in found and found[name] != value
            ]
    elif _name(config) == _TAUGHT:
        notes.append("The student is written; teacher, quantizer and loss are not.")
    elif has_codebooks(config) or has_loss:
        notes.append("Quantizer and loss are not written.")
    return notes


def _positions(context: Mapping[str, Any]) -> dict[str, Any]:
    kernel, layers = context["position_kernel"], context.get("position_layers", 1)
    if layers == 1:
        return {"num_conv_pos_embeddings": kernel}
    return {"num_conv_pos_embeddings": layers, "conv_pos_kernel_size": kernel}


def _pretraining(options: Mapping[str, Any]) -> dict[str, Any]:
    quantizer, loss = _arguments(options["quantizer"]), _arguments(options["loss"])
    found = {
        "num_codevector_groups": quantizer["num_codebooks"],
        "num_codevectors_per_group": quantizer["codebook_size"],
        "codevector_dim": quantizer["output_dim"],
        "proj_codevector_dim": loss["projection_dim"],
        "num_negatives": loss["num_negatives"],
        "contrastive_logits_temperature": loss["logit_temperature"],
    }
    penalties = options.get("penalties")
    diversity = [part for part in (penalties or {}).values() if _name(part) == "DiversityPenalty"]
    if penalties is not None:
        found["diversity_loss_weight"] = _arguments(diversity[0]).get("weight", 0.1) if diversity else 0.0
    return found


def _masking(masking: Mapping[str, Any], masks: bool) -> dict[str, Any]:
    if not masks:
        return {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    found: dict[str, Any] = {"mask_feature_prob": 0.0}
    if _name(masking) == "ChannelMasking":
        channels = _arguments(masking)
        found = {
            "mask_feature_prob": channels["channel_probability"],
            "mask_feature_length": channels["channel_length"],
            "mask_feature_min_masks": channels["min_channel_spans"],
        }
        masking = channels["frames"]
    spans = _arguments(masking)
    if _name(masking) != "SpanMasking":
        return found  # transformers keeps its defaults
    return found | {
        "mask_time_prob": spans["probability"],
        "mask_time_length": spans["length"],
        "mask_time_min_masks": spans["min_spans"],
    }


def _check_class(option: str, part: Any, *names: str) -> None:
    if _name(part) not in names:
        _refuse(option, " or ".join(names), _name(part), "transformers has no other")


def _check_options(owner: str, options: Mapping[str, Any], wanted: Mapping[str, tuple[Any, str]]) -> None:
    for name, (value, why) in wanted.items():
        if name in options and options[name] != value:
            _refuse(f"{owner}.{name}", _shown(value), options[name], why)


def _refuse(option: str, rule: str, value: Any, why: str) -> None:
    raise ValueError(f"`{option}` must be {rule} to be written for transformers, but is {_shown(value)}: {why}.")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _name(value) if isinstance(value, Mapping) else str(value)


def _name(part: Any) -> str:
    """Returns the name of the class of a part."""
    path = part.get("class_path", "") if isinstance(part, Mapping) else str(part)
    return path.rpartition(".")[2]


def _arguments(part: Any) -> Mapping[str, Any]:
    return (part.get("init_args") or {}) if isinstance(part, Mapping) else {}
