"""The parts of a pretrained model that are trained further, from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.interfaces import ContextNetwork
from w2vlab.modules.checkpoints import build_model, class_named, completed, options_that_fit, saved_config
from w2vlab.modules.checkpoints.constructors import arguments_of
from w2vlab.modules.checkpoints.loading import PRETRAINED, read_checkpoint
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.pretraining import PretrainingModule

_UNUSED = ("optimizer", "scheduler")
"""Of the pretraining, which is over."""


@dataclass
class Pretrained:
    """What is trained further.

    Attributes:
        frontend: What comes before the context network.
        context: The context network.
        mask_embedding: Replaces hidden frames, shape `(model_dim,)`; None if nothing was hidden.
        config: What builds the pretrained model, as plain data.
    """

    frontend: Frontend
    context: ContextNetwork
    mask_embedding: Tensor | None
    config: dict[str, Any]


def read_pretrained(path: str, context_options: Mapping[str, Any], weights: bool = True) -> Pretrained:
    """Builds the parts of a pretrained model from the configuration in its checkpoint.

    A checkpoint of further training holds them as well, and may be given in its place.

    Args:
        path: The checkpoint.
        context_options: Options of the context network that count in place of the checkpoint's.
        weights: Whether to load the weights.

    Raises:
        ValueError: The file is not such a checkpoint, or an option is not one of the context network.
    """
    checkpoint = read_checkpoint(path, name="checkpoint")
    further = PRETRAINED in checkpoint
    config = (
        saved_config(checkpoint, path, PRETRAINED) if further else (saved_config(checkpoint, path) or {}).get("model")
    )
    if config is None:
        raise ValueError(
            f"`checkpoint` must hold the configuration of its model, as those of w2vlab do, but {path} has none. Give "
            "that model a `run_config` before it is saved."
        )
    try:
        config = completed(config, PretrainingModule, path, leave_out=_UNUSED)
    except ValueError as problem:
        raise ValueError(f"`checkpoint` must be of a pretraining run that can be rebuilt, but: {problem}") from None
    _set_context_options(config, context_options, path)
    model = build_model(config, PretrainingModule, path)
    parts = Pretrained(model.frontend(), model.context, getattr(model, "mask_embedding", None), config)
    if weights:
        loaded = nn.Module() if further else model
        if further:
            loaded.frontend, loaded.context = parts.frontend, parts.context
            loaded.mask_embedding = nn.Parameter(torch.empty(parts.context.model_dim))
            parts.mask_embedding = loaded.mask_embedding
        _load(loaded, checkpoint["state_dict"], path, context_options)
    return parts


def _set_context_options(config: dict[str, Any], options: Mapping[str, Any], path: str) -> None:
    """Has `options` count in the configuration of the context network."""
    if not options:
        return
    context = config["init_args"]["context"]
    cls = class_named(context, ContextNetwork, path, "model.context")
    _, *known = arguments_of(cls)
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"`context_options` must be options of {cls.__name__} ({', '.join(known)}), the context network of {path}, "
            f"but has {', '.join(sorted(unknown))}."
        )
    try:
        options_that_fit(cls, options)
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
            f"`context_options` must leave the weights of the context network as they are in {path}, but with "
            f"{dict(context_options)} {len(different)} differ, such as {different[0]}."
        )
    model.load_state_dict(wanted)
