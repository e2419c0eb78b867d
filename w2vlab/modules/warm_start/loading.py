"""Loads the weights of another model into a new one, part by part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from w2vlab.formats import PublishedModel
from w2vlab.modules.checkpoints.initial_weights import InitialPart, WarmStart, is_warm_start_skipped
from w2vlab.modules.sources import read_source
from w2vlab.modules.warm_start.options import FAMILIES_OF_PARTS, OF_THE_OBJECTIVE, different_option
from w2vlab.registry import import_paths
from w2vlab.utils.messages import W2VLabWarning, dimensions

if TYPE_CHECKING:
    from w2vlab.modules.pretraining import PretrainingModule

_GOES_WITH = {
    "norm": ("encoder",),  # it normalizes the output of the encoder
    "target_norm": ("target_encoder",),
    "quantizer": ("target_encoder", "teacher"),  # its entries are those of the targets
    "teacher": ("context",),  # it follows that network
    "mask_embedding": ("context",),  # it replaces inputs of the context network
    "loss": ("quantizer",),  # it projects the targets, too
}
"""Parts whose weights mean nothing without another part of the source."""

_OF_THE_OBJECTIVE = ("loss", "mask_embedding")
"""Parts that are trained for one objective alone."""

_MISSING = "the source has none"

_STARTS_AS_STUDENT = "it starts from the context network"
"""Why a teacher has no weights of a source."""

_NEW_MATRICES = ", and the matrices of its linear layers are new"


def start_from(
    module: PretrainingModule, init_from: str | Path | None, init_from_parts: Sequence[str] | None
) -> WarmStart | None:
    """Loads the parts of a source that fit into a new module.

    Args:
        module: The module; changed in place.
        init_from: A model of any format; None to load nothing.
        init_from_parts: Names of the parts to load; None loads all that fit.

    Returns:
        What was loaded; None without a source, and inside of `without_warm_start`.

    Raises:
        ValueError: The source cannot be read, has lost its mask embedding, or has nothing that fits; or a part of
            `init_from_parts` does not fit.
    """
    if init_from is None:
        if init_from_parts is not None:
            warnings.warn("`init_from_parts` has no effect without `init_from`.", category=W2VLabWarning, stacklevel=3)
        return None
    if is_warm_start_skipped():
        return None
    return load_parts(module, read_source(init_from, name="init_from"), str(init_from), init_from_parts)


def load_parts(
    module: PretrainingModule, model: PublishedModel, source: str, wanted: Sequence[str] | None = None
) -> WarmStart:
    """Loads the parts of a model that fit into `module`; the arguments are those of `start_from`."""
    state = module.state_dict()
    own, theirs = _by_part(state), _by_part(model.weights)
    _check_names(wanted, own)
    fit = _Fit(module, model, state)
    reasons = {part: fit.reason(part) for part in own}
    if wanted is None or "mask_embedding" in wanted:
        _check_mask_embedding(reasons, model, source)
    parts = []
    for part, names in own.items():
        why = reasons[part]
        if wanted is not None and part not in wanted:
            why = "not in `init_from_parts`"
        elif wanted is not None and why is not None:
            raise ValueError(
                f"`init_from_parts` must be parts that fit, but {part} of {source} does not: {why}. Leave {part} out, "
                "so that its weights are new, or change the model."
            )
        if why is None:
            _copy(state, names, model.weights)
        size = sum(state[name].numel() for name in names)
        parts.append(
            InitialPart(part=part, loaded=why is None, parameters=size, why=fit.note(part) if why is None else why)
        )
    if not any(part.loaded for part in parts):
        found = "; ".join(f"{part.part}: {part.why}" for part in parts)
        raise ValueError(
            f"`init_from` must be a model of which a part fits, but of {source} none does ({found}). Give this model "
            f"the options of the source: `w2vlab import {source} OUT.ckpt` writes them to OUT.yaml; add `--config "
            "OUT.yaml`."
        )
    return WarmStart(
        source=source,
        format=model.origin.format,
        architecture=model.origin.architecture,
        parts=tuple(parts),
        unused=tuple(part for part in theirs if part not in own),
        notes=(*model.origin.notes, *model.origin.training_notes),
    )


def _by_part(tensors: Iterable[str]) -> dict[str, list[str]]:
    """Returns the names of tensors by the part that has them."""
    parts: dict[str, list[str]] = {}
    for name in tensors:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return parts


def _check_names(wanted: Sequence[str] | None, own: Mapping[str, Any]) -> None:
    if wanted is not None and (not wanted or not set(wanted) <= own.keys()):
        unknown = ", ".join(part for part in wanted if part not in own)
        raise ValueError(
            f"`init_from_parts` must be parts of the model that have weights ({', '.join(own)}), but "
            f"{f'has {unknown}' if wanted else 'is empty'}."
        )


def _check_mask_embedding(reasons: Mapping[str, str | None], model: PublishedModel, source: str) -> None:
    """Refuses a source that has lost the mask embedding of its context network."""
    if reasons.get("mask_embedding") != _MISSING or reasons.get("context") is not None:
        return
    others = ",".join(part for part, why in reasons.items() if why is None)
    kind = ", ".join(filter(None, (model.origin.format, model.origin.architecture)))
    raise ValueError(
        f"`init_from` must have a mask embedding, but {source} ({kind}) has none: a model that was saved after its "
        "fine-tuning may lack it. Continue from the model before its fine-tuning, or start with a new mask embedding: "
        f"--model.init_from_parts=[{others}]."
    )


class _Fit:
    """Decides why a part of a module cannot have the weights of a source.

    Args:
        module: The module.
        model: The source.
        state: The tensors of the module.
    """

    def __init__(self, module: PretrainingModule, model: PublishedModel, state: Mapping[str, Tensor]) -> None:
        self._module, self._model, self._state = module, model, state
        self._own, self._theirs = _by_part(state), _by_part(model.weights)
        recorded = (module.run_config or {}).get("model") or {}
        self._options: Mapping[str, Any] = recorded.get("init_args") or {}
        self._source_options: Mapping[str, Any] = model.config.get("init_args") or {}
        objective = model.config.get("class_path")
        self._compared: dict[str, str | None] = {}
        self._same_objective = any(objective in import_paths(cls) for cls in type(module).__mro__[:-1])

    def reason(self, part: str) -> str | None:
        """Returns why a part has to stay new; None if it fits."""
        if part == "teacher":
            is_new = (self._node(part) or {}).get("start") == "new"
            return f"{_STARTS_AS_STUDENT}{_NEW_MATRICES if is_new else ''}"
        if part in _OF_THE_OBJECTIVE and not self._same_objective:
            theirs = str(self._model.config.get("class_path")).rpartition(".")[2]
            return f"another objective: {type(self._module).__name__}, the source has {theirs}"
        if part not in self._theirs or part in self._model.missing:
            return self.difference(part) or _MISSING
        return (
            self._companion(part, self.difference)
            or self.difference(part)
            or self._different_tensor(part)
            or self._companion(part, self._different_tensor)
        )

    def _companion(self, part: str, difference: Callable[[str], str | None]) -> str | None:
        """Returns by what a part differs without which the weights of `part` mean nothing."""
        for other in _GOES_WITH.get(part, ()):
            if getattr(self._module, other, None) is None and self._source_options.get(other) is None:
                continue  # neither model has it, such as a target encoder
            if (why := difference(other)) is not None:
                return f"it goes with {other}, which differs: {why}"
            if (why := self._companion(other, difference)) is not None:
                return why
        return None

    def note(self, part: str) -> str:
        """Returns what is not known about a part that fits."""
        if part not in FAMILIES_OF_PARTS or self._node(part) is not None:
            return ""
        return "its options are not recorded, so class and shapes were compared"

    def difference(self, part: str) -> str | None:
        """Returns by what class or option a part differs from that of the source."""
        if part not in FAMILIES_OF_PARTS:
            return None
        if part in self._model.missing:
            return _MISSING
        if part == "loss" and any(options.get("losses") for options in (self._options, self._source_options)):
            return self._different_losses()  # which have the place of `loss`
        ours, theirs = getattr(self._module, part, None), self._source_options.get(part)
        if not isinstance(ours, nn.Module) or not isinstance(theirs, Mapping):
            if ours is None:
                return None if theirs is None else "this model has none"
            return _MISSING
        if theirs.get("class_path") not in import_paths(type(ours)):
            name = str(theirs.get("class_path")).rpartition(".")[2]
            return f"another {_spoken(part)}: {type(ours).__name__}, the source has {name}"
        for name, parts in OF_THE_OBJECTIVE.items():
            if part in parts and (why := self._different_input(name)) is not None:
                return why
        node = self._node(part)
        if node is None:
            return None
        return different_option(FAMILIES_OF_PARTS[part], node, theirs.get("init_args") or {})

    def _different_losses(self) -> str | None:
        ours, theirs = (options.get("losses") for options in (self._options, self._source_options))
        return None if ours == theirs else f"another option: `losses` is {ours}, the source has {theirs}"

    def _different_input(self, name: str) -> str | None:
        ours, theirs = self._options.get(name), self._source_options.get(name)
        if ours is None or theirs is None or ours == theirs:
            return None
        return f"another option: `{name}` is {ours}, the source has {theirs}"

    def _node(self, part: str) -> Mapping[str, Any] | None:
        """Returns our options of a part; None if it was built by a function, whose options nobody knows."""
        node = self._options.get(part)
        if not isinstance(node, Mapping):
            return None
        known = node.get("class_path") in import_paths(type(getattr(self._module, part))) and "init_args" in node
        return node["init_args"] if known else None

    def _different_tensor(self, part: str) -> str | None:
        """Returns which tensor differs; compares every part once, because that reads its tensors."""
        if part not in self._compared:
            self._compared[part] = self._compare_tensors(part)
        return self._compared[part]

    def _compare_tensors(self, part: str) -> str | None:
        if part not in self._own or part not in self._theirs:
            return None  # a part without weights, such as log-mel frames
        ours, theirs = self._own[part], self._theirs[part]
        if different := [name for name in (*ours, *theirs) if name not in ours or name not in theirs]:
            who = "the model" if different[0] not in ours else "the source"
            return f"other tensors: {who} has no {different[0]}"
        for name in ours:
            own, found = self._state[name].shape, self._model.weights[name].shape
            if found != own:
                return f"another shape: {name} is {dimensions(own)}, the source has {dimensions(found)}"
        return None


def _spoken(part: str) -> str:
    return {"context": "context network"}.get(part, part.replace("_", " "))


@torch.no_grad()
def _copy(state: Mapping[str, Tensor], names: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Copies tensors one at a time; on the meta device there is nothing to copy."""
    for name in names:
        if not state[name].is_meta:
            state[name].copy_(weights[name])
