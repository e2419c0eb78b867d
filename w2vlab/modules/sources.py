"""Reads a model from any source: a checkpoint of ours, or a file or folder of another project.

`opening.py` builds the model; `warm_start.py` and fine-tuning take some of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.formats import Origin, PublishedModel
from w2vlab.formats.detection import is_of_lightning, located, read_foreign
from w2vlab.interfaces import PredictionLoss
from w2vlab.modules.checkpoints import fill_defaults, resolve_class, saved_config
from w2vlab.modules.checkpoints.loading import PRETRAINED, VOCABULARY, read_checkpoint
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.utils.messages import dimensions
from w2vlab.vocabulary import Vocabulary

ORIGIN = "w2vlab_origin"
"""Key in a checkpoint of how its model was stored before `w2vlab import`."""

_TRAINING_ONLY = ("optimizer", "scheduler")
"""Options of a model that say how it was trained, not what it is."""

_PRETRAINING_ONLY = ("quantizer", "teacher", "loss", "mask_embedding", "target_encoder", "target_norm", "penalties")
"""Parts that the checkpoint of a fine-tuning may lack."""

_IDENTITY = {"class_path": "w2vlab.quantizers.IdentityQuantizer", "init_args": {}}


def read_source(source: str | Path, options: Mapping[str, Any] | None = None, name: str = "source") -> PublishedModel:
    """Reads a model without building it.

    Args:
        source: Path of a file or a folder, or `hf:` and the name of a model on the Hugging Face Hub.
        options: What the file does not state, such as `num_heads` of a torchaudio state dictionary; and `ignore`, a
            list of tensors or modules of a file of another project that are left out.
        name: Option with the source, for errors.

    Returns:
        The model; `config` has every option except those of the optimizer and the schedule, and `weights` are read
        when they are accessed.

    Raises:
        ValueError: It cannot be read, or has something that w2vlab cannot express.
    """
    path = located(source, name)
    if is_of_lightning(path):
        model = _read_ours(read_checkpoint(path, name=name), source, name)
        if options:
            raise ValueError(
                f"Options of a source must not be given for {source}, because a checkpoint states everything, but are "
                f"{', '.join(options)}."
            )
    else:
        model = read_foreign(path, options, name)
    try:
        config = fill_defaults(model.config, PretrainingModule, source, exclude=_TRAINING_ONLY)
    except ValueError as problem:
        raise ValueError(f"`{name}` must be of a pretraining run that can be rebuilt, but: {problem}") from None
    return replace(model, config=config)


def _read_ours(checkpoint: Mapping[str, Any], source: str | Path, name: str) -> PublishedModel:
    """Reads a checkpoint of a pretraining or of a fine-tuning."""
    is_finetuning = PRETRAINED in checkpoint
    config = saved_config(checkpoint, source, PRETRAINED if is_finetuning else CONFIG)
    if config is not None and not is_finetuning:
        config = config.get("model")
    if config is None:
        raise ValueError(
            f"`{name}` must have the configuration of its model, as those of w2vlab do, but {source} has none. Set "
            "the `run_config` of that model before it is saved."
        )
    weights = checkpoint["state_dict"]
    if not isinstance(weights, Mapping):
        raise ValueError(f"`state_dict` of {source} must have tensors by name, but does not.")
    vocabulary = None
    if is_finetuning:
        weights = _as_in_pretraining(weights, config)
        vocabulary = Vocabulary.from_dict(checkpoint[VOCABULARY]) if VOCABULARY in checkpoint else None
    absent = (part for part in _PRETRAINING_ONLY if is_finetuning and not _has(weights, part))
    missing = tuple(dict.fromkeys([*_missing_before(checkpoint, source), *absent]))
    if "quantizer" in missing:
        config = _without_codebooks(config, source)
    return PublishedModel(
        config=config, weights=weights, missing=missing, vocabulary=vocabulary, origin=_origin(checkpoint, source)
    )


def _without_codebooks(config: Mapping[str, Any], source: object) -> dict[str, Any]:
    """Returns the configuration of a model with continuous targets, so that nobody reads codes of a random codebook.

    A loss that needs codes is then the default of the model; it is one of the missing parts, too.
    """
    options = {**(config.get("init_args") or {}), "quantizer": _IDENTITY}
    loss = options.get("loss")
    if loss is not None and resolve_class(loss, PredictionLoss, source, "model.loss").needs_codes:
        del options["loss"]
    options.pop("losses", None)  # which codes train, or which stand beside a loss that codes train
    return {**config, "init_args": options}


def _missing_before(checkpoint: Mapping[str, Any], source: object) -> list[str]:
    """Returns the parts that were new when `w2vlab import` wrote a checkpoint, because its source did not have them."""
    missing = (saved_config(checkpoint, source, ORIGIN) or {}).get("missing")
    return [part for part in missing if isinstance(part, str)] if isinstance(missing, list) else []


def _as_in_pretraining(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Renames the parts before the context network of a fine-tuned model to those of the pretraining model."""
    options = config.get("init_args") or {}
    quantizer = "quantizer" if options.get("input_quantizer") is None else "input_quantizer"
    renamed = {}
    for key, tensor in weights.items():
        part, _, rest = key.removeprefix("frontend.").partition(".")
        part = quantizer if part == "quantizer" else part
        renamed[f"{part}.{rest}" if key.startswith("frontend.") else key] = tensor
    return renamed


def _has(weights: Mapping[str, Tensor], part: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for key in weights)


def _origin(checkpoint: Mapping[str, Any], source: object) -> Origin:
    """Returns how the model was stored before `w2vlab import`, or that it is of w2vlab."""
    saved = saved_config(checkpoint, source, ORIGIN) or {}
    known = {field.name for field in fields(Origin)}
    return Origin(**{"format": "w2vlab", **{key: value for key, value in saved.items() if key in known}})


@torch.no_grad()
def copy_weights(module: nn.Module, model: PublishedModel, source: object) -> None:
    """Copies weights into a module with the names of the pretraining model, one tensor at a time.

    Args:
        module: The module; changed in place. Tensors of `model` that it does not have are left out.
        model: The weights. Its `missing` parts keep the values that they have in `module`.
        source: Path of the model, for errors.

    Raises:
        ValueError: A tensor is missing, or has another shape.
    """
    different = []
    for name, own in module.state_dict().items():
        if name in model.weights:
            found = model.weights[name]
            if found.is_floating_point() != own.is_floating_point():
                raise ValueError(
                    f"{source} must have the weights of the model that it describes, but {name} is of type "
                    f"{found.dtype}, and not {own.dtype}: quantized weights are not read."
                )
            if found.shape == own.shape:
                own.copy_(found)
            else:
                different.append(f"{name} ({dimensions(own.shape)}; the file: {dimensions(found.shape)})")
        elif name.partition(".")[0] not in model.missing:
            different.append(f"{name} ({dimensions(own.shape)}; the file: none)")
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise ValueError(
            f"{source} must have the weights of the model that it describes, but these differ: "
            f"{', '.join(different[:3])}{more}."
        )
