"""Writes state dictionaries that `torchaudio.models.wav2vec2_model` loads strictly, and its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.files.tensors import in_stored_type, write_safetensors
from w2vlab.formats.names import identity_projection, renamed_to_theirs
from w2vlab.formats.published import HEAD, PublishedModel
from w2vlab.formats.torchaudio.arguments import write_arguments
from w2vlab.formats.torchaudio.labels import WORD_BOUNDARY, arranged
from w2vlab.formats.torchaudio.tables import AUX, DROPOUTS, NORMALIZATIONS, PositionNames, entries
from w2vlab.utils.files import replace_atomically
from w2vlab.vocabulary import Vocabulary

_PROJECTION = "context.input_projection"

_EXPRESSIBLE: dict[str, dict[str, tuple[Any, ...]]] = {
    "model": {"inputs": ("continuous",)},
    "model.encoder": {
        "normalization": tuple(NORMALIZATIONS.values()),
        "activation": ("gelu",),
        "log_compression": (False,),
        "skip_connections": (False,),
    },
    "model.context": {"attention_positions": (None,), "position_layers": (1,), "qkv_bias": (True,)},
}
"""Values of our options that torchaudio has; it has all values of the others, or they do not change features."""

_CLASSES = {
    "model": ("MaskedPrediction", "TeacherPrediction"),
    "model.encoder": ("ConvFeatureEncoder",),
    "model.context": ("TransformerContext",),
}


def write_torchaudio(model: PublishedModel, out: Path) -> list[str]:
    """Writes a state dictionary and, beside it, `….json` with the arguments of `wav2vec2_model`.

    Args:
        model: The model, with all options in its configuration.
        out: The file: `….safetensors`, or a file of `torch.save` with any other ending.

    Returns:
        What the file does not say or changes, one sentence each.

    Raises:
        ValueError: torchaudio cannot express an option of the model.
        OSError: A file cannot be written.
    """
    if out.suffix == ".json":
        raise ValueError(f"`out` must not end with .json, which is the file of the arguments beside it, but is {out}.")
    _check(model)
    encoder, context = (_options(model.config, part) for part in ("encoder", "context"))
    layers = encoder["layers"]
    notes: list[str] = []
    weights: dict[str, Tensor] = {name: model.weights[name] for name in _kept(model)}
    if f"{_PROJECTION}.weight" not in weights:  # torchaudio always projects; by the identity here
        weights |= identity_projection(_PROJECTION, weights["norm.weight"])
        notes.append("torchaudio always projects latents, so that a projection by the identity was written.")
    options = model.origin.options if model.origin.format == "torchaudio" else {}
    names: PositionNames = "weight_g" if options.get("position_names") == "weight_g" else "parametrizations"
    table = entries(len(layers), encoder["bias"], encoder["normalization"] == "layer", context["num_layers"], names)
    theirs = renamed_to_theirs(weights, table)
    labels = None
    if model.vocabulary is not None:
        labels = _labels(model.vocabulary, options.get("labels"), theirs)
    _restore_dtypes(theirs, model)
    if encoder["normalize_waveform"]:
        notes.append(
            "torchaudio's model does not normalize waveforms, as this one expects: "
            f"torch.nn.functional.layer_norm(waveform, waveform.shape, eps={encoder['waveform_eps']}) before it, for "
            "each utterance alone."
        )
    if encoder["normalization"] == "first_group" and encoder["padding"] == "exclude":
        notes.append(
            "torchaudio's group norm sees the padding of a batch, and w2vlab's does not: compare single utterances."
        )
    if "mask_embedding" in model.weights:
        notes.append("torchaudio's Wav2Vec2Model has no mask embedding, teacher, quantizer or loss: they are left out.")
    _save(theirs, out)
    arguments = _arguments(encoder, context, labels)
    units = None if model.vocabulary is None else model.vocabulary.units
    write_arguments(out, arguments, encoder["normalize_waveform"], encoder["waveform_eps"], labels, units)
    return notes


def _kept(model: PublishedModel) -> list[str]:
    kept = ("encoder.", "norm.", "context.")
    return [name for name in model.weights if name.startswith(kept) or name in HEAD]


def _options(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    options: dict[str, Any] = config["init_args"][part]["init_args"]
    return options


def _check(model: PublishedModel) -> None:
    for place, allowed in _EXPRESSIBLE.items():
        node = model.config
        for part in place.split(".")[1:]:
            node = node["init_args"][part]
        name = str(node["class_path"]).rpartition(".")[2]
        if name not in _CLASSES[place]:
            known = " or ".join(_CLASSES[place])
            raise ValueError(f"`{place}` must be {known} for torchaudio, which has no other, but is {name}.")
        for option, values in allowed.items():
            value = node["init_args"].get(option, values[0])  # an objective may not have it
            if value not in values:
                shown = " or ".join(map(_shown, values))
                raise ValueError(
                    f"`{place}.{option}` must be {shown} for torchaudio, which has nothing else, but is "
                    f"{_shown(value)}."
                )
    if (HEAD[0] in model.weights) != (model.vocabulary is not None):
        raise ValueError("A fine-tuned model must have both a vocabulary and a linear layer, but has one of them.")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):  # a part
        return str(value.get("class_path")).rpartition(".")[2]
    return "null" if value is None else str(value).lower()


def _labels(vocabulary: Vocabulary, before: Any, theirs: dict[str, Tensor]) -> list[str]:
    """Returns the label of each row of `aux`.

    Args:
        vocabulary: The units of the model.
        before: The labels with which it was read from a file of torchaudio; None if it was not.
        theirs: Tensors by the names of torchaudio; its rows get the order of that file.
    """
    if isinstance(before, list) and before and all(isinstance(label, str) and label for label in before):
        known, rows = arranged(before, vocabulary.units)
        if known == vocabulary:
            entry_of_row = torch.tensor(rows).argsort()
            for name in AUX:
                theirs[name] = theirs[name][entry_of_row]
            return before
    if vocabulary.units == "phones" or WORD_BOUNDARY in vocabulary.entries:
        return list(vocabulary.entries)
    return [WORD_BOUNDARY if entry == " " else entry for entry in vocabulary.entries]


def _restore_dtypes(theirs: dict[str, Tensor], model: PublishedModel) -> None:
    """Stores tensors in the type that the file had, where this changes no value."""
    if model.origin.format != "torchaudio":
        return
    for name in theirs.keys() & model.origin.dtypes.keys():
        theirs[name] = in_stored_type(theirs[name], model.origin.dtypes[name])


def _arguments(encoder: Mapping[str, Any], context: Mapping[str, Any], labels: list[str] | None) -> dict[str, Any]:
    extractor_modes = {ours: theirs for theirs, ours in NORMALIZATIONS.items()}
    return {
        "extractor_mode": extractor_modes[encoder["normalization"]],
        "extractor_conv_layer_config": [list(layer) for layer in encoder["layers"]],
        "extractor_conv_bias": encoder["bias"],
        "encoder_embed_dim": context["model_dim"],
        "encoder_pos_conv_kernel": context["position_kernel"],
        "encoder_pos_conv_groups": context["position_groups"],
        "encoder_num_layers": context["num_layers"],
        "encoder_num_heads": context["num_heads"],
        "encoder_ff_interm_features": context["feedforward_dim"],
        "encoder_layer_norm_first": context["pre_norm"],
        **{theirs: context[ours] for theirs, ours in DROPOUTS.items()},
        "aux_num_out": None if labels is None else len(labels),
    }


def _save(tensors: dict[str, Tensor], out: Path) -> None:
    if out.suffix == ".safetensors":
        write_safetensors(tensors, out)
        return
    own = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}  # without a larger storage
    with replace_atomically(out) as unfinished:
        try:
            torch.save(own, unfinished)
        except RuntimeError as error:  # such as a full disk
            raise OSError(f"{out} cannot be written: {error}") from error
