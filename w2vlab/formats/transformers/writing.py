"""Writes a folder of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.formats.files.tensors import in_stored_type, write_safetensors
from w2vlab.formats.names import identity_projection, renamed_to_theirs
from w2vlab.formats.published import HEAD, PublishedModel
from w2vlab.formats.transformers import config
from w2vlab.formats.transformers.expressing import (
    check_expressible,
    has_codebooks,
    is_data2vec,
    lost,
    normalizes_waveform,
    predicts_units,
    to_theirs,
)
from w2vlab.formats.transformers.families import DATA2VEC, FAMILIES, HUBERT, WAV2VEC2, WRITABLE
from w2vlab.formats.transformers.options import CONFIG, defaults_of, read_options
from w2vlab.formats.transformers.plain import write_mapping
from w2vlab.formats.transformers.preprocessor import write_preprocessor
from w2vlab.formats.transformers.tensors import Layout
from w2vlab.formats.transformers.tokenizer import tokenizer_of
from w2vlab.formats.transformers.weights import SAFETENSORS
from w2vlab.utils.files import write_atomically

_NOT_THE_NETWORK = (*HEAD, "quantizer.", "loss.", "penalties.", "target_encoder.", "target_norm.", "teacher.")
"""Starts of the names of tensors that only the objective has."""

CARD = "README.md"
"""File of the model card."""


def write_transformers(model: PublishedModel, out: Path, card: str | None = None, plain: bool = False) -> list[str]:
    """Writes a folder that `from_pretrained` of transformers opens.

    A model with a `vocabulary` becomes `Wav2Vec2ForCTC`, one with a quantizer `Wav2Vec2ForPreTraining`, and any other
    `Wav2Vec2Model`; one that was trained on units of a file becomes `HubertModel`, or `HubertForCTC`. Of a model with a
    teacher the student alone is written, as `Data2VecAudioModel` if it has the positions of data2vec. A model that came
    from a folder of transformers, and was not changed, is written as it came: the same tensors in the same types, and
    the same options.

    Args:
        model: The model, with all options.
        out: The folder, which is created.
        card: Text of the model card, in Markdown; None for none.
        plain: Write `Wav2Vec2Model` in any case: the network without quantizer, loss and linear layer.

    Returns:
        What a user should know about the folder, such as what it does not have of the model, one sentence each.

    Raises:
        ValueError: transformers cannot express the model; the error names the option.
        OSError: A file cannot be written.
    """
    vocabulary = None if plain else model.vocabulary
    quantizes = vocabulary is None and not plain and has_codebooks(model.config) and "quantizer" not in model.missing
    check_expressible(model.config, quantizes)
    came = model.origin.options if model.origin.format == "transformers" else {}
    saved: Mapping[str, Any] = came.get("config") or {}
    kind = _model_type(saved, model.config, quantizes)
    family = FAMILIES[kind]

    # The options, and those of the tokenizer.
    content = _options(saved, kind, model, quantizes)
    written = None if vocabulary is None else tokenizer_of(vocabulary, came.get("tokenizer"))
    name = family.for_pretraining if quantizes else family.model
    if written is not None:
        name = family.for_ctc
        content |= {"vocab_size": len(written.rows), **written.ids}
    content |= {"architectures": [name], "model_type": kind}

    # The weights.
    layout = Layout(
        options={**defaults_of(kind), **content},
        prefix=f"{family.prefix}." if name != family.model else "",
        projects="context.input_projection.weight" in model.weights,
        quantizes=quantizes,
        rows=None if written is None else written.rows,
    )
    entries = [row.entry for row in layout.table()]
    _check_complete(model, {entry.ours for entry in entries}, quantizes)
    weights = model.weights
    if not _masks(model):  # that of an imported model is new, and was never trained
        weights = {key: weights[key] for key in weights if key != "mask_embedding"}
    tensors = renamed_to_theirs(weights, entries)
    if not layout.projects:
        tensors |= identity_projection(f"{layout.prefix}feature_projection.projection", model.weights["norm.weight"])
    tensors = {key: in_stored_type(tensor, model.origin.dtypes.get(key)) for key, tensor in tensors.items()}
    content |= _dtype(saved, tensors)

    # Last the configuration, so that an unfinished folder is not taken for a model.
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, out / SAFETENSORS, {"format": "pt"})
    if written is not None:
        written.write(out)
    layer_norm = layout.options["feat_extract_norm"] == "layer"
    notes = [write_preprocessor(out, normalizes_waveform(model.config), layer_norm, came.get("preprocessor"))]
    if card is not None:
        write_atomically(out / CARD, card)
    write_mapping(out / CONFIG, content)
    has_loss = "loss" not in model.missing and any(name.startswith("loss.") for name in model.weights)
    return [*notes, *lost(model.config, quantizes, has_loss)]


def _model_type(saved: Mapping[str, Any], model: Mapping[str, Any], quantizes: bool) -> str:
    """Returns the `model_type` that a model came with, if that has all of it, and otherwise that of its objective."""
    if is_data2vec(model):
        return DATA2VEC
    own = HUBERT if predicts_units(model) else WAV2VEC2
    kind = saved.get("model_type", own)
    return kind if kind in WRITABLE and (FAMILIES[kind].pretrains or not quantizes) else own


def _options(saved: Mapping[str, Any], kind: str, model: PublishedModel, quantizes: bool) -> dict[str, Any]:
    """Returns the content of `config.json`: as the model came, but for what has changed."""
    masks = _masks(model)
    options = to_theirs(model.config, quantizes, masks)
    if not saved:
        return {**defaults_of(kind), **options}
    read = read_options(saved, Path(CONFIG))
    before = to_theirs(config.to_ours(read, normalizes=False, projects=True, quantizes=quantizes), quantizes, masks)
    changed = {name: value for name, value in options.items() if value != before.get(name)}
    return {**(defaults_of(kind) if kind != saved["model_type"] else {}), **saved, **changed}


def _masks(model: PublishedModel) -> bool:
    """Returns whether a model has a mask embedding of its own."""
    return "mask_embedding" in model.weights and "mask_embedding" not in model.missing


def _check_complete(model: PublishedModel, written: set[str], quantizes: bool) -> None:
    """Refuses to leave out tensors silently."""
    left_out = [
        name for name in model.weights if name not in written and (quantizes or not name.startswith(_NOT_THE_NETWORK))
    ]
    if left_out:
        raise ValueError(
            f"The model must have the tensors of its configuration to be written for transformers, but {left_out[0]} "
            "is not one of them."
        )


def _dtype(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the option for the type of the weights."""
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    found = types.pop() if len(types) == 1 else "float32"
    name = "torch_dtype" if "torch_dtype" in saved else "dtype"
    return {name: found}
