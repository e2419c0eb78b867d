"""Which options of a part must agree with those of the source, so that its weights have the same meaning.

The options are declared by the family of a part, so that parts of other packages follow the same rule: an option that
is not declared, such as one of their own, must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vlab.modules.checkpoints.plain import printable

FAMILIES_OF_PARTS = {
    "encoder": "encoder",
    "target_encoder": "encoder",
    "context": "context",
    "quantizer": "quantizer",
    "input_quantizer": "quantizer",
    "teacher": "teacher",
    "loss": "loss",
}
"""The family of each part of an objective that has options of its own."""

MUST_AGREE: dict[str, frozenset[str]] = {
    "encoder": frozenset(
        {
            # Convolutions: their shapes, and what is computed between them.
            *("layers", "normalization", "bias", "activation", "log_compression", "skip_connections"),
            *("residual_scale", "normalize_waveform"),
            # Log-mel frames have no weights; the parts after them were trained on just these frames.
            *("num_mels", "window_samples", "hop_samples", "stack", "normalize", "floor"),
            # Embeddings are those of the codes of this file.
            *("path", "num_codebooks", "codebook_size", "output_dim", "combine", "joint_size"),
            *("stride", "receptive_field"),
        }
    ),
    "context": frozenset(
        {
            # Attention, Conformer, GRU: shapes, and the order of norm and residual connection.
            *("model_dim", "num_layers", "num_heads", "feedforward_dim", "pre_norm", "qkv_bias"),
            *("position_kernel", "position_groups", "position_layers", "kernel_size", "output_dim"),
            *("attention_positions", "causal_convolution", "convolution_bias", "outer_norm"),
            # Convolutions. `padding` is what they see before the first frame of every utterance.
            *("layers", "activation", "padding", "skip_connections", "residual_scale"),
            # Log-mel frames before another context network.
            *("num_mels", "channels", "context"),
        }
    ),
    # A part inside a context network.
    "attention_positions": frozenset({"base", "before_projection", "left", "right"}),
    "quantizer": frozenset(
        {
            *("num_codebooks", "codebook_size", "output_dim", "shared_codebook", "levels", "code_dim"),
            *("projection_depth", "projection_factor", "projection_activation", "normalize"),
            "centers",  # the file of frozen centers: those of another file are other units
            # The entries of a loss are those of the units.
            *("path", "stride", "receptive_field", "joint_size"),
        }
    ),
    # What the entries of a quantizer of its targets mean.
    "teacher": frozenset({"layers", "output", "norm", "combine"}),
    "loss": frozenset(
        {
            *("projection_dim", "target_projection", "similarity"),
            # The weights of a step are those of its distance to the context, those of a head of its layer.
            *("num_steps", "offset", "layers", "output"),
        }
    ),
}
"""Options that decide shapes, or what is computed with the weights, by the family of the part."""

BEFORE_IT_EXISTED: dict[str, dict[str, Any]] = {
    "context": {
        "attention_positions": None,
        "causal_convolution": False,
        "convolution_bias": True,
        "outer_norm": "before",
        "qkv_bias": True,
    }
}
"""What was computed, by the family of the part, by models that do not name an option because they are older than it."""

MAY_DIFFER: dict[str, frozenset[str]] = {
    # `padding` of an encoder decides about padded batches alone; an utterance by itself has the same latents.
    # `waveform_eps`, which differs between fairseq and transformers, changes the level of quiet audio alone.
    "encoder": frozenset({"gradient_scale", "padding", "waveform_eps"}),
    "context": frozenset(
        {
            *("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layer_drop"),
            "activation_checkpointing",
            # Shows in the tensors, which are compared, wherever it makes a difference.
            "always_project",
        }
    ),
    "quantizer": frozenset(
        {
            # Gumbel: how entries are drawn in training.
            *("temperature_start", "temperature_end", "temperature_decay", "annealing", "annealing_updates"),
            *("hard", "noise"),
            # k-means and moving averages: how entries are learned.
            *("decay", "gamma", "revive_below", "eps", "start", "keep_unused"),
        }
    ),
    # How its weights follow the student's.
    "teacher": frozenset({"decay", "end_decay", "anneal_updates", "schedule", "frozen_from", "copied", "start"}),
    "loss": frozenset(
        {
            # How an error is measured.
            *("beta", "scale"),
            # Which candidates are compared, and how their scores are judged.
            *("num_negatives", "num_other_negatives", "num_codebook_negatives", "negatives_from", "negatives"),
            *("logit_temperature", "objective", "balanced_classes", "unmasked_weight"),
        }
    ),
}
"""Options of training, which the new run may choose freely, by the family of the part."""

OF_THE_OBJECTIVE: dict[str, tuple[str, ...]] = {"inputs": ("context", "input_quantizer"), "losses": ("loss",)}
"""Options of the objective that decide what the weights of these parts mean."""


def different_option(family: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Names the first option by which two parts of the same class have weights of another shape or meaning.

    Args:
        family: Family of the parts.
        ours: Options of our part, with all defaults, as plain data.
        theirs: Those of the source.

    Returns:
        The reason with both values; None if the weights mean the same.
    """
    free = MAY_DIFFER.get(family, frozenset())
    theirs = {name: value for name, value in BEFORE_IT_EXISTED.get(family, {}).items() if name in ours} | dict(theirs)
    for name in dict.fromkeys([*ours, *theirs]):
        if name in free or name not in ours or name not in theirs or ours[name] == theirs[name]:
            continue
        own, other = ours[name], theirs[name]
        if name in MUST_AGREE and _is_part(own) and _is_part(other) and own["class_path"] == other["class_path"]:
            # A part inside a part: its options follow the rules of its own family.
            if (why := different_option(name, own["init_args"], other["init_args"])) is not None:
                return why
        else:
            return _another(name, own, other)
    return None


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("init_args"), Mapping) and "class_path" in value


def _another(name: str, ours: Any, theirs: Any) -> str:
    kind = "width" if name.endswith("_dim") else "option"
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) == len(theirs):  # name the first element that differs
            number = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
            name, ours, theirs = f"{name}.{number}", ours[number], theirs[number]
        else:
            return f"another {kind}: `{name}` has {len(ours)} entries, the source has {len(theirs)}"
    return f"another {kind}: `{name}` is {_plain(ours)}, the source has {_plain(theirs)}"


def _plain(value: Any) -> str:
    """Formats a value as YAML would have it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return printable(value, 60)
