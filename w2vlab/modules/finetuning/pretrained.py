"""Loads the parts of a pretrained model that fine-tuning trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.interfaces import ContextNetwork
from w2vlab.modules.checkpoints import build_model, convert_options, fill_defaults, resolve_class, saved_config
from w2vlab.modules.checkpoints.constructors import constructor_arguments
from w2vlab.modules.checkpoints.loading import PRETRAINED, read_checkpoint
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.pretraining import PretrainingModule

_UNUSED = ("optimizer", "scheduler")
"""Arguments of the pretraining that fine-tuning does not need."""


@dataclass
class Pretrained:
    """The pretrained parts.

    Attributes:
        frontend: The parts before the context network.
        context: The context network.
        mask_embedding: Replaces masked frames, shape `(model_dim,)`; None if pretraining masked none.
        config: Configuration of the pretrained model, as plain data.
    """

    frontend: Frontend
    context: ContextNetwork
    mask_embedding: Tensor | None
    config: dict[str, Any]


def read_pretrained(path: str, context_options: Mapping[str, Any], weights: bool = True) -> Pretrained:
    """Builds the parts of a pretrained model from the configuration in its checkpoint.

    The checkpoint of a fine-tuning has the same parts, so it is accepted too.

    Args:
        path: Path of the checkpoint.
        context_options: Options of the context network that override those of the checkpoint.
        weights: Whether to load the weights.

    Returns:
        The parts.

    Raises:
        ValueError: The file is not such a checkpoint, or an option is not one of the context network.
    """
    checkpoint = read_checkpoint(path, name="checkpoint")
    is_finetuning = PRETRAINED in checkpoint
    config = (
        saved_config(checkpoint, path, PRETRAINED)
        if is_finetuning
        else (saved_config(checkpoint, path) or {}).get("model")
    )
    if config is None:
        raise ValueError(
            f"`checkpoint` must have the configuration of its model, as those of w2vlab do, but {path} has none. Set "
            "the `run_config` of that model before it is saved."
        )
    try:
        config = fill_defaults(config, PretrainingModule, path, exclude=_UNUSED)
    except ValueError as problem:
        raise ValueError(f"`checkpoint` must be of a pretraining run that can be rebuilt, but: {problem}") from None
    _set_context_options(config, context_options, path)
    model = build_model(config, PretrainingModule, path)
    parts = Pretrained(model.frontend(), model.context, getattr(model, "mask_embedding", None), config)
    if weights:
        loaded = nn.Module() if is_finetuning else model
        if is_finetuning:
            loaded.frontend, loaded.context = parts.frontend, parts.context
            loaded.mask_embedding = nn.Parameter(torch.empty(parts.context.model_dim))
            parts.mask_embedding = loaded.mask_embedding
        _load(loaded, checkpoint["state_dict"], path, context_options)
    return parts


def _set_context_options(config: dict[str, Any], options: Mapping[str, Any], path: str) -> None:
    """Overrides options of the context network in `config`, which is changed in place."""
    if not options:
        return
    context = config["init_args"]["context"]
    cls = resolve_class(context, ContextNetwork, path, "model.context")
    _, *known = constructor_arguments(cls)
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"`context_options` must be options of {cls.__name__} ({', '.join(known)}), the context network of {path}, "
            f"but has {', '.join(sorted(unknown))}."
        )
    try:
        convert_options(cls, options)
    except ValueError as problem:
        raise ValueError(
            f"`context_options` must be values that {cls.__name__} takes, but are {dict(options)}: {problem}."
        ) from None
    context["init_args"] = {**context.get("init_args", {}), **options}


def _load(model: nn.Module, state: Mapping[str, Tensor], path: str, context_options: Mapping[str, Any]) -> None:
    own = model.state_dict()
    wanted = {name: value for name, value in state.items() if name in own}
    different = [name for name in own if name not in wanted or wanted[name].shape != own[name].shape]
    if different:
        raise ValueError(
            f"`context_options` must not change the weights of the context network of {path}, but with "
            f"{dict(context_options)} {len(different)} differ, such as {different[0]}."
        )
    model.load_state_dict(wanted)
