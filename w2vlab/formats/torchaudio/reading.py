"""Reads state dictionaries of torchaudio.

What shapes do not state is from the first of these that has it: the options; the file with the arguments that
`write_torchaudio` leaves beside a state dictionary; the published models with these widths and kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.formats.files.tensors import other_dtypes
from w2vlab.formats.names import renamed_to_ours
from w2vlab.formats.published import LazyWeights, Origin, PublishedModel
from w2vlab.formats.torchaudio.arguments import Arguments, read_arguments
from w2vlab.formats.torchaudio.labels import vocabulary_of
from w2vlab.formats.torchaudio.shapes import Shapes, read_shapes
from w2vlab.formats.torchaudio.tables import AUX, CONV_LAYERS, DROPOUTS, LAYERS, entries
from w2vlab.utils.messages import one_line

OPTIONS = ("num_heads", "pre_norm", "strides", "normalize_waveform", "labels")
"""Options of `read_torchaudio`."""

_PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
_PUBLISHED_KERNELS, _PUBLISHED_STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)

_PREFIXES = {"": "Wav2Vec2Model", "model.": "Wav2Vec2Model", "wav2vec2.": "HuBERTPretrainModel"}
"""Class of the model whose state dictionary has names with a prefix; `model.` is of the models of its pipelines."""

_MASK_EMBEDDING = "mask_generator.mask_embedding"
_PRETRAINING = ("mask_generator.", "logit_generator.")
"""Parts of a `HuBERTPretrainModel` beside its `Wav2Vec2Model`."""

_WAVLM = f"{LAYERS}.0.attention.attention.in_proj_weight"


def is_torchaudio(tensors: Mapping[str, Any]) -> bool:
    """Returns whether tensors have the names of a `Wav2Vec2Model` of torchaudio, or of a model that contains one."""
    return _prefix(tensors) is not None


def read_torchaudio(
    tensors: Mapping[str, Tensor], source: Path, options: Mapping[str, Any] | None = None
) -> PublishedModel:
    """Reads a state dictionary.

    Args:
        tensors: The state dictionary.
        source: Path of the file.
        options: What the file does not state; None for the published models.

            * `num_heads`: Attention heads of a layer.
            * `pre_norm`: Whether layers are normalized before each block (`encoder_layer_norm_first`).
            * `strides`: Strides of the convolutions.
            * `normalize_waveform`: Whether the model was trained on waveforms of zero mean and unit variance.
            * `labels`: The units of a model fine-tuned by CTC, one for each row of `aux`, the blank first; empty to
              read the model without `aux`.

    Raises:
        ValueError: A tensor is missing, unknown or of another shape; an option is missing or wrong; or it is a WavLM.
    """
    prefix = _prefix(tensors)
    if prefix is None or not all(isinstance(name, str) for name in tensors):
        raise ValueError(f"{source} must be a state dictionary of torchaudio's Wav2Vec2Model, but is not.")
    own = LazyWeights(
        {name.removeprefix(prefix): _reader(tensors, name) for name in tensors if name.startswith(prefix)}
    )
    if _WAVLM in own:
        raise ValueError(
            f"{source} must be a wav2vec 2.0 or HuBERT, but is a WavLM: w2vlab has no gated relative positions "
            "(`gru_rel_pos_linear`)."
        )
    given = _check_options(options or {}, source)
    shapes = read_shapes(own, source)
    beside = read_arguments(source)
    origin = Origin(
        format="torchaudio",
        architecture=_PREFIXES[prefix],
        options={"position_names": shapes.positions},
        dtypes=other_dtypes(own),
    )
    config = _config(shapes, beside, given, origin, source)
    weights, missing = _weights(tensors, own, shapes, prefix, source)
    vocabulary = None
    if AUX[0] in own:
        labels = given.get("labels", beside.labels)
        if labels is None:
            raise ValueError(
                f"`labels` must be given for {source}, which is fine-tuned by CTC: {shapes.num_labels} units in the "
                "order of the rows of `aux.weight`, the blank first; or an empty list, to read it without its last "
                "layer."
            )
        weights, vocabulary = vocabulary_of(
            labels, weights, shapes.num_labels, origin, None if "labels" in given else beside.units
        )
    return PublishedModel(config=config, weights=weights, missing=missing, vocabulary=vocabulary, origin=origin)


def _prefix(tensors: Mapping[str, Any]) -> str | None:
    for prefix in _PREFIXES:
        projections = (f"{prefix}{LAYERS}.0.attention.k_proj.weight", f"{prefix}{_WAVLM}")
        if f"{prefix}{CONV_LAYERS}.0.conv.weight" in tensors and any(name in tensors for name in projections):
            return prefix
    return None


def _reader(tensors: Mapping[str, Tensor], name: str) -> Any:
    return lambda: tensors[name]


def _weights(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], shapes: Shapes, prefix: str, source: Path
) -> tuple[LazyWeights, tuple[str, ...]]:
    """Returns the tensors by our names, and the parts that the file lacks."""
    if extra := [name for name in tensors if not name.startswith((prefix, *_PRETRAINING))]:
        raise ValueError(
            f"{source} must have the tensors of a {_PREFIXES[prefix]} alone, but has {one_line(extra[0], 100)}."
        )
    table = entries(
        len(shapes.conv_layers), shapes.bias, shapes.normalization == "layer", shapes.num_layers, shapes.positions
    )
    weights = renamed_to_ours(own, table, source)
    missing: tuple[str, ...] = ("quantizer", "loss")
    if _MASK_EMBEDDING in tensors:
        readers = {name: _reader(weights, name) for name in weights}
        weights = LazyWeights(readers | {"mask_embedding": _reader(tensors, _MASK_EMBEDDING)})
    else:
        missing += ("mask_embedding",)
    return weights, missing


def _config(
    shapes: Shapes, beside: Arguments, given: Mapping[str, Any], origin: Origin, source: Path
) -> dict[str, Any]:
    strides = given.get("strides", beside.strides)
    kernels = tuple(kernel for _, kernel in shapes.conv_layers)
    if strides is None:
        if kernels != _PUBLISHED_KERNELS:
            raise ValueError(
                f"`strides` must be given for {source}: one for each of the {len(kernels)} convolutions, because their "
                f"kernels, {list(kernels)}, are not those of a published model."
            )
        strides = _PUBLISHED_STRIDES
    if len(strides) != len(kernels):
        raise ValueError(
            f"`strides` must have {len(kernels)} numbers, one for each convolution of {source}, but is {list(strides)}."
        )
    layers = [[width, kernel, stride] for (width, kernel), stride in zip(shapes.conv_layers, strides, strict=True)]
    is_layer = shapes.normalization == "layer"
    encoder = {
        "layers": layers,
        "normalization": shapes.normalization,
        "bias": shapes.bias,
        "normalize_waveform": _assumed(
            "normalize_waveform",
            given.get("normalize_waveform", beside.normalize_waveform),
            is_layer,
            f"published models with {'a layer norm' if is_layer else 'a group norm'} in the encoder",
            origin,
        ),
    }
    if encoder["normalize_waveform"] and beside.waveform_eps is not None:
        encoder["waveform_eps"] = beside.waveform_eps
    num_heads = given.get("num_heads", beside.num_heads)
    if num_heads is None:
        if shapes.model_dim not in _PUBLISHED_HEADS:
            raise ValueError(
                f"`num_heads` must be given for {source}, because its width, {shapes.model_dim}, is not that of a "
                "published model."
            )
        num_heads = _assumed(
            "num_heads",
            None,
            _PUBLISHED_HEADS[shapes.model_dim],
            f"published models of width {shapes.model_dim}",
            origin,
        )
    if shapes.model_dim % num_heads:
        raise ValueError(f"`num_heads` must divide the width of {source}, {shapes.model_dim}, but is {num_heads}.")
    context = {
        "model_dim": shapes.model_dim,
        "num_layers": shapes.num_layers,
        "num_heads": num_heads,
        "feedforward_dim": shapes.feedforward_dim,
        "pre_norm": _assumed(
            "pre_norm",
            given.get("pre_norm", beside.pre_norm),
            is_layer,
            f"published models with {'a layer norm' if is_layer else 'a group norm'} in the encoder",
            origin,
        ),
        "position_kernel": shapes.position_kernel,
        "position_groups": shapes.position_groups,
        **{DROPOUTS[name]: value for name, value in beside.dropouts.items()},
    }
    if shapes.conv_layers[-1][0] == shapes.model_dim:
        context["always_project"] = True
    parts = {
        "encoder": ("w2vlab.encoders.ConvFeatureEncoder", encoder),
        "context": ("w2vlab.contexts.TransformerContext", context),
        "quantizer": ("w2vlab.quantizers.IdentityQuantizer", {}),
    }
    return {
        "class_path": "w2vlab.modules.MaskedPrediction",
        "init_args": {name: {"class_path": path, "init_args": arguments} for name, (path, arguments) in parts.items()},
    }


def _assumed(option: str, stated: Any, published: Any, where: str, origin: Origin) -> Any:
    """Returns what is stated, else what published models have, and notes that."""
    if stated is not None:
        return stated
    origin.notes.append(
        f"`{option}` is taken to be {str(published).lower()}, as in {where}: a state dictionary does not state it."
    )
    return published


def _check_options(options: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Returns the options that are given.

    Raises:
        ValueError: One is unknown, or has the wrong type.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in OPTIONS:
            raise ValueError(
                f"`{name}` must be an option of torchaudio's state dictionaries ({', '.join(OPTIONS)}), but is not; "
                f"{source} is one."
            )
        right, rule = {
            "num_heads": (_is_count(value), "a positive number"),
            "strides": (_is_list(value) and bool(value) and all(map(_is_count, value)), "a list of positive numbers"),
            "labels": (
                _is_list(value) and all(isinstance(label, str) and label for label in value),
                "a list of texts, each of at least one character",
            ),
        }.get(name, (isinstance(value, bool), "true or false"))
        if not right:
            raise ValueError(f"`{name}` must be {rule}, but is {one_line(repr(value), 100)}.")
    return given


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
