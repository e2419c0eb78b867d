"""Builds the model of any source that `read_source` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from w2vlab.formats import PublishedModel
from w2vlab.modules.checkpoints import build_model
from w2vlab.modules.finetuning.ctc import CTCFineTuning
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.sources import copy_weights
from w2vlab.modules.update import TrainedModule
from w2vlab.utils.messages import one_line

_OF_EVERY_MODEL = ("encoder", "norm", "context")
"""Parts that features depend on; a fine-tuned model has some of the others, too."""

_SEED = 1
"""Seed of the parts for which the source has no weights."""


def build_model_of(
    model: PublishedModel,
    source: str | Path,
    options: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> TrainedModule:
    """Builds a model, with its weights, in evaluation mode.

    Weights are copied into the model one at a time, so that no more than one of them is held twice.

    Args:
        model: What `read_source` returned.
        source: Path of the model, for errors and for the configuration of a fine-tuned model.
        options: The options that `read_source` was given.
        dtype: Type of the weights; None for float32.

    Returns:
        `MaskedPrediction` or `FuturePrediction`; `CTCFineTuning` if the model has a vocabulary. Parts that the source
        lacks (`model.missing`) are initialized with a fixed seed.

    Raises:
        ValueError: The weights are not those of the configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        if model.vocabulary is not None:
            finetuned = _build_finetuned(model, source, options)
            _check_all_used(finetuned, model, source)
            return finetuned.to(dtype).eval()
        with nullcontext() if model.missing else without_initialization():
            module: PretrainingModule = build_model(model.config, PretrainingModule, source)
    _check_all_used(module, model, source)
    module = module.to(dtype)  # before it has weights, whose pages take no memory until then
    copy_weights(module, model, source)
    return module.eval()


def _check_all_used(module: nn.Module, model: PublishedModel, source: object) -> None:
    """Refuses to leave out weights silently, such as those of a layer that the configuration does not have."""
    own = {name.removeprefix("frontend.") for name in module.state_dict()}
    extra = [name for name in model.weights if name not in own and name.partition(".")[0] in _OF_EVERY_MODEL]
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise ValueError(
            f"{source} must have the weights of the model that it describes, but has {one_line(extra[0], 100)}{more}, "
            "which this model does not have."
        )


class without_initialization(TorchFunctionMode):
    """Leaves parameters as they are allocated, because all of them will be overwritten: seconds for a large model."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Skips the functions that fill a tensor with random numbers in place."""
        kwargs = kwargs or {}
        if func in _RANDOM_IN_PLACE:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_RANDOM_IN_PLACE = {
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
    *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
}


def _build_finetuned(
    model: PublishedModel, source: str | Path, options: Mapping[str, Any] | None = None
) -> CTCFineTuning:
    assert model.vocabulary is not None, "checked by the caller"
    module = CTCFineTuning(
        str(source), units=model.vocabulary.units, source_options=None if options is None else dict(options)
    )
    module.set_vocabulary(model.vocabulary)
    for name in ("weight", "bias"):
        own, found = getattr(module.head, name), model.weights[f"head.{name}"]
        if own.shape != found.shape:
            raise ValueError(
                f"`head.{name}` of {source} must have a row for each of the {len(model.vocabulary)} entries of the "
                f"vocabulary, but is of shape {tuple(found.shape)}."
            )
        with torch.no_grad():
            own.copy_(found)
    return module
