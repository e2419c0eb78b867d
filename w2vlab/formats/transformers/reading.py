"""Reads a folder of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.files.tensors import other_dtypes
from w2vlab.formats.names import renamed_to_ours, without
from w2vlab.formats.published import Origin, PublishedModel
from w2vlab.formats.transformers import config, tokenizer
from w2vlab.formats.transformers.families import FAMILIES, Family
from w2vlab.formats.transformers.options import CONFIG, model_type, read_options
from w2vlab.formats.transformers.plain import read_mapping
from w2vlab.formats.transformers.preprocessor import normalizes, read_preprocessor
from w2vlab.formats.transformers.tensors import NEW_NORM, OLD_NORM, Layout, check_shapes
from w2vlab.formats.transformers.weights import open_weights

_GATED_POSITIONS = (
    "gru_rel_pos_const",
    "gru_rel_pos_linear.weight",
    "gru_rel_pos_linear.bias",
    "rel_attn_embed.weight",
)
"""Ends of the names of WavLM's gated relative positions."""

_PRETRAINING = ("quantizer.", "project_hid.", "project_q.")
"""Starts of the names of the tensors that only pretraining has."""


def is_transformers(path: Path) -> bool:
    """Returns whether a folder, or the folder of a file, has the configuration of a model of transformers."""
    try:
        return model_type(read_mapping(_folder(path) / CONFIG) or {}) is not None
    except ValueError:
        return False


def read_transformers(path: Path, name: str = "source", ignore: Sequence[str] = ()) -> PublishedModel:
    """Reads a folder of transformers.

    Args:
        path: The folder, or a file in it.
        name: Option with the path, for errors.
        ignore: Tensors that are left out, by their names or those of their modules.

    Returns:
        The model. Its objective is that of transformers; its weights are read when they are accessed.

    Raises:
        ValueError: A file is missing or damaged, or w2vlab cannot express the model.
    """
    folder = _folder(path)
    saved = read_mapping(folder / CONFIG)
    if saved is None:
        raise ValueError(f"`{name}` must be a folder with {CONFIG}, but {folder} has none.")
    options = read_options(saved, folder)
    family = FAMILIES[options["model_type"]]
    tensors = without(open_weights(folder, name), ignore)
    _check_network(tensors, family, saved, folder)

    # What the names of the tensors say about the model.
    quantizes = any(tensor.startswith(_PRETRAINING) for tensor in tensors)
    prefix = f"{family.prefix}." if any(tensor.startswith(f"{family.prefix}.") for tensor in tensors) else ""
    positions = f"{prefix}encoder.pos_conv_embed.conv."
    norm = OLD_NORM if f"{positions}{OLD_NORM[0]}" in tensors else NEW_NORM
    units, files = _tokenizer(tensors, folder)
    projects = not _is_identity(tensors, f"{prefix}feature_projection.projection")
    layout = Layout(
        options=options,
        prefix=prefix,
        norm=norm,
        projects=projects,
        quantizes=quantizes,
        rows=None if units is None else units.rows,
    )
    table = layout.table()
    check_shapes(tensors, table, folder)
    identity = (f"{prefix}feature_projection.projection.weight", f"{prefix}feature_projection.projection.bias")
    weights = renamed_to_ours(
        tensors, [row.entry for row in table], folder, ignored=lambda tensor: not projects and tensor in identity
    )

    # Whether the waveform is normalized is not an option of the model, but of its preprocessor.
    preprocessor = read_preprocessor(folder)
    normalized, notes = normalizes(preprocessor, options)
    missing = [] if quantizes else ["quantizer", "loss"]
    if "mask_embedding" not in weights:
        missing.append("mask_embedding")
    return PublishedModel(
        config=config.to_ours(options, normalized, projects, quantizes),
        weights=weights,
        missing=tuple(missing),
        vocabulary=None if units is None else units.vocabulary,
        origin=Origin(
            format="transformers",
            architecture=_architecture(family, quantizes, units is not None),
            options={"config": saved, "preprocessor": preprocessor, "tokenizer": files},
            dtypes=other_dtypes(tensors),
            notes=[*notes, *(units.notes if units else ())],
            training_notes=config.training_notes(options, quantizes),
        ),
    )


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _tokenizer(tensors: Mapping[str, Tensor], folder: Path) -> tuple[tokenizer.Tokenizer | None, dict[str, Any] | None]:
    """Returns the units of a model fine-tuned by CTC, and the files that have them."""
    if "lm_head.weight" not in tensors:
        return None, None
    files, shape = tokenizer.read_files(folder), tensors["lm_head.weight"].shape
    return tokenizer.parse(files, shape[0] if shape else 0, folder), files


def _check_network(tensors: Mapping[str, Tensor], family: Family, saved: Mapping[str, Any], folder: Path) -> None:
    """Refuses networks that differ from wav2vec 2.0's although their options do not say so."""
    gated = next((tensor for tensor in tensors if tensor.endswith(_GATED_POSITIONS)), None)
    if gated is not None:
        raise ValueError(
            f"num_buckets must be 0, but is {saved.get('num_buckets', 320)} ({CONFIG} of {folder}): w2vlab's "
            f"Transformer does not have the gated relative positions of WavLM ({gated})."
        )
    if not family.pretrains and any(tensor.startswith(_PRETRAINING) for tensor in tensors):
        raise ValueError(
            f"architectures must be {family.model} or {family.for_ctc}, but is {saved.get('architectures')} ({CONFIG} "
            f"of {folder}): its objective is not that of wav2vec 2.0."
        )


def _is_identity(tensors: Mapping[str, Tensor], projection: str) -> bool:
    """Returns whether the input projection changes nothing, as in models of fairseq that have none."""
    weight, bias = tensors.get(f"{projection}.weight"), tensors.get(f"{projection}.bias")
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        return False
    return not bias.any() and torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype))


def _architecture(family: Family, quantizes: bool, has_head: bool) -> str:
    if quantizes:
        return family.for_pretraining
    return family.for_ctc if has_head else family.model
