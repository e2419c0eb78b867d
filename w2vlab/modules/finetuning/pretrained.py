"""Loads the parts of a pretrained model that fine-tuning trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from w2vlab.formats import PublishedModel
from w2vlab.interfaces import ContextNetwork
from w2vlab.modules.checkpoints import build_model, convert_options, resolve_class
from w2vlab.modules.checkpoints.constructors import constructor_arguments
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.sources import copy_weights, read_source


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


def read_pretrained(
    path: str,
    context_options: Mapping[str, Any],
    weights: bool = True,
    source_options: Mapping[str, Any] | None = None,
) -> Pretrained:
    """Builds the parts of a pretrained model from any source of `read_source`.

    A fine-tuned model has the same parts, so it is accepted too.

    Args:
        path: Path of a checkpoint, or of a file or folder of another project.
        context_options: Options of the context network that override those of the checkpoint.
        weights: Whether to load the weights.
        source_options: What the file does not state, as in `read_source`.

    Returns:
        The parts.

    Raises:
        ValueError: The source cannot be read, or an option is not one of the context network.
    """
    published = read_source(path, source_options, name="checkpoint")
    config = published.config
    _set_context_options(config, context_options, path)
    model = build_model(config, PretrainingModule, path)
    if weights:
        _check_context(model, published, path, context_options)
        copy_weights(model, published, path)
    embedding = None if "mask_embedding" in published.missing else getattr(model, "mask_embedding", None)
    return Pretrained(model.frontend(), model.context, embedding, config)


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


def _check_context(
    model: PretrainingModule, published: PublishedModel, path: str, context_options: Mapping[str, Any]
) -> None:
    """Checks that `context_options` have not changed the weights of the context network."""
    own = {f"context.{name}": tensor.shape for name, tensor in model.context.state_dict().items()}
    saved = published.weights
    different = [name for name, shape in own.items() if name not in saved or saved[name].shape != shape]
    different += [name for name in saved if name.startswith("context.") and name not in own]  # such as dropped layers
    if different and context_options:
        raise ValueError(
            f"`context_options` must not change the weights of the context network of {path}, but with "
            f"{dict(context_options)} {len(different)} differ, such as {different[0]}."
        )
