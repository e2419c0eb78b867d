"""The parts of a pretrained model that are trained further, from its checkpoint."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from w2vlab.interfaces import ContextFactory, ContextNetwork
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.loading import PRETRAINED, read_checkpoint
from w2vlab.modules.pretraining import PretrainingModule


@dataclass
class Pretrained:
    """What is trained further.

    Attributes:
        frontend: What comes before the context network.
        context: The context network.
        mask_embedding: What hidden frames are replaced by, shape `(model_dim,)`; None where nothing was hidden.
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
        ValueError: The file is no such checkpoint, or an option is none of the context network.
    """
    checkpoint = read_checkpoint(path, name="checkpoint")
    further = PRETRAINED in checkpoint
    config = checkpoint[PRETRAINED] if further else (checkpoint.get("w2vlab_config") or {}).get("model")
    if config is None:
        raise ValueError(
            f"`checkpoint` must hold the configuration of its model, as those of `w2vlab fit` do, but {path} has none: "
            "its model was built in Python. Give that model a `run_config` before it is saved."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    config = _with_context_options(parser, config, context_options, path)
    parsed = parser.parse_object({"model": deepcopy(config)})  # which changes what is inside
    model: PretrainingModule = parser.instantiate_classes(parsed).model
    parts = Pretrained(model.frontend(), model.context, getattr(model, "mask_embedding", None), config)
    if weights:
        loaded = nn.Module() if further else model
        if further:
            loaded.frontend, loaded.context = parts.frontend, parts.context
            loaded.mask_embedding = nn.Parameter(torch.empty(parts.context.model_dim))
            parts.mask_embedding = loaded.mask_embedding
        _load(loaded, checkpoint["state_dict"], path, context_options)
    return parts


def _with_context_options(
    parser: ArgumentParser, config: dict[str, Any], options: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Returns the configuration with every default filled in, and with `options`."""
    try:
        parsed = parser.parse_object({"model": deepcopy(config)})
    except ArgumentError as problem:
        raise ValueError(
            f"`checkpoint` must be of a pretraining run, but {path} is of {config.get('class_path')}, which is none "
            f"here: {problem}"
        ) from None
    text = parser.dump(parsed, skip_none=False, format="json")
    filled: dict[str, Any] = json.loads(text)["model"]
    context = filled["init_args"]["context"]
    context["init_args"] = {**context.get("init_args", {}), **options}
    _check_context_options(context, options, path)
    return filled


def _check_context_options(context: dict[str, Any], options: Mapping[str, Any], path: str) -> None:
    module, _, kind = context["class_path"].rpartition(".")
    _, *known = inspect.signature(getattr(importlib.import_module(module), kind)).parameters
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"`context_options` must be options of {kind} ({', '.join(known)}), the context network of {path}, but "
            f"has {', '.join(sorted(unknown))}."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--context", type=ContextFactory)
    try:
        parser.parse_object({"context": deepcopy(context)})
    except ArgumentError as problem:
        reason = re.search(r"Expected an? .*", str(problem))
        raise ValueError(
            f"`context_options` must be values that {kind} takes, but are {dict(options)}: "
            f"{reason[0] if reason else problem}"
        ) from None


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
